"""Any method on one problem, and what it promises of the solution."""

from dataclasses import replace
from typing import Any

import torch

from equipoise.equilibrium.bounds import perturbation_bound
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.method import Method
from equipoise.methods.usual import slice_features
from equipoise.outcome import BadInputError, Outcome, Solution
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.problem import Problem
from equipoise.threads import suits_the_problem


@suits_the_problem
def solve_slice(
    problem: Problem[Any], model: Method, lam: float | None, options: SolverOptions | None
) -> Solution:
    """The model's image of one slice, or of whatever your own A measures.

    Raises
    ------
    BadInputError
        If the model is one for real images.
    """
    if model.real and isinstance(problem.operator, SenseOp):
        raise BadInputError(
            "the model is for photographs and a scan is complex: choose one of the -brain- models"
        )
    device = problem.data.device
    weight = None if lam is None else torch.tensor([lam], dtype=torch.float64, device=device)
    return model.solve(
        problem.operator,
        problem.data,
        noise_level=problem.noise_level,
        lam=weight,
        options=options,
    )


def amplification_bound(model: Method, solution: Solution) -> float | None:
    """(8): the most that ``||dx|| / ||db||`` can be; None where nothing is promised.

    (8) is about one F: nothing where F was read off the data by a first pass.
    """
    if (
        model.m is None
        or getattr(model, "frozen", False)
        or solution.outcome[0] is Outcome.DIVERGED
    ):
        return None
    one = torch.ones_like(solution.lam)
    return float(perturbation_bound(solution.lam, model.m, one)[0])


def noise_bound(amplification: float | None, noise_to_image: float) -> float | None:
    """(8) for the noise of the scan, relative to the image; None where it promises nothing.

    Above 1 the bound is vacuous: what noise does to the image is then for
    :func:`equipoise.certify_slice` to measure.
    """
    bound = None if amplification is None else amplification * noise_to_image
    return None if bound is None or bound > 1 else bound


def in_range(
    model: Method,
    problem: Problem[Any],
    solution: Solution,
    lam: float | None,
    options: SolverOptions | None,
) -> bool | None:
    """Whether the slice looks like those of the calibration; None where that cannot be told.

    There must be a calibration, lam must follow the noise, and the solver options must be those of
    the model but for what changes memory alone: ``lam`` and ``options`` are what the solve was
    asked for.
    """
    if model.calibration is None or lam is not None or not _usual(model, options):
        return None
    return model.calibration.in_range(slice_features(problem, solution))


def _usual(model: Method, options: SolverOptions | None) -> bool:
    usual = model.options
    return options is None or replace(options, tile=usual.tile, recompute=usual.recompute) == usual
