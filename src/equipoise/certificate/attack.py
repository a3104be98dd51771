"""The perturbation of the data that moves an image the most (17)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equipoise.certificate.effort import Progress, silent
from equipoise.certificate.linear_response import CG_RTOL, LinearResponse
from equipoise.certificate.noise import white_noise
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.method import Method
from equipoise.methods.mol import MOL
from equipoise.outcome import BackwardRecord, Solution
from equipoise.physics.linop import LinearOperator
from equipoise.readable import size, span
from equipoise.shapes import Data, Image, Mask, PerSample
from equipoise.vectors import combined, inner, norm, per_sample

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
        The same for random perturbations, their mean: of the linearised image where the first start
        was not random.
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
    clean: Tensor | None = None,
    begin: "KrylovStart | None" = None,
    tell: Progress = silent,
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
        Start from real noise: where data and image are real, so are the gradients.
    clean
        x(b), if it is known.
    begin
        First start, instead of a random one.
    tell
        Called as the steps go on.
    """
    length = epsilon * norm(data)
    if clean is None:
        with torch.no_grad():
            clean = reconstruct(data)
    best_d, best_image, largest = torch.zeros_like(data), clean, torch.zeros_like(length)
    history, of_noise = [], [] if begin is None else [begin.random * length]
    generator = torch.Generator().manual_seed(seed)
    for start in range(starts):
        if start == 0 and begin is not None:
            d = _to_sphere(begin.direction * measured, length).to(data.dtype)
        else:
            noise = white_noise(data, len(data), generator, real).to(data.dtype)
            d = _to_sphere(noise * measured, length)
        for step in range(steps + 1):
            tell("attack", start * (steps + 1) + step, starts * (steps + 1))
            if step < steps:
                image, gradient = _movement_gradient(reconstruct, data, d, clean)
            else:
                with torch.no_grad():
                    image = reconstruct(data + d)
            movement = norm(image - clean)
            if step == 0 and not (start == 0 and begin is not None):
                of_noise.append(movement)
            better = movement > largest
            best_d, best_image = _pick(better, d, best_d), _pick(better, image, best_image)
            largest = torch.maximum(largest, movement)
            history.append(movement)
            if step < steps:
                d = _to_sphere(gradient * measured, length)
    return WorstCase(
        perturbation=best_d,
        image=best_image,
        movement=largest,
        amplification=largest / length,
        random_amplification=torch.stack(of_noise).mean(0) / length,
        history=torch.stack(history).reshape(starts, steps + 1, -1),
    )


class Probe(NamedTuple):
    """Noise n in the data, (1, ...), and the response ``K n`` of the image to it, (1, y, x)."""

    noise: Data
    response: Image


class KrylovStart(NamedTuple):
    """A direction that the linearised image follows most, and how it follows random noise.

    Attributes
    ----------
    direction
        d of norm 1, (1, ...).
    response
        ``K d``, (1, y, x).
    random
        ``||K n|| / ||n||`` of the noise that the steps began with, (1,).
    """

    direction: Data
    response: Image
    random: PerSample

    @property
    def gain(self) -> float:
        """``||K d|| / ||d||``."""
        return float(norm(self.response)[0])


@torch.no_grad()
def krylov_start(
    response: LinearResponse,
    data: Data,
    measured: Mask,
    *,
    steps: int,
    seed: int = 0,
    real: bool = False,
    known: Probe | None = None,
    tell: Progress = silent,
) -> KrylovStart:
    """The top of ``K^T K`` in a Krylov space, which needs a fraction of the steps of ascents.

    ``K d`` is combined from the responses to the directions of the space. Its norm is that of the
    Gram matrix of these, so the last direction needs no product with ``K^T``, and the first none
    with K where it is known.

    Parameters
    ----------
    response
        K.
    data, measured, seed, real, tell
        As of :func:`worst_case`.
    steps
        Directions of the space. Each but the first costs one response and one transposed.
    known
        Noise that the steps begin with, such as a probe of a noise map; drawn if not given.
    """
    if known is None:
        generator = torch.Generator().manual_seed(seed)
        noise = white_noise(data, 1, generator, real).to(data.dtype) * measured
        known = Probe(noise, response(noise))
    length = norm(known.noise)
    one = torch.ones_like(length)
    basis = [_to_sphere(known.noise.to(data.dtype), one)]
    first = known.response.to(data.dtype)
    moved = [_to_sphere(first, norm(first) / length)]
    for step in range(1, steps):
        tell("attack", step - 1, steps - 1)
        product = response.transposed(moved[-1]).to(data.dtype) * measured
        new = product.real + 0j if real else product
        for _ in range(2):  # twice is enough
            for vector in basis:
                new = new - inner(vector, new).to(new.real.dtype) * vector
        basis.append(_to_sphere(new, one))
        moved.append(response(basis[-1]))
    gram = torch.stack([torch.cat([inner(a, b) for b in moved]) for a in moved])
    weights = torch.linalg.eigh((gram + gram.mT) / 2)[1][:, -1]
    return KrylovStart(combined(weights, basis), combined(weights, moved), norm(moved[0]))


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


class Attackable:
    """The image as a differentiable function of the data, as a solution was reached.

    lam, the intensity scale and the scale of the thresholds are held, as in (8), and a first pass
    follows the noise level. Equilibria are solved with the resolvent step, even if the method has
    another one, from the last image, which is near because d changes little from step to step.

    Parameters
    ----------
    operator, model, solution
        A, the method, and how it reached the image.
    options
        Solver options; those of the model if not given.
    noise_level
        That of the data, which a first pass follows.

    Attributes
    ----------
    bound
        Distance bound of the last image.
    """

    def __init__(
        self,
        operator: LinearOperator,
        model: Method,
        solution: Solution,
        options: SolverOptions | None = None,
        noise_level: PerSample | None = None,
    ):
        self.operator, self.model = operator, model
        self.options = replace(options or model.options, step="resolvent", exact=False)
        self.held: dict[str, Any] = {**solution.held, "noise_level": noise_level}
        if isinstance(model, MOL):
            self.held["cg_rtol"] = CG_RTOL
        self.start_from(solution.value)
        self.bound = solution.distance_bound
        self._forward = 0
        self._records: list[BackwardRecord] = []

    def start_from(self, image: Image) -> None:
        """The next equilibrium is solved from this image, such as a linear prediction of it."""
        if isinstance(self.model, MOL):
            self.held["start"] = image.detach()

    def __call__(self, data: Tensor) -> Tensor:
        """The image."""
        found = self.model.solve(
            self.operator,
            data,
            options=self.options,
            backward_rtol=BACKWARD_RTOL,
            **self.held,
        )
        self._forward += int(found.network_evaluations.sum())
        self.bound = found.distance_bound
        self.start_from(found.value)
        self._records += [one.record for one in (found, found.first) if one is not None]
        return found.value

    @property
    def evaluations(self) -> int:
        """Of all images and gradients so far; each gradient evaluates H once more for its graph."""
        gradients = [r.solution for r in self._records if r.solution is not None]
        if not isinstance(self.model, MOL):  # a gradient goes back through all that was evaluated
            return 2 * self._forward
        return self._forward + sum(int(g.network_evaluations.sum()) + 1 for g in gradients)
