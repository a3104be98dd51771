"""Series in time without training: temporal total variation, and locally low rank.

Both minimise ``lam / 2 ||A x - b||^2 + R(x)`` over images (batch, time, y, x) of intensity scale 1
by ADMM (Boyd et al., Found. Trends Mach. Learn. 3:1-122, 2011) with ``v = K x`` and a step rho. No
bound is known for what they return: the minimum of temporal total variation is blind to what does
not change in time, so that no duality gap follows from the iterates as in
:mod:`equipoise.methods.convex`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.methods.convex import INNER_ITERATIONS, INNER_RTOL, WithPenalty
from equipoise.networks.low_rank import image_of, matrices_of
from equipoise.physics.least_squares import conjugate_gradient, tikhonov
from equipoise.physics.linop import LinearOperator
from equipoise.shapes import Data, Image, PerSample
from equipoise.vectors import norm, per_sample

START_RTOL = 0.05
"""Accuracy of the regularised least-squares image from which the iteration starts."""


class TemporalPrior(ABC):
    """R of a series as ``R(x) = P(K x)``, with the proximal map of P.

    Attributes
    ----------
    name
        The name in tables.
    rho
        Step of the multipliers that suits images of intensity scale 1.
    """

    name: str
    rho: float

    def analysis(self, image: Image) -> Tensor:
        """``K x``; the image itself unless a prior says otherwise."""
        return image

    def synthesis(self, split: Tensor) -> Image:
        """``K^H v``."""
        return split

    def gram(self, image: Image) -> Image:
        """``K^H K x``."""
        return image

    @abstractmethod
    def proximal(self, split: Tensor, step: float, iteration: int) -> Tensor:
        """``argmin_u P(u) + ||u - v||^2 / (2 step)``."""


@dataclass(frozen=True)
class TemporalTV(TemporalPrior):
    """``R(x) = sum_(t, p) |x_t(p) - x_(t-1)(p)|`` with time periodic: ``pics -R T:1024`` in BART.

    Feng et al., Magn. Reson. Med. 72:707-717, 2014.
    """

    name: str = "tv-t"
    rho: float = 10.0

    def analysis(self, image: Image) -> Tensor:
        """Differences to the frame before."""
        return image - image.roll(1, 1)

    def synthesis(self, split: Tensor) -> Image:
        """The transpose of the differences."""
        return split - split.roll(-1, 1)

    def gram(self, image: Image) -> Image:
        """The negative second difference."""
        return 2 * image - image.roll(1, 1) - image.roll(-1, 1)

    def proximal(self, split: Tensor, step: float, iteration: int) -> Tensor:
        """Soft thresholding of the modulus."""
        size = split.abs().clamp(min=torch.finfo(split.real.dtype).tiny)
        return split * (1 - step / size).clamp(min=0)


@dataclass(frozen=True)
class LocallyLowRank(TemporalPrior):
    """The sum of the nuclear norms of all blocks of pixels, each a matrix (pixels, time).

    The blocks lie on a grid that is shifted in every iteration, as in BART, so that their edges are
    not seen. Zhang, Pauly, Levesque, Magn. Reson. Med. 73:655-661, 2015.

    Attributes
    ----------
    block
        Side of the blocks in pixels.
    """

    name: str = "llr"
    rho: float = 2.0
    block: int = 8

    def proximal(self, split: Tensor, step: float, iteration: int) -> Tensor:
        """Soft thresholding of the singular values of every block."""
        # Steps that share no factor with the side of a block visit all of its shifts.
        shift = (3 * iteration) % self.block, (5 * iteration) % self.block
        moved = split.roll(shift, (-2, -1))
        matrices = matrices_of(moved, self.block)
        # With the eigenvectors V of M M^H the thresholded matrix is V diag((s - step)+ / s) V^H M:
        # there are few frames and many pixels.
        values, vectors = torch.linalg.eigh(matrices @ matrices.mH)
        singular = values.clamp(min=0).sqrt()
        tiny = torch.finfo(singular.dtype).tiny
        kept = (1 - step / singular.clamp(min=tiny)).clamp(min=0).to(vectors.dtype)
        matrices = (vectors * kept[..., None, :]) @ (vectors.mH @ matrices)
        whole = image_of(matrices, split.shape, self.block)
        return whole.roll((-shift[0], -shift[1]), (-2, -1))


class Split(NamedTuple):
    """The image, whether both residuals of ADMM met their tolerance, and the iterations."""

    image: Image
    converged: bool
    iterations: int


@torch.no_grad()
def minimise_series(
    operator: LinearOperator,
    data: Data,
    lam: PerSample,
    prior: TemporalPrior,
    *,
    start: Image | None = None,
    rtol: float = 1e-3,
    max_iter: int = 100,
) -> Split:
    """Minimise ``lam / 2 ||A x - b||^2 + R(x)`` by ADMM.

    It ends when ``||K x - v|| <= rtol ||x||`` and ``||v - v'|| <= rtol ||x||``, v' the last v: the
    primal and the dual residual.

    Parameters
    ----------
    operator, data
        A and b, of intensity scale 1.
    lam
        Data weight, (batch,).
    prior
        R.
    start
        First image; a regularised least-squares image if not given.
    rtol, max_iter
        Tolerance, and limit of iterations of up to five applications of ``A^H A``.
    """
    system = WithPenalty(operator, lam, prior)
    image = tikhonov(operator, data, lam, rtol=START_RTOL) if start is None else start
    data_term = per_sample(lam.to(image.real.dtype), image) * operator.adjoint(data)
    split = prior.analysis(image)
    multiplier = torch.zeros_like(split)
    ones, zeros = torch.ones_like(lam), torch.zeros_like(lam)
    for iteration in range(1, max_iter + 1):
        rhs = data_term + prior.rho * prior.synthesis(split - multiplier)
        image = conjugate_gradient(
            system, rhs, ones, zeros, start=image, rtol=INNER_RTOL, max_iter=INNER_ITERATIONS
        ).value
        seen, before = prior.analysis(image), split
        split = prior.proximal(seen + multiplier, 1 / prior.rho, iteration)
        multiplier = multiplier + seen - split
        size = rtol * norm(image)
        if bool(((norm(seen - split) <= size) & (norm(split - before) <= size)).all()):
            return Split(image, True, iteration)
    return Split(image, False, max_iter)


PRIORS: dict[str, TemporalPrior] = {p.name: p for p in (TemporalTV(), LocallyLowRank())}
"""The priors under the names of tables."""
