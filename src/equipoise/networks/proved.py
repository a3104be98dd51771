"""Proved upper bounds: the norm of a convolution, and the Lipschitz constant of a network (13)."""

import math

import torch
from torch import Tensor

GRID = 64
"""Frequencies per axis at which the symbol is bounded."""

SQUARINGS = 12
"""The Gram iteration overestimates by less than ``rank^(1 / 2^(SQUARINGS + 2))``."""

ROUNDING = 1 + 1e-9
"""Covers the rounding of the double precision that the bound is computed in."""


@torch.no_grad()
def convolution_norm_upper(weight: Tensor, grid: int = GRID) -> float:
    """Proved bound of the norm of a zero-padded convolution on images of any size (13).

    The convolution of an image with zero borders is a compression of the convolution on the
    infinite plane, whose norm is the largest singular value of the symbol
    ``W(t) = sum_k w_k exp(-i k t)`` over all frequencies t. On a grid it is bounded from above by
    the Gram iteration ``G <- G^2``, ``sigma^2 <= ||G^(2^j)||_F^(1 / 2^j)``, ``G = W W^H``
    (Delattre et al., ICML 2023). Between the grid points: for a unit vector u that is a top
    eigenvector where G is largest, ``u^H G(t) u`` is a non-negative trigonometric polynomial of
    degree ``D = kernel size - 1`` in each variable, and falls from its maximum M no faster than
    ``M cos^2(D (|d_1| + |d_2|) / 2)`` at the distance d (Bernstein and Szego). The nearest grid
    point has ``|d_i| <= pi / grid``, so the largest value on the grid is at least
    ``M cos^2(D pi / grid)``.

    Parameters
    ----------
    weight
        Kernel, (out, in, k, k).
    grid
        Frequencies per axis, more than twice the degree D.

    Raises
    ------
    ValueError
        If the grid is too coarse for the kernel.
    """
    degree = max(weight.shape[2:]) - 1
    if grid <= 2 * degree:
        raise ValueError(f"grid is {grid}: it must exceed {2 * degree} for this kernel")
    symbol = torch.fft.rfft2(weight.double(), s=(grid, grid)).flatten(2).permute(2, 0, 1)
    if symbol.shape[1] > symbol.shape[2]:
        symbol = symbol.mT
    largest = _largest_singular_value_upper(symbol)
    return largest / math.cos(degree * math.pi / grid) * ROUNDING


def _largest_singular_value_upper(matrices: Tensor) -> float:
    """Gram iteration over a stack; matrices that cannot hold the largest value drop out."""
    gram = matrices @ matrices.mH
    rank = gram.shape[-1]
    log_scale = torch.zeros(len(gram), dtype=torch.float64)
    for squaring in range(SQUARINGS + 1):
        size = torch.linalg.matrix_norm(gram)
        if not bool(size.any()):
            return 0.0
        log_bound = (torch.log(size) + log_scale) / 2**squaring
        slack = 0.5 * math.log(rank) / 2**squaring
        keep = log_bound >= log_bound.max() - slack
        gram = gram[keep] / size[keep, None, None]
        log_scale = 2 * (log_scale[keep] + torch.log(size[keep]))
        gram = gram @ gram
    return math.exp(0.5 * float(log_bound.max()))


def lipschitz_upper(kernels: list[Tensor], grid: int = GRID, *, skip: float = 0.0) -> float:
    """Proved bound of the Lipschitz constant of convolutions with ReLU between them (13).

    The product of the bounds of the layers: biases do not matter and ReLU has the constant 1. A
    network ``skip x - N(x)`` adds ``skip``.
    """
    return abs(skip) + math.prod(convolution_norm_upper(kernel, grid) for kernel in kernels)
