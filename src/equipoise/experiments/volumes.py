"""Volumes with a known truth: phase, coils, noise and sampling are simulated in three axes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equipoise.experiments.cases import N_COILS, contents, fully_sampled, raw_scan
from equipoise.experiments.series import NOISE, PHASE
from equipoise.metrics import ssim
from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_volume, resize_volumes
from equipoise.physics.coils.readout import plane_of, slices_along_readout
from equipoise.physics.coils.volume import volume_csm
from equipoise.physics.fourier import image_to_kspace, kspace_to_image
from equipoise.physics.noise_level import complex_noise, noise_level
from equipoise.physics.sampling.dynamic import volume_mask
from equipoise.readable import matrix
from equipoise.recon.volumes import checked
from equipoise.training.sources.cine import load_clips

CALIBRATION, CORNERS = 24, 1.4
"""Side of the fully sampled centre in z and y; a quarter of a shorter side, where that is less. Up
to this acceleration the corners of k-space are measured too: the ellipse holds 1 / 1.27 of it."""

PHASE_GRID = 4
"""Points per axis between which the simulated phase is interpolated."""


@dataclass
class VolumeCase:
    """One volume with one mask: A, b, the target (1, z, y, x), and the noise level."""

    name: str
    subject: str
    seed: int
    operator: SenseOp
    kspace: Tensor
    target: Tensor
    noise_level: Tensor


def volume_cases(
    data: Sequence[Path],
    acceleration: float,
    seeds: int,
    noise: tuple[float, float] = NOISE,
    crop: int | None = None,
    partial: tuple[float, float] = (1.0, 1.0),
) -> Iterator[VolumeCase]:
    """Every file with every seed.

    A volume becomes an 8-coil scan with Biot-Savart maps and a smooth phase of three axes, noise,
    and a mask of the plane (z, y). Coil maps and noise level are estimated from the undersampled
    data, as for a scan, and the target is combined with the estimated maps. Of a fully sampled scan
    of volumes only the masks are drawn.

    Parameters
    ----------
    data
        Files or folders of :func:`~equipoise.training.sources.cine.load_clips`, each a volume, or
        of scans.
    acceleration, seeds, noise
        See :func:`equipoise.volume_mask`, the number of masks, and the range of the noise.
    crop
        Take the central ``crop`` slices along the readout x; all if not given. Planes (z, y) stay
        whole, because maps are not smooth across the border of a plane that cuts through tissue.
    partial
        Partial Fourier, see :func:`equipoise.volume_mask`.

    Raises
    ------
    BadInputError
        If a file holds no volume, a volume of one slice, or an undersampled scan.
    """
    for path, number, whole, measured in contents(list(data), _content):
        part = _cut(whole, crop) if measured else _centre(whole, crop)
        for seed in range(seeds):
            if measured:
                yield _of_scan(path, number, part, seed, acceleration, partial)
            else:
                yield _simulated(path, part, seed, acceleration, noise, partial)


def _content(path: Path) -> tuple[list[Tensor], bool]:
    """The volumes of a file: images (z, y, x), or measured k-space (coil, z, y, x).

    Raises
    ------
    BadInputError
        See :func:`volume_cases`.
    """
    scan = raw_scan(path)
    found = [load_clips([path])[0].image] if scan is None else [*fully_sampled(checked(scan))]
    for volume in found:
        if min(volume.shape[-3:]) < 2:
            raise BadInputError(
                f"{path} holds {matrix(volume.shape[-3:])} voxels: a volume needs two or more "
                "along each axis, and one slice is for `equipoise experiment table1`"
            )
    return found, scan is not None


def _cut(kspace: Tensor, crop: int | None) -> Tensor:
    """K-space of the central slices along x, orthonormal, with its largest magnitude 1."""
    if crop is not None:
        kspace = image_to_kspace(_centre(kspace_to_image(kspace, 1), crop), 1)
    return kspace / kspace.abs().max()


def _mask(
    shape: tuple[int, int, int], acceleration: float, seed: int, partial: tuple[float, float]
) -> Tensor:
    """A mask without the corners of k-space, where the acceleration leaves enough beside them."""
    elliptical = acceleration > CORNERS
    return volume_mask(shape, acceleration, _calibration(shape), seed, elliptical, partial)


def _of_scan(
    path: Path,
    number: int,
    samples: Tensor,
    seed: int,
    acceleration: float,
    partial: tuple[float, float],
) -> VolumeCase:
    """A volume of a fully sampled scan with a drawn mask."""
    whole = samples[None]
    shape = (whole.shape[2], whole.shape[3], whole.shape[4])
    mask = _mask(shape, acceleration, seed, partial)
    kspace = mask[:, None] * whole
    maps = volume_csm(kspace, mask)
    target = (maps.conj() * kspace_to_image(whole, 3)).sum(1)
    name = f"{path.stem}-{number}"
    level = _level(kspace, mask)
    return VolumeCase(name, str(path), seed, SenseOp(maps, mask), kspace, target, level)


def _calibration(shape: tuple[int, int, int]) -> int:
    return min(CALIBRATION, *(n // 4 for n in shape[:2]))


def _level(kspace: Tensor, mask: Tensor) -> Tensor:
    """The noise level of a volume: the median of those of its slices along the readout, (1,)."""
    slices = slices_along_readout(kspace[0])
    return noise_level(slices, plane_of(mask[0])[None]).median()[None]


def _centre(volume: Tensor, crop: int | None) -> Tensor:
    n = volume.shape[-1]
    kept = n if crop is None else min(n, crop)
    return volume.narrow(-1, (n - kept) // 2, kept)


def _simulated(
    path: Path,
    volume: Tensor,
    seed: int,
    acceleration: float,
    noise: tuple[float, float],
    partial: tuple[float, float],
) -> VolumeCase:
    rng = np.random.default_rng([len(volume), seed])
    shape = (volume.shape[0], volume.shape[1], volume.shape[2])
    image = volume.abs() * _smooth_phase(shape, rng)
    csm = biot_savart_volume(shape, N_COILS, int(rng.integers(2**31)))
    mask = _mask(shape, acceleration, seed, partial)
    # Of the object: more than half of a head's volume is air, which moves a quantile of all.
    seen = volume.abs()[volume != 0].numpy()
    sigma = float(np.exp(rng.uniform(*np.log(noise)))) * float(np.quantile(seen, 0.99))
    clean = SenseOp(csm, mask).forward(image[None])
    kspace = clean + mask[:, None] * complex_noise(tuple(clean.shape), rng) * sigma
    # Estimated, as for a scan: true maps would flatter every method.
    maps = volume_csm(kspace, mask)
    target = (maps.conj() * csm).sum(1) * image[None]
    level = _level(kspace, mask)
    return VolumeCase(path.stem, str(path), seed, SenseOp(maps, mask), kspace, target, level)


def _smooth_phase(shape: tuple[int, int, int], rng: np.random.Generator) -> Tensor:
    coarse = rng.uniform(-PHASE, PHASE, (1, *(PHASE_GRID,) * len(shape)))
    phase = resize_volumes(torch.from_numpy(coarse.astype(np.complex64)), shape)[0].real
    return torch.polar(torch.ones_like(phase), phase)


def quality(image: Tensor, case: VolumeCase) -> dict[str, float]:
    """PSNR, and the mean SSIM of the planes (z, y), both with the range of the whole volume."""
    target = case.target.abs().double()
    peak = float(target.max())
    error = (image.abs().double() - target).square().mean()
    planes, true = (v[0].movedim(-1, 0) for v in (image, case.target))
    return {
        "psnr": float(10 * torch.log10(peak**2 / error)),
        "ssim": float(ssim(planes, true, peak).mean()),
    }
