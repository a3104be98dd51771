"""Conjugate gradients for ``(shift I + weight A^H A) x = rhs``, batched and complex."""

from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.physics.linop import LinearOperator, inner, norm, per_sample
from equipoise.shapes import Data, Image, PerSample


class CGResult(NamedTuple):
    """Value, the remaining residual with its norm in each sample, and iterations.

    The residual is that of the recursion: the true one up to the rounding of the iterations.
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

    Each sample stops, and is frozen, when ``||rhs - (shift I + weight A^H A) x|| <= rtol ||rhs||``.
    The rule has no absolute part, so the solution scales exactly with the right-hand side; a
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
        # Frozen samples get a zero step; their denominators are replaced, never shifted.
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


def tikhonov(
    operator: LinearOperator, data: Data, lam: PerSample, *, rtol: float = 1e-6, max_iter: int = 200
) -> Image:
    """``argmin_x lam ||A x - b||^2 + ||x||^2``, that is ``(I + lam A^H A)^-1 lam A^H b``.

    In parallel MRI this is regularised SENSE (Pruessmann et al., MRM 46:638-651, 2001).
    """
    adjoint_image = operator.adjoint(data)
    rhs = per_sample(lam.to(adjoint_image.real.dtype), adjoint_image) * adjoint_image
    ones = torch.ones_like(lam)
    return conjugate_gradient(operator, rhs, lam, ones, rtol=rtol, max_iter=max_iter).value
