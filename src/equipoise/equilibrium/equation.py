"""Strongly monotone equations ``lam A^H A x + (1 + shift) x - N(x) = c``.

Both problems of the package have this form. Forward: ``N = H`` and ``c = lam A^H b``, the
equilibrium condition (1). Backward: ``N = J_H^T`` and ``c`` the gradient of the loss, the adjoint
equation (10).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.equilibrium.bounds import distance_bound, tight_distance_bound
from equipoise.equilibrium.rounding import RoundingModel, of_energy
from equipoise.physics.least_squares import solve_regularized
from equipoise.physics.linop import LinearOperator
from equipoise.vectors import norm, times


class Step(NamedTuple):
    """``d = T(x) - x``, the number of inner iterations, and ``lam A^H A d`` if it is known."""

    direction: Tensor
    cg_iterations: int
    data_part: Tensor | None = None


@dataclass
class MonotoneEquation:
    """``r(x) = lam A^H A x + (1 + shift) x - N(x) - c = 0``, m-strongly monotone in x.

    Parameters
    ----------
    operator
        A.
    lam
        Data weight of each sample, (batch,).
    network
        N, which need not be linear; one call is one network evaluation.
    constant
        c.
    m
        Monotonicity constant of ``(1 + shift) I - N``.
    shift
        Added multiple of the identity. The authors' released code has 0.1 where the paper has 0.
    cg_rtol, cg_max_iter
        Inner tolerance, relative to the residual r, and iteration limit. A tolerance relative to
        ``lam A^H b`` would be cheaper, but too loose once r is small.
    single
        Run the inner solve in single precision.
    rough_network
        N with less accuracy and cost, for the first iterations; N itself if not given.
    rounding
        What is known about the rounding of N and A; it is then added to every bound (24). If it is
        None, the bounds are those of exact arithmetic: they steer the iteration and prove nothing.
    """

    operator: LinearOperator
    lam: Tensor
    network: Callable[[Tensor], Tensor]
    constant: Tensor
    m: float
    shift: float = 0.0
    cg_rtol: float = 0.03
    cg_max_iter: int = 100
    single: bool = True
    rough_network: Callable[[Tensor], Tensor] | None = None
    rounding: RoundingModel | None = None

    def residual(self, x: Tensor, rough: bool = False) -> Tensor:
        """``r(x)``: one network evaluation and one ``A^H A``, in the precision of x.

        With ``rough`` it is the residual of the rough network, from which no bound follows.
        """
        network = self.rough_network if rough and self.rough_network else self.network
        return self.linear_part(x, 1 + self.shift) - network(x) - self.constant

    def linear_part(self, x: Tensor, identity_weight: float) -> Tensor:
        """``lam A^H A x + identity_weight x``."""
        return times(self.lam, self.operator.normal(x)) + identity_weight * x

    def step(self, residual: Tensor, alpha: Tensor) -> Step:
        """``T(x) - x = -((1 + alpha shift) I + alpha lam A^H A)^-1 alpha r(x)``, T of (2).

        The inner solve computes the correction, so the accuracy of x depends on the residual alone
        and the inner solve may run in single precision (iterative refinement).
        """
        rhs = -times(alpha, residual)
        dtype = torch.complex64 if self.single else torch.complex128
        identity_weight = 1 + alpha * self.shift
        result = solve_regularized(
            self.operator,
            rhs.to(dtype),
            alpha * self.lam,
            identity_weight,
            rtol=self.cg_rtol,
            max_iter=self.cg_max_iter,
        )
        direction = result.value.to(residual.dtype)
        # CG returns its residual, from which A^H A d follows without another transform.
        image = rhs - result.residual - times(identity_weight, direction)
        return Step(direction, result.iterations, times(1 / alpha, image))

    def gradient_step(self, residual: Tensor, alpha: Tensor) -> Step:
        """``-alpha eta r(x)``: the step of DE-GRAD, without an inner solve.

        With ``||A|| <= a``, ``eta = 2 / (2 + lam a^2 + 2 shift)`` and ``Lip(N) <= 1 - m``, the map
        contracts by ``1 - eta m`` at alpha = 1. It leads to the same equilibrium as :meth:`step`,
        in many more steps. If a is not known, 1 is used, and the safeguard of the iteration finds a
        smaller alpha if that is too small.
        """
        found = self.operator.norm_bound()
        square = torch.ones_like(self.lam) if found is None else found.value.square().to(self.lam)
        eta = 2 / (2 + self.lam * square + 2 * self.shift)
        return Step(-times(alpha * eta, residual), 0)

    def bound(self, x: Tensor, residual: Tensor) -> Tensor:
        """(7): ``||x - x*|| / ||x|| <= (||r|| + rho) / (m ||x||)``, with rho from rounding."""
        size = norm(residual) + self.rounding_of(x, residual)
        return _relative(distance_bound(size, self.m), norm(x))

    def rounding_of(self, x: Tensor, residual: Tensor) -> Tensor:
        """rho, a bound on the rounding of the residual; 0 without a model of rounding."""
        if self.rounding is None:
            return torch.zeros_like(self.lam)
        identity = 1 + self.shift
        return self.rounding.of_residual(x, residual, self.constant, self.lam, identity)

    def tight_bound(self, x: Tensor, residual: Tensor, step: Step) -> Tensor:
        """(7b) relative to ``||x||``, with ``z = -d`` as the approximate ``M^-1 r``.

        If rounding is bounded, ``M z`` is computed again in double precision, because the one of
        the inner solve is only as exact as its recursion. ``||M^-1|| <= 1 / m``, so the rounding of
        r adds ``rho / m`` as in (7).
        """
        z, data_part = -step.direction, step.data_part
        if self.rounding is None:
            m_z = self.linear_part(z, self.m) if data_part is None else self.m * z - data_part
            return _relative(tight_distance_bound(residual, z, m_z, self.m), norm(x))
        m_z = self.linear_part(z, self.m)
        error = (self.rounding.of_normal(self.lam) + self.m * OF_M) * norm(z)
        slack = of_energy(z, m_z, residual - m_z, self.m, error)
        bound = tight_distance_bound(residual, z, m_z, self.m, slack)
        return _relative(bound + self.rounding_of(x, residual) / self.m, norm(x))


OF_M = 4 * torch.finfo(torch.float64).eps
"""Relative rounding of ``m z`` and of its sum with the rest of ``M z``."""


def _relative(distance: Tensor, size: Tensor) -> Tensor:
    """``distance / size``, where 0 / 0 is 0."""
    return torch.where(distance == 0, 0.0, distance / size)
