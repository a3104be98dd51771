"""The noise of a scan, estimated from the scan itself."""

import math

import numpy as np
import torch
from torch import Tensor

from equipoise.arguments import Array, as_kspace, as_mask
from equipoise.shapes import Numbers

N_SHELLS = 8
"""Shells of equal sample count between ``INNER_RADIUS`` and the corners of k-space."""

INNER_RADIUS = 0.6
"""Samples nearer to DC than this fraction of the k-space radius hold too much signal."""


def noise_level(kspace: Array, mask: Array) -> Numbers:
    """Standard deviation ``sigma`` of the complex noise of a k-space sample, ``E|n|^2 = sigma^2``.

    The magnitude of pure complex noise has the median ``sigma sqrt(ln 2)``. The median over coils
    and measured samples is taken in each of several outer shells of k-space, where anatomy
    contributes least. The smallest is returned, because residual signal can only raise a shell. The
    result is an upper estimate if the anatomy reaches the edge of k-space.

    Parameters
    ----------
    kspace
        Multi-coil k-space, (batch, coil, y, x) or (coil, y, x), numpy or torch.
    mask
        Where it was measured, (batch or 1, y, x), (y, x) or (x,).

    Returns
    -------
    Tensor
        (batch,), or one number if the k-space has no batch axis, float64.

    Raises
    ------
    BadInputError
        If the k-space is real, or the mask has a different matrix.

    Examples
    --------
    >>> import numpy as np
    >>> import equipoise as eq
    >>> parts = np.random.default_rng(0).standard_normal((2, 4, 64, 64))
    >>> noise = 0.3 * (parts[0] + 1j * parts[1]) / np.sqrt(2)
    >>> round(float(eq.noise_level(noise, np.ones((64, 64)))), 2)
    0.29
    """
    given = as_kspace(kspace)
    kspace = given.value
    mask = as_mask(mask, kspace.shape[2:], len(kspace))
    distance = _radius(kspace.shape[2:], kspace.device)
    levels = []
    for i in range(kspace.shape[0]):
        # Exact zeros in every coil are padding, not measurements.
        measured = mask[i if len(mask) > 1 else 0] & (kspace[i] != 0).any(0)
        magnitude = kspace[i][:, measured].abs().double()
        radius = distance[measured]
        # A scan that measured only the centre still needs shells, relative to its own extent.
        cut = radius >= min(INNER_RADIUS, float(radius.max()) * INNER_RADIUS)
        order = radius[cut].argsort(stable=True)
        outer = magnitude[:, cut][:, order]
        shells = [shell for shell in outer.tensor_split(N_SHELLS, dim=1) if shell.shape[1] > 0]
        medians = torch.stack([shell.median() for shell in shells])
        levels.append(medians.min() / math.sqrt(math.log(2)))
    return given.like(torch.stack(levels))


def _radius(shape: torch.Size, device: torch.device) -> torch.Tensor:
    axes = [(torch.arange(n, device=device) - n // 2) / max(n / 2, 1) for n in shape]
    grid = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([g**2 for g in grid]).sum(0).sqrt()


def complex_noise(shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """White complex64 noise with ``E|n|^2 = 1``."""
    parts = rng.standard_normal((2, *shape)).astype(np.float32) / np.float32(np.sqrt(2))
    return torch.complex(*torch.from_numpy(parts))
