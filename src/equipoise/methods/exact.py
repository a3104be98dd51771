"""From an iterate in the precision of the network to a bound that holds for computed numbers."""

from dataclasses import replace

import torch
from torch import Tensor

from equipoise.equilibrium.equation import MonotoneEquation
from equipoise.equilibrium.fixed_point import SolverOptions, solve_fixed_point
from equipoise.outcome import Outcome, Solution
from equipoise.vectors import norm

ROUNDINGS_OF_DELIVERY = 3
"""Of an image that is returned: its conversion, that of the scale, and their product."""


def solve_with_rounding(
    working: MonotoneEquation, exact: MonotoneEquation, start: Tensor, options: SolverOptions
) -> Solution:
    """Iterate in the precision of the network, and end in double precision (24).

    The last iterate of the first equation is the first one of the second, whose bounds include
    rounding: where it is good enough, as it nearly always is, one evaluation is all that it costs.
    Under the step rule it is evaluated once, for its bound alone.

    Parameters
    ----------
    working, exact
        The same equation with the network in its own precision, and in double precision with
        ``rounding``.
    start, options
        As for :func:`solve_fixed_point`. The evaluations of both count.
    """
    limit = max(options.max_iter - 1, options.rough + 1)
    first = solve_fixed_point(working, start, replace(options, max_iter=limit))
    certified = options.rule == "certified"
    left = options.max_iter - int(first.network_evaluations.max())
    rest = replace(options, rough=0, rule="certified", max_iter=max(left if certified else 1, 1))
    second = solve_fixed_point(exact, first.value, rest)
    outcome = [
        before if not certified or before is Outcome.DIVERGED else after
        for before, after in zip(first.outcome, second.outcome, strict=True)
    ]
    return replace(
        second,
        outcome=outcome,
        iterations=first.iterations + second.iterations,
        network_evaluations=first.network_evaluations + second.network_evaluations,
        cg_iterations=first.cg_iterations + second.cg_iterations,
        history=[*first.history[:-1], *second.history],
    )


def with_delivery(solution: Solution, equation: MonotoneEquation, dtype: torch.dtype) -> Solution:
    """With the rounding of the image that is returned in its bound, and ``rounding`` filled in."""
    if equation.rounding is None:
        return solution
    size = norm(solution.value)
    residual = solution.relative_residual * size
    rho = equation.rounding_of(solution.value, residual[:, None] + 0j)
    share = torch.where(rho == 0, 0.0, rho / (equation.m * size))
    delivery = ROUNDINGS_OF_DELIVERY * torch.finfo(dtype).eps / 2
    return replace(
        solution,
        distance_bound=(solution.distance_bound + delivery) / (1 - delivery),
        rounding=share + delivery,
    )


def attainable(options: SolverOptions, dtype: torch.dtype) -> SolverOptions:
    """Options whose tolerance leaves room for the rounding of the image that is returned."""
    delivery = ROUNDINGS_OF_DELIVERY * torch.finfo(dtype).eps
    return replace(options, rtol=max(options.rtol - delivery, options.rtol / 2))
