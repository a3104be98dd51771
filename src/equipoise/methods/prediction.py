"""The weights of a scan, chosen by how well they predict samples that were left out (25)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from equipoise.methods.method import Method
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.problem import Problem
from equipoise.physics.sampling.left_out import LeftOut, leave_out

SHARE = 0.1
"""Share of the samples outside the calibration region that are left out."""

STEP = 10**0.5
"""Ratio of neighbouring trials, for every weight."""

FARTHEST = 3
"""Most steps away from the rule, in each direction."""

MOST_TRIALS = 10
"""Most trials. Each is a loose, warm-started solve with at most half of the evaluations of a
reconstruction."""

LOOSE = 1e-2
"""Certified accuracy of a trial. An error of 1 % of the image changes the prediction error, which
is of the order of the noise, by far less than a step of the weights does."""

Position = tuple[int, ...]


@dataclass(frozen=True)
class Trial:
    """One candidate.

    Attributes
    ----------
    weights
        The weights by name.
    error
        Mean squared error of the samples that were left out, in units of the noise variance if that
        is known; 1 is a perfect prediction.
    evaluations
        Number of network evaluations of the trial.
    """

    weights: dict[str, float]
    error: float
    evaluations: int


@dataclass(frozen=True)
class Choice:
    """The weights of a scan, and why they were chosen.

    Attributes
    ----------
    weights
        Arguments of ``model.solve``: ``lam`` and, for networks that have one, ``threshold``.
    basis
        ``prediction``, or ``rule`` if nothing can be predicted.
    reason
        The reason in words.
    trials
        The trials in their order.
    """

    weights: dict[str, float]
    basis: str
    reason: str
    trials: tuple[Trial, ...] = ()

    @property
    def evaluations(self) -> int:
        """Network evaluations of all trials."""
        return sum(trial.evaluations for trial in self.trials)


@torch.no_grad()
def choose_weights(problem: Problem[SenseOp], model: Method, *, seed: int = 0) -> Choice:
    """The weights that best predict samples that were left out.

    A tenth of the measured samples, or lines, outside the calibration region is left out. The
    model reconstructs from the rest, starting with the weights of its learned rule, and the image
    predicts what was left out. One weight after the other then moves by factors of ``STEP``, for
    as long as the squared error falls by more than one standard error of the paired difference
    over the samples or lines. The expected error is that of the image plus the variance of the
    noise. The latter is the same for all candidates, so differences are those of the images.

    Parameters
    ----------
    problem
        A slice of a scan.
    model
        An equilibrium model.
    seed
        Seed of the choice of samples that are left out.
    """
    operator = problem.operator
    scale = operator.intensity_scale(problem.data).double()
    noise = problem.noise_level.double() / scale
    rule = {name: float(value) for name, value in model.rule(operator, noise).items()}
    if model.m is None:
        return Choice(rule, "rule", f"{model.name} was trained for the weights of its rule")
    parts = leave_out(operator.mask[0], SHARE, seed)
    if parts is None:
        reason = "too few samples outside the calibration region to predict: the rule is followed"
        return Choice(rule, "rule", reason)
    predict = _Predictor(problem, model, parts, scale)
    search = _Search(predict, rule, int(parts.left_out.sum()))
    best = search.run()
    moved = "kept the weights of the rule" if best == search.origin else "changed them"
    reason = f"{len(search.trials)} trials on {search.units} samples or lines left out {moved}"
    return Choice(search.weights_at(best), "prediction", reason, tuple(search.trials))


class _Predictor:
    """From weights to the errors of the samples left out, warm-started by the last image."""

    def __init__(
        self, problem: Problem[SenseOp], model: Method, parts: LeftOut, scale: Tensor
    ) -> None:
        operator = problem.operator
        self.parts, self.model, self.scale = parts, model, scale
        self.kept = SenseOp(operator.csm, parts.kept[None])
        self.out = SenseOp(operator.csm, parts.left_out[None])
        self.data = problem.data * parts.kept
        self.target = problem.data * parts.left_out
        self.options = replace(model.options, rtol=max(LOOSE, model.options.rtol))
        variance = float(problem.noise_level[0]) ** 2
        self.unit = variance * self.data.shape[1] if variance > 0 else 1.0
        self.image: Tensor | None = None

    def __call__(self, weights: dict[str, float]) -> tuple[Tensor, int]:
        """Squared errors (units,), in units of the noise of the coils, and evaluations."""
        given: dict[str, Any] = {"start": self.image, **weights}
        solution = self.model.solve(
            self.kept, self.data, scale=self.scale, options=self.options, **given
        )
        self.image = solution.value
        difference = self.out.forward(solution.value) - self.target
        power = difference.abs().double().square().sum(1)[0] / self.unit
        return self.parts.by_unit(power), int(solution.network_evaluations[0])


class _Search:
    """Coordinate descent on a logarithmic grid around the rule."""

    def __init__(
        self,
        predict: Callable[[dict[str, float]], tuple[Tensor, int]],
        rule: dict[str, float],
        samples: int,
    ) -> None:
        self.predict, self.rule, self.samples = predict, rule, samples
        self.errors: dict[Position, Tensor] = {}
        self.trials: list[Trial] = []

    @property
    def origin(self) -> Position:
        """The weights of the rule."""
        return (0,) * len(self.rule)

    @property
    def units(self) -> int:
        """Number of samples or lines over which the errors are compared."""
        return len(self.errors[self.origin])

    def weights_at(self, position: Position) -> dict[str, float]:
        """The weights at a number of steps from those of the rule."""
        return {
            name: value * STEP**steps for (name, value), steps in zip(self.rule.items(), position)
        }

    def run(self) -> Position:
        """The best position."""
        here = self.origin
        self._try(here)
        moved = True
        while moved:
            moved = False
            for axis in range(len(here)):
                for direction in (1, -1):
                    following = self._along(here, axis, direction)
                    moved = moved or following != here
                    here = following
        return here

    def _along(self, here: Position, axis: int, direction: int) -> Position:
        """The last position along an axis up to which the error falls."""
        while True:
            steps = here[axis] + direction
            there = (*here[:axis], steps, *here[axis + 1 :])
            if abs(steps) > FARTHEST or not self._try(there) or not self._better(there, here):
                return here
            here = there

    def _try(self, position: Position) -> bool:
        """Whether the error at a position is known, computing it if trials are left."""
        if position not in self.errors and len(self.trials) < MOST_TRIALS:
            weights = self.weights_at(position)
            self.errors[position], evaluations = self.predict(weights)
            error = float(self.errors[position].sum()) / self.samples
            self.trials.append(Trial(weights, error, evaluations))
        return position in self.errors

    def _better(self, there: Position, here: Position) -> bool:
        """Whether the error fell by more than one standard error of the paired difference."""
        gain = self.errors[here] - self.errors[there]
        return float(gain.mean()) > float(gain.std() / len(gain) ** 0.5)
