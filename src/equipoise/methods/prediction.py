"""The weights of a scan, chosen by how well they predict samples that were left out (25)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.data_weight import LARGEST_LAM, SMALLEST_LAM
from equipoise.methods.method import VOLUME, Method
from equipoise.methods.predictor import Prediction, Predictor
from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.readout import lines_are_whole, plane_of, slab_of
from equipoise.physics.dynamic import DynamicSenseOp
from equipoise.physics.problem import Problem
from equipoise.physics.sampling.left_out import leave_out

SHARE = 0.1
"""Share of the samples outside the calibration region that are left out."""

STEP = 10**0.5
"""Ratio of neighbouring trials, for every weight."""

FARTHEST = 3
"""Most steps away from the rule, in each direction."""

MOST_TRIALS = 10
"""Most trials, each a loose, warm-started solve."""

BUDGET = 6
"""All trials together cost at most this many times the first one. A certified reconstruction costs
at least one and a half times the first trial, so all trials cost at most four of it."""

SIGNIFICANT = 2.0
"""Standard errors by which the error must fall. With one, four lines overruled the rule by
chance."""

FINE_STEP, FINE_BUDGET, VERY_SIGNIFICANT = STEP**0.5, 5, 4.0
"""Of a method with two passes: the ratio of neighbouring trials, what they may cost, and the
standard errors by which lam must win alone. With two of them a noisy knee lost 0.4 dB against its
noisy target."""

SIGNIFICANT_NOISE, MOST_MEASURED = 3.0, 0.5
"""Standard errors by which the error of a full scan must fall for lam alone to grow, and the share
of the samples above which it does not: the noise would be that of the data, which the
reconstruction is to remove. With two standard errors, eight lines decided by chance."""

PLANES = 16
"""Planes along x of the slab on which the weights of a volume are tried."""

Position = tuple[int, ...]


class Axis(NamedTuple):
    """A direction of the search: steps of every weight, by how much a step must win, and whether
    the first one up may follow the full scan."""

    steps: Position
    significant: float
    follows_full_scan: bool = False


ALIKE, LAM = Axis((1, 1), SIGNIFICANT), Axis((1, 0), VERY_SIGNIFICANT)
"""Lam and thresholds together, which keeps the penalty of large coefficients, that of their ratio;
then lam alone, which changes it."""

LAM_ALONE = (Axis((1, 0), SIGNIFICANT),)
"""For a series: how much its change in time is smoothed. Both weights together hardly move it."""

LamSetting = float | str
"""A data weight; ``auto`` for the weights that predict best; ``rule`` for those of the learned
rules."""


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
    full_scan
        The same error of what all samples would show, with the noise of all; None where it does not
        decide.
    """

    weights: dict[str, float]
    error: float
    evaluations: int
    full_scan: float | None = None


@dataclass(frozen=True)
class Choice:
    """The weights of a scan, and why they were chosen.

    Attributes
    ----------
    weights
        Arguments of ``model.solve``: ``lam`` and, for networks that have one, ``threshold``.
    basis
        ``prediction``; ``rule``, also if nothing can be predicted; or ``given``.
    reason
        The reason in words.
    trials
        The trials in their order, the first with the weights of the rule.
    setting
        What was asked for: ``auto``, ``rule``, or ``given`` with a number.
    """

    weights: dict[str, float]
    basis: Literal["prediction", "rule", "given"]
    reason: str
    trials: tuple[Trial, ...] = ()
    setting: Literal["auto", "rule", "given"] = "auto"

    @property
    def follows_rule(self) -> bool:
        """Whether the weights are those of the learned rule."""
        kept = bool(self.trials) and self.weights == self.trials[0].weights
        return self.basis == "rule" or kept

    @property
    def fell_back(self) -> bool:
        """Whether prediction was asked for, but nothing could be predicted."""
        return self.setting == "auto" and self.basis == "rule"

    @property
    def arguments(self) -> dict[str, float]:
        """Arguments of ``model.solve`` besides the noise level; the learned rule needs none."""
        return {} if self.follows_rule else self.weights

    @property
    def evaluations(self) -> int:
        """Network evaluations of all trials."""
        return sum(trial.evaluations for trial in self.trials)


def weights_for(
    problem: Problem[Any],
    model: Method,
    lam: LamSetting | None,
    options: SolverOptions | None = None,
) -> Choice:
    """The weights of a reconstruction by its setting of lam; None is the default of the model.

    Raises
    ------
    BadInputError
        If lam is another word, or not positive and finite.
    """
    lam = checked_lam(model.usual_lam if lam is None else lam)
    if lam == "auto":
        return choose_weights(problem, model, options=options)
    if lam == "rule":
        kind = "learned" if model.learned else "fixed"
        return Choice({}, "rule", f"the {kind} rule of the model", setting="rule")
    return Choice({"lam": float(lam)}, "given", "lam was given", setting="given")


def checked_lam(lam: LamSetting) -> LamSetting:
    """The setting of lam, if it is one of the two words or a usable number.

    Raises
    ------
    BadInputError
        If it is neither, or outside :data:`SMALLEST_LAM` to :data:`LARGEST_LAM`.
    """
    if lam in ("auto", "rule"):
        return lam
    if isinstance(lam, str) or not 0 < lam < math.inf:
        raise BadInputError(
            f"lam is {lam!r}: it must be auto, rule, or a number that is positive and finite"
        )
    if not SMALLEST_LAM <= lam <= LARGEST_LAM:
        raise BadInputError(
            f"lam is {lam:g}: it must lie between {SMALLEST_LAM:g} and {LARGEST_LAM:g}, because "
            "the image of any other is lost in rounding; rule and auto choose it"
        )
    return float(lam)


@torch.no_grad()
def choose_weights(
    problem: Problem[Any], model: Method, *, options: SolverOptions | None = None, seed: int = 0
) -> Choice:
    """The weights that best predict samples that were left out.

    A tenth of the measured samples, or lines, outside the calibration region is left out. The
    model reconstructs from the rest, starting with the weights of its learned rule, and the image
    predicts what was left out. One weight after the other then moves by factors of ``STEP``, for
    as long as the squared error falls by more than two standard errors of the paired difference
    over the samples or lines. The expected error is that of the image plus the variance of the
    noise. The latter is the same for all candidates, so differences are those of the images.
    Of two passes the first keeps the weights of its rule, because the second pulls to its image,
    and the second is tried: lam and thresholds move together, then lam alone, by factors of
    ``FINE_STEP``, and the part of the image that is in phase predicts, see :class:`Predictor`. Its
    distance to the image of a full scan, which has noise of its own, must not grow: what predicts
    the true image best keeps less of the noise than a full scan has. For the same reason lam alone
    of one coil grows by one step if this distance falls significantly, whatever is predicted: it
    gives to a noisy full scan about as much as it takes from the true image. With several coils it
    would take more, because a large lam lets their noise grow where they hardly differ. Of a series
    lam moves alone, and the same part predicts. Of a volume whole lines along x are left out of its
    ``PLANES`` central planes. The trials cost at most ``BUDGET``, or ``FINE_BUDGET``, times the
    first one; a search that is not at its end by then takes the best so far.

    Parameters
    ----------
    problem
        A slice of a scan.
    model
        An equilibrium model, or a method that minimises.
    options
        Solver options of the reconstruction, those of the model if not given; trials are looser.
    seed
        Seed of the choice of samples that are left out.
    """
    operator, level = problem.operator, problem.noise_level.double()
    scale = operator.intensity_scale(problem.data).double()
    noise = level / torch.where(scale > 0, scale, 1.0)
    rule = {name: float(value) for name, value in model.rule(operator, noise).items()}
    # An unrolled network is only defined for the weights of its training.
    if model.m is None and model.learned:
        return Choice(rule, "rule", f"{model.name} was trained for the weights of its rule")
    if not isinstance(operator, SenseOp):
        reason = f"samples can be left out of a SenseOp, not of a {type(operator).__name__}"
        return Choice(rule, "rule", reason)
    series = isinstance(operator, DynamicSenseOp)
    if not bool(scale > 0):
        return Choice(rule, "rule", "the data are zero: any weights give the same image")
    mask = operator.mask[0]
    if operator.image_axes == VOLUME:
        if not lines_are_whole(mask):
            reason = "lines along x were not measured as a whole, so none can be left out"
            return Choice(rule, "rule", f"{reason}: the rule is followed")
        problem, mask = slab_of(problem, PLANES), plane_of(mask)
    parts = leave_out(mask.cpu(), SHARE, seed)
    # Without samples outside the calibration region there is nothing to compare predictions with.
    if parts is None:
        reason = "too few samples outside the calibration region to predict: the rule is followed"
        return Choice(rule, "rule", reason)
    fine = series or len(model.passes) > 1
    settings = options or model.options
    predict = Predictor(problem, model, parts, scale, settings, in_phase=fine)
    if fine:
        noisy = operator.csm.shape[1] == 1 and float(operator.mask.double().mean()) <= MOST_MEASURED
        along = LAM_ALONE if series else (ALIKE, LAM._replace(follows_full_scan=noisy))
        search = _Search(predict, rule, FINE_BUDGET, FINE_STEP, along)
    else:
        search = _Search(predict, rule, BUDGET, STEP)
    best = search.run()
    moved = "kept the weights of the rule" if best == search.origin else "changed them"
    reason = f"{len(search.trials)} trials on {search.units} {parts.unit}s left out {moved}"
    return Choice(search.weights_at(best), "prediction", reason, tuple(search.trials))


class _Search:
    """Coordinate descent on a logarithmic grid around the rule."""

    def __init__(
        self,
        predict: Callable[[Sequence[float], int | None], Prediction],
        rule: dict[str, float],
        budget: int,
        step: float,
        axes: Sequence[Axis] | None = None,
    ) -> None:
        self.predict, self.rule, self.budget, self.step = predict, rule, budget, step
        alone = (tuple(int(i == k) for i in range(len(rule))) for k in range(len(rule)))
        self.axes = axes or [Axis(steps, SIGNIFICANT) for steps in alone]
        self.found: dict[Position, Prediction] = {}
        self.trials: list[Trial] = []
        self.cost: list[int] = []

    @property
    def origin(self) -> Position:
        """The weights of the rule."""
        return (0,) * len(self.rule)

    @property
    def left(self) -> int | None:
        """What further trials may cost; None before the first one."""
        return self.budget * self.cost[0] - sum(self.cost) if self.cost else None

    @property
    def spent(self) -> bool:
        """Whether no further trial may begin, because one like the cheapest would cost too much."""
        left, cost = self.left, self.cost
        return len(cost) >= MOST_TRIALS or (left is not None and left < max(1, min(cost)))

    @property
    def units(self) -> int:
        """Number of samples or lines over which the errors are compared."""
        return len(self.found[self.origin].errors)

    def weights_at(self, position: Position) -> dict[str, float]:
        """The weights at a number of steps from those of the rule."""
        factors = self._factors(position)
        return {name: value * f for (name, value), f in zip(self.rule.items(), factors)}

    def _factors(self, position: Position) -> list[float]:
        return [self.step**steps for steps in position]

    def run(self) -> Position:
        """The best position."""
        here = self.origin
        self._try(here)
        moved = True
        # Again after a change, because the best value of one weight depends on the other.
        while moved:
            moved = False
            for axis in self.axes:
                for direction in (1, -1):
                    following = self._along(here, axis, direction)
                    moved = moved or following != here
                    here = following
        return here

    def _along(self, here: Position, axis: Axis, direction: int) -> Position:
        """The last position along an axis up to which the error falls."""
        while True:
            there = tuple(k + direction * steps for k, steps in zip(here, axis.steps))
            if max(map(abs, there)) > FARTHEST or not self._try(there):
                return here
            if not self._better(there, here, axis):
                return here
            here = there

    def _try(self, position: Position) -> bool:
        """Whether the error at a position is known, computing it if trials are left."""
        if position not in self.found and not self.spent:
            new = self.found[position] = self.predict(self._factors(position), self.left)
            self.cost.append(new.cost)
            weights, error = self.weights_at(position), float(new.errors.sum())
            full_scan = None if new.full_scan is None else new.full_scan.error
            self.trials.append(Trial(weights, error, new.evaluations, full_scan))
        return position in self.found

    def _better(self, there: Position, here: Position, axis: Axis) -> bool:
        """Whether a step wins, see :func:`choose_weights`."""
        before, after = self.found[here], self.found[there]
        fell = _fell(before.errors, after.errors, axis.significant)
        if before.full_scan is None or after.full_scan is None:
            return fell
        if fell or not axis.follows_full_scan:
            return fell and after.full_scan.error <= before.full_scan.error
        # Noise that was measured is a part of a full scan, and a larger lam keeps it.
        lam_alone = [place[0] - sum(place[1:]) for place in (here, there)]
        unmeasured = before.full_scan.unmeasured, after.full_scan.unmeasured
        seen = before.full_scan.seen - after.full_scan.seen
        return lam_alone[0] < lam_alone[1] <= 1 and _fell(*unmeasured, SIGNIFICANT_NOISE, seen)


def _fell(before: Tensor, after: Tensor, significant: float, known: float = 0.0) -> bool:
    """Whether a sum over units, and what is known to be gained besides, fell by more than chance.

    Paired, because the noise of the samples is common to both and cancels in the difference.
    """
    gain = before - after
    return known + float(gain.sum()) > significant * float(gain.std()) * len(gain) ** 0.5
