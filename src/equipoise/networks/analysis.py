"""What the analysis U of a ridge in three dimensions is made of."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.networks.proved import filtered_norm_squared, one_input_norm_squared
from equipoise.shapes import Image


class Factors(NamedTuple):
    """What U is made of: T, S_0, the other S_g, and the sizes of the terms without kernels.

    (filter, tap), (feature, 1, 9, 9), (filter, feature, 1, 9, 9), and twice (1,) or, without the
    term, (0,).
    """

    taps: Tensor
    within: Tensor
    across: Tensor
    spectral: Tensor
    low_rank: Tensor


class VolumeUsed(NamedTuple):
    """What an evaluation uses: as :class:`Factors`, with the kernels between blocks.

    Thresholds and shares are (clip, feature).
    """

    taps: Tensor
    within: Tensor
    across: Tensor
    spectral: Tensor
    low_rank: Tensor
    thresholds: Tensor
    shares: Tensor


def differences(filters: int, taps: int) -> Tensor:
    """Filters to start from, (filter, tap): differences of growing order, of norm 1."""
    found = []
    for order in range(1, filters + 1):
        filter_ = torch.zeros(taps, dtype=torch.float64)
        # Higher orders than the taps allow begin again at the first.
        order = (order - 1) % (taps - 1) + 1
        begin = (taps - order) // 2
        for k in range(order + 1):
            filter_[begin + k] = (-1) ** k * math.comb(order, k)
        found.append(filter_ / filter_.norm())
    return torch.stack(found).float()


def as_matrices(taps: Tensor, image: Image, periodic: bool) -> Tensor:
    """Every T_g as a matrix between the frames of an image, (filter, frame, frame)."""
    n, count = image.shape[1], taps.shape[1]
    frame = torch.arange(n, device=taps.device)
    source = frame[:, None] + torch.arange(count, device=taps.device) - count // 2
    inside = (source >= 0) & (source < n)
    found = torch.zeros(n, count, n, dtype=taps.dtype, device=taps.device)
    found.scatter_(2, (source % n)[..., None], 1.0)
    # Beyond the first and the last slice of a volume the image is zero.
    if not periodic:
        found = found * inside[..., None]
    return torch.einsum("gk,ikj->gij", taps, found)


def norm_squared(of: Factors) -> Tensor:
    """Proved bound on ``||U||^2``; a term without kernels has at most the norm of its size."""
    sizes = torch.cat([of.spectral, of.low_rank])
    return filtered_norm_squared(of.within, of.across, of.taps) + sizes.square().sum()


def norms_squared(of: Factors, still: bool) -> tuple[Tensor, Tensor]:
    """Proved bounds on ``||S_0 T_0||^2`` and of the rest, the larger of which is one on
    ``||U||^2``.

    T_0 of what does not move is zero where the others are not, at all temporal frequencies but
    zero. Where T_0 is the identity, both bounds are that on ``||U||^2``.
    """
    if not still:
        found = norm_squared(of)
        return found, found
    own = one_input_norm_squared(of.within).clamp(min=torch.finfo(torch.float64).tiny ** 0.5)
    return own, norm_squared(of._replace(within=torch.zeros_like(of.within)))


def absolute_norm(of: Factors, frames: int) -> float:
    """Bound on the norm of U with absolute values of all entries.

    Its square is at most ``sum_g || |T_g| ||_1^2 sum_f || |S_gf| ||_1^2``. For what does not move
    ``|| |T_0| ||`` is 1; the Fourier transform of n frames has entries of the modulus ``n^(-1/2)``,
    so ``n^(1/2)`` stands for its norm.
    """
    planes = of.within.abs().sum((1, 2, 3)).square().sum()
    others = of.across.abs().sum((2, 3, 4)).square().sum(1) * of.taps.abs().sum(1).square()
    rest = frames * of.spectral.square().sum() + of.low_rank.square().sum()
    return float((planes + others.sum() + rest).sqrt())


def size_of(kernels: Tensor) -> Tensor:
    """The norm of each kernel (..., 1, 9, 9)."""
    return kernels.square().sum((-3, -2, -1)).sqrt()


def applied(matrix: Tensor, image: Image) -> Image:
    """A real matrix between frames applied to an image (batch, frame, y, x)."""
    return torch.einsum("ij,bjyx->biyx", matrix.to(image.dtype), image)
