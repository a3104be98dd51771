"""The Lipschitz constant of H: measured from below, and the barrier that keeps it down."""

from collections.abc import Callable

import torch
from torch import Tensor

from equipoise.physics.linop import norm, per_sample
from equipoise.shapes import Image, PerSample

RADIUS = 0.02
"""Length of the perturbation relative to the image."""


def lipschitz_lower(
    network: Callable[[Tensor], Tensor],
    image: Image,
    *,
    steps: int = 10,
    radius: float = RADIUS,
    seed: int = 0,
    start: Image | None = None,
) -> PerSample:
    """``max_d ||H(x + d) - H(x)|| / ||d||`` over ``||d|| = radius ||x||``, by ascent (12).

    Each step replaces d by the gradient ``J_H(x + d)^T (H(x + d) - H(x))`` brought back to the
    sphere around x: the power method where H is linear. It starts from Gaussian noise, for each
    sample alone. The result is the ratio at one pair of points, hence a lower bound of the
    Lipschitz constant: it proves nothing about other images. It is differentiable in the weights.

    Parameters
    ----------
    network
        H.
    image
        x, (batch, y, x).
    steps
        Ascent steps; each costs one evaluation of H and one of its transposed Jacobian.
    radius
        Relative length of d.
    seed
        Seed of the start direction.
    start
        First direction, instead of noise.
    """
    x = image.detach()
    length = (radius * norm(x)).clamp(min=torch.finfo(torch.float32).tiny)
    if start is None:
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(x.shape, dtype=x.dtype, generator=generator)
    direction = _to_sphere(start, length)
    with torch.no_grad():
        base = network(x)
    for _ in range(steps):
        with torch.enable_grad():
            point = (x + direction).requires_grad_()
            difference = network(point) - base
            (gradient,) = torch.autograd.grad(difference, point, difference.detach())
        direction = _to_sphere(gradient, length)
    return norm(network(x + direction) - network(x)) / norm(direction)


def _to_sphere(direction: Tensor, length: Tensor) -> Tensor:
    size = norm(direction)
    factor = torch.where(size > 0, length / torch.where(size > 0, size, 1.0), 0.0)
    return direction * per_sample(factor, direction).to(direction.real.dtype)


def log_barrier(estimate: PerSample, threshold: float, margin: float = 1e-3) -> PerSample:
    """``-log(T - l)`` for ``l < T - margin``, continued linearly with the same slope (14).

    Parameters
    ----------
    estimate
        l, (batch,).
    threshold
        T.
    margin
        Distance from T at which the straight line begins; its slope is ``1 / margin``.
    """
    gap = (threshold - estimate).clamp(min=margin)
    beyond = (estimate - (threshold - margin)).clamp(min=0)
    return -torch.log(gap) + beyond / margin
