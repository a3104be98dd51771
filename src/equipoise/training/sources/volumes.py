"""Three-dimensional Cartesian acquisitions simulated from volumes."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_volume
from equipoise.physics.coils.volume import volume_csm
from equipoise.physics.fourier import image_to_kspace, kspace_to_image
from equipoise.physics.linop import percentile
from equipoise.physics.noise_level import complex_noise
from equipoise.physics.sampling.dynamic import volume_mask
from equipoise.training.sources.simulated import MISREADING
from equipoise.training.sources.source import Sample, Source

Shape = tuple[int, int, int]
Cut = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Volumes(Source):
    """Parallel MRI of a volume: the distribution from which scans are drawn.

    The readout is x, and z and y are undersampled. The axes of a volume change places, and each is
    mirrored or not. Its contrast is changed by a power of the magnitude, and a share of the samples
    is deformed smoothly, so that a few people are not learned by heart.

    Attributes
    ----------
    acceleration
        Range from which accelerations are drawn log-uniformly.
    calibration
        Side of the fully sampled centre in z and y of a whole volume; a crop has its share of it.
    noise
        Range of the k-space noise relative to the image scale, drawn log-uniformly.
    coils
        Range of the number of coils.
    phase
        Largest random smooth phase, in radians.
    contrast
        Range of the power of the magnitude.
    deformation
        Largest displacement of a deformed volume, as a share of its side.
    deformed
        Share of the samples that are deformed.
    estimated
        Share of the samples with coil maps estimated from the centre of a simulated scan of whole
        planes (z, y), as those of a scan are. lam and the thresholds must work with their errors.
    partial_fourier
        Range of the shares of k-space along z and y that are measured.
    thickness
        Voxels along the readout of samples with whole planes (z, y), instead of crops. Air around a
        head is a part of what a model has to know.
    """

    acceleration: tuple[float, float] = (4.0, 14.0)
    calibration: int = 24
    noise: tuple[float, float] = (0.003, 0.05)
    coils: tuple[int, int] = (6, 12)
    phase: float = 3.0
    contrast: tuple[float, float] = (0.7, 1.4)
    deformation: float = 0.03
    deformed: float = 0.5
    estimated: float = 0.0
    partial_fourier: tuple[float, float] = (1.0, 1.0)
    thickness: int | None = None

    def sample(self, image: Tensor, rng: np.random.Generator, crop: int | None = None) -> Sample:
        """Draw one acquisition of a volume (z, y, x), or of a crop of it.

        A crop has ``crop`` voxels along the readout x and twice as many along z and y, where
        aliases need room; with ``thickness`` its planes are whole.
        """
        volume = _oriented(image.abs(), rng)
        whole = _shape_of(volume)
        sides = whole if crop is None else (PHASE_ENCODES * crop, PHASE_ENCODES * crop, crop)
        if self.thickness is not None:
            sides = (whole[0], whole[1], self.thickness)
        cut = _crop_with_content(volume, sides, rng)
        slab = volume[:, :, cut[2]] ** float(rng.uniform(*self.contrast))
        if rng.random() < self.deformed:
            slab = deformed(slab, self.deformation, rng)
        planes: Cut = (slice(0, whole[0]), slice(0, whole[1]), cut[2])
        coarse = rng.uniform(-self.phase, self.phase, (1, *(PHASE_GRID,) * 3))
        angle = placed(torch.from_numpy(coarse).to(volume) + 0j, whole, planes)[0].real
        slab = slab * torch.polar(torch.ones_like(angle), angle)
        coils = self._coils(whole, rng).to(volume.device)
        level = float(np.exp(rng.uniform(*np.log(self.noise))))
        sigma = level * float(percentile(slab.abs()[None], 0.99))
        csm = _on_unit_sphere(placed(coils, whole, cut))
        maps = csm
        if rng.random() < self.estimated:
            maps = self._estimated_maps(slab, coils, (whole, cut), sigma, rng)
        inside = slab[cut[0], cut[1]].contiguous()
        side = self.calibration * min(n / m for n, m in zip(inside.shape[:2], whole[:2]))
        return self._acquired(inside, (csm, maps), sigma, max(round(side), SMALLEST), rng)

    def _acquired(
        self,
        image: Tensor,
        coils: tuple[Tensor, Tensor],
        sigma: float,
        calibration: int,
        rng: np.random.Generator,
    ) -> Sample:
        """Noisy k-space of an image with the first maps, and A and the target with the second."""
        csm, maps = (v[None].contiguous() for v in coils)
        low, high = np.log(self.acceleration)
        z, y, _ = image.shape
        # A small crop cannot be accelerated further than its calibration allows.
        most = z * y / (calibration**2 * CENTRE_AND_REST)
        acceleration = max(1.0, min(float(np.exp(rng.uniform(low, high))), most))
        seed = int(rng.integers(2**31))
        partial = (
            float(rng.uniform(*self.partial_fourier)),
            float(rng.uniform(*self.partial_fourier)),
        )
        mask = volume_mask(_shape_of(image), acceleration, calibration, seed, partial=partial)
        mask = mask.to(image.device)
        clean = SenseOp(csm, mask).forward(image[None])
        noise = complex_noise(tuple(clean.shape), rng).to(image.device)
        kspace = clean + mask[:, None] * noise * sigma
        target = (maps.conj() * csm).sum(1) * image[None]
        # lam must work with the noise level that a real scan shows, not with the true one.
        found = sigma * rng.uniform(*MISREADING)
        reading = torch.tensor([found], dtype=torch.float64, device=image.device)
        return Sample(SenseOp(maps, mask), kspace, target, reading)

    def _coils(self, whole: Shape, rng: np.random.Generator) -> Tensor:
        """Maps (coil, z, y, x) of a whole volume on a coarse grid: they are smooth."""
        coarse = [max(2, round(n * COARSE / max(whole))) for n in whole]
        count = int(rng.integers(self.coils[0], self.coils[1] + 1))
        seed = int(rng.integers(2**31))
        return biot_savart_volume((coarse[0], coarse[1], coarse[2]), count, seed)[0]

    def _estimated_maps(
        self,
        slab: Tensor,
        coils: Tensor,
        place: tuple[Shape, Cut],
        sigma: float,
        rng: np.random.Generator,
    ) -> Tensor:
        """Maps (coil, z, y, x) of a crop from the centre of a scan of whole planes.

        The scan has a lower resolution in z and y, because only the centre of its k-space is used.
        """
        whole, cut = place
        z, y = (min(n, PLANE) for n in whole[:2])
        low = _centre_of_planes(slab, (z, y))
        shape = (z, y, slab.shape[2])
        planes: Cut = (slice(0, z), slice(0, y), cut[2])
        csm = _on_unit_sphere(placed(coils, (z, y, whole[2]), planes))
        clean = image_to_kspace(csm * low, 3)
        side = min(self.calibration, whole[0] // 4, whole[1] // 4, z, y)
        mask = torch.zeros((1, *shape), dtype=torch.bool, device=slab.device)
        first, second = (slice(n // 2 - side // 2, n // 2 - side // 2 + side) for n in (z, y))
        mask[:, first, second] = True
        noise = complex_noise(tuple(clean.shape), rng).to(slab.device)
        measured = mask * (clean + noise * sigma)
        found = volume_csm(measured[None], mask)[0]
        inside: Cut = (cut[0], cut[1], slice(0, shape[2]))
        fine = placed(found, (whole[0], whole[1], shape[2]), inside)
        strength = fine.abs().square().sum(0).sqrt()
        # Between a voxel of the support and one beside it, the nearer one decides.
        return torch.where(strength > NEARER, fine / strength.clamp(min=NEARER), 0)


PHASE_ENCODES = 2
"""Sides of a crop along z and y, relative to that along the readout."""

CENTRE_AND_REST = 2
"""A mask holds at least this many times the samples of its fully sampled centre."""

SMALLEST = 4
"""Side of the fully sampled centre of a crop: fewer samples give no intensity scale."""

COARSE, PHASE_GRID, DEFORMATION_GRID = 48, 4, 5
"""Points along the longest side of coil maps, and along each axis of a phase and a displacement,
between which they are interpolated."""

PLANE = 48
"""Largest side of the planes from which maps are estimated."""

NEARER = 0.5
"""Strength of interpolated maps above which a voxel belongs to the support."""

CROPS = 8
"""Crops of which the first is taken that is at least as bright as the volume on average."""


def placed(fields: Tensor, matrix: Shape, cut: Cut) -> Tensor:
    """Smooth complex fields (n, z, y, x) at the voxels of a part of a matrix, interpolated.

    Both grids have the same field of view, and voxel ``n // 2`` of both is at the same place.
    """
    places = []
    for n, k, own in zip(fields.shape[1:], matrix, cut):
        voxel = torch.arange(own.start, own.stop, device=fields.device, dtype=torch.float32)
        index = (voxel - k // 2) * (n / k) + n // 2
        # In the units of grid_sample the first voxel is at -1 and the last at 1.
        places.append(2 * index / max(n - 1, 1) - 1)
    grid = torch.stack(torch.meshgrid(*places, indexing="ij")[::-1], -1)[None]
    parts = torch.view_as_real(fields).movedim(-1, 0).flatten(0, 1)[None].float()
    found = F.grid_sample(parts, grid, padding_mode="border", align_corners=True)
    real, imag = found[0].reshape(2, -1, *found.shape[2:])
    return torch.complex(real, imag)


def deformed(volume: Tensor, largest: float, rng: np.random.Generator) -> Tensor:
    """A real volume (z, y, x) after a smooth random displacement.

    Parameters
    ----------
    volume
        Magnitudes.
    largest
        Largest displacement along each axis, as a share of the longest side.
    rng
        Random numbers.
    """
    size = largest * float(rng.uniform(0.2, 1.0)) * max(volume.shape)
    coarse = rng.uniform(-size, size, (1, 3, *(DEFORMATION_GRID,) * 3)).astype(np.float32)
    field = torch.from_numpy(coarse).to(volume.device)
    shift = F.interpolate(field, size=volume.shape, mode="trilinear", align_corners=True)
    # In the units of grid_sample, whose axes are (x, y, z), a side is 2.
    units = torch.tensor([2 / n for n in volume.shape[::-1]], device=volume.device)
    unmoved = torch.eye(3, 4, device=volume.device)[None]
    identity = F.affine_grid(unmoved, [1, 1, *volume.shape], align_corners=False)
    grid = identity + shift[0].movedim(0, -1) * units
    return F.grid_sample(volume[None, None].float(), grid, align_corners=False)[0, 0]


def _oriented(volume: Tensor, rng: np.random.Generator) -> Tensor:
    """The axes in a random order, each mirrored or not."""
    flipped = [axis for axis in range(3) if rng.integers(2)]
    return volume.permute(*rng.permutation(3).tolist()).flip(flipped)


def _shape_of(volume: Tensor) -> Shape:
    return volume.shape[0], volume.shape[1], volume.shape[2]


def _crop_with_content(volume: Tensor, sides: Shape, rng: np.random.Generator) -> Cut:
    """A random crop: the first of a few that is at least as bright as the volume on average."""
    mean = volume.mean()
    for _ in range(CROPS):
        lengths = [min(side, n) for side, n in zip(sides, volume.shape)]
        starts = [int(rng.integers(n - k + 1)) for n, k in zip(volume.shape, lengths)]
        z, y, x = (slice(start, start + k) for start, k in zip(starts, lengths))
        if volume[z, y, x].mean() >= mean:
            break
    return z, y, x


def _centre_of_planes(slab: Tensor, sides: tuple[int, int]) -> Tensor:
    """A volume (z, y, x) at a lower resolution in z and y, with the k-space that remains."""
    kspace = image_to_kspace(slab, 3)
    for axis, side in enumerate(sides):
        kspace = kspace.narrow(axis, kspace.shape[axis] // 2 - side // 2, side)
    return kspace_to_image(kspace, 3)


def _on_unit_sphere(maps: Tensor) -> Tensor:
    """Maps (coil, z, y, x) divided by their root sum of squares."""
    return maps / maps.abs().square().sum(0).sqrt()
