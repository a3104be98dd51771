"""The constants of F and H at one image, by Lanczos steps that both are read off (12)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equipoise.certificate.effort import Effort, Progress, silent
from equipoise.certificate.linear_response import in_units_of_the_network
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.equilibrium.tf32 import without_tf32
from equipoise.methods.mol import MOL
from equipoise.networks.jacobian import Jacobian, largest_singular_value
from equipoise.outcome import Solution
from equipoise.physics.problem import Problem
from equipoise.vectors import combined, norm, per_sample, pieces, unit

NOTHING_NEW = 1e-6
"""Norm of a new direction at which the Krylov space is complete, in single precision."""


ASIDE = 0.03
"""Noise beside the image in the first direction. Networks keep images and take noise away: six
steps from the image find more of the largest eigenvalue than thirty from noise alone."""


class Spectrum(NamedTuple):
    """What a Krylov space of ``S = (J + J^T) / 2`` says of J at one image.

    Attributes
    ----------
    top
        Largest Ritz value of S, never above its largest eigenvalue.
    vector
        Its vector, of norm 1.
    error
        ``||S v - top v||``: an eigenvalue of S lies within it.
    norm
        Largest ``||J v||`` or ``||J^T v||`` of the space, never above ``||J||``.
    largest
        A v with ``||J v||`` largest.
    """

    top: float
    vector: Tensor
    error: float
    norm: float
    largest: Tensor


def spectrum(jacobian: Jacobian, start: Tensor, steps: int) -> Spectrum:
    """Lanczos steps on S with full reorthogonalisation; no product is computed for J alone.

    Parameters
    ----------
    jacobian
        J at one image.
    start
        First direction, (1, y, x).
    steps
        Each costs one product with J and one with its transpose.
    """
    basis, forward, backward = [unit(start)], [], []
    for step in range(steps):
        forward.append(jacobian.forward(basis[-1]))
        symmetric = jacobian.symmetric
        backward.append(forward[-1] if symmetric else jacobian.transposed(basis[-1]))
        new = (forward[-1] + backward[-1]) / 2
        for _ in range(2):  # twice is enough
            new = new - combined(_gram(basis, [new])[:, 0], basis)
        if step == steps - 1 or float(norm(new)) <= NOTHING_NEW:
            break
        basis.append(unit(new))
    both = [(f + b) / 2 for f, b in zip(forward, backward, strict=True)]
    basis = basis[: len(both)]
    matrix = _gram(basis, both)
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    top, vector = float(values[-1]), combined(vectors[:, -1], basis)
    error = float(norm(combined(vectors[:, -1], both) - top * vector))
    squares, directions = torch.linalg.eigh(_gram(forward, forward))
    largest = max(float(squares[-1]), float(torch.linalg.eigvalsh(_gram(backward, backward))[-1]))
    return Spectrum(top, vector, error, largest**0.5, combined(directions[:, -1], basis))


@dataclass(frozen=True)
class LocalConstants:
    """What was measured at the image and on the way to it.

    Attributes
    ----------
    m_local
        ``1 + shift - top`` at the first iterate, half-way and at the image; or at the image alone.
    accuracy
        How far an eigenvalue lies from each at most.
    lipschitz_lower
        Largest ``||J v||``, v of norm 1, that was found.
    evaluations
        What it cost.
    """

    m_local: list[float]
    accuracy: list[float]
    lipschitz_lower: float
    evaluations: int


def local_constants(
    problem: Problem[Any],
    model: MOL,
    solution: Solution,
    effort: Effort,
    *,
    options: SolverOptions | None = None,
    seed: int = 0,
    tell: Progress = silent,
) -> LocalConstants:
    """``m_local`` on the way to the image, and the largest norm of J there.

    From the image back to the first iterate; each image is entered with the direction that was
    found at the one before it, which needs fewer steps than a random one.
    """
    operator = problem.operator
    image = in_units_of_the_network(solution)
    network = model.network_on(operator.support(), options, solution.network)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(image.shape, dtype=image.dtype, generator=generator).to(image.device)
    start = unit(image) + ASIDE * unit(noise)
    points, steps = [image], [effort.lanczos]
    if effort.warm:
        assert solution.scale is not None
        data = problem.data / per_sample(solution.scale, problem.data).float()
        first = model.first_iterate(operator, data, solution.lam).to(image.dtype)
        points += [torch.lerp(first, image, 0.5), first]
        steps += [effort.warm, effort.warm]
    found: list[Spectrum] = []
    largest, evaluations = 0.0, 0
    with without_tf32():
        for index, (point, count) in enumerate(zip(points, steps, strict=True)):
            tell("constants", index, len(points))
            jacobian = Jacobian(network, point)
            seen = spectrum(jacobian, found[-1].vector if found else start, count)
            largest = max(largest, seen.norm)
            if not found and effort.refine and not jacobian.symmetric:
                refined = largest_singular_value(jacobian, seen.largest, effort.refine)
                largest = max(largest, float(refined.value[0]))
            found.append(seen)
            evaluations += jacobian.evaluations
    found.reverse()
    tops = [1 + model.shift - one.top for one in found]
    return LocalConstants(tops, [one.error for one in found], largest, evaluations)


def _gram(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """Real inner products of two sets of images, in double precision."""
    flat = [torch.view_as_real(v).flatten()[None] for v in (*left, *right)]
    total = torch.zeros((), dtype=torch.float64, device=flat[0].device)
    for parts in pieces(*flat):
        rows = torch.cat(parts).double()
        total = total + rows[: len(left)] @ rows[len(left) :].mT
    return total
