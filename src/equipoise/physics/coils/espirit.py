"""Coil sensitivity maps from the calibration region: ESPIRiT.

Uecker et al., MRM 71:990-1001, 2014. sigpy, BART and the maps of the MoDL data set use the same
method. The projector onto the row space of the calibration matrix is accumulated once into a kernel
of size ``2 k - 1``. Its Fourier sum gives a ``coil x coil`` operator for every pixel. The dominant
eigenvector of the operator is the map, and its eigenvalue is close to 1 exactly where the maps
explain the data. Pixels are independent, so only a few rows are held at a time.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.arguments import Array, as_kspace, as_maps, as_mask
from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import hann_window
from equipoise.physics.fourier import kspace_to_image
from equipoise.physics.sampling.masks import calibration_region
from equipoise.shapes import CoilMaps, PerSample
from equipoise.vectors import norm

KERNEL = 6
"""Kernel width in k-space samples (the default of BART and sigpy)."""

SINGULAR_THRESHOLD = 0.02
"""Singular values of the calibration matrix below this fraction of the largest count as noise."""

POWER_ITERATIONS = 15
"""Enough when started from the low-resolution coil images: more iterations change the null-space
error by less than 1 %."""

MAX_CALIBRATION = 24
"""A larger calibration region adds cost and hardly any accuracy."""

SUPPORT_RANGE = (0.8, 0.97)
"""Range in which the eigenvalue that separates object from background is sought."""


class CoilMapEstimate(NamedTuple):
    """Maps (batch, coil, y, x) and eigenvalue (batch, y, x), close to 1 where the maps are valid.

    Neither has a batch axis if the k-space has none.
    """

    csm: Tensor
    eigenvalue: Tensor


def estimate_csm(kspace: Array, mask: Array, kernel: int = KERNEL) -> Tensor:
    """ESPIRiT maps (batch, coil, y, x), with sum of squares 1 on the support and 0 outside.

    See :func:`espirit`.
    """
    return espirit(kspace, mask, kernel).csm


def espirit(
    kspace: Array, mask: Array, kernel: int = KERNEL, crop: float | None = None
) -> CoilMapEstimate:
    """ESPIRiT maps, sum of squares 1 on the support and 0 outside, with their confidence.

    Parameters
    ----------
    kspace
        Multi-coil k-space with a fully sampled centre, (batch, coil, y, x) or (coil, y, x), numpy
        or torch, DC at index ``n // 2``.
    mask
        True or 1 where k-space was measured, (batch or 1, y, x), (y, x) or (x,).
    kernel
        Width of the kernel in samples; it is lowered to fit a small calibration region.
    crop
        The support is where the eigenvalue exceeds this number. If not given, it is chosen for
        each slice.

    Raises
    ------
    BadInputError
        If the fully sampled centre is smaller than 4 x 4 samples or holds no signal, the k-space
        is real, or the mask has a different matrix.

    Examples
    --------
    >>> import numpy as np
    >>> import equipoise as eq
    >>> centre = np.hanning(32)[:, None] * np.hanning(32)  # of the k-space of two equal coils
    >>> kspace = np.stack([centre, 1j * centre])
    >>> csm, eigenvalue = eq.espirit(kspace, np.ones((32, 32)))
    >>> csm.shape, eigenvalue.shape
    (torch.Size([2, 32, 32]), torch.Size([32, 32]))
    """
    given = as_kspace(kspace)
    kspace = given.value
    mask = as_mask(mask, kspace.shape[2:], len(kspace))
    maps, eigenvalues = [], []
    for i in range(kspace.shape[0]):
        sampled = mask[i if len(mask) > 1 else 0]
        # With one coil the map is 1 everywhere: its phase belongs to the image.
        if kspace.shape[1] == 1:
            found = torch.ones_like(kspace[i]), torch.ones_like(kspace[i, 0].real)
        else:
            found = _espirit(kspace[i], sampled, kernel, crop)
        maps.append(found[0])
        eigenvalues.append(found[1])
    return CoilMapEstimate(*(given.like(torch.stack(v)) for v in (maps, eigenvalues)))


def unexplained(coil_images: Tensor, csm: CoilMaps) -> PerSample:
    """``||(I - S S^H) c|| / ||c||``: the part of coil images that maps do not explain, (batch,).

    It does not depend on the phases of the maps. This is the null-space projection error of
    ESPIRiT's authors.
    """
    inside = (csm != 0).any(1, keepdim=True)
    seen = coil_images * inside
    explained = csm * (csm.conj() * seen).sum(1, keepdim=True)
    return norm(seen - explained) / norm(seen)


def normalize_csm(csm: Array) -> Tensor:
    """Divide coil maps by their root sum of squares over coils; zero stays zero.

    Examples
    --------
    >>> import numpy as np
    >>> import equipoise as eq
    >>> maps = eq.normalize_csm(np.full((4, 8, 8), 3.0))  # (coil, y, x), or with a batch axis
    >>> maps.shape, float(maps.abs().max())
    (torch.Size([4, 8, 8]), 0.5)
    """
    given = as_maps(csm)
    return given.like(_normalized(given.value))


def _normalized(csm: CoilMaps) -> CoilMaps:
    rss = csm.abs().square().sum(1, keepdim=True).sqrt()
    # Dividing by a tiny sum of squares would blow noise outside the object up to full weight.
    floor = rss.amax(dim=tuple(range(1, rss.ndim)), keepdim=True) * RSS_FLOOR
    return torch.where(rss > floor, csm / rss.clamp(min=torch.finfo(rss.dtype).tiny), 0)


RSS_FLOOR = 1e-3
"""Maps weaker than this fraction of their maximum count as zero."""


def _espirit(
    kspace: Tensor, mask: Tensor, kernel: int, crop: float | None
) -> tuple[Tensor, Tensor]:
    """Maps (coil, y, x) and the eigenvalue map (y, x)."""
    calibration = _calibration_data(kspace, mask)
    width = min(kernel, (min(calibration.shape[1:]) + 1) // 2)
    lowres = kspace_to_image(kspace * hann_window(mask.shape, calibration.shape[1:], kspace.device))
    vectors, eigenvalue = dominant_eigenvectors(_projector_kernel(calibration, width), lowres)
    vectors = vectors * reference_phase(calibration, vectors)
    return on_support(vectors, eigenvalue, crop).to(kspace.dtype), eigenvalue


def on_support(vectors: Tensor, eigenvalue: Tensor, crop: float | None = None) -> Tensor:
    """Maps (coil, y, x), 0 where the eigenvalue (y, x) is below a number that it chooses itself."""
    support = eigenvalue > (_otsu(eigenvalue, *SUPPORT_RANGE) if crop is None else crop)
    return torch.where(support, vectors, 0)


def usual_region(mask: Tensor) -> tuple[int, ...]:
    """The sides of the fully sampled centre of a mask (y, x), as far as it calibrates."""
    return tuple(min(n, MAX_CALIBRATION) for n in calibration_region(mask))


def central(n: int, size: int) -> slice:
    """The ``size`` indices about the centre ``n // 2`` of n."""
    first = n // 2 - size // 2
    return slice(first, first + size)


def _calibration_data(kspace: Tensor, mask: Tensor) -> Tensor:
    size = usual_region(mask)
    if min(size) < 4:
        raise BadInputError(
            f"the fully sampled centre of k-space is {size[0]} x {size[1]} samples, too small to "
            "estimate coil maps (at least 4 x 4): give coil maps with --csm"
        )
    cut = tuple(central(n, w) for n, w in zip(mask.shape, size))
    data = kspace[(slice(None), *cut)].to(torch.complex128)
    if not bool((data != 0).any()):
        raise BadInputError("the centre of k-space is zero: there is no signal to calibrate on")
    return data / data.abs().max()


def _projector_kernel(calibration: Tensor, width: int) -> Tensor:
    """The row-space projector of the calibration matrix, see :func:`projector`."""
    matrix = rows_of(calibration.unfold(1, width, 1).unfold(2, width, 1))
    values, vectors = torch.linalg.eigh(matrix.mH @ matrix)
    return projector(vectors[:, values > values[-1] * SINGULAR_THRESHOLD**2], len(calibration))


def rows_of(windows: Tensor) -> Tensor:
    """The calibration matrix, a row for each of the windows (coil, y, x, ., .)."""
    return windows.permute(1, 2, 0, 3, 4).reshape(-1, len(windows) * windows[0, 0, 0].numel())


def projector(signal: Tensor, n_coils: int) -> Tensor:
    """The projector onto some rows as a kernel between coils, (2 k - 1, 2 k - 1, coil, coil).

    Parameters
    ----------
    signal
        An orthonormal basis of the rows, (coil k^2, count).
    """
    width = math.isqrt(len(signal) // n_coils)
    # (kernel, coil, y, x): together the kernels leave the calibration data unchanged, k_a[q] = mean
    # over windows of sum_b,s h_ab[s] k_b[q - s], with h the correlation of the kernels.
    kernels = signal.T.conj().reshape(-1, n_coils, width, width)
    spectrum = torch.fft.fft2(kernels, s=(2 * width - 1, 2 * width - 1))
    product = torch.einsum("vayx,vbyx->abyx", spectrum, spectrum.conj())
    correlation = torch.fft.fftshift(torch.fft.ifft2(product), dim=(-2, -1))
    return (correlation / width**2).permute(2, 3, 0, 1).to(torch.complex64)


def _fourier_sum(n: int, size: int, extent: int, device: torch.device) -> Tensor:
    """``exp(2 pi i k (r - n // 2) / (extent n))`` of pixels r and ``size`` frequencies k."""
    pixels = torch.arange(n, device=device) - n // 2
    frequencies = torch.arange(size, device=device) - size // 2
    angle = 2 * torch.pi * torch.outer(pixels, frequencies).double() / (extent * n)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


def dominant_eigenvectors(
    kernel: Tensor, start: Tensor, extents: tuple[int, int] = (1, 1)
) -> tuple[Tensor, Tensor]:
    """Unit vectors (coil, y, x) and eigenvalues (y, x) of the operator of every pixel.

    Parameters
    ----------
    kernel
        See :func:`projector`.
    start
        Coil images (coil, y, x), close to the vectors.
    extents
        Field of view along y and x whose k-space the kernel combines, in fields of view of the
        image.
    """
    size, n_coils = kernel.shape[0], kernel.shape[2]
    y, x = start.shape[1:]
    along_y = _fourier_sum(y, size, extents[0], kernel.device)
    along_x = _fourier_sum(x, size, extents[1], kernel.device)
    partial = torch.einsum("xq,pqab->pxab", along_x, kernel).flatten(1)
    begin = start.to(torch.complex64).permute(1, 2, 0)
    # The offset keeps the iteration from starting at zero in pixels without signal.
    begin = begin / begin.abs().max() + 1e-6
    rows = max(1, CHUNK_BYTES // (partial.shape[1] * partial.element_size()))
    found = []
    for chunk, vectors in zip(torch.split(along_y, rows), torch.split(begin, rows)):
        operators = (chunk @ partial).reshape(-1, x, n_coils, n_coils)
        found.append(_power_iteration(operators, vectors[..., None]))
    vectors, values = (torch.cat(parts) for parts in zip(*found))
    return vectors.permute(2, 0, 1), values


CHUNK_BYTES = 2**22
"""Bytes of operators that are held at a time; they set the number of rows of pixels."""


def _power_iteration(operators: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Dominant eigenvectors (y, x, coil) and eigenvalues (y, x)."""
    tiny = torch.finfo(torch.float32).tiny
    magnitude = torch.ones(())
    for _ in range(POWER_ITERATIONS):
        vectors = operators @ vectors
        magnitude = torch.view_as_real(vectors).square().sum((-3, -2, -1)).sqrt()[..., None, None]
        vectors = vectors / magnitude.clamp(min=tiny)
    return vectors[..., 0], magnitude[..., 0, 0]


def reference_phase(calibration: Tensor, vectors: Tensor) -> Tensor:
    """The phase that makes the first principal virtual coil real, (y, x)."""
    # An eigenvector has an arbitrary phase in every pixel; without a reference the maps are not
    # smooth.
    flat = calibration.flatten(1)
    principal = torch.linalg.eigh(flat @ flat.mH).eigenvectors[:, -1].to(vectors.dtype)
    virtual = torch.einsum("c,cyx->yx", principal.conj(), vectors)
    return torch.exp(-1j * virtual.angle())


def _otsu(values: Tensor, low: float, high: float) -> float:
    """The threshold that best separates two classes of values, within [low, high] (Otsu 1979)."""
    # Clipped, because the spread of the background far below the range must not move the threshold.
    clipped = values.flatten().double().clamp(low - 0.1, 1.0)
    candidates = torch.linspace(low, high, 64, dtype=torch.float64, device=values.device)
    best, best_score = low, -1.0
    for threshold in candidates:
        above = clipped > threshold
        fraction = above.double().mean()
        if 0 < fraction < 1:
            gap = clipped[above].mean() - clipped[~above].mean()
            score = float(fraction * (1 - fraction) * gap**2)
            if score > best_score:
                best, best_score = float(threshold), score
    return best
