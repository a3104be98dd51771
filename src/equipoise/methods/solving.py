"""Any method on one problem, and what it promises of the solution."""

from dataclasses import replace
from typing import Any, NamedTuple

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.method import Method
from equipoise.methods.mol import MOL, Amplification
from equipoise.methods.prediction import Choice
from equipoise.methods.regression import Features
from equipoise.methods.scan_features import slice_features
from equipoise.methods.usual import Calibration, PsnrBound
from equipoise.outcome import BadInputError, Outcome, Solution
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.problem import Problem
from equipoise.threads import suits_the_problem


@suits_the_problem
def solve_slice(
    problem: Problem[Any],
    model: Method,
    choice: Choice | None = None,
    options: SolverOptions | None = None,
) -> Solution:
    """Solve one slice, or a problem with your own A, with a model.

    Without a choice, lam and the scale of the thresholds are those of the learned rules.

    Raises
    ------
    BadInputError
        If the model is for real images and the problem is a scan.
    """
    # Only the real part of a scan would reach the network, without an error.
    if model.real and isinstance(problem.operator, SenseOp):
        raise BadInputError(
            "the model is for photographs and a scan is complex: choose one of the -brain- models"
        )
    given: dict[str, Any] = {} if choice is None else {**choice.arguments}
    return model.solve(
        problem.operator,
        problem.data,
        noise_level=problem.noise_level,
        options=options,
        **given,
    )


def amplification_bound(model: Method, solution: Solution) -> Amplification | None:
    """(8), or (23) of two passes: the most that ``||dx|| / ||db||`` can be; None without m."""
    if not isinstance(model, MOL) or solution.outcome[0] is Outcome.DIVERGED:
        return None
    return model.amplification(solution)


def noise_bound(amplification: float | None, noise_to_image: float) -> float | None:
    """(8) for the noise of the scan, relative to the image; None if it promises nothing.

    Above 1 the bound is vacuous; :func:`equipoise.certify_slice` then measures the effect of the
    noise.
    """
    bound = None if amplification is None else amplification * noise_to_image
    return None if bound is None or bound > 1 else bound


class Compared(NamedTuple):
    """What a calibration says about a slice; None where it says nothing."""

    in_range: bool | None = None
    psnr_bound: PsnrBound | None = None


def compared(
    model: Method,
    problem: Problem[Any],
    solution: Solution,
    choice: Choice | None,
    options: SolverOptions | None,
    features: Features | None = None,
) -> Compared:
    """Whether the slice looks like those of the calibration, and how good its image is at least.

    There must be a calibration, the weights must have been chosen as those of its scans were, and
    the solver options must be those of the model, except for options that change memory only.
    ``choice`` and ``options`` are the arguments of the solve, ``features`` those of
    the slice where they are known.
    """
    known = model.calibration
    # Features depend on lam and on the stopping rule.
    if known is None or not _chosen_alike(known, choice) or not _usual(model, options):
        return Compared()
    found = slice_features(problem, solution) if features is None else features
    return Compared(known.in_range(found), known.psnr_bound(found))


def _chosen_alike(calibration: Calibration, choice: Choice | None) -> bool:
    if calibration.lam == "auto":
        return choice is not None and choice.setting == "auto"
    return choice is None or choice.follows_rule


def _usual(model: Method, options: SolverOptions | None) -> bool:
    usual = model.options
    return options is None or replace(options, tile=usual.tile, recompute=usual.recompute) == usual
