"""Whether a scan looks like those of a calibration, and how good its image is at least."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from equipoise.methods.conformal import conformal_quantile, needed_subjects, too_few
from equipoise.methods.regression import Features, Regression, logarithm, regress
from equipoise.outcome import BadInputError

CONDITIONS = ("noise", "acceleration")
"""What a scan was measured with. Features that depend on it are compared at equal conditions."""

CONDITIONAL, UNCONDITIONAL = ("misfit", "pull", "evaluations"), CONDITIONS
"""Features that decide whether a scan is usual."""

ONE_SIDED = ("noise", "evaluations")
"""Features of which less than usual is not suspicious: a quieter scan, or one that is solved
faster."""

PREDICTORS = ("noise", "acceleration", "filled", "peak", "misfit", "pull", "evaluations")
"""Features from which the PSNR is predicted."""

TAIL = 0.02
"""Share of scans beyond a spread from the median, on each side. With 0.1, features with long tails
raised the threshold so far that a noise level ten times the usual one was not flagged."""

NARROWEST = 0.02
"""Smallest spread of a feature, 2 %: equal scans would otherwise make every other one unusual."""


class CalibrationScan(NamedTuple):
    """A scan of a subject: its features, the PSNR of its image in dB, and its kind of mask."""

    subject: str
    features: Features
    psnr: float
    mask: str = ""


@dataclass(frozen=True)
class PsnrBound:
    """``psnr >= value`` in dB for a share ``level`` of scans like those of the calibration.

    It is measured, not proved: a statement about scans that are drawn like those of the
    calibration, on average over such scans and over the calibration, and not about this one.

    Attributes
    ----------
    value
        The bound in dB, for magnitude images and the largest value of the target.
    level
        The share of such scans for which it holds.
    subjects
        n, the number of subjects that set it.
    evidence
        ``measured``.
    """

    value: float
    level: float
    subjects: int
    evidence: str = "measured"


@dataclass(frozen=True)
class PsnrCalibration:
    """The PSNR that features predict, and the margin that makes it a bound.

    Attributes
    ----------
    expected
        PSNR in dB from the features of a scan, fitted to one half of the subjects.
    margin
        The conformal quantile of ``expected - psnr`` over the other half, in dB.
    level
        The level of the quantile.
    subjects, scans
        Numbers of subjects and scans in the other half.
    """

    expected: Regression
    margin: float
    level: float
    subjects: int
    scans: int

    def bound(self, found: Mapping[str, float]) -> PsnrBound:
        """The bound for a scan."""
        return PsnrBound(self.expected.at(found) - self.margin, self.level, self.subjects)


@dataclass(frozen=True)
class Calibration:
    """The usual features, and the score above which a scan counts as unlike the calibration.

    Attributes
    ----------
    centre, spread
        Median and half of the central 96 % (80 % in calibrations of older versions) of the
        logarithm of each feature, or of what is left of it after ``slopes``.
    threshold
        The conformal threshold: a scan drawn like the calibration scans is above it with a
        probability of at most ``false_alarm_rate`` for every distribution (Vovk et al., Algorithmic
        Learning in a Random World, 2005). The probability is over the calibration too. The rate of
        one calibration with n independent scans has a standard deviation of about
        ``sqrt(2 rate / n)``.
    false_alarm_rate
        The requested rate.
    count
        Number of scans in the calibration.
    slopes
        By how much the logarithm of a feature changes with those of the conditions of the scan.
    psnr
        How the PSNR is bounded; None in calibrations of older versions.
    subjects
        Number of subjects in the calibration; None in calibrations of older versions.
    lam
        How the weights of the scans were chosen: ``rule`` or ``auto``. It says nothing about scans
        whose weights were chosen in another way.
    """

    centre: Features
    spread: Features
    threshold: float
    false_alarm_rate: float
    count: int
    slopes: dict[str, Features] = field(default_factory=dict)
    psnr: PsnrCalibration | None = None
    subjects: int | None = None
    lam: str = "rule"

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Calibration":
        """The inverse of :func:`dataclasses.asdict`."""
        found = content.get("psnr")
        if found is None:
            return cls(**content)
        expected = Regression(**found["expected"])
        return cls(**{**content, "psnr": PsnrCalibration(**{**found, "expected": expected})})

    def score(self, found: Mapping[str, float]) -> float:
        """The largest deviation of a feature from its median, in spreads."""
        return max(self.deviation(found).values())

    def deviation(self, found: Mapping[str, float]) -> Features:
        """``|log f - usual| / spread`` of each feature; 0 for those of ``ONE_SIDED`` below."""
        off = {
            key: (logarithm(found[key]) - self._usual(key, found)) / self.spread[key]
            for key in self.centre
        }
        return {key: max(d, 0.0) if key in ONE_SIDED else abs(d) for key, d in off.items()}

    def in_range(self, found: Mapping[str, float]) -> bool:
        """Whether the score is at most the threshold."""
        return self.score(found) <= self.threshold

    def psnr_bound(self, found: Mapping[str, float]) -> PsnrBound | None:
        """The bound on the PSNR; None for a scan out of range, or without a calibration of it.

        Leaving out scans keeps the level: the share of scans with a bound that does not hold can
        only become smaller.
        """
        return None if self.psnr is None or not self.in_range(found) else self.psnr.bound(found)

    def _usual(self, key: str, found: Mapping[str, float]) -> float:
        return Regression(self.centre[key], self.slopes.get(key, {})).at(found)


def calibrate(
    scans: Sequence[CalibrationScan],
    *,
    false_alarm_rate: float = 0.05,
    level: float = 0.95,
    lam: str = "rule",
) -> Calibration:
    """Fit a calibration to scans of validation subjects.

    One half of the subjects sets medians, spreads and regressions. The other half sets the
    thresholds, so that its scores and those of a new subject are exchangeable.

    Parameters
    ----------
    scans
        The scans, in a random order of the subjects.
    false_alarm_rate
        Share of scans like these that may be flagged.
    level
        Share of scans like these for which the bound on the PSNR holds.
    lam
        How their weights were chosen, ``rule`` or ``auto``.

    Raises
    ------
    BadInputError
        If a share is not between 0 and 1, or there are too few subjects for it.
    """
    check_subjects(len({scan.subject for scan in scans}), false_alarm_rate, level)
    by_subject: dict[str, list[CalibrationScan]] = {}
    for scan in scans:
        by_subject.setdefault(scan.subject, []).append(scan)
    subjects = list(by_subject.values())
    fit, held = subjects[::2], subjects[1::2]
    seen = [scan for own in fit for scan in own]
    centre, spread, slopes = _usual(seen)
    unset = Calibration(centre, spread, math.inf, false_alarm_rate, len(scans), slopes, lam=lam)
    scores = [[unset.score(scan.features) for scan in own] for own in held]
    threshold = conformal_quantile(scores, 1 - false_alarm_rate)
    expected = regress([s.psnr for s in seen], [s.features for s in seen], PREDICTORS)
    short = [[expected.at(scan.features) - scan.psnr for scan in own] for own in held]
    margin, count = conformal_quantile(short, level), sum(map(len, held))
    psnr = PsnrCalibration(expected, margin, level, len(held), count)
    return replace(unset, threshold=threshold, psnr=psnr, subjects=len(subjects))


def check_subjects(subjects: int, false_alarm_rate: float, level: float) -> None:
    """Check, before the work begins, that a calibration from these subjects exists.

    Raises
    ------
    BadInputError
        If a share is not between 0 and 1, or there are too few subjects for it.
    """
    for name, share in (("rate", false_alarm_rate), ("level", level)):
        if not 0 < share < 1:
            raise BadInputError(f"the {name} is {share:g}: it must lie in (0, 1)")
    # The other half of the subjects sets medians and regressions.
    held = subjects // 2
    if held < needed_subjects(level):
        raise BadInputError(too_few(held, level))
    if held < needed_subjects(1 - false_alarm_rate):
        lowest = math.ceil(1000 / (held + 1)) / 1000
        raise BadInputError(
            f"{held} calibration subjects keep no false-alarm rate of {false_alarm_rate:g}: it "
            f"takes {needed_subjects(1 - false_alarm_rate)}. With {held} subjects the rate can be "
            f"{lowest:g} at least"
        )


def _usual(scans: Sequence[CalibrationScan]) -> tuple[Features, Features, dict[str, Features]]:
    """Centres, spreads and slopes of the features of some scans."""
    found = [scan.features for scan in scans]
    centre, spread, slopes = {}, {}, {}
    for key in (*CONDITIONAL, *UNCONDITIONAL):
        logs = np.array([logarithm(f[key]) for f in found])
        trend = regress(logs.tolist(), found, CONDITIONS if key in CONDITIONAL else ())
        slopes[key] = trend.slopes
        rest = logs - [trend.at(f) for f in found]
        low, middle, high = np.quantile(rest, (TAIL, 0.5, 1 - TAIL))
        centre[key] = trend.intercept + float(middle)
        spread[key] = max(float(high - low) / 2, NARROWEST)
        # Evaluations are whole numbers, and one more than usual is never far off.
        if key == "evaluations":
            one_more = math.log1p(math.exp(-float(np.median(logs))))
            spread[key] = max(spread[key], one_more)
    return centre, spread, slopes
