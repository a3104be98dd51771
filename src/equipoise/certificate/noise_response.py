"""How far the noise of a scan moves its image, and where: measured with the same probes (16)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from equipoise.certificate.attack import Probe
from equipoise.certificate.effort import Progress, silent
from equipoise.certificate.linear_response import LAST_STEP, LinearResponse
from equipoise.certificate.noise import NoiseMap, noise_map
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.method import Method
from equipoise.methods.mol import MOL
from equipoise.outcome import Solution
from equipoise.physics.problem import Problem
from equipoise.vectors import norm

BATCH = 4
"""Probes that an accelerator solves at once, if their data are small."""

AT_ONCE = 2**26
"""Bytes of data of the probes that are solved at once: one probe of a volume, four of a slice."""


def batch_of(problem: Problem[Any], probes: int) -> int:
    """Probes that are solved at once; a processor is no faster with several, and holds them all."""
    if problem.data.device.type == "cpu":
        return 1
    return max(1, min(BATCH, probes, AT_ONCE // problem.data.nbytes))


@dataclass(frozen=True)
class NoiseResponse:
    """How far the noise of a scan moves its image, measured (16).

    Attributes
    ----------
    probes
        Noise realisations of the estimated level.
    mean, error
        Of ``||K n|| / ||x||``, K the linearised response of the image to the data, through both
        passes where there are two, with the standard error of the mean.
    missing
        Relative error of ``K n`` from its linear solves: estimated.
    accuracy
        Largest bound (11) of it, in exact arithmetic: proved where m is, and pessimistic.
    """

    probes: int
    mean: float
    error: float
    missing: float
    accuracy: float


@dataclass(frozen=True)
class MeasuredNoise:
    """The response, the map of the same probes in units of the scan, and what both cost.

    The first probe and its response are kept: an attack begins with them.
    """

    response: NoiseResponse
    map: NoiseMap
    evaluations: int
    first: Probe


def measured_noise(
    problem: Problem[Any],
    model: MOL,
    solution: Solution,
    *,
    probes: int,
    seed: int = 0,
    options: SolverOptions | None = None,
    until: SolverOptions = LAST_STEP,
    shrink: bool = True,
    tell: Progress = silent,
) -> MeasuredNoise:
    """Responses to white noise, equal in all coils, on the measured samples.

    ``options`` say in which tiles the network is evaluated, ``until`` how exactly the linear
    equations are solved, ``shrink`` is that of :func:`~equipoise.certificate.noise.noise_map`.
    """
    batch = batch_of(problem, probes)
    response = LinearResponse(
        model, problem.operator, solution, batch=batch, options=options, until=until
    )
    moved: list[Tensor] = []
    first: list[Probe] = []

    def respond(noise: Tensor) -> Tensor:
        tell("noise", batch * len(moved), probes)
        found = response(noise)
        moved.append(norm(found))
        if not first:
            first.append(Probe(noise[:1], found[:1]))
        return found

    found = noise_map_of(
        problem, model, respond, probes=probes, batch=batch, seed=seed, shrink=shrink
    )
    share = torch.cat(moved) / norm(solution.value)
    summary = NoiseResponse(
        probes=len(share),
        mean=float(share.mean()),
        error=float(share.std()) / len(share) ** 0.5,
        missing=response.missing,
        accuracy=response.accuracy,
    )
    certified = replace(found, accuracy=response.accuracy)
    return MeasuredNoise(summary, certified, response.evaluations, *first)


def noise_map_of(
    problem: Problem[Any],
    model: Method,
    respond: Callable[[Tensor], Tensor],
    *,
    probes: int,
    batch: int | None = None,
    seed: int = 0,
    shrink: bool = True,
) -> NoiseMap:
    """The noise map of a slice, in units of the scan, by what its image does with noise."""
    found = noise_map(
        respond,
        problem.measured.expand(problem.data.shape),
        float(problem.noise_level[0]),
        probes=probes,
        batch=batch_of(problem, BATCH) if batch is None else batch,
        seed=seed,
        real=model.real and problem.real,
        shrink=shrink,
    )
    return replace(found, std=found.std * problem.unit, error=found.error * problem.unit)
