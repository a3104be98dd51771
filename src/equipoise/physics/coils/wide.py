"""ESPIRiT on a field of view of twice the size, for tissue at the border of the image.

The operators of ESPIRiT are short Fourier sums, so its maps are as smooth across the border of the
field of view as within it: where the border cuts through tissue, what the maps say about one side
is mixed with the other, over a good part of the image. Here the coil images of the calibration
region are padded with zeros to twice the field of view. Then kernels of as many samples are half as
wide, and tissue borders on zeros instead of on the other side.
"""

import math

import torch
from torch import Tensor

from equipoise.physics.cartesian import hann_window
from equipoise.physics.coils.espirit import (
    KERNEL,
    MAX_CALIBRATION,
    SINGULAR_THRESHOLD,
    central,
    dominant_eigenvectors,
    on_support,
    projector,
    reference_phase,
    rows_of,
    usual_region,
)
from equipoise.physics.fourier import image_to_kspace, kspace_to_image
from equipoise.physics.noise_level import noise_level
from equipoise.physics.sampling.masks import calibration_region

EXTENT = 2
"""Size of the field of view of the calibration, in fields of view of the image, along an axis."""

SHARE = 0.25
"""Share of an axis that the calibration region must fill for this. The border of a low-resolution
image is so blurred that the usual maps, which reproduce the blur, are better there."""

SMALLEST = 12
"""Side of the smallest calibration region: fewer lines hold no kernels of usual width."""

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

    Along the larger field of view everything that is measured about DC calibrates, not only its
    centre: maps of a border are as sharp as the images that they come from. None where nothing
    reaches the border, because the usual maps are as good then; of one coil; and of a calibration
    region that fills less than :data:`SHARE` of both axes, or has a side below :data:`SMALLEST`.

    Parameters
    ----------
    kspace, mask
        K-space (coil, y, x), and its mask (y, x).
    kernel
        Width of the kernel, in samples of the larger field of view.
    """
    region = calibration_region(mask)
    axes = [_Axis(n, size) for n, size in zip(mask.shape, region)]
    if len(kspace) == 1 or min(region) < SMALLEST or not any(axis.extent > 1 for axis in axes):
        return None
    lowres = kspace_to_image(kspace * hann_window(mask.shape, usual_region(mask), kspace.device))
    if not _reaches_border(lowres):
        return None
    cut = tuple(axis.cut for axis in axes)
    along_y, along_x = (axis.taper(kspace.device) for axis in axes)
    taper = along_y[:, None] * along_x
    # Coil by coil, because the larger field of view of all in double precision takes much memory.
    samples = torch.stack([_wide(coil[cut] * taper, axes) for coil in kspace])
    scale = samples.abs().max()
    level = (noise_level(kspace, mask) / scale) ** 2 * taper.square().mean()
    extents = axes[0].extent, axes[1].extent
    signal = _signal(samples / scale, kernel, extents, float(level))
    vectors, eigenvalue = dominant_eigenvectors(projector(signal, len(kspace)), lowres, extents)
    vectors = vectors * reference_phase(samples, vectors)
    return on_support(vectors, eigenvalue).to(kspace.dtype)


class _Axis:
    """An axis of n samples, the central ``size`` of which were measured in all lines."""

    def __init__(self, n: int, size: int):
        self.extent = EXTENT if size >= SHARE * n else 1
        self.size = size if self.extent > 1 else min(size, MAX_CALIBRATION)
        self.cut = central(n, self.size)
        self.tapered = self.extent > 1 and self.size < n

    def taper(self, device: torch.device) -> Tensor:
        """The weights of the samples: 1, falling as a cosine at the ends of a part."""
        if not self.tapered:
            return torch.ones(self.size, dtype=torch.float64, device=device)
        place = torch.arange(self.size, device=device) - self.size // 2
        distance = place.abs().double() / (self.size / 2)
        beyond = ((distance - 1 + TAPER) / TAPER).clamp(min=0)
        return 0.5 * (1 + torch.cos(torch.pi * beyond))

    @property
    def place(self) -> slice:
        """Of the image in the larger field of view: its centre comes to the centre of that."""
        return central(self.extent * self.size, self.size)

    @property
    def kept(self) -> slice:
        """The samples of the larger field of view without the ends that are tapered."""
        n = self.extent * self.size
        return central(n, int(n * (1 - TAPER / 2)) if self.tapered else n)


def unmapped_border(kspace: Tensor, mask: Tensor) -> tuple[int, int, int] | None:
    """An axis along which tissue reaches the border, where :func:`wide_csm` has too few samples.

    Maps are wrong about such a border, and leave aliases from one side to the other.

    Parameters
    ----------
    kspace, mask
        K-space (coil, y, x), and its mask (y, x).

    Returns
    -------
    The axis, 0 or 1, the samples about DC along it, and how many are needed; None if there is none.
    """
    region = calibration_region(mask)
    lowres = kspace_to_image(kspace * hann_window(mask.shape, usual_region(mask), kspace.device))
    for axis, (n, size) in enumerate(zip(mask.shape, region)):
        needed = max(SMALLEST, math.ceil(SHARE * n))
        if len(kspace) > 1 and size < needed and _at_border(lowres)[axis] > BORDER:
            return axis, size, needed
    return None


def _reaches_border(images: Tensor) -> bool:
    return max(_at_border(images)) > BORDER


def _at_border(images: Tensor) -> tuple[float, float]:
    """Energy of the outermost lines of coil images relative to all, at both ends of y and of x."""
    energy = images.abs().square().sum(0)
    sides = (energy[0], energy[-1]), (energy[:, 0], energy[:, -1])
    along_y, along_x = (float(max(a.mean(), b.mean()) / energy.mean()) for a, b in sides)
    return along_y, along_x


def _wide(samples: Tensor, axes: list[_Axis]) -> Tensor:
    """K-space (y, x) of the larger field of view."""
    padded = samples.new_zeros([axis.extent * axis.size for axis in axes])
    padded[axes[0].place, axes[1].place] = kspace_to_image(samples)
    return image_to_kspace(padded)[axes[0].kept, axes[1].kept].to(torch.complex64)


def _signal(samples: Tensor, width: int, extents: tuple[int, int], level: float) -> Tensor:
    """The rows of the calibration matrix that hold signal: an orthonormal basis of them.

    ``level`` is the mean variance of the samples before they were interpolated. Noise that is
    interpolated by a factor e has 1 / e of it, in 1 / e of the spectrum, so that its mean outer
    product over windows has no eigenvalue above the level.
    """
    width = min(width, (min(samples.shape[1:]) + 1) // 2)
    # Neighbours of interpolated samples say the same: windows are as far apart as samples were.
    windows = samples.unfold(1, width, extents[0]).unfold(2, width, extents[1])
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
