"""The immutable state that one fixed-point iteration hands to the next."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equipoise.equilibrium.anderson import AndersonHistory
from equipoise.outcome import Outcome
from equipoise.vectors import chosen, norm

TINY = torch.finfo(torch.float64).tiny
"""Replaces a zero norm in a denominator."""


@dataclass(frozen=True)
class Point:
    """An iterate, its residual, the step from it and its bound; the batch is the first axis."""

    x: Tensor
    residual: Tensor
    direction: Tensor
    bound: Tensor

    def where(self, samples: Tensor, other: "Point") -> "Point":
        """This point for some samples, the other one for the rest."""
        return Point(
            chosen(samples, self.x, other.x),
            chosen(samples, self.residual, other.residual),
            chosen(samples, self.direction, other.direction),
            torch.where(samples, self.bound, other.bound),
        )


@dataclass(frozen=True)
class Best:
    """The point with the smallest bound of each sample, and its age in iterations.

    ``empty`` marks the samples without a finite residual so far; they accept any point.
    """

    point: Point
    age: Tensor
    empty: Tensor

    def updated(self, new: Point) -> "Best":
        """After one more iterate."""
        better = (new.bound < self.point.bound) | self.empty
        return Best(
            point=new.where(better, self.point),
            age=torch.where(better, 0, self.age + 1),
            empty=self.empty & ~torch.isfinite(norm(new.residual)),
        )


@dataclass(frozen=True)
class Ended:
    """What is returned; a sample is filled in when it stops."""

    value: Tensor
    bound: Tensor
    residual_norm: Tensor
    outcome: tuple[Outcome, ...]

    def with_samples(
        self, samples: Tensor, value: Tensor, bound: Tensor, residual: Tensor, outcome: Outcome
    ) -> "Ended":
        """After some samples stopped."""
        ended = samples.tolist()
        return Ended(
            chosen(samples, value, self.value),
            torch.where(samples, bound, self.bound),
            torch.where(samples, norm(residual), self.residual_norm),
            tuple(outcome if e else before for e, before in zip(ended, self.outcome)),
        )


@dataclass(frozen=True)
class State:
    """The state between two iterations; a step makes a new one and changes nothing.

    ``active`` marks the samples that still iterate. ``plain`` marks those whose present iterate
    came from a plain step, which the safeguard needs to know.
    """

    x: Tensor
    alpha: Tensor
    active: Tensor
    plain: Tensor
    best: Best
    anderson: AndersonHistory
    ended: Ended
    evaluations: Tensor
    cg_iterations: int = 0
    history: tuple[Tensor, ...] = ()

    @staticmethod
    def first(start: Tensor, alpha: float, window: int, single: bool = False) -> "State":
        """Before the first evaluation."""
        every = torch.ones(start.shape[0], dtype=torch.bool, device=start.device)
        infinite = torch.full_like(every, torch.inf, dtype=torch.float64)
        zero, never = torch.zeros_like(start), torch.zeros_like(infinite)
        return State(
            x=start,
            alpha=torch.full_like(infinite, alpha),
            active=every,
            plain=every,
            best=Best(Point(start, zero, zero, infinite), never, every),
            anderson=AndersonHistory(window, single),
            ended=Ended(start, infinite, infinite, (Outcome.MAX_ITERATIONS,) * len(every)),
            evaluations=torch.zeros_like(every, dtype=torch.long),
        )

    def evaluated(self, residual: Tensor, bound: Tensor, cg_iterations: int) -> "State":
        """After one evaluation of the network for every active sample."""
        relative = norm(residual) / norm(self.x).clamp(min=TINY)
        return replace(
            self,
            evaluations=self.evaluations + self.active,
            cg_iterations=self.cg_iterations + cg_iterations,
            history=(*self.history, torch.stack([relative, bound])),
        )

    def stopped(self, samples: Tensor, outcome: Outcome) -> "State":
        """After some samples stopped; each returns its best point."""
        best = self.best.point
        ended = self.ended.with_samples(samples, best.x, best.bound, best.residual, outcome)
        return replace(self, ended=ended, active=self.active & ~samples)

    def stopped_after_step(self, samples: Tensor, point: Point) -> "State":
        """After the paper's rule ended some samples, which return ``x + d``.

        The bound of ``x + d`` follows by the triangle inequality. The reported residual is that of
        x, because ``x + d`` has not been evaluated.
        """
        moved = point.x + point.direction
        distance = point.bound * norm(point.x) + norm(point.direction)
        bound = distance / norm(moved).clamp(min=TINY)
        ended = self.ended.with_samples(samples, moved, bound, point.residual, Outcome.CONVERGED)
        return replace(self, ended=ended, active=self.active & ~samples)
