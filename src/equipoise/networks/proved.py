"""Proved upper bounds: the norm of a convolution, and the Lipschitz constant of a network (13)."""

import math

import torch
from torch import Tensor

GRID = 64
"""Frequencies per axis at which the symbol is bounded."""

SPARSE = 65
"""Every 65th frequency is decomposed first: coprime to the grid, so that they spread over it."""

ABOVE = 1 + 1e-7
"""The rest is compared with the largest eigenvalue among them times this."""

ROUNDING = 1 + 1e-9
"""Covers the rounding of the double precision that the bound is computed in: a Cholesky
factorisation and an eigenvalue of n rows are exact for a matrix that differs by some n^2 units of
1e-16 relative to its norm (Higham, Accuracy and Stability of Numerical Algorithms, theorem 10.3).
"""

AT_ONCE = 2**22
"""Matrix entries that are held at once: 64 MiB."""


@torch.no_grad()
def convolution_norm_upper(weight: Tensor, grid: int = GRID) -> float:
    """Proved bound of the norm of a zero-padded convolution on images of any size (13).

    The convolution of an image with zero borders is a compression of the convolution on the
    infinite plane, whose norm is the largest singular value of the symbol
    ``W(t) = sum_k w_k exp(-i k t)`` over all frequencies t. On a grid its square is the largest
    eigenvalue of ``G = W W^H``: it is below c where ``c I - G`` has a Cholesky factorisation.
    Between the grid points: for a unit vector u that is a top eigenvector where G is largest,
    ``u^H G(t) u`` is a non-negative trigonometric polynomial of degree ``D = kernel size - 1`` in
    each variable, and falls from its maximum M no faster than ``M cos^2(D (|d_1| + |d_2|) / 2)`` at
    the distance d (Bernstein and Szego). The nearest grid point has ``|d_i| <= pi / grid``, so the
    largest value on the grid is at least ``M cos^2(D pi / grid)``.

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
    """Over a stack: those of a few are computed, and the others compared with them."""
    rows, columns = matrices.shape[1:]
    largest = 0.0
    for part in matrices.split(max(AT_ONCE // (rows * columns), 1)):
        gram = part @ part.mH
        while len(gram):
            largest = max(largest, _largest_eigenvalue(gram[::SPARSE]))
            limit = ABOVE * largest * torch.eye(rows, dtype=gram.dtype, device=gram.device)
            # Where the factorisation fails the eigenvalue may be above the limit.
            failed = torch.linalg.cholesky_ex(limit - gram).info != 0
            failed[::SPARSE] = False
            gram = gram[failed]
    return math.sqrt(ABOVE * largest)


def _largest_eigenvalue(gram: Tensor) -> float:
    return max(float(torch.linalg.eigvalsh(gram)[:, -1].max()), 0.0)


def lipschitz_upper(kernels: list[Tensor], grid: int = GRID, *, skip: float = 0.0) -> float:
    """Proved bound of the Lipschitz constant of convolutions with ReLU between them (13).

    The product of the bounds of the layers: biases do not matter and ReLU has the constant 1. A
    network ``skip x - N(x)`` adds ``skip``.
    """
    return abs(skip) + math.prod(convolution_norm_upper(kernel, grid) for kernel in kernels)
