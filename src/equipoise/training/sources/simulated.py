"""Parallel MRI simulated from images: coil maps, phase, mask and noise, all from one seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from equipoise.formats.hdf5 import open_hdf5, read_complex
from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps, resize_maps
from equipoise.physics.coils.espirit import estimate_csm, normalize_csm
from equipoise.physics.fourier import image_to_kspace, kspace_to_image
from equipoise.physics.noise_level import complex_noise, noise_level
from equipoise.training.sources.sampling import Sampling, Shape
from equipoise.training.sources.scan import Scan, stacked
from equipoise.training.sources.source import Source


@dataclass(frozen=True)
class Simulation(Sampling, Source):
    """Parallel MRI: the distribution from which scans are drawn.

    Attributes
    ----------
    acceleration, calibration, mask
        See :class:`~equipoise.training.sources.sampling.Sampling`.
    noise
        Range of the k-space noise relative to the image scale, drawn log-uniformly.
    coils
        Range of the number of coils.
    measured_coils
        Measured coil maps (coil, y, x), which half of the samples use; the others use Biot-Savart
        loops.
    phase
        Largest random smooth phase of magnitude-only images, in radians.
    zoom
        Range of the factor by which cropping k-space lowers the resolution of an image. It gives
        other resolutions, and targets with less noise of their own.
    masked_maps
        Share of samples whose coil maps end at the object, as estimated maps do.
    estimated
        Share of samples with coil maps and a noise level estimated from their undersampled data, as
        for a scan, instead of the true ones. It is meant for whole slices, because a crop has too
        few calibration lines.
    noisy_targets
        Share of samples whose target is the image of all samples, with the noise that they have: a
        fully sampled scan shows no other. The noise of the measured samples is the same in both.
    """

    noise: tuple[float, float] = (0.005, 0.08)
    coils: tuple[int, int] = (8, 16)
    measured_coils: Tensor | None = None
    phase: float = 3.0
    zoom: tuple[float, float] = (0.5, 1.0)
    masked_maps: float = 0.5
    estimated: float = 0.0
    noisy_targets: float = 0.0

    def sample(self, image: Tensor, rng: np.random.Generator, crop: int | None = None) -> Scan:
        """Draw one acquisition of an image (y, x), or of a random crop of it."""
        image = _lower_resolution(image, rng.uniform(*self.zoom), crop)
        full = (image.shape[0], image.shape[1])
        csm = self._coil_maps(full, rng)
        if rng.random() < self.masked_maps:
            csm = csm * _object_support(image)
        # A complex image has the phase of its scan, and keeps it.
        if not bool(image.imag.any()):
            image = image * smooth_phase(full, self.phase, rng)
        if crop:
            cut = _crop_with_content(image, crop, rng)
            image, csm = image[cut], csm[(..., *cut)]
        turn, flip = int(rng.integers(4)), bool(rng.integers(2))
        image, csm = turned(image, turn, flip), turned(csm, turn, flip)
        return self.acquire(image[None], csm, rng)

    def acquire(self, image: Tensor, csm: Tensor, rng: np.random.Generator) -> Scan:
        """Undersampled noisy k-space of an image (1, y, x) with given coil maps."""
        shape = (image.shape[1], image.shape[2])
        mask = self.draw_mask(shape, csm.shape[1], rng)
        operator = SenseOp(csm, mask)
        target = image * csm.abs().square().sum(1)
        level = np.exp(rng.uniform(*np.log(self.noise)))
        sigma = float(level * torch.quantile(target.abs().flatten(), 0.99))
        everywhere = torch.ones_like(mask)
        full = SenseOp(csm, everywhere).forward(image) + complex_noise(csm.shape, rng) * sigma
        noisy = full * mask[:, None]
        # The target is combined with the estimated maps, because another combination would count as
        # an error.
        if rng.random() < self.estimated:
            maps = estimate_csm(noisy, mask)
            operator, target = SenseOp(maps, mask), (maps.conj() * csm).sum(1) * image
            reading = noise_level(noisy, mask)
        else:
            # lam must work with the noise level that a real scan shows, not with the true one.
            found = sigma * rng.uniform(*MISREADING)
            reading = torch.tensor([found], dtype=torch.float64, device=noisy.device)
        if rng.random() < self.noisy_targets:
            target = SenseOp(operator.csm, everywhere).adjoint(full)
        return Scan(operator, noisy, target, reading)

    def batch(self, samples: Sequence[Scan]) -> Scan:
        """Scans of one shape as one batch."""
        return stacked(samples)

    def _coil_maps(self, shape: Shape, rng: np.random.Generator) -> Tensor:
        n_coils = int(rng.integers(self.coils[0], self.coils[1] + 1))
        if self.measured_coils is None or rng.random() < 0.5:
            return biot_savart_maps(shape, n_coils, int(rng.integers(2**31)))
        return _measured_maps(self.measured_coils, shape, n_coils, rng)


def load_coils(path: Path) -> Tensor:
    """Measured maps ``csm`` (coil, y, x) of an HDF5 file.

    Raises
    ------
    BadInputError
        If the file cannot be read, or holds no such maps.
    """
    with open_hdf5(path) as file:
        if "csm" not in file:
            raise BadInputError(f"{path} has no coil maps (dataset csm); it has {sorted(file)}")
        maps = read_complex(file["csm"])
    if maps.ndim != 3 or 0 in maps.shape or not np.issubdtype(maps.dtype, np.number):
        raise BadInputError(
            f"{path}: csm has shape {maps.shape} and type {maps.dtype}; expected numbers "
            "(coil, y, x)"
        )
    return torch.from_numpy(maps.astype(np.complex64))


MISREADING = (0.9, 1.4)
"""Range of the noise estimate of a real scan relative to its noise; fine structure at the edge of
k-space raises it. It replaces the estimate for crops, because the estimate needs a whole slice."""

OBJECT_THRESHOLD = 0.05
"""The object is where the smoothed image exceeds this fraction of its 99th percentile."""

MEASURED_FRACTION = 0.62
"""Side of the central square of measured maps that is used, so that it lies within their disc."""


def _measured_maps(maps: Tensor, shape: Shape, n_coils: int, rng: np.random.Generator) -> Tensor:
    """Measured maps, cropped, turned, compressed to virtual coils by SVD, mixed, interpolated."""
    side = round(maps.shape[-1] * MEASURED_FRACTION * rng.uniform(0.85, 1.1))
    top, left = ((n - side) // 2 for n in maps.shape[1:])
    cut = maps[:, top : top + side, left : left + side]
    cut = turned(cut, int(rng.integers(4)), bool(rng.integers(2)))
    left_vectors, _, _ = torch.linalg.svd(cut.flatten(1), full_matrices=False)
    virtual = torch.einsum("cv,cyx->vyx", left_vectors[:, :n_coils].conj(), cut)
    # A unitary mixture keeps the sum of squares, and makes every set of virtual coils a new one.
    mixing, _ = torch.linalg.qr(complex_noise((n_coils, n_coils), rng))
    return normalize_csm(resize_maps(torch.einsum("cv,vyx->cyx", mixing, virtual), shape))


def _lower_resolution(image: Tensor, zoom: float, crop: int | None) -> Tensor:
    """The image of the central part of k-space, with at least the pixels that the crop needs."""
    y, x = (min(n, max(round(n * zoom), crop or 0)) for n in image.shape)
    top, left = image.shape[0] // 2 - y // 2, image.shape[1] // 2 - x // 2
    kspace = image_to_kspace(image)[top : top + y, left : left + x]
    lower = kspace_to_image(kspace) * math.sqrt(y * x / image.numel())
    # The cut rings below zero, which would become a phase of pi.
    return lower if bool(image.imag.any()) else lower.abs().to(image.dtype)


def _object_support(image: Tensor) -> Tensor:
    """The support of the object, slightly enlarged, (y, x) bool."""
    magnitude = image.abs()[None, None]
    smooth = F.avg_pool2d(magnitude, 9, stride=1, padding=4)[0, 0]
    return smooth > OBJECT_THRESHOLD * torch.quantile(magnitude.flatten(), 0.99)


def smooth_phase(shape: Shape, largest: float, rng: np.random.Generator) -> Tensor:
    """``exp(i p)`` with a random smooth p (y, x) of at most about ``largest``."""
    coarse = torch.from_numpy(rng.uniform(-1, 1, (1, 1, 4, 4)).astype(np.float32)) * largest
    phase = F.interpolate(coarse, size=shape, mode="bicubic", align_corners=True)[0, 0]
    return torch.polar(torch.ones_like(phase), phase)


def _crop_with_content(image: Tensor, size: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """A random crop: the first of eight that is at least as bright as the image on average."""
    # Crops of the background would teach nothing.
    mean = image.abs().mean()
    for _ in range(8):
        height, width = (min(size, n) for n in image.shape)
        top = int(rng.integers(image.shape[0] - height + 1))
        left = int(rng.integers(image.shape[1] - width + 1))
        cut = (slice(top, top + height), slice(left, left + width))
        if image[cut].abs().mean() >= mean:
            break
    return cut


def turned(array: Tensor, quarter_turns: int, flip: bool) -> Tensor:
    """Planes (..., y, x) after quarter turns and, if asked for, mirrored along x."""
    array = torch.rot90(array, quarter_turns, (-2, -1))
    return (array.flip(-1) if flip else array).contiguous()
