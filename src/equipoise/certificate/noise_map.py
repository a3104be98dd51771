"""The noise map of one image, from its linearisation or from repeated reconstructions."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from equipoise.certificate.linear_response import RTOL
from equipoise.certificate.noise import NoiseMap
from equipoise.certificate.noise_response import measured_noise, noise_map_of
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.method import Method
from equipoise.methods.mol import MOL
from equipoise.outcome import BadInputError, Solution
from equipoise.physics.problem import Problem

CERTIFIED = SolverOptions(rtol=RTOL)
"""Of the linear equations of a map that is made by itself."""

REPLICA_ACCURACY = 0.1
"""Bound on the distance of a replica to its equilibrium, relative to the noise in its data."""


def check_linear(model: Method) -> None:
    """Refuse a noise map of a method whose image has no linear response.

    Raises
    ------
    BadInputError
        If the method has no equilibrium.
    """
    if not isinstance(model, MOL):
        raise BadInputError(
            f"{model.name} has no equilibrium to linearise: a noise map needs a MOL model; "
            "pseudo-replicas give that of any method"
        )


def slice_noise_map(
    problem: Problem[Any],
    model: Method,
    solution: Solution,
    *,
    probes: int,
    seed: int = 0,
    options: SolverOptions | None = None,
) -> NoiseMap:
    """The noise map of an equilibrium, in the units of the scan.

    ``options`` determine the tiles of the network; those of the model if not given.

    Raises
    ------
    BadInputError
        If the method has no equilibrium.
    """
    check_linear(model)
    assert isinstance(model, MOL)
    found = measured_noise(
        problem, model, solution, probes=probes, seed=seed, options=options, until=CERTIFIED
    )
    return found.map


@torch.no_grad()
def replica_noise_map(
    problem: Problem[Any], model: Method, solution: Solution, *, probes: int, seed: int = 0
) -> NoiseMap:
    """The noise map by pseudo-replicas, for any method, without shrinkage, in units of the scan.

    The data with added noise of their own level are reconstructed again, with weights, intensity
    scale and maps of the solution. An equilibrium is solved to a bound of a tenth of the noise
    relative to the image. There is no linearisation, at many times the cost.
    """
    solve = model.solve
    if isinstance(model, MOL):
        rtol = min(model.options.rtol, REPLICA_ACCURACY * problem.noise_to(solution.value))
        options = replace(model.options, rtol=rtol, exact=False)
        solve = partial(model.solve, start=solution.value, options=options)

    def moved(noise: Tensor) -> Tensor:
        held: dict[str, Any] = {**solution.held, "noise_level": problem.noise_level}
        again = [solve(problem.operator, problem.data + one[None], **held).value for one in noise]
        return torch.cat(again) - solution.value

    return noise_map_of(problem, model, moved, probes=probes, seed=seed, shrink=False)
