"""Fixed-point iteration: Picard and safeguarded Anderson. The only iteration loop over networks.

One iteration costs one evaluation of the network. It ends where a bound on the distance to the
solution says so, not where the step is small.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from equipoise.equilibrium.anderson import AndersonHistory
from equipoise.equilibrium.equation import MonotoneEquation
from equipoise.outcome import Outcome, Solution
from equipoise.vectors import norm, per_sample


@dataclass(frozen=True)
class SolverOptions:
    """How to iterate, and when to stop.

    Attributes
    ----------
    method
        ``anderson`` (Walker and Ni, SINUM 2011) or ``picard``, the plain iteration of the paper.
    rule
        ``certified``: stop when a proved bound on ``||x - x*|| / ||x||`` is at most rtol, (7) or
        (7b). ``step``: the paper's rule (3), ``||x_n - x_{n-1}|| / ||x_{n-1}|| < rtol``, which
        promises nothing about the distance; the bound is still reported.
    rtol, max_iter
        Tolerance of the rule and limit of network evaluations.
    alpha
        Step size of (2), a solver setting: the equilibrium is the same for every alpha. Any value
        below ``2 / (2 - m)`` converges when ``Lip(H) <= 1 - m``.
    window
        Iterates that Anderson combines.
    step
        ``resolvent``: the map (2). ``gradient``: the step of DE-GRAD, without an inner solve.
    rough
        The first evaluations, of the network in bfloat16. They only bring the iterate near: none of
        them bounds or ends anything, so the certificate is that of the full network. Worth it
        where the device has bfloat16; of a solve of 7 or more, 2 cost no further evaluation.
    tile
        Side of the tiles, in pixels, that the network is evaluated in; None for the whole image.
        The result is the same, in memory for one tile.
    recompute
        Keep no activations for backward, see :class:`equipoise.networks.tiles.Tiled`.
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

    def __post_init__(self) -> None:
        if self.method not in ("anderson", "picard") or self.rule not in ("certified", "step"):
            raise ValueError(
                f"method is {self.method!r} (anderson or picard), rule is {self.rule!r} "
                "(certified or step)"
            )
        if self.step not in ("resolvent", "gradient"):
            raise ValueError(f"step is {self.step!r}: resolvent or gradient")
        if not (self.rtol > 0 and self.max_iter >= 1 and self.alpha > 0 and self.window >= 1):
            raise ValueError(f"rtol, max_iter, alpha and window must be positive: {self}")
        if not 0 <= self.rough < self.max_iter:
            raise ValueError(f"rough is {self.rough}: from 0 to max_iter - 1 = {self.max_iter - 1}")
        if self.tile is not None and self.tile < 1:
            raise ValueError(f"tile is {self.tile}: a number of pixels, at least 1, or None")


STAGNATION_LENGTH = 25
"""Iterations without a new best bound after which a sample counts as stagnated."""

GROWTH_LIMIT = 1e8
"""A bound that grew by this factor over the first one counts as divergence."""


@dataclass
class _Best:
    """The iterate with the smallest bound of each sample, and the plain step from it."""

    x: Tensor
    residual: Tensor
    direction: Tensor
    bound: Tensor
    age: Tensor
    empty: Tensor

    def update(self, x: Tensor, residual: Tensor, direction: Tensor, bound: Tensor) -> None:
        better = (bound < self.bound) | self.empty
        self.empty = self.empty & ~torch.isfinite(norm(residual))
        pick = per_sample(better, x)
        self.x = torch.where(pick, x, self.x)
        self.residual = torch.where(pick, residual, self.residual)
        self.direction = torch.where(pick, direction, self.direction)
        self.bound = torch.where(better, bound, self.bound)
        self.age = torch.where(better, 0, self.age + 1)


def solve_fixed_point(
    equation: MonotoneEquation, start: Tensor, options: SolverOptions
) -> Solution:
    """Solve the equation from ``start``; each sample stops by itself and is then frozen.

    Anderson is safeguarded: where the bound did not go down, the next iterate is the plain step
    from the best one. Where even plain steps do not lower the bound, alpha is halved: if F is
    monotone without H being a contraction, small steps converge (paper).
    """
    return _Iteration(equation, start, options).run()


class _Iteration:
    """State of one solve; every tensor has the batch as its first axis."""

    def __init__(self, equation: MonotoneEquation, start: Tensor, options: SolverOptions):
        batch = start.shape[0]
        self.equation, self.options = equation, options
        steps = {"resolvent": equation.step, "gradient": equation.gradient_step}
        self.step = steps[options.step]
        self.x = start
        self.alpha = torch.full((batch,), options.alpha, dtype=torch.float64)
        self.active = torch.ones(batch, dtype=torch.bool)
        self.plain = torch.ones(batch, dtype=torch.bool)
        self.outcome = [Outcome.MAX_ITERATIONS] * batch
        self.evaluations = torch.zeros(batch, dtype=torch.long)
        self.cg_iterations = 0
        self.history: list[Tensor] = []
        self.anderson = AndersonHistory(options.window)
        infinite = torch.full((batch,), torch.inf, dtype=torch.float64)
        zero = torch.zeros_like(start)
        self.best = _Best(start, zero, zero, infinite, torch.zeros(batch), self.active)
        # What is returned: filled where a sample stops.
        self.value, self.bound = start.clone(), infinite.clone()
        self.residual_norm = infinite.clone()

    def run(self) -> Solution:
        for _ in range(self.options.max_iter):
            self._iterate()
            if not bool(self.active.any()):
                break
        else:
            self._stop(self.active, Outcome.MAX_ITERATIONS)
        return Solution(
            value=self.value,
            outcome=self.outcome,
            iterations=self.evaluations - 1,
            network_evaluations=self.evaluations,
            cg_iterations=self.cg_iterations,
            relative_residual=self.residual_norm / norm(self.value).clamp(min=_TINY),
            distance_bound=self.bound,
            lam=self.equation.lam,
            m=self.equation.m,
            history=self.history,
        )

    def _iterate(self) -> None:
        equation, x = self.equation, self.x
        if len(self.history) < self.options.rough:
            self._iterate_roughly()
            return
        residual = equation.residual(x)
        self.evaluations += self.active
        bound = equation.bound(x, residual)
        certified = self.options.rule == "certified"
        finished = self.active & (bound <= self.options.rtol) & certified
        if bool((finished == self.active).all()):
            self.best.update(x, residual, self.best.direction, bound)
            self._record(x, residual, bound)
            self._stop(self.active, Outcome.CONVERGED)
            return
        step = self.step(residual, self.alpha)
        direction = step.direction
        self.cg_iterations += step.cg_iterations
        tight = torch.minimum(bound, equation.tight_bound(x, residual, step))
        bound = torch.where(finished, bound, tight)
        bound = torch.where(torch.isfinite(bound), bound, torch.inf)
        self._record(x, residual, bound)
        self._end_samples(x, residual, direction, bound)
        self._advance(x, direction)

    def _iterate_roughly(self) -> None:
        """Move, and learn differences for Anderson; nothing is bounded, so nothing is judged."""
        x = self.x
        residual = self.equation.residual(x, rough=True)
        self.evaluations += self.active
        step = self.step(residual, self.alpha)
        self.cg_iterations += step.cg_iterations
        self._record(x, residual, torch.full_like(self.bound, torch.inf))
        self.rejected = self.hopeless = torch.zeros_like(self.active)
        self._advance(x, step.direction)
        self.x = torch.where(per_sample(torch.isfinite(norm(self.x)), x), self.x, x)

    def _record(self, x: Tensor, residual: Tensor, bound: Tensor) -> None:
        relative = norm(residual) / norm(x).clamp(min=_TINY)
        self.history.append(torch.stack([relative, bound]))

    def _end_samples(self, x: Tensor, residual: Tensor, direction: Tensor, bound: Tensor) -> None:
        growth = bound / self.history[self.options.rough][1].clamp(min=_TINY)
        self._accept(x, residual, direction, bound)
        if self.options.rule == "certified":
            finished = self.active & (bound <= self.options.rtol)
            self._stop(finished, Outcome.CONVERGED)
        else:
            step = norm(direction) / norm(x).clamp(min=_TINY)
            finished = self.active & (step < self.options.rtol)
            self._stop_after_step(finished, x, residual, direction, bound)
        lost = (growth >= GROWTH_LIMIT) | ~torch.isfinite(norm(residual))
        self._stop(self.active & lost, Outcome.DIVERGED)
        self._stop(self.active & (self.best.age >= STAGNATION_LENGTH), Outcome.STAGNATED)

    def _accept(self, x: Tensor, residual: Tensor, direction: Tensor, bound: Tensor) -> None:
        self.rejected = self.active & ~(bound < self.best.bound)
        grew = ~(bound < PLAIN_GROWTH * self.best.bound)
        self.hopeless = self.rejected & (grew | (self.best.age >= PATIENCE))
        self.best.update(x, residual, direction, torch.where(self.active, bound, torch.inf))

    def _advance(self, x: Tensor, direction: Tensor) -> None:
        """Choose the next iterate of the samples that go on."""
        candidate = x + direction
        if self.options.method == "anderson":
            self.anderson.push(x, direction, reset=self.rejected)
            candidate = self.anderson.combine()
        too_bold = self.plain & self.hopeless
        retreat = (self.rejected & ~self.plain) | too_bold
        if bool(retreat.any()):
            self._halve_alpha(too_bold)
            back = self.best.x + self.best.direction
            candidate = torch.where(per_sample(retreat, x), back, candidate)
            self.anderson.forget(retreat)
        was_single = torch.full_like(self.plain, self.options.method == "picard")
        self.plain = was_single | retreat | (self.anderson.depth() <= 1)
        self.x = torch.where(per_sample(self.active, x), candidate, x)

    def _halve_alpha(self, samples: Tensor) -> None:
        if not bool(samples.any()):
            return
        self.alpha = torch.where(samples, self.alpha / 2, self.alpha)
        step = self.step(self.best.residual, self.alpha)
        self.cg_iterations += step.cg_iterations
        pick = per_sample(samples, step.direction)
        self.best.direction = torch.where(pick, step.direction, self.best.direction)

    def _stop(self, samples: Tensor, outcome: Outcome) -> None:
        """Freeze samples at their best iterate."""
        pick = per_sample(samples, self.value)
        self.value = torch.where(pick, self.best.x, self.value)
        self.bound = torch.where(samples, self.best.bound, self.bound)
        residual_norm = norm(self.best.residual)
        self.residual_norm = torch.where(samples, residual_norm, self.residual_norm)
        self._mark(samples, outcome)

    def _stop_after_step(
        self, samples: Tensor, x: Tensor, residual: Tensor, direction: Tensor, bound: Tensor
    ) -> None:
        """The paper's rule returns ``x + d``; its bound follows by the triangle inequality.

        The residual that is reported is that of x: x + d has not been evaluated.
        """
        pick = per_sample(samples, x)
        moved = x + direction
        distance = bound * norm(x) + norm(direction)
        self.value = torch.where(pick, moved, self.value)
        self.bound = torch.where(samples, distance / norm(moved).clamp(min=_TINY), self.bound)
        self.residual_norm = torch.where(samples, norm(residual), self.residual_norm)
        self._mark(samples, Outcome.CONVERGED)

    def _mark(self, samples: Tensor, outcome: Outcome) -> None:
        for index in torch.nonzero(samples).flatten().tolist():
            self.outcome[index] = outcome
        self.active = self.active & ~samples


PLAIN_GROWTH = 2.0
"""A plain step that raises the bound by more than this was too bold: alpha is halved."""

PATIENCE = 5
"""So is one after this many iterations without a new best bound."""

_TINY = torch.finfo(torch.float64).tiny
