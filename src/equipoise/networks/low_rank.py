"""Blocks of a series whose pixels move alike have low rank: their singular values are shrunk (19).

``P(M) = U diag(sum_j a_j min(s, tau_j)) V^H`` for a matrix ``M = U diag(s) V^H``, with ``a_j >= 0``
and ``sum_j a_j = 1``, is the gradient of a convex function, a sum of Huber functions of the
singular values, and 1-Lipschitz, because it is so for every clip: ``M - U diag(min(s, tau)) V^H``
is the proximal map of ``tau`` times the nuclear norm (Cai, Candes, Shen, SIAM J. Optim.
20:1956-1982, 2010), and one minus a proximal map is the gradient of a Moreau envelope.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from equipoise.networks.rounding import gamma, unit_roundoff
from equipoise.networks.shrinkage import Layer
from equipoise.shapes import Image

BLOCK = 8
"""Side of a block in pixels."""


SHIFTS = ((0, 0), (4, 4), (4, 0), (0, 4))
"""Distances, in y and x, of the first pixel from the corner of its block, for up to four grids."""


def matrices_of(image: Image, side: int = BLOCK, shift: tuple[int, int] = (0, 0)) -> Tensor:
    """Blocks of an image (batch, time, y, x) as matrices (batch, row, column, time, pixel).

    Blocks at the border are filled with zeros. ``shift`` is the distance of the first pixel from
    the corner of its block.
    """
    (y, x), (down, right) = image.shape[-2:], shift
    padded = pad(image, (right, -(x + right) % side, down, -(y + down) % side))
    blocks = padded.unfold(2, side, side).unfold(3, side, side)
    return blocks.permute(0, 2, 3, 1, 4, 5).flatten(4)


def image_of(
    matrices: Tensor, shape: torch.Size, side: int = BLOCK, shift: tuple[int, int] = (0, 0)
) -> Image:
    """The image (batch, time, y, x) of a shape whose blocks are these matrices: the transpose."""
    blocks = matrices.reshape(*matrices.shape[:4], side, side).permute(0, 3, 1, 4, 2, 5)
    down, right = shift
    whole = blocks.flatten(4).flatten(2, 3)
    return whole[..., down : down + shape[-2], right : right + shape[-1]]


@dataclass(frozen=True)
class Clipped(Layer):
    """P at matrices, some rows of blocks at a time. What is not asked for is not computed.

    Attributes
    ----------
    matrices
        M, (batch, row, column, time, pixel).
    levels
        ``tau_j`` of every sample, (clip, batch, 1, 1, 1).
    shares
        ``a_j``, (clip,).
    """

    matrices: Tensor
    levels: Tensor
    shares: Tensor

    @property
    def value(self) -> Tensor:
        """``P(M)``, NaN where the decomposition is not that of M to the verified accuracy."""
        return torch.cat([piece.value for piece in self._pieces()], 1)

    def change(self, v: Tensor) -> Tensor:
        """``P'(M) v``."""
        changes = torch.split(v, self._rows, 1)
        return torch.cat([piece.change(w) for piece, w in zip(self._kept, changes)], 1)

    @cached_property
    def _kept(self) -> list["_Decomposed"]:
        """All pieces, for products with the derivative, of which there are many."""
        return list(self._pieces())

    def _pieces(self) -> Iterator["_Decomposed"]:
        """Made when they are asked for, because the factors of M are larger than M."""
        for matrices in torch.split(self.matrices, self._rows, 1):
            factors = decomposed(_wide(matrices.detach()))
            yield _Decomposed(matrices, *factors, self.levels, self.shares)

    @property
    def _rows(self) -> int:
        return max(PIECE // max(self.matrices[:, :1].numel(), 1), 1)


PIECE = 2**16
"""Numbers that are decomposed, verified and multiplied at a time: each of these takes a copy."""


@dataclass(frozen=True)
class _Decomposed:
    """P at matrices whose factors are known.

    Attributes
    ----------
    matrices, levels, shares
        See :class:`Clipped`.
    left, sizes, right
        ``U``, ``s`` and ``V^H`` of M, or of its transpose if it has more rows than columns.
    """

    matrices: Tensor
    left: Tensor
    sizes: Tensor
    right: Tensor
    levels: Tensor
    shares: Tensor

    @property
    def value(self) -> Tensor:
        found: Tensor = _Value.apply(  # type: ignore[no-untyped-call]
            self.matrices, self._weights, self
        )
        return found

    def change(self, v: Tensor) -> Tensor:
        """``P'(M) v``.

        With ``f(g) = P(s) / s`` at ``g = s^2``, ``P(M) = f(M M^H) M``, and by Daleckii and Krein
        the derivative of f in the eigenvectors of ``M M^H`` multiplies by divided differences.
        """
        v = _wide(v)
        inside, rows = self.left.mH @ v, self._rows
        of_gram = inside @ rows.mH
        of_gram = of_gram + of_gram.mH
        weights = self._weights.detach()[..., None]
        inside = weights * inside - (self._differences * of_gram) @ rows
        return self._as_given(self.left @ inside)

    @property
    def _rows(self) -> Tensor:
        """``U^H M``."""
        return self.sizes[..., None] * self.right

    @cached_property
    def _weights(self) -> Tensor:
        """``P(s) / s``, differentiable in levels and shares."""
        tiny = torch.finfo(self.sizes.dtype).tiny ** 0.5
        clipped = (self.levels / self.sizes.clamp(min=tiny)).clamp(max=1)
        return torch.einsum("j,j...->...", self.shares, clipped)

    @cached_property
    def _differences(self) -> Tensor:
        """``-(f(g) - f(g')) / (g - g')`` of each pair, without a difference of close numbers.

        It is ``r / (h (h + l))`` for the sizes ``h >= l``, with r = 0 for ``h <= tau``, ``tau / l``
        for ``l > tau``, and ``(h - tau) / (h - l)`` between.
        """
        first, second = self.sizes[..., :, None], self.sizes[..., None, :]
        tiny = torch.finfo(first.dtype).tiny ** 0.25
        high = torch.maximum(first, second).clamp(min=tiny)
        low = torch.minimum(first, second).clamp(min=tiny)
        total = torch.zeros_like(high)
        for level, share in zip(self.levels.detach()[..., None], self.shares.detach()):
            between = ((high - level) / (high - low).clamp(min=tiny)).clamp(0, 1)
            total = total + share * torch.where(low > level, level / low, between)
        return total / (high * (high + low))

    def _as_given(self, wide: Tensor) -> Tensor:
        return wide.mT if self.matrices.shape[-2] > self.matrices.shape[-1] else wide


class _Value(torch.autograd.Function):
    """``P(M)`` from its decomposition; P' is symmetric, and so its own transpose."""

    @staticmethod
    def forward(ctx: Any, matrices: Tensor, weights: Tensor, clipped: _Decomposed) -> Tensor:
        ctx.clipped = clipped
        return clipped._as_given(clipped.left @ (weights[..., None] * clipped._rows))

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor, None]:
        clipped, gradient = ctx.clipped, given[0]
        inside = clipped.left.mH @ _wide(gradient)
        of_weights = (inside * clipped._rows.conj()).sum(-1).real
        return clipped.change(gradient), of_weights, None


def _wide(matrices: Tensor) -> Tensor:
    """The matrices, transposed if they have more rows than columns."""
    return matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices


def clipped(matrices: Tensor, thresholds: Tensor, shares: Tensor, scale: Tensor) -> Clipped:
    """P at matrices, with thresholds multiplied by a scale.

    Parameters
    ----------
    matrices
        M, of complex numbers, (batch, row, column, time, pixel).
    thresholds, shares
        ``tau_j`` and ``a_j``, (clip,).
    scale
        Factor of the thresholds of each sample, (batch,).
    """
    levels = thresholds[:, None] * scale.to(thresholds.dtype)
    return Clipped(matrices, levels[..., None, None, None], shares)


@torch.no_grad()
def decomposed(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``U``, ``s`` and ``V^H`` of matrices with at least as many columns as rows, verified.

    ``||M - U diag(s) V^H|| <= t ||M||``, ``||U^H U - I|| <= t`` and ``||V^H V - I|| <= t`` in the
    norm of Frobenius, with t the :func:`accuracy`; s is NaN for a matrix that is not finite, or
    that fails.
    """
    finite = torch.isfinite(torch.view_as_real(matrices)).flatten(-3).all(-1)
    # The decomposition refuses numbers that are not finite, which a solve that diverges has.
    given = torch.where(finite[..., None, None], matrices, 0)
    # Other devices decompose one small matrix after the other, far slower than a processor.
    u, s, v = (w.to(given.device) for w in torch.linalg.svd(given.cpu(), full_matrices=False))
    unit = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)
    limit = accuracy(u.shape[-1], s.dtype)
    good = finite & (_size(given - u @ (s[..., None] * v)) <= limit * _size(given))
    for product in (u.mH @ u, v @ v.mH):
        good = good & (_size(product - unit) <= limit)
    return u, torch.where(good[..., None], s, torch.nan), v


def _size(matrices: Tensor) -> Tensor:
    return torch.linalg.vector_norm(matrices, dim=(-2, -1))


def accuracy(rows: int, dtype: torch.dtype) -> float:
    """The accuracy that a decomposition must have: several times that of LAPACK."""
    return OF_A_ROW * rows * unit_roundoff(dtype)


OF_A_ROW = 16
"""Units of roundoff for each row. At most 5 were measured for 12, 20 and 30 rows."""


def clipping_rounding(rows: int, columns: int, dtype: torch.dtype) -> float:
    """Proved bound on ``||fl(P(M)) - P(M)|| / ||M||`` for matrices of this shape or its transpose.

    Let t' be the verified accuracy t and the rounding of the verification, which is at most
    ``gamma_(4 k) n`` for products of n rows with k terms. With the unitary factors of U and V,
    each within t' of them, M' of the computed singular values has ``||M - M'|| <= 3.1 t' ||M||``,
    and P is 1-Lipschitz. The value is computed from U, s and V in place of the unitary ones, at
    most ``2.1 t' ||M||`` away, with roundings of at most ``2 t' ||M||``. Together they are below
    ``8 t' ||M||`` while t' is below 1 %.
    """
    n, k = min(rows, columns), max(rows, columns)
    within = accuracy(n, dtype) + gamma(OF_A_COMPLEX_PRODUCT * k, dtype) * n
    # Beyond, the terms of second order count, and nothing is claimed.
    return PERTURBED * within if within < SMALL else float("inf")


OF_A_COMPLEX_PRODUCT = 4
"""Rounding errors to count for each term of a complex sum."""

PERTURBED, SMALL = 8, 0.01
