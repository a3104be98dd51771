"""Methods at the weight that is best for the target, at that of the rule, and at a predicted one.

The best weight looks at the target, which no real scan has: it is the most that a tuned weight can
reach.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from equipoise.experiments.cases import Case
from equipoise.experiments.results import Row
from equipoise.methods.method import Method
from equipoise.methods.prediction import LamSetting, weights_for
from equipoise.methods.solving import solve_slice
from equipoise.methods.variational import Variational, gap_of
from equipoise.metrics import psnr
from equipoise.physics.problem import Problem

WEIGHTS = tuple(10 ** (k / 2) for k in range(7, 1, -1))
"""Grid of lam from 3162 to 10, two to a decade; the solves of a grid start from each other."""

SEARCH_ITERATIONS = 10
"""Of each trial. Images change by less than 0.05 dB after that; the chosen one is solved fully."""

ORACLE, RULE, AUTO = "oracle", "rule", "auto"


@torch.no_grad()
def at_weights(
    method: Method, case: Case, lams: Sequence[str] | None
) -> dict[str, tuple[Tensor, Row]]:
    """Image and row at every weight, ``rule`` and ``auto``; the usual one of the method for None.

    A method that is not trained has the best weight in addition. ``auto`` is left out where the
    choice cannot leave the rule, because the method is only defined for the weights of its
    training.
    """
    found = {}
    if isinstance(method, Variational):
        found[ORACLE] = solved(method, case, best_weight(method, case))
    predicted = isinstance(method, Variational) or method.m is not None
    chosen = [method.usual_lam] if lams is None else lams
    return found | {lam: solved(method, case, lam) for lam in chosen if lam == RULE or predicted}


@torch.no_grad()
def best_weight(method: Variational, case: Case) -> float:
    """The lam of the grid whose image has the largest PSNR."""
    loose = replace(method.options, max_iter=SEARCH_ITERATIONS)
    start: Tensor | None = None
    found: list[tuple[float, float]] = []
    for lam in WEIGHTS:
        solution = method.solve(case.operator, case.kspace, lam=lam, start=start, options=loose)
        start = solution.value
        found.append((float(psnr(solution.value, case.target)), lam))
    return max(found)[1]


@torch.no_grad()
def solved(method: Method, case: Case, lam: LamSetting) -> tuple[Tensor, Row]:
    """The image, and the entries of its row; trials of lam count as time, and evaluations apart."""
    started = time.perf_counter()
    problem = Problem(case.operator, case.kspace, case.noise_level)
    choice = weights_for(problem, method, lam)
    solution = solve_slice(problem, method, choice)
    seconds = time.perf_counter() - started
    bound = float(solution.distance_bound)
    return solution.value, {
        "seconds": seconds,
        "evaluations": int(solution.network_evaluations),
        "trials": choice.evaluations,
        "outcome": solution.outcome[0].value,
        "bound": bound if math.isfinite(bound) else None,
        "lam": float(solution.lam),
        "objective_gap": gap_of(solution),
    }
