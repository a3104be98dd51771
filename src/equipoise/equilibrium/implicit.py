"""The gradient through the equilibrium, from the adjoint equation at x* alone.

With ``(lam A^H A + (1 + shift) I - J_H^T) p = g`` and ``g`` the gradient of the loss at x*:
``dC/dtheta = <p, dH/dtheta>``, ``dC/dlam = -Re <p, A^H (A x* - b)>``, ``dC/d(A^H b) = lam p`` (10).
The forward iteration is not stored; backward builds the graph of one evaluation of H.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from equipoise.equilibrium.equation import MonotoneEquation, Step
from equipoise.equilibrium.fixed_point import SolverOptions, solve_fixed_point
from equipoise.equilibrium.tf32 import without_tf32
from equipoise.outcome import BackwardRecord
from equipoise.physics.least_squares import solve_regularized
from equipoise.vectors import inner, per_sample

Adjoint = Literal["adjoint", "algorithm2"]
"""``adjoint``: solve (10) with acceleration. ``algorithm2``: the Picard iteration on q, Algorithm 2
of the supplement."""


@dataclass
class ImplicitProblem:
    """What backward needs to know about the forward solve.

    ``inputs`` are tensors besides the weights that the network depends on, such as thresholds.
    ``start`` is a first p for the adjoint solve.
    """

    equation: MonotoneEquation
    network: nn.Module
    options: SolverOptions
    method: Adjoint
    record: BackwardRecord
    inputs: tuple[Tensor, ...] = ()
    start: Tensor | None = None


def attach_gradient(
    problem: ImplicitProblem,
    value: Tensor,
    adjoint_image: Tensor,
    lam: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """The equilibrium as a function of ``A^H b``, lam, the weights and inputs of the network.

    Gradients do not depend on ``train()`` or ``eval()``, only on which tensors require them.
    """
    weights = [p for p in (*problem.network.parameters(), *problem.inputs) if p.requires_grad]
    return _Equilibrium.apply(  # type: ignore[no-untyped-call]
        problem, dtype, value, adjoint_image, lam, *weights
    )


class _Equilibrium(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        problem: ImplicitProblem,
        dtype: torch.dtype,
        value: Tensor,
        adjoint_image: Tensor,
        lam: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        ctx.problem, ctx.weights = problem, weights
        x = value.to(dtype)
        # A copy, because the user may change the returned image in place.
        ctx.save_for_backward(x.clone(), adjoint_image)
        return x

    @staticmethod
    @once_differentiable
    @without_tf32()
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        problem: ImplicitProblem = ctx.problem
        x, adjoint_image = ctx.saved_tensors
        equation = problem.equation
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            image = problem.network(point)
        gradient = gradients[0].to(torch.complex128)
        p = _solve_adjoint(problem, gradient, _transposed_jacobian(image, point))
        weight_gradients: tuple[Any, ...] = ()
        # autograd.grad refuses an empty list.
        if ctx.weights:
            weight_gradients = torch.autograd.grad(
                image, ctx.weights, p.to(image.dtype), allow_unused=True
            )
        misfit = equation.operator.normal(x.to(p.dtype)) - adjoint_image
        lam_gradient = -inner(p, misfit).to(equation.lam.dtype)
        data_gradient = (per_sample(equation.lam, p) * p).to(adjoint_image.dtype)
        return None, None, None, data_gradient, lam_gradient, *weight_gradients


def _transposed_jacobian(image: Tensor, point: Tensor) -> Callable[[Tensor], Tensor]:
    """``v -> J_H^T v`` at the point, from the graph of the evaluation there."""

    def apply(v: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(image, point, v.to(image.dtype), retain_graph=True)
        return product.to(v.dtype)

    return apply


def _solve_adjoint(
    problem: ImplicitProblem, gradient: Tensor, transposed: Callable[[Tensor], Tensor]
) -> Tensor:
    """p of (10); its own certificate (11) is left in the record."""
    options = problem.options
    # The products with J^T run in the precision of the network, and their rounding is not bounded.
    equation = replace(problem.equation, network=transposed, constant=gradient, rounding=None)
    if problem.method == "adjoint":
        start = _start(problem, equation)
        solution = solve_fixed_point(equation, start, options)
    else:
        picard = PicardOnQ(equation, options)
        solution = solve_fixed_point(picard, gradient, replace(options, method="picard"))
        solution.value = picard.adjoint_from_q(solution.value)
    problem.record.solution = solution
    return solution.value


def _start(problem: ImplicitProblem, equation: MonotoneEquation) -> Tensor:
    """The p that was given, or the solution for ``J_H = 0``, which costs no network evaluation."""
    if problem.start is not None:
        return problem.start.to(equation.constant.dtype)
    return equation.step(-equation.constant, torch.ones_like(equation.lam)).direction


class PicardOnQ(MonotoneEquation):
    """Algorithm 2 of the supplement: ``q <- J_T^T q + g``, with J_T the Jacobian of the map T.

    ``J_T = P^-1 ((1 - alpha) I + alpha J_H)``, ``P = (1 + alpha shift) I + alpha lam A^H A``. With
    ``p = alpha P^-1 q``, ``q - (J_T^T q + g)`` is the residual of (10) at p, so one step is
    ``q <- q - residual(p)`` and the certificate (11) holds for p.
    """

    def __init__(self, equation: MonotoneEquation, options: SolverOptions):
        super().__init__(**vars(equation))
        self.alpha = options.alpha
        # With this tolerance the error of P^-1 is negligible beside that of the outer iteration.
        self.inner_rtol = options.rtol * equation.m * self.cg_rtol
        self.p: Tensor | None = None

    def adjoint_from_q(self, q: Tensor) -> Tensor:
        """``p = alpha P^-1 q``, warm-started from the last p."""
        alpha = torch.full_like(self.lam, self.alpha)
        self.p = solve_regularized(
            self.operator,
            self.alpha * q,
            alpha * self.lam,
            1 + alpha * self.shift,
            start=self.p,
            rtol=self.inner_rtol,
            max_iter=self.cg_max_iter,
        ).value
        return self.p

    def residual(self, x: Tensor, rough: bool = False) -> Tensor:
        """The residual of (10) at ``p(q)``."""
        return super().residual(self.adjoint_from_q(x), rough)

    def step(self, residual: Tensor, alpha: Tensor) -> Step:
        """The plain Picard step on q."""
        return Step(-residual, 0)

    def bound(self, x: Tensor, residual: Tensor) -> Tensor:
        """(11): ``||p - p*|| / ||p|| <= ||residual|| / (m ||p||)``."""
        assert self.p is not None
        return super().bound(self.p, residual)

    def tight_bound(self, x: Tensor, residual: Tensor, step: Step) -> Tensor:
        """The same as :meth:`bound`, because no approximate ``M^-1 r`` is available."""
        return self.bound(x, residual)
