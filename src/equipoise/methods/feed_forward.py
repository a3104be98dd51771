"""Methods with a fixed number of steps, and the data consistency that they consist of."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from equipoise.arguments import Array, Number
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.edge import solve_arguments
from equipoise.methods.method import Method
from equipoise.outcome import Outcome, Solution
from equipoise.physics.least_squares import solve_regularized
from equipoise.physics.linop import LinearOperator
from equipoise.shapes import Image, PerSample
from equipoise.vectors import inner, per_sample

CG_RTOL = {torch.complex64: 1e-4, torch.complex128: 1e-13}
"""Tolerance of every data-consistency solve, relative to its right-hand side."""


class _DataConsistency(torch.autograd.Function):
    """``x = (I + lam A^H A)^-1 rhs`` with its exact gradient, without a graph of the iterations.

    The matrix is Hermitian, so ``p = (I + lam A^H A)^-1 g`` is the gradient for rhs, and
    ``-Re <p, A^H A x>`` is the gradient for lam. Both solves use conjugate gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, operator: LinearOperator, rhs: Tensor, lam: Tensor, start: Tensor | None
    ) -> Any:
        """``x``; the start changes the number of iterations but not the solution."""
        ones = torch.ones_like(lam)
        x = solve_regularized(operator, rhs, lam, ones, start=start, rtol=CG_RTOL[rhs.dtype]).value
        ctx.operator = operator
        ctx.save_for_backward(x, lam)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Gradients for rhs and lam, which have gradients themselves."""
        x, lam = ctx.saved_tensors
        p = data_consistency(ctx.operator, gradients[0], lam)
        weight = None
        if ctx.needs_input_grad[2]:
            weight = -inner(p, ctx.operator.normal(x)).to(lam.dtype)
        return None, p, weight, None


def data_consistency(
    operator: LinearOperator, rhs: Image, lam: PerSample, start: Image | None = None
) -> Image:
    """``(I + lam A^H A)^-1 rhs``, differentiable in rhs and lam, but not in the start."""
    # A gradient through the start would be wrong: the solution does not depend on it.
    start = None if start is None else start.detach()
    return _DataConsistency.apply(operator, rhs, lam, start)  # type: ignore[no-untyped-call]


class FeedForward(Method):
    """A method with a fixed number of steps; it has no equilibrium and promises no bound."""

    def solve(
        self,
        operator: LinearOperator,
        data: Array,
        *,
        noise_level: Number | None = None,
        lam: Number | None = None,
        scale: Number | None = None,
        options: SolverOptions | None = None,
        backward_rtol: float | None = None,
    ) -> Solution:
        """The image; the outcome is ``feed_forward``, and solver options have no effect."""
        given = solve_arguments(operator, data, noise_level, lam, scale)
        data = given.data
        scale = self._scale(operator, data, given.scale)
        weight = self._weight(operator, scale, given.noise_level, given.lam)
        units = per_sample(scale, data).to(data.real.dtype)
        adjoint_image = operator.adjoint(data / units)
        data_term = per_sample(weight, adjoint_image).to(adjoint_image.real.dtype) * adjoint_image
        sense = data_consistency(operator, data_term, weight)
        image = self._reconstruct(operator, data_term, weight, sense)
        # Infinity, not zero: nothing bounds these errors, and comparisons with a tolerance must
        # fail.
        unknown = torch.full_like(weight, torch.inf)
        steps = torch.full((len(scale),), self.steps, device=scale.device)
        solution = Solution(
            value=image * per_sample(scale, image).to(image.real.dtype),
            outcome=[Outcome.FEED_FORWARD] * len(scale),
            iterations=steps,
            network_evaluations=steps,
            cg_iterations=0,
            relative_residual=unknown,
            distance_bound=unknown,
            lam=weight,
            m=None,
            history=[torch.stack([unknown, unknown])] * (self.steps + 1),
            scale=scale,
        )
        return given.returned(solution)

    @property
    @abstractmethod
    def steps(self) -> int:
        """Number of network evaluations."""

    @abstractmethod
    def _reconstruct(
        self, operator: LinearOperator, data_term: Image, lam: PerSample, sense: Image
    ) -> Image:
        """The image from ``lam A^H b`` and the SENSE image, for data of intensity scale 1."""
