"""Conjugate gradients for ``(shift I + weight A^H A) x = rhs``, batched and complex."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.physics.linop import LinearOperator
from equipoise.shapes import Data, Image, PerSample
from equipoise.vectors import inner, norm, per_sample


class CGResult(NamedTuple):
    """Value, remaining residual, its norm in each sample, and number of iterations.

    The residual is that of the recursion. It equals the true one up to the rounding of the
    iterations.
    """

    value: Tensor
    residual: Tensor
    residual_norm: Tensor
    iterations: int


def conjugate_gradient(
    operator: LinearOperator,
    rhs: Image,
    weight: PerSample,
    shift: PerSample,
    *,
    start: Image | None = None,
    rtol: float = 1e-6,
    max_iter: int = 100,
) -> CGResult:
    """Solve ``(shift I + weight A^H A) x = rhs`` (Hestenes and Stiefel, 1952).

    A sample stops, and is frozen, when ``||rhs - (shift I + weight A^H A) x|| <= rtol ||rhs||``.
    The rule has no absolute part, so the solution scales exactly with the right-hand side. A
    sample with a zero right-hand side has the solution zero.

    Parameters
    ----------
    operator
        A.
    rhs
        Right-hand side, (batch, y, x).
    weight, shift
        Non-negative and positive numbers, (batch,).
    start
        First iterate; zero if not given.
    rtol
        Relative tolerance.
    max_iter
        Iteration limit.
    """
    weights, shifts = (per_sample(v.to(rhs.real.dtype), rhs) for v in (weight, shift))

    def system(x: Tensor) -> Tensor:
        return shifts * x + weights * operator.normal(x)

    target = rtol * norm(rhs)
    # Its target is 0, which no iteration from another start would reach.
    zero_rhs = per_sample(norm(rhs) == 0, rhs)
    if start is None:
        x, residual = torch.zeros_like(rhs), rhs
    else:
        x = torch.where(zero_rhs, 0, start)
        residual = rhs - system(x)
    direction, energy = residual, inner(residual, residual)
    iterations = 0
    while iterations < max_iter:
        active = energy.sqrt() > target
        if not bool(active.any()):
            break
        image = system(direction)
        # Frozen samples get a zero step. Their denominators are replaced and not shifted by a small
        # number, which would change the steps of the others.
        curvature = torch.where(active, inner(direction, image), 1.0)
        step = torch.where(active, energy / curvature, 0.0)
        x = x + per_sample(step.to(weights.dtype), x) * direction
        residual = residual - per_sample(step.to(weights.dtype), x) * image
        new_energy = inner(residual, residual)
        growth = torch.where(active, new_energy / torch.where(active, energy, 1.0), 0.0)
        direction = residual + per_sample(growth.to(weights.dtype), x) * direction
        energy = torch.where(active, new_energy, energy)
        iterations += 1
    return CGResult(x, residual, energy.sqrt(), iterations)


def solve_regularized(
    operator: LinearOperator,
    rhs: Image,
    weight: PerSample,
    shift: PerSample,
    *,
    start: Image | None = None,
    rtol: float = 1e-6,
    max_iter: int = 100,
) -> CGResult:
    """The solution of :func:`conjugate_gradient`, in closed form if the operator has one."""
    exact = operator.regularized_inverse(rhs, weight, shift)
    if exact is None:
        return conjugate_gradient(
            operator, rhs, weight, shift, start=start, rtol=rtol, max_iter=max_iter
        )
    zero = torch.zeros_like(rhs)
    return CGResult(exact, zero, norm(zero), 0)


def tikhonov(
    operator: LinearOperator, data: Data, lam: PerSample, *, rtol: float = 1e-6, max_iter: int = 200
) -> Image:
    """``argmin_x lam ||A x - b||^2 + ||x||^2``, that is ``(I + lam A^H A)^-1 lam A^H b``.

    For parallel MRI this is regularised SENSE (Pruessmann et al., MRM 46:638-651, 2001).
    """
    adjoint_image = operator.adjoint(data)
    rhs = per_sample(lam.to(adjoint_image.real.dtype), adjoint_image) * adjoint_image
    ones = torch.ones_like(lam)
    return solve_regularized(operator, rhs, lam, ones, rtol=rtol, max_iter=max_iter).value


def tikhonov_path(
    operator: LinearOperator,
    data: Data,
    lams: Sequence[float],
    *,
    rtol: float = 1e-6,
    max_iter: int = 200,
) -> list[Image]:
    """:func:`tikhonov` for many lam at the cost of the largest one, each to the same tolerance.

    All are ``(A^H A + s I) x = A^H b`` with ``s = 1 / lam``, whose residuals are parallel in the
    Krylov space of the smallest s (Jegerlehner, arXiv hep-lat/9612014): ``r_s = zeta_s r``.
    """
    rhs = operator.adjoint(data)
    shifts = [1 / lam for lam in lams]
    # The smallest shift converges last, so the iterations that it needs suffice for all others.
    base = min(shifts)
    target = rtol * norm(rhs)
    residual = direction = rhs
    energy = inner(rhs, rhs)
    growth, last_step = torch.zeros_like(energy), torch.ones_like(energy)
    path = [_Shifted(shift - base, rhs, energy) for shift in shifts]
    for _ in range(max_iter):
        active = energy.sqrt() > target
        if not bool(active.any()):
            break
        image = operator.normal(direction) + base * direction
        step = torch.where(active, energy / torch.where(active, inner(direction, image), 1.0), 0.0)
        for one in path:
            one.advance(step, last_step, growth)
        residual = residual - _scaled(step, image)
        new_energy = inner(residual, residual)
        growth = torch.where(active, new_energy / torch.where(active, energy, 1.0), 0.0)
        energy = torch.where(active, new_energy, energy)
        direction = residual + _scaled(growth, direction)
        for one in path:
            one.turn(residual, growth, energy.sqrt(), target)
        last_step = torch.where(active, step, last_step)
    return [one.value for one in path]


class _Shifted:
    """One system of :func:`tikhonov_path`; a sample that reached its tolerance is frozen."""

    def __init__(self, shift: float, rhs: Tensor, energy: Tensor):
        self.shift = shift
        self.value, self.direction = torch.zeros_like(rhs), rhs
        self.zeta, self.last_zeta = torch.ones_like(energy), torch.ones_like(energy)
        self.active = energy > 0

    def advance(self, step: Tensor, last_step: Tensor, growth: Tensor) -> None:
        """``x += a p``, a the step of this system."""
        # The base system gives a frozen sample a zero step; zeta would then become 0 / 0.
        self.active = self.active & (step > 0)
        if not bool(self.active.any()):
            return
        old = self.last_zeta * last_step
        bottom = step * growth * (self.last_zeta - self.zeta) + old * (1 + self.shift * step)
        zeta = self.zeta * old / torch.where(self.active, bottom, 1.0)
        own = torch.where(self.active, step * zeta / self.zeta, 0.0)
        self.value = self.value + _scaled(own, self.direction)
        self.last_zeta = torch.where(self.active, self.zeta, self.last_zeta)
        self.zeta = torch.where(self.active, zeta, self.zeta)

    def turn(self, residual: Tensor, growth: Tensor, size: Tensor, target: Tensor) -> None:
        """``p = zeta r + g p``, g the growth of this system."""
        if not bool(self.active.any()):
            return
        # zeta decreases geometrically; a sample that is done leaves before it underflows.
        own = growth * (self.zeta / self.last_zeta) ** 2
        self.direction = _scaled(self.zeta, residual) + _scaled(own, self.direction)
        self.active = self.active & (self.zeta.abs() * size > target)


def _scaled(factor: Tensor, image: Tensor) -> Tensor:
    """A factor for each sample times an image, in the precision of the image."""
    return per_sample(factor.to(image.real.dtype), image) * image
