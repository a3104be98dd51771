"""From iterates in the precision of the network to a bound that includes rounding."""

from dataclasses import replace

import torch
from torch import Tensor

from equipoise.equilibrium.equation import MonotoneEquation
from equipoise.equilibrium.fixed_point import SolverOptions, solve_fixed_point
from equipoise.outcome import Outcome, Solution
from equipoise.vectors import norm

ROUNDINGS_OF_DELIVERY = 3
"""Roundings of a returned number: the conversions of image and scale, and their product."""


def solve_with_rounding(
    working: MonotoneEquation, exact: MonotoneEquation, start: Tensor, options: SolverOptions
) -> Solution:
    """Iterate in the precision of the network, and end in double precision (24).

    The last iterate of the first equation is the first iterate of the second, whose bounds include
    rounding. It is nearly always good enough, and then the second equation costs one evaluation.
    Under the step rule it is evaluated only once, for its bound.

    Parameters
    ----------
    working, exact
        The same equation with the network in its own precision, and in double precision with
        ``rounding``.
    start, options
        See :func:`solve_fixed_point`. The evaluations of both equations count.
    """
    # One evaluation is reserved for the exact equation, whatever the limit.
    limit = max(options.max_iter - 1, options.rough + 1)
    first = solve_fixed_point(working, start, replace(options, max_iter=limit))
    # Under the step rule the user chose when to stop, so the second equation must not move the
    # image.
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
    """Add the rounding of the returned image to its bound, and fill in ``rounding``."""
    if equation.rounding is None:
        return solution
    size = norm(solution.value)
    residual = solution.relative_residual * size
    rho = equation.rounding_of(solution.value, residual[:, None] + 0j)
    # The zero image of zero data has no rounding; 0 / 0 would be nan.
    share = torch.where(rho == 0, 0.0, rho / (equation.m * size))
    delivery = ROUNDINGS_OF_DELIVERY * torch.finfo(dtype).eps / 2
    return replace(
        solution,
        distance_bound=(solution.distance_bound + delivery) / (1 - delivery),
        rounding=share + delivery,
    )


def attainable(options: SolverOptions, dtype: torch.dtype) -> SolverOptions:
    """Options whose tolerance leaves room for the rounding of the returned image."""
    delivery = ROUNDINGS_OF_DELIVERY * torch.finfo(dtype).eps
    # A tolerance near the roundoff would become zero or negative, and no iteration would end.
    return replace(options, rtol=max(options.rtol - delivery, options.rtol / 2))
