"""Minimise ``P(x) = lam / 2 ||A x - b||^2 + R(x)`` with a proved bound on how far P is from it.

The iteration is ADMM with over-relaxation (Boyd et al., Found. Trends Mach. Learn. 3:1-122, 2011)
for ``v = K x``. Whatever the iterates are, the duality gap bounds the objective:

    ``P(x) - min P <= P(x) - D(q, p)``,  ``D = -||q||^2 / (2 lam) - Re <q, b>``

for every p with ``|p_i| <= w_i`` and every q with ``A^H q + K^H p = 0``. Such a pair is made from
the iterates: ``q = lam (A x - b)``, p corrected by ``K (K^H K)^+`` until the equation holds, and
both scaled down until p fits its bounds.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from equipoise.methods.sparsity import Sparsity
from equipoise.outcome import Outcome
from equipoise.physics.least_squares import conjugate_gradient
from equipoise.physics.linop import LinearOperator
from equipoise.shapes import Data, Image, PerSample
from equipoise.vectors import inner, norm, per_sample

RELAXATION = 1.7
"""Of ADMM; any value in (0, 2) converges."""

INNER_ITERATIONS = 5
"""Of conjugate gradients, warm-started, in each iteration."""

INNER_RTOL = 1e-6

CHECK = 5
"""Iterations between two duality gaps, each of which costs about one iteration."""


class Minimum(NamedTuple):
    """The best image that was found, and how good it is proved to be.

    ``objective`` is P of the image; ``gap`` bounds ``(P(x) - min P) / P(x)``; all are (batch,).
    """

    image: Image
    objective: PerSample
    gap: PerSample
    outcome: list[Outcome]
    iterations: Tensor
    cg_iterations: int


@runtime_checkable
class Penalty(Protocol):
    """What the system of ADMM needs to know about K and its step."""

    @property
    def rho(self) -> float:
        """The step of the multipliers."""

    def gram(self, image: Image) -> Image:
        """``K^H K x``."""


class WithPenalty(LinearOperator):
    """``lam A^H A + rho K^H K`` as the ``normal`` of an operator, for conjugate gradients."""

    def __init__(self, operator: LinearOperator, lam: PerSample, sparsity: Penalty):
        self.operator, self.lam, self.sparsity = operator, lam, sparsity

    @property
    def image_shape(self) -> tuple[int, ...]:
        """That of A."""
        return self.operator.image_shape

    def forward(self, image: Image) -> Data:
        """``A x``."""
        return self.operator.forward(image)

    def adjoint(self, data: Data) -> Image:
        """``A^H b``."""
        return self.operator.adjoint(data)

    def normal(self, image: Image) -> Image:
        """``lam A^H A x + rho K^H K x``."""
        weight = per_sample(self.lam.to(image.real.dtype), image)
        penalty = self.sparsity.rho * self.sparsity.gram(image)
        return weight * self.operator.normal(image) + penalty


@dataclass
class _Bounds:
    """P and D in double precision, and the best of both so far."""

    operator: LinearOperator
    data: Data
    lam: PerSample
    sparsity: Sparsity
    best: Image
    primal: Tensor
    dual: Tensor

    def update(self, image: Image, multiplier: Tensor, active: Tensor) -> Tensor:
        """The gap after an iterate and a multiplier in its bounds were seen."""
        image, multiplier = image.to(torch.complex128), multiplier.to(torch.complex128)
        misfit = self.operator.forward(image) - self.data
        value = self.lam / 2 * inner(misfit, misfit) + self.sparsity.penalty(image)
        better = active & (value < self.primal)
        self.best = torch.where(per_sample(better, image), image, self.best)
        self.primal = torch.where(better, value, self.primal)
        bound = self._dual(misfit, multiplier)
        # A bound that is not a number is none.
        self.dual = torch.where(active & (bound > self.dual), bound, self.dual)
        return self.gap()

    def gap(self) -> Tensor:
        """``(P - D) / P``; zero where P is."""
        share = (self.primal - self.dual) / torch.where(self.primal > 0, self.primal, 1.0)
        return share.clamp(min=0)

    def _dual(self, misfit: Data, p: Tensor) -> Tensor:
        """D of a feasible pair near the iterates; R never exceeds P, so D is at least 0."""
        if self.sparsity.blind:
            misfit = self._without_mean(misfit)
        q = per_sample(self.lam, misfit) * misfit
        missing = self.operator.adjoint(q) + self.sparsity.synthesis(p)
        p = p - self.sparsity.analysis(self.sparsity.gram_inverse(missing))
        excess = (self.sparsity.size(p) / self.sparsity.weights).flatten(1).amax(1)
        square, linear = inner(q, q), inner(q, self.data)
        free = torch.where(square > 0, -self.lam * linear / torch.where(square > 0, square, 1.0), 0)
        scale = free.clamp(min=0).minimum(1 / excess.clamp(min=1))
        return -scale.square() * square / (2 * self.lam) - scale * linear

    def _without_mean(self, misfit: Data) -> Data:
        """The misfit of the image plus that constant for which ``A^H`` of it has no mean."""
        ones = torch.ones_like(self.best)
        seen = self.operator.forward(ones)
        size = inner(seen, seen)
        product = (seen.conj() * misfit).flatten(1).sum(1)
        step = product / torch.where(size > 0, size, 1.0)
        return misfit - per_sample(step, seen) * seen


@torch.no_grad()
def minimise(
    operator: LinearOperator,
    data: Data,
    lam: PerSample,
    sparsities: tuple[Sparsity, Sparsity],
    start: Image,
    *,
    rtol: float,
    max_iter: int,
) -> Minimum:
    """The image with the smallest P, to a duality gap of ``rtol P``; each sample stops by itself.

    Parameters
    ----------
    operator, data
        A and b, of intensity scale 1.
    lam
        Data weight, (batch,).
    sparsities
        The penalty in the precision of the iteration, and in double precision for the bounds.
    start
        First image, in the precision of the iteration.
    rtol
        Bound on ``(P(x) - min P) / P(x)`` that ends the iteration.
    max_iter
        Iterations, each of up to five applications of ``A^H A`` and one of K and ``K^H``.
    """
    sparsity, exact = sparsities
    rho = sparsity.rho
    system = WithPenalty(operator, lam, sparsity)
    adjoint_image = operator.adjoint(data.to(start.dtype))
    data_term = per_sample(lam.to(start.real.dtype), start) * adjoint_image
    image, split = start, sparsity.analysis(start)
    multiplier = torch.zeros_like(split)
    unknown = torch.full_like(lam, torch.inf)
    bounds = _Bounds(
        operator,
        data.to(torch.complex128),
        lam,
        exact,
        start.to(torch.complex128),
        unknown,
        torch.zeros_like(lam),
    )
    gap = bounds.update(start, multiplier, torch.ones_like(lam, dtype=torch.bool))
    active = gap > rtol
    iterations, cg_iterations = torch.zeros_like(lam, dtype=torch.long), 0
    ones, zeros = torch.ones_like(lam), torch.zeros_like(lam)
    for index in range(1, max_iter + 1):
        if not bool(active.any()):
            break
        rhs = data_term + rho * sparsity.synthesis(split - multiplier)
        solved = conjugate_gradient(
            system, rhs, ones, zeros, start=image, rtol=INNER_RTOL, max_iter=INNER_ITERATIONS
        )
        image, cg_iterations = solved.value, cg_iterations + solved.iterations
        relaxed = RELAXATION * sparsity.analysis(image) + (1 - RELAXATION) * split + multiplier
        multiplier = sparsity.clipped(relaxed, rho)
        split = relaxed - multiplier
        iterations += active
        if index % CHECK == 0 or index == max_iter:
            gap = bounds.update(image, rho * multiplier, active)
            active = active & (gap > rtol)
    return Minimum(
        bounds.best,
        bounds.primal,
        gap,
        [_outcome(float(g), rtol, image) for g in gap],
        iterations,
        cg_iterations,
    )


def _outcome(gap: float, rtol: float, image: Image) -> Outcome:
    if gap <= rtol:
        return Outcome.CONVERGED
    finite = bool(torch.isfinite(norm(image)).all())
    return Outcome.MAX_ITERATIONS if finite else Outcome.DIVERGED
