"""ESPIRiT on a field of view of twice the size, for tissue at the border of the image.

The operators of ESPIRiT are short Fourier sums, so its maps are as smooth across the border of the
field of view as within it: where the border cuts through tissue, what the maps say about one side
is mixed with the other, over a good part of the image. Here the coil images of the calibration
region are padded with zeros to twice the field of view. Then kernels of as many samples are half as
wide, and tissue borders on zeros instead of on the other side.
"""

import torch
from torch import Tensor

from equipoise.physics.cartesian import hann_window
from equipoise.physics.coils.espirit import (
    KERNEL,
    MAX_CALIBRATION,
    SINGULAR_THRESHOLD,
    dominant_eigenvectors,
    on_support,
    projector,
    reference_phase,
    rows_of,
)
from equipoise.physics.fourier import image_to_kspace, kspace_to_image
from equipoise.physics.noise_level import noise_level
from equipoise.physics.sampling.masks import calibration_region

EXTENT = 2
"""Size of the field of view of the calibration, in fields of view of the image."""

SMALLEST_WIDE = 12
"""Side of the smallest calibration region. The borders of the low-resolution images of fewer lines
are so blurred that the usual calibration is better."""

BORDER = 0.05
"""Energy of the outermost line of the low-resolution images, on any side, relative to that of all:
below, nothing reaches the border. Heads in air had 0.01, necks, knees and bodies 0.06 to 1.2."""

TAPER = 0.25
"""Share of the region, at its ends, over which samples fall to zero where it does not fill an axis;
a jump would ring across the border."""

WINDOWS_BYTES = 2**24
"""Bytes of windows that are held at a time."""


def wide_csm(kspace: Tensor, mask: Tensor, kernel: int = KERNEL) -> Tensor | None:
    """Maps (coil, y, x) with sum of squares 1 on the support and 0 outside.

    Everything that is measured about DC calibrates, not only its centre: maps of a border are as
    sharp as the images that they come from. None where nothing reaches the border, because the
    usual ones are as good then; of one coil; and of a region with a side below
    :data:`SMALLEST_WIDE`.

    Parameters
    ----------
    kspace, mask
        K-space (coil, y, x), and its mask (y, x).
    kernel
        Width of the kernel, in samples of the larger field of view.
    """
    region = calibration_region(mask)
    if min(region) < SMALLEST_WIDE or len(kspace) == 1:
        return None
    few = tuple(min(w, MAX_CALIBRATION) for w in region)
    lowres = kspace_to_image(kspace * hann_window(mask.shape, few, kspace.device))
    if not _reaches_border(lowres):
        return None
    cut = tuple(slice(n // 2 - w // 2, n // 2 - w // 2 + w) for n, w in zip(mask.shape, region))
    whole = [w == n for w, n in zip(region, mask.shape)]
    taper = _taper(region[0], whole[0])[:, None] * _taper(region[1], whole[1])
    taper = taper.to(kspace.device)
    # Coil by coil, because the larger field of view of all in double precision takes much memory.
    samples = torch.stack([_wide(coil[cut] * taper, whole) for coil in kspace])
    scale = samples.abs().max()
    level = (noise_level(kspace, mask) / scale) ** 2 * taper.square().mean()
    signal = _signal(samples / scale, kernel, float(level))
    vectors, eigenvalue = dominant_eigenvectors(projector(signal, len(kspace)), lowres, EXTENT)
    vectors = vectors * reference_phase(samples, vectors)
    return on_support(vectors, eigenvalue).to(kspace.dtype)


def _reaches_border(images: Tensor) -> bool:
    energy = images.abs().square().sum(0)
    sides = energy[0], energy[-1], energy[:, 0], energy[:, -1]
    return bool(torch.stack([side.mean() for side in sides]).max() > BORDER * energy.mean())


def _taper(size: int, whole: bool) -> Tensor:
    """The weights of samples along an axis: 1, and falling as a cosine at the ends of a part."""
    if whole:
        return torch.ones(size, dtype=torch.float64)
    distance = (torch.arange(size) - size // 2).abs().double() / (size / 2)
    beyond = ((distance - 1 + TAPER) / TAPER).clamp(min=0)
    return 0.5 * (1 + torch.cos(torch.pi * beyond))


def _wide(samples: Tensor, whole: list[bool]) -> Tensor:
    """K-space (y, x) of the larger field of view, without the ends of a part that is tapered."""
    padded = samples.new_zeros([EXTENT * n for n in samples.shape])
    # The centre n // 2 of the image comes to the centre n of the larger one.
    place = tuple(slice(n - n // 2, 2 * n - n // 2) for n in samples.shape)
    padded[place] = kspace_to_image(samples)
    found = image_to_kspace(padded)
    for axis, complete in enumerate(whole):
        n = found.shape[axis]
        kept = n if complete else int(n * (1 - TAPER / 2))
        found = found.narrow(axis, n // 2 - kept // 2, kept)
    return found.to(torch.complex64)


def _signal(samples: Tensor, width: int, level: float) -> Tensor:
    """The rows of the calibration matrix that hold signal: an orthonormal basis of them.

    ``level`` is the mean variance of the samples before they were interpolated. Interpolated noise
    has 1 / ``EXTENT``^2 of it, in 1 / ``EXTENT``^2 of the spectrum, so that its mean outer product
    over windows has no eigenvalue above the level.
    """
    # Neighbours of the interpolated samples say the same, so windows are as far apart as samples
    # were.
    width = min(width, (min(samples.shape[1:]) + 1) // 2)
    windows = samples.unfold(1, width, EXTENT).unfold(2, width, EXTENT)
    n = len(samples) * width**2
    gram = samples.new_zeros((n, n), dtype=torch.complex128)
    for some in torch.split(windows, _rows_at_once(windows, n), 1):
        matrix = rows_of(some).to(gram.dtype)
        gram += matrix.mH @ matrix
    values, vectors = torch.linalg.eigh(gram)
    noise = level * windows.shape[1] * windows.shape[2]
    return vectors[:, values > max(float(values[-1]) * SINGULAR_THRESHOLD**2, noise)]


def _rows_at_once(windows: Tensor, n: int) -> int:
    return max(1, WINDOWS_BYTES // (windows.shape[2] * n * windows.element_size()))
