"""Methods that are not trained, at the weight that is best for the target and at that of the rule.

The best weight looks at the target, which no real scan has: it is the most that a tuned weight can
reach.
"""

import time
from dataclasses import replace

import torch
from torch import Tensor

from equipoise.experiments.cases import Case
from equipoise.experiments.results import Row
from equipoise.methods.variational import Variational, gap_of
from equipoise.metrics import psnr

WEIGHTS = tuple(10 ** (k / 2) for k in range(7, 1, -1))
"""Grid of lam from 3162 to 10, two to a decade; the solves of a grid start from each other."""

SEARCH_ITERATIONS = 10
"""Of each trial. Images change by less than 0.05 dB after that; the chosen one is solved fully."""

ORACLE, RULE = "oracle", "rule"


@torch.no_grad()
def at_both_weights(method: Variational, case: Case) -> dict[str, tuple[Tensor, Row]]:
    """Image and row at the best weight and at that of the rule, under ``ORACLE`` and ``RULE``."""
    return {ORACLE: _solved(method, case, best_weight(method, case)), RULE: _solved(method, case)}


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


def _solved(method: Variational, case: Case, lam: float | None = None) -> tuple[Tensor, Row]:
    started = time.perf_counter()
    solution = method.solve(case.operator, case.kspace, noise_level=case.noise_level, lam=lam)
    return solution.value, {
        "seconds": time.perf_counter() - started,
        "evaluations": 0,
        "outcome": solution.outcome[0].value,
        "bound": None,
        "lam": float(solution.lam),
        "objective_gap": gap_of(solution),
    }
