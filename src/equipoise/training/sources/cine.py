"""Cartesian k-t acquisitions simulated from cines, and from images that are set in motion."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from equipoise.outcome import BadInputError
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.dynamic import DynamicSenseOp, dynamic_csm
from equipoise.physics.noise_level import complex_noise
from equipoise.physics.sampling.dynamic import kt_mask
from equipoise.training.sources.images import LabelledImage, read_stack, usable
from equipoise.training.sources.simulated import MISREADING, smooth_phase, turned
from equipoise.training.sources.source import Sample, Source

Shape = tuple[int, int]


@dataclass(frozen=True, repr=False)
class Series(Sample):
    """A simulated k-t acquisition; ``data`` is its k-space (batch, coil, time, y, x)."""

    operator: DynamicSenseOp


@dataclass(frozen=True)
class Cine(Source):
    """Parallel MRI of a series: the distribution from which k-t scans are drawn.

    A heartbeat is taken to be one period: frames are evenly spaced over the whole series, so fewer
    frames are a faster motion. Series are run backwards, begun at any frame, turned and mirrored,
    and their contrast is changed by a power of the magnitude. An image that stands still is set in
    motion by a smooth displacement, periodic in time, as many people as there are images.

    Attributes
    ----------
    acceleration
        Range from which accelerations are drawn log-uniformly.
    calibration
        Central columns of every frame, see :func:`equipoise.kt_mask`.
    noise
        Range of the k-space noise relative to the image scale, drawn log-uniformly.
    coils
        Range of the number of coils.
    frames
        Range of the number of frames.
    phase
        Largest random smooth phase, in radians; it is the same in all frames.
    contrast
        Range of the power of the magnitude.
    motion
        Largest displacement of an image that is set in motion, as a share of its side.
    estimated
        Share of the samples with coil maps estimated from an undersampled acquisition of the whole
        frames, as those of a scan are. lam and the thresholds must work with their errors.
    stills
        Images (y, x) that stand still.
    still
        Share of the samples that are made of these.
    partial_fourier
        Range of the share of k-space along x that is measured.
    """

    acceleration: tuple[float, float] = (4.0, 14.0)
    calibration: int = 4
    noise: tuple[float, float] = (0.003, 0.05)
    coils: tuple[int, int] = (6, 12)
    frames: tuple[int, int] = (10, 16)
    phase: float = 3.0
    contrast: tuple[float, float] = (0.7, 1.4)
    motion: float = 0.06
    estimated: float = 0.0
    stills: tuple[Tensor, ...] = ()
    still: float = 0.0
    partial_fourier: tuple[float, float] = (1.0, 1.0)

    def sample(self, image: Tensor, rng: np.random.Generator, crop: int | None = None) -> Series:
        """Draw one acquisition of a series (time, y, x), or of a crop of it.

        A crop has ``crop`` pixels along the readout y and three times as many along the phase
        encoding x, where aliases need room; all frames are kept.
        """
        frames = int(rng.integers(self.frames[0], self.frames[1] + 1))
        if self.stills and rng.random() < self.still:
            image = moving(
                self.stills[int(rng.integers(len(self.stills)))], frames, self.motion, rng
            )
        else:
            image = _evenly(image, frames, rng)
        image = turned(image, int(rng.integers(4)), bool(rng.integers(2)))
        image = image.abs() ** float(rng.uniform(*self.contrast)) + 0j
        full = (image.shape[1], image.shape[2])
        csm = biot_savart_maps(
            full, int(rng.integers(self.coils[0], self.coils[1] + 1)), int(rng.integers(2**31))
        )
        image = image * smooth_phase(full, self.phase, rng)
        level = float(np.exp(rng.uniform(*np.log(self.noise))))
        maps = self._estimated_maps(image, csm, level, rng)
        if crop:
            cut = _crop_with_content(image, (crop, PHASE_ENCODES * crop), rng)
            image, csm, maps = (v[..., cut[0], cut[1]] for v in (image, csm, maps))
        return self.acquire(image, csm.contiguous(), level, rng, maps.contiguous())

    def acquire(
        self,
        image: Tensor,
        csm: Tensor,
        level: float,
        rng: np.random.Generator,
        maps: Tensor | None = None,
    ) -> Series:
        """Undersampled noisy k-space of a series (time, y, x) with given maps (1, coil, y, x).

        ``level`` is the noise relative to the image scale. The operator of the sample has ``maps``,
        with which its target is combined too; those of the acquisition if not given.
        """
        kspace, mask, sigma = self._measured(image, csm, level, rng)
        maps = csm if maps is None else maps
        target = (maps.conj() * csm).sum(1) * image
        # lam must work with the noise level that a real scan shows, not with the true one.
        found = sigma * rng.uniform(*MISREADING)
        reading = torch.tensor([found], dtype=torch.float64, device=image.device)
        return Series(DynamicSenseOp(maps, mask), kspace, target[None].contiguous(), reading)

    def _measured(
        self, image: Tensor, csm: Tensor, level: float, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, float]:
        """Noisy k-space, its mask, and the standard deviation of its noise."""
        low, high = np.log(self.acceleration)
        mask = self._mask(tuple(image.shape), float(np.exp(rng.uniform(low, high))), rng)
        sigma = float(level * torch.quantile(image.abs().mean(0).flatten(), 0.99))
        clean = DynamicSenseOp(csm, mask).forward(image[None])
        noisy = clean + mask[:, None] * complex_noise(tuple(clean.shape), rng) * sigma
        return noisy, mask, sigma

    def _estimated_maps(
        self, image: Tensor, csm: Tensor, level: float, rng: np.random.Generator
    ) -> Tensor:
        """Maps from a simulated scan of whole frames, or the true ones."""
        if rng.random() >= self.estimated:
            return csm
        kspace, mask, _ = self._measured(image, csm, level, rng)
        return dynamic_csm(kspace[0], mask[0])

    def _mask(
        self, shape: tuple[int, ...], acceleration: float, rng: np.random.Generator
    ) -> Tensor:
        # A narrow crop cannot be accelerated further than its calibration allows.
        most = shape[2] / (self.calibration + FEWEST_OUTSIDE)
        rate, seed = min(acceleration, most), int(rng.integers(2**31))
        partial = float(rng.uniform(*self.partial_fourier))
        # Partial Fourier may leave fewer columns than the acceleration asks for.
        if partial < 1:
            rate = max(rate, 1 / partial)
        return kt_mask(shape, rate, self.calibration, seed, partial)


PHASE_ENCODES = 3
"""Sides of a crop, along the phase encoding relative to the readout."""

FEWEST_OUTSIDE = 2
"""Columns of a frame besides the calibration."""


def load_clips(
    paths: Sequence[Path], skipped: dict[Path, str] | None = None
) -> list[LabelledImage]:
    """Series (time, y, x), each with its largest magnitude 1; the subject is the file.

    A path is a file of :func:`~equipoise.training.sources.images.load_labelled`, whose images are
    the frames of one series, or a folder of such files. ``skipped`` receives the files of folders
    that cannot be used, and why; with None they are an error.

    Raises
    ------
    BadInputError
        If a path does not exist, cannot be read, or is zero everywhere, or nothing is found.
    """
    return usable(paths, skipped, _clip)


def _clip(file: Path) -> list[LabelledImage]:
    stack = torch.from_numpy(np.require(read_stack(file), np.complex64, ["C", "W"]))
    largest = float(stack.abs().max())
    if largest == 0:
        raise BadInputError(f"{file} is zero everywhere: repair it or leave it out")
    return [LabelledImage(stack / largest, str(file))]


def moving(image: Tensor, frames: int, largest: float, rng: np.random.Generator) -> Tensor:
    """A series (time, y, x) of an image (y, x) that moves periodically, real and not negative.

    The displacement is ``a(p) cos(w t) + b(p) sin(w t)`` with smooth random fields a and b, and a
    half of a second harmonic.

    Parameters
    ----------
    image
        Its magnitude is moved.
    frames
        Number of frames of a period.
    largest
        Largest displacement of each harmonic, as a share of the side of the image.
    rng
        Random numbers.
    """
    y, x = image.shape
    size = largest * float(rng.uniform(0.2, 1.0))
    coarse = torch.from_numpy(rng.uniform(-1, 1, (4, 2, FIELD, FIELD)).astype(np.float32))
    coarse = coarse.to(image.device)
    fields = F.interpolate(coarse, size=(y, x), mode="bicubic", align_corners=True) * size
    time = 2 * math.pi * torch.arange(frames, device=image.device) / frames
    waves = torch.stack([time.cos(), time.sin(), (2 * time).cos() / 2, (2 * time).sin() / 2])
    # In the units of grid_sample a side is 2.
    shift = 2 * torch.einsum("kt,kcyx->tyxc", waves, fields)
    unmoved = torch.eye(2, 3, device=image.device)[None]
    identity = F.affine_grid(unmoved, [1, 1, y, x], align_corners=False)
    planes = image.abs()[None, None].expand(frames, 1, y, x)
    return F.grid_sample(planes, identity + shift, padding_mode="zeros", align_corners=False)[:, 0]


FIELD = 5
"""Side of the coarse grid of a displacement: it varies over a fifth of the image."""


def _evenly(series: Tensor, frames: int, rng: np.random.Generator) -> Tensor:
    """Evenly spaced frames of a period, from any frame, in either direction."""
    count = min(frames, len(series))
    first = int(rng.integers(len(series)))
    places = (torch.arange(count, device=series.device) * len(series) / count).floor().long()
    chosen = series[(first + places) % len(series)]
    return chosen.flip(0) if rng.integers(2) else chosen


def _crop_with_content(image: Tensor, size: Shape, rng: np.random.Generator) -> tuple[slice, slice]:
    """A random crop: of a few the one that changes most over time."""
    change = image.abs().std(0) if len(image) > 1 else image.abs()[0]
    best, most = (slice(None), slice(None)), -1.0
    for _ in range(CROPS):
        height, width = (min(s, n) for s, n in zip(size, image.shape[1:]))
        top = int(rng.integers(image.shape[1] - height + 1))
        left = int(rng.integers(image.shape[2] - width + 1))
        cut = (slice(top, top + height), slice(left, left + width))
        found = float(change[cut].mean())
        if found > most:
            best, most = cut, found
    return best


CROPS = 2
"""Crops among which the one that moves most is taken: most of a series stands still."""
