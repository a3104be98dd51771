"""Measurements at one image: local constants, and the response to the noise of the scan."""

from dataclasses import dataclass
from typing import Any

import torch

from equipoise.certificate.linear_response import LinearResponse
from equipoise.certificate.noise import white_noise
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.equilibrium.tf32 import without_tf32
from equipoise.methods.mol import MOL
from equipoise.networks.jacobian import (
    Jacobian,
    largest_singular_value,
    largest_symmetric_eigenvalue,
)
from equipoise.outcome import Solution
from equipoise.physics.problem import Problem
from equipoise.vectors import norm, per_sample

LANCZOS_STEPS = 25
"""Lanczos iterations for ``m_local`` and ``||J||``, at each of three images."""

RESPONSE_PROBES = 4
"""Number of noise realisations of the response. For an image of n pixels ``||K n||`` varies by
about ``n^(-1/2)``, so a few determine it to a per cent."""

RESPONSE_RTOL = 0.05
"""Bound on the relative error of a response; the error itself is a small part of it."""


@dataclass(frozen=True)
class NoiseResponse:
    """How far the noise of a scan moves its image, measured (16).

    Attributes
    ----------
    probes
        Number of noise realisations of the estimated level.
    mean, error
        The mean of ``||K n|| / ||x||``, with K the linearised response of the image to the data,
        and its standard error.
    accuracy
        Largest bound (11) on the relative error of ``K n``, in exact arithmetic.
    """

    probes: int
    mean: float
    error: float
    accuracy: float


def noise_response(
    problem: Problem[Any],
    model: MOL,
    solution: Solution,
    options: SolverOptions | None = None,
    seed: int = 0,
) -> NoiseResponse:
    """The response to a few probes of white noise on the measured samples, equal in all coils."""
    respond = LinearResponse(
        model,
        problem.operator,
        solution,
        batch=RESPONSE_PROBES,
        rtol=RESPONSE_RTOL,
        options=options,
    )
    generator = torch.Generator().manual_seed(seed)
    measured = problem.measured.expand(problem.data.shape)
    noise = white_noise(measured, RESPONSE_PROBES, generator, model.real and problem.real)
    moved = norm(respond(float(problem.noise_level[0]) * noise * measured))
    share = moved / norm(solution.value)
    error = float(share.std()) / RESPONSE_PROBES**0.5
    return NoiseResponse(RESPONSE_PROBES, float(share.mean()), error, respond.accuracy)


def local_constants(
    problem: Problem[Any],
    model: MOL,
    solution: Solution,
    options: SolverOptions | None,
    seed: int,
) -> tuple[list[float], float]:
    """``m_local`` at the first iterate, half-way and at the image, and the largest norm of J."""
    assert solution.scale is not None
    operator = problem.operator
    units = per_sample(solution.scale, solution.value).float()
    image = solution.value / units
    data = problem.data / per_sample(solution.scale, problem.data).float()
    first = model.first_iterate(operator, data, solution.lam)
    # The H that was solved with: the weights of some methods follow from the data.
    network = model.network_on(operator.support(), options, solution.network)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(image.shape, dtype=image.dtype, generator=generator).to(image.device)
    found, norms = [], []
    # TF32 rounds to 1e-3, which is as large as the m that is measured.
    with without_tf32():
        for share in (0.0, 0.5, 1.0):
            jacobian = Jacobian(network, torch.lerp(first.to(image.dtype), image, share))
            top = largest_symmetric_eigenvalue(jacobian, start, LANCZOS_STEPS).value
            found.append(1 + model.shift - float(top[0]))
            # Both are lower bounds on ||J||, so the larger one counts.
            norms += [float(largest_singular_value(jacobian, start, LANCZOS_STEPS).value[0])]
            norms += [float(top[0])]
    return found, max(norms)
