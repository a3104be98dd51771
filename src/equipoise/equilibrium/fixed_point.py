"""Fixed-point iteration, Picard and safeguarded Anderson: the only iteration loop over networks.

One iteration costs one evaluation of the network. The iteration stops when a bound on the distance
to the solution is small, not when the step is small.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from equipoise.equilibrium.equation import MonotoneEquation, Step
from equipoise.equilibrium.state import TINY, Point, State
from equipoise.equilibrium.watching import Seen, observer_of_solves
from equipoise.outcome import Outcome, Solution
from equipoise.vectors import chosen, norm


@dataclass(frozen=True)
class SolverOptions:
    """How to iterate, and when to stop.

    Attributes
    ----------
    method
        ``anderson`` (Walker and Ni, SINUM 2011) or ``picard``, the plain iteration of the paper.
    rule
        ``certified``: stop when a proved bound on ``||x - x*|| / ||x||``, (7) or (7b), is at most
        rtol. ``step``: the paper's rule (3), ``||x_n - x_{n-1}|| / ||x_{n-1}|| < rtol``, which
        promises nothing about the distance; the bound is still reported.
    rtol, max_iter
        Tolerance of the rule and limit of network evaluations.
    alpha
        Step size of (2), a solver setting: the equilibrium is the same for every alpha. Any value
        below ``2 / (2 - m)`` converges when ``Lip(H) <= 1 - m``.
    window
        Number of iterates that Anderson combines.
    step
        ``resolvent``: the map (2). ``gradient``: the step of DE-GRAD, without an inner solve.
    rough
        Number of first evaluations that use the network in bfloat16. They only bring the iterate
        near the equilibrium. They never enter a bound and never end the iteration, so the
        certificate is that of the full network. They save time on devices that compute in bfloat16.
        If a solve takes 7 or more evaluations, 2 rough ones do not increase their number.
    tile
        Side, in pixels, of the tiles in which the network is evaluated; None for the whole image.
        The result is the same, with the memory of one tile.
    recompute
        Keep no activations for backward, see :class:`equipoise.networks.tiles.Tiled`.
    exact
        Bound rounding too: the last iterate of a network in single precision is evaluated once more
        in double precision, and the iteration continues there if the bound is above rtol. Without
        it the bound is that of exact arithmetic and proves nothing. Training runs without it.
    """

    method: Literal["anderson", "picard"] = "anderson"
    rule: Literal["certified", "step"] = "certified"
    rtol: float = 1e-3
    max_iter: int = 100
    alpha: float = 1.0
    window: int = 5
    step: Literal["resolvent", "gradient"] = "resolvent"
    rough: int = 0
    tile: int | None = None
    recompute: bool = False
    exact: bool = True

    # Configurations contain these options as a section, in which unknown keys must be errors too.
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def __post_init__(self) -> None:
        if self.method not in ("anderson", "picard") or self.rule not in ("certified", "step"):
            raise ValueError(
                f"method is {self.method!r} (anderson or picard), rule is {self.rule!r} "
                "(certified or step)"
            )
        if self.step not in ("resolvent", "gradient"):
            raise ValueError(f"step is {self.step!r}: resolvent or gradient")
        for name, most in MOST.items():
            value, least = getattr(self, name), 1 if isinstance(most, int) else TINY
            # Written with `not`, so that nan is refused too.
            if not least <= value <= most:
                raise ValueError(f"{name} is {value}: it must be positive, and at most {most}")
        if not 0 <= self.rough < self.max_iter:
            raise ValueError(
                f"rough is {self.rough}: it must be from 0 to max_iter - 1 = {self.max_iter - 1}"
            )
        if self.tile is not None and self.tile < 1:
            raise ValueError(f"tile is {self.tile}: it must be at least 1 pixel, or None")


MOST = {"rtol": 1.0, "alpha": 10.0, "max_iter": 100_000, "window": 100}
"""Largest values of options. An alpha above 2 diverges, and with more than 100 iterates the
least-squares problem of Anderson costs more than the network."""

STAGNATION_LENGTH = 25
"""Iterations without a new best bound after which a sample counts as stagnated."""

GROWTH_LIMIT = 1e8
"""A bound that exceeds the first one by this factor counts as divergence."""


PLAIN_GROWTH = 2.0
"""A plain step that raises the bound by more than this factor was too long: alpha is halved."""

PATIENCE = 5
"""After this many iterations without a new best bound, alpha is halved too."""


def solve_fixed_point(
    equation: MonotoneEquation, start: Tensor, options: SolverOptions
) -> Solution:
    """Solve the equation from ``start``; each sample stops on its own and is then frozen.

    An iteration evaluates the residual at x, bounds the distance of x to the solution, and chooses
    the next iterate according to the bound:

    ============================================  ==================  =============================
    the bound at x                                next iterate        why
    ============================================  ==================  =============================
    at most rtol (rule ``certified``)             none: converged     the requested bound is proved
    the smallest so far: *accept*                 Anderson's          the history is useful
    not the smallest, x is an extrapolation:      plain step from     an extrapolation promises
    *retreat*                                     the best point,     nothing where the map is not
                                                  history dropped     linear
    not the smallest, x is a plain step, bound    Anderson's, from a  a plain step brings x nearer,
    below twice the best, best at most 5          history that        which need not show in the
    iterations old: *go on*                       begins at x         bound at once
    x is a plain step, bound above twice the      half of the step    where F is monotone but H is
    best, or no new best for 5 iterations:        from the best       not a contraction, only short
    *halve* alpha                                 point               steps are sure to converge
    no new best for 25 iterations                 none: stagnated     rounding, or F not monotone
    1e8 times the first one, or not finite        none: diverged      F is not monotone
    ============================================  ==================  =============================

    A sample that stops returns its best point, not its last one. The paper proves that sufficiently
    small steps converge for every monotone F, see :mod:`equipoise.equilibrium.equation`.
    """
    iteration = _Iteration(equation, options)
    state = State.first(start, options.alpha, options.window, equation.single)
    observer = observer_of_solves()
    for index in range(options.max_iter):
        state = iteration.roughly(state) if index < options.rough else iteration.step(state)
        # Only an observer pays for the bound: reading it makes a GPU wait.
        if observer is not None:
            observer(Seen(index + 1, float(state.history[-1][1].max()), options.rtol))
        if not bool(state.active.any()):
            break
    state = state.stopped(state.active, Outcome.MAX_ITERATIONS)
    ended = state.ended
    return Solution(
        value=ended.value,
        outcome=list(ended.outcome),
        iterations=state.evaluations - 1,
        network_evaluations=state.evaluations,
        cg_iterations=state.cg_iterations,
        relative_residual=ended.residual_norm / norm(ended.value).clamp(min=TINY),
        distance_bound=ended.bound,
        lam=equation.lam,
        m=equation.m,
        history=list(state.history),
    )


@dataclass(frozen=True)
class _Iteration:
    """The steps from one state to the next; they depend on the equation and the options only."""

    equation: MonotoneEquation
    options: SolverOptions

    def step(self, state: State) -> State:
        """One iteration."""
        equation, x = self.equation, state.x
        residual = equation.residual(x)
        bound = equation.bound(x, residual)
        finished = state.active & self._reached(bound)
        if bool((finished == state.active).all()):
            # No sample needs another step, and the inner solve for one is not free.
            state = state.evaluated(residual, bound, 0)
            point = Point(x, residual, state.best.point.direction, bound)
            state = replace(state, best=state.best.updated(point))
            return state.stopped(state.active, Outcome.CONVERGED)
        step = self._plain_step(residual, state.alpha)
        tight = torch.minimum(bound, equation.tight_bound(x, residual, step))
        # A finished sample keeps the bound that ended it; (7b) was computed for the others.
        bound = torch.where(finished, bound, tight)
        # nan compares as false with everything; infinity is never taken for a best bound.
        bound = torch.where(torch.isfinite(bound), bound, torch.inf)
        state = state.evaluated(residual, bound, step.cg_iterations)
        return self._judged(state, Point(x, residual, step.direction, bound))

    def roughly(self, state: State) -> State:
        """Move, and collect differences for Anderson; without a bound no step is judged."""
        x = state.x
        residual = self.equation.residual(x, rough=True)
        step = self._plain_step(residual, state.alpha)
        unknown = torch.full_like(state.ended.bound, torch.inf)
        state = state.evaluated(residual, unknown, step.cg_iterations)
        nobody = torch.zeros_like(state.active)
        moved = self._advanced(state, x, step.direction, nobody, nobody)
        # bfloat16 may overflow where the full network does not, and no safeguard follows.
        return replace(moved, x=chosen(torch.isfinite(norm(moved.x)), moved.x, x))

    def _reached(self, bound: Tensor) -> Tensor:
        return (bound <= self.options.rtol) & (self.options.rule == "certified")

    def _plain_step(self, residual: Tensor, alpha: Tensor) -> Step:
        steps = {"resolvent": self.equation.step, "gradient": self.equation.gradient_step}
        return steps[self.options.step](residual, alpha)

    def _judged(self, state: State, point: Point) -> State:
        """Accept or reject the point, end the samples that are done, move the others."""
        bound, best = point.bound, state.best
        # `~(a < b)` instead of `a >= b`, so that a bound of nan is rejected.
        rejected = state.active & ~(bound < best.point.bound)
        grew = ~(bound < PLAIN_GROWTH * best.point.bound)
        hopeless = rejected & (grew | (best.age >= PATIENCE))
        # A frozen sample is still evaluated with its batch, but must not change its best point.
        judged = replace(point, bound=torch.where(state.active, bound, torch.inf))
        state = self._ended(replace(state, best=best.updated(judged)), point)
        return self._advanced(state, point.x, point.direction, rejected, hopeless)

    def _ended(self, state: State, point: Point) -> State:
        """Stop the samples that converged, diverged or stagnated at this point."""
        if self.options.rule == "certified":
            state = state.stopped(state.active & self._reached(point.bound), Outcome.CONVERGED)
        else:
            length = norm(point.direction) / norm(point.x).clamp(min=TINY)
            short = state.active & (length < self.options.rtol)
            state = state.stopped_after_step(short, point)
        # Rough evaluations have no bound, so growth is measured from the first full one.
        growth = point.bound / state.history[self.options.rough][1].clamp(min=TINY)
        lost = (growth >= GROWTH_LIMIT) | ~torch.isfinite(norm(point.residual))
        state = state.stopped(state.active & lost, Outcome.DIVERGED)
        old = state.best.age >= STAGNATION_LENGTH
        return state.stopped(state.active & old, Outcome.STAGNATED)

    def _advanced(
        self, state: State, x: Tensor, direction: Tensor, rejected: Tensor, hopeless: Tensor
    ) -> State:
        """The next iterate of the active samples, by the table of :func:`solve_fixed_point`."""
        candidate, anderson = x + direction, state.anderson
        if self.options.method == "anderson":
            anderson = anderson.pushed(x, direction, reset=rejected)
            candidate = anderson.combine()
        too_bold = state.plain & hopeless
        retreat = (rejected & ~state.plain) | too_bold
        # The common case, in which no sample retreats, needs no second step and no copy.
        if bool(retreat.any()):
            state = self._with_alpha_halved(state, too_bold)
            back = state.best.point.x + state.best.point.direction
            candidate = chosen(retreat, back, candidate)
            anderson = anderson.without(retreat)
        # With one iterate in its history Anderson takes the plain step.
        picard = torch.full_like(state.plain, self.options.method == "picard")
        return replace(
            state,
            x=chosen(state.active, candidate, x),
            plain=picard | retreat | (anderson.depth() <= 1),
            anderson=anderson,
        )

    def _with_alpha_halved(self, state: State, samples: Tensor) -> State:
        if not bool(samples.any()):
            return state
        alpha = torch.where(samples, state.alpha / 2, state.alpha)
        best = state.best.point
        step = self._plain_step(best.residual, alpha)
        shorter = replace(best, direction=step.direction).where(samples, best)
        return replace(
            state,
            alpha=alpha,
            best=replace(state.best, point=shorter),
            cg_iterations=state.cg_iterations + step.cg_iterations,
        )
