"""Series in time with a known truth: cines whose phase, coils, noise and sampling are simulated."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equipoise.experiments.cases import N_COILS, contents, fully_sampled, raw_scan
from equipoise.experiments.results import Row
from equipoise.formats import as_slices
from equipoise.metrics import ssim
from equipoise.outcome import BadInputError
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.dynamic import DynamicSenseOp, dynamic_csm, dynamic_noise_level
from equipoise.physics.fourier import image_to_kspace, kspace_to_image
from equipoise.physics.noise_level import complex_noise
from equipoise.physics.sampling.dynamic import kt_mask
from equipoise.recon.series import series_of
from equipoise.training.sources.cine import load_clips
from equipoise.training.sources.simulated import smooth_phase

NOISE = (0.005, 0.03)
"""Range of the simulated noise relative to the 99th percentile of the mean image, drawn
log-uniformly."""

CALIBRATION, PHASE = 4, 3.0
"""Central columns of every frame, and the largest simulated phase in radians."""

MOVING = 0.3
"""A pixel moves if the standard deviation of its magnitude over time exceeds this share of the 99th
percentile of all pixels."""


@dataclass
class SeriesCase:
    """One series with one mask: A, b, the target (1, time, y, x), and the noise level."""

    name: str
    subject: str
    seed: int
    operator: DynamicSenseOp
    kspace: Tensor
    target: Tensor
    noise_level: Tensor

    @property
    def moving(self) -> Tensor:
        """Where the series moves, (y, x) bool."""
        change = self.target[0].abs().std(0)
        return change > MOVING * change.flatten().quantile(0.99)


def series_cases(
    data: Sequence[Path],
    acceleration: float,
    seeds: int,
    noise: tuple[float, float] = NOISE,
    crop: int | None = None,
    partial: float = 1.0,
) -> Iterator[SeriesCase]:
    """Every file with every seed.

    The frames of a file become an 8-coil scan with Biot-Savart maps, a smooth phase that does not
    change in time, noise, and a mask for each frame. Coil maps and noise level are estimated from
    the undersampled data, as for a scan, and the target is combined with the estimated maps. Of a
    fully sampled scan every slice is a series, of which only the masks are drawn.

    Parameters
    ----------
    data
        Files or folders of :func:`~equipoise.training.sources.cine.load_clips`, or of scans.
    acceleration, seeds, noise
        See :func:`equipoise.kt_mask`, the number of masks, and ``NOISE``.
    crop
        Take the central ``crop`` x ``crop`` pixels of every frame; whole frames if not given.
    partial
        Partial Fourier, see :func:`equipoise.kt_mask`.

    Raises
    ------
    BadInputError
        If a file holds no series, a series of one frame, or an undersampled scan.
    """
    for path, number, whole, measured in contents(list(data), _content):
        part = _cut(whole, crop) if measured else _centre(whole, crop)
        for seed in range(seeds):
            if measured:
                yield _of_scan(path, number, part, seed, acceleration, partial)
            else:
                yield _simulated(path, part, seed, acceleration, noise, partial)


def _content(path: Path) -> tuple[list[Tensor], bool]:
    """The series of a file: images (time, y, x), or measured k-space (coil, time, y, x).

    Raises
    ------
    BadInputError
        See :func:`series_cases`.
    """
    scan = raw_scan(path)
    if scan is None:
        found = [load_clips([path])[0].image]
    else:
        samples = fully_sampled(as_slices(scan))
        found = [samples[images].movedim(0, 1) for images in series_of(scan.labels)]
    if min(series.shape[-3] for series in found) < 2:
        raise BadInputError(f"{path} holds one frame: a series in time needs two or more")
    return found, scan is not None


def _cut(kspace: Tensor, crop: int | None) -> Tensor:
    """K-space of the central pixels, orthonormal, with its largest magnitude 1."""
    if crop is not None:
        kspace = image_to_kspace(_centre(kspace_to_image(kspace), crop))
    return kspace / kspace.abs().max()


def _of_scan(
    path: Path, number: int, whole: Tensor, seed: int, acceleration: float, partial: float
) -> SeriesCase:
    """A series of a fully sampled scan with a drawn mask."""
    mask = kt_mask(whole.shape[1:], acceleration, CALIBRATION, seed, partial)
    kspace = (mask * whole)[None]
    maps = dynamic_csm(kspace[0], mask[0])
    target = (maps.conj()[:, :, None] * kspace_to_image(whole)[None]).sum(1)
    level = dynamic_noise_level(kspace[0], mask[0])
    operator = DynamicSenseOp(maps, mask)
    name = f"{path.stem}-{number}"
    return SeriesCase(name, str(path), seed, operator, kspace, target, level)


def _centre(clip: Tensor, crop: int | None) -> Tensor:
    if crop is None:
        return clip
    y, x = (max(n - crop, 0) // 2 for n in clip.shape[-2:])
    return clip[..., y : y + crop, x : x + crop]


def _simulated(
    path: Path,
    clip: Tensor,
    seed: int,
    acceleration: float,
    noise: tuple[float, float],
    partial: float,
) -> SeriesCase:
    rng = np.random.default_rng([len(clip), seed])
    shape = (clip.shape[1], clip.shape[2])
    image = clip.abs() * smooth_phase(shape, PHASE, rng)
    csm = biot_savart_maps(shape, N_COILS, int(rng.integers(2**31)))
    mask = kt_mask(clip.shape, acceleration, CALIBRATION, seed, partial)
    sigma = float(np.exp(rng.uniform(*np.log(noise))))
    sigma *= float(clip.abs().mean(0).flatten().quantile(0.99))
    clean = DynamicSenseOp(csm, mask).forward(image[None])
    kspace = clean + mask[:, None] * complex_noise(tuple(clean.shape), rng) * sigma
    # Estimated, as for a scan: true maps would flatter every method.
    maps = dynamic_csm(kspace[0], mask[0])
    target = (maps.conj() * csm).sum(1)[:, None] * image[None]
    level = dynamic_noise_level(kspace[0], mask[0])
    operator = DynamicSenseOp(maps, mask)
    return SeriesCase(path.stem, str(path), seed, operator, kspace, target, level)


def quality(image: Tensor, case: SeriesCase) -> Row:
    """PSNR of the series, PSNR where it moves, mean SSIM of its frames, and temporal sharpness.

    Both PSNR have the range of the whole series. In a series in which nothing changes, nothing
    moves and no change is sharp: both are None.
    """
    target = case.target.abs().double()
    error = (image.abs().double() - target).square()
    peak = float(target.max()) ** 2
    moving = error[:, :, case.moving]
    return {
        "psnr": float(10 * torch.log10(peak / error.mean())),
        "psnr_moving": float(10 * torch.log10(peak / moving.mean())) if moving.numel() else None,
        "ssim": float(ssim(image[0], case.target[0], float(target.max())).mean()),
        "temporal_sharpness": temporal_sharpness(image[0].abs(), case.target[0].abs()),
    }


def temporal_sharpness(magnitude: Tensor, true: Tensor) -> float | None:
    """``<D p, D q> / ||D q||^2``, p and q the x-t profiles, D the change from frame to frame.

    1 for the true series, 0 for its mean over time; noise alone does not raise it. The profile is
    that of the line across x, at the y where the true series changes most. None if nothing changes.

    Parameters
    ----------
    magnitude, true
        (time, y, x).
    """
    row = int(true.std(0).sum(1).argmax())
    change, real = (one[:, row].double().diff(dim=0) for one in (magnitude, true))
    energy = float(real.square().sum())
    return float((change * real).sum()) / energy if energy > 0 else None
