"""The perturbation of the data that moves an image the most (17)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from equipoise.certificate.noise import white_noise
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.method import Method
from equipoise.outcome import Solution
from equipoise.physics.linop import LinearOperator
from equipoise.readable import size, span
from equipoise.shapes import Data, Image, Mask, PerSample
from equipoise.vectors import norm, per_sample

Reconstruct = Callable[[Tensor], Tensor]


@dataclass(repr=False)
class WorstCase:
    """The result of an attack.

    Attributes
    ----------
    perturbation
        d, with ``||d|| <= epsilon ||b||`` on the measured samples.
    image
        The reconstruction of ``b + d``.
    movement
        ``||x(b + d) - x(b)||``, (batch,).
    amplification
        ``movement / ||d||``; no ascent can exclude a larger one.
    random_amplification
        The mean amplification of the random perturbations from which the ascents started.
    history
        The movement after each step, beginning with the random start, (starts, steps + 1, batch).
    """

    perturbation: Data
    image: Image
    movement: PerSample
    amplification: PerSample
    random_amplification: PerSample
    history: Tensor

    def __repr__(self) -> str:
        """How far the image moved."""
        return (
            f"WorstCase {size(self.perturbation)}: ||dx|| / ||db|| {span(self.amplification)}, "
            f"random noise {span(self.random_amplification)}"
        )


def worst_case(
    reconstruct: Reconstruct,
    data: Data,
    measured: Mask,
    epsilon: float,
    *,
    steps: int = 10,
    starts: int = 2,
    seed: int = 0,
    real: bool = False,
) -> WorstCase:
    """``max_d ||x(b + d) - x(b)||`` over ``||d|| = epsilon ||b||``, by ascent along the gradient.

    Each step replaces d by the gradient of half the squared movement, scaled to the sphere. If x(b)
    is linear, this is the power method on ``K^H K``; otherwise it is a Frank-Wolfe step. The
    gradient is that of ``reconstruct`` itself: implicit for an equilibrium, unrolled for an
    unrolled network. The best of all steps and starts is returned. It is a lower bound on the worst
    case, because no ascent can exclude a worse one.

    Parameters
    ----------
    reconstruct
        Differentiable map from data to image.
    data
        b.
    measured
        The mask where d may differ from zero; it must broadcast to the data.
    epsilon
        Norm of d relative to that of b.
    steps, starts
        Number of ascent steps from each start, and number of starts.
    seed
        Seed of the random starts.
    real
        Start from real noise; if data and image are real, the gradients are real too.
    """
    length = epsilon * norm(data)
    with torch.no_grad():
        clean = reconstruct(data)
    best_d, best_image, largest = torch.zeros_like(data), clean, torch.zeros_like(length)
    history = []
    generator = torch.Generator().manual_seed(seed)
    for _ in range(starts):
        noise = white_noise(data, len(data), generator, real).to(data.dtype)
        d = _to_sphere(noise * measured, length)
        for step in range(steps + 1):
            if step < steps:
                image, gradient = _movement_gradient(reconstruct, data, d, clean)
            else:
                with torch.no_grad():
                    image = reconstruct(data + d)
            movement = norm(image - clean)
            # A Frank-Wolfe step can also decrease the movement, so the best one is kept.
            better = movement > largest
            best_d, best_image = _pick(better, d, best_d), _pick(better, image, best_image)
            largest = torch.maximum(largest, movement)
            history.append(movement)
            if step < steps:
                d = _to_sphere(gradient * measured, length)
    movements = torch.stack(history).reshape(starts, steps + 1, -1)
    return WorstCase(
        perturbation=best_d,
        image=best_image,
        movement=largest,
        amplification=largest / length,
        random_amplification=movements[:, 0].mean(0) / length,
        history=movements,
    )


def _movement_gradient(
    reconstruct: Reconstruct, data: Tensor, d: Tensor, clean: Tensor
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = d.detach().requires_grad_()
        image = reconstruct(data + leaf)
        half_square = 0.5 * (image - clean).abs().square().sum()
        (gradient,) = torch.autograd.grad(half_square, leaf)
    return image.detach(), gradient


def _pick(better: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(per_sample(better, new), new, old)


def _to_sphere(direction: Tensor, length: Tensor) -> Tensor:
    # A gradient can vanish, and then the direction stays zero instead of becoming nan.
    factor = length / norm(direction).clamp(min=torch.finfo(torch.float64).tiny)
    return direction * per_sample(factor, direction).to(direction.real.dtype)


BACKWARD_RTOL = 0.05
"""Tolerance of the gradients of an attack."""


def attackable(
    operator: LinearOperator,
    model: Method,
    solution: Solution,
    options: SolverOptions | None = None,
    *,
    noise_level: Tensor | None = None,
) -> Callable[[Tensor], Tensor]:
    """The image as a differentiable function of the data, by the equation of a solution.

    lam, the intensity scale and the scale of the thresholds are held, as in (8), and a first pass
    follows the noise level. Equilibria are solved with the resolvent step, even if the method has
    another one.
    """
    held: dict[str, Any] = {**solution.held, "noise_level": noise_level}
    # Its backward solve costs the least, and an attack needs no bound that includes rounding.
    chosen = replace(options or model.options, step="resolvent", exact=False)

    def reconstruct(data: Tensor) -> Tensor:
        return model.solve(
            operator, data, options=chosen, backward_rtol=BACKWARD_RTOL, **held
        ).value

    return reconstruct
