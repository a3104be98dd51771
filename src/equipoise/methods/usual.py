"""Whether a scan looks like those that a model was validated on, at a stated false-alarm rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equipoise.outcome import BadInputError, Solution
from equipoise.physics.linop import LinearOperator
from equipoise.physics.problem import Problem
from equipoise.shapes import Data, PerSample
from equipoise.vectors import norm, per_sample

Features = dict[str, float]

SMALLEST = 1e-12
"""Smallest value of a feature, because features are compared on a logarithmic scale."""


def features(
    operator: LinearOperator,
    data: Data,
    solution: Solution,
    noise_level: PerSample,
    sample_count: int,
) -> Features:
    """The features of the scan of one slice, without another network evaluation.

    ``misfit`` is ``||A x - b|| / (sigma sqrt(n))``, about 1 if the data are explained up to their
    noise. ``pull`` is ``lam ||A^H (A x - b)|| / ||x||``, at an equilibrium the relative size of
    ``x - H(x)``, the change that the network would make. ``evaluations`` counts network evaluations
    without the last one in double precision. ``noise`` is the noise level divided by the intensity
    scale.

    Parameters
    ----------
    operator, data
        A and b.
    solution
        The reconstruction of one slice.
    noise_level
        sigma, ``E|n|^2 = sigma^2``.
    sample_count
        n, the number of measured samples over all coils.
    """
    image = solution.value.detach()
    misfit = operator.forward(image) - data
    expected = noise_level.double() * math.sqrt(sample_count)
    pull = per_sample(solution.lam, image).to(image.real.dtype) * operator.adjoint(misfit)
    assert solution.scale is not None
    return {
        "misfit": _ratio(norm(misfit), expected),
        "pull": _ratio(norm(pull), norm(image)),
        "evaluations": float(solution.iterations[0]) + 1,
        "noise": _ratio(noise_level.double(), solution.scale.double()),
    }


def _ratio(a: Tensor, b: Tensor) -> float:
    return float((a / b.clamp(min=torch.finfo(torch.float64).tiny))[0])


@dataclass(frozen=True)
class Calibration:
    """The usual features, and the score above which a scan counts as unlike the calibration.

    Attributes
    ----------
    centre, spread
        Median and half of the central 80 % of the logarithm of each feature.
    threshold
        The conformal threshold: a scan drawn like the calibration scans is above it with a
        probability of at most ``false_alarm_rate`` for every distribution (Vovk et al., Algorithmic
        Learning in a Random World, 2005). The probability is over the calibration too. The rate of
        one calibration with n scans has a standard deviation of about ``sqrt(2 rate / n)``.
    false_alarm_rate
        The requested rate.
    count
        Number of scans in the calibration.
    """

    centre: Features
    spread: Features
    threshold: float
    false_alarm_rate: float
    count: int

    def score(self, found: Features) -> float:
        """The largest deviation of a feature from its median, in spreads."""
        return max(self.deviation(found).values())

    def deviation(self, found: Features) -> Features:
        """``|log f - centre| / spread`` of each feature; fewer evaluations than usual are 0."""
        off = {
            key: (math.log(max(found[key], SMALLEST)) - centre) / self.spread[key]
            for key, centre in self.centre.items()
        }
        # A scan that is solved faster than usual is not suspicious.
        return {key: max(d, 0.0) if key == "evaluations" else abs(d) for key, d in off.items()}

    def in_range(self, found: Features) -> bool:
        """Whether the score is at most the threshold."""
        return self.score(found) <= self.threshold


def calibrate(scans: Sequence[Features], false_alarm_rate: float = 0.05) -> Calibration:
    """Fit a calibration to scans of validation data.

    One half of the scans sets medians and spreads, the other half the threshold, so the scores of
    the other half and of a new scan are exchangeable.

    Raises
    ------
    BadInputError
        If the rate is not between 0 and 1, or there are too few scans for it.
    """
    if not 0 < false_alarm_rate < 1:
        raise BadInputError(f"the false-alarm rate is {false_alarm_rate:g}: it must lie in (0, 1)")
    fit, held = scans[::2], scans[1::2]
    rank = math.ceil((len(held) + 1) * (1 - false_alarm_rate))
    # The rank would lie beyond the largest score, so no threshold keeps the promised rate.
    if rank > len(held):
        needed = 2 * (math.ceil(1 / false_alarm_rate) - 1)
        raise BadInputError(
            f"{len(scans)} scans cannot give a false-alarm rate of {false_alarm_rate:g}: use at "
            f"least {needed} scans, or allow a higher rate"
        )
    # Logarithms, because features are ratios whose size varies by factors.
    logs = {key: [math.log(max(f[key], SMALLEST)) for f in fit] for key in scans[0]}
    quantiles = {
        key: torch.tensor(values, dtype=torch.float64).quantile(
            torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
        )
        for key, values in logs.items()
    }
    centre = {key: float(q[1]) for key, q in quantiles.items()}
    spread = {key: max(float(q[2] - q[0]) / 2, NARROWEST) for key, q in quantiles.items()}
    # Evaluations are whole numbers, and one more than usual is never far off.
    if "evaluations" in centre:
        one_more = math.log1p(math.exp(-centre["evaluations"]))
        spread["evaluations"] = max(spread["evaluations"], one_more)
    unset = Calibration(centre, spread, math.inf, false_alarm_rate, len(scans))
    scores = sorted(unset.score(f) for f in held)
    return Calibration(centre, spread, scores[rank - 1], false_alarm_rate, len(scans))


NARROWEST = 0.02
"""Smallest spread of a feature, 2 %: equal scans would otherwise make every other one unusual."""


def slice_features(problem: Problem[Any], solution: Solution) -> Features:
    """The features that are compared with the calibration."""
    return features(
        problem.operator,
        problem.data,
        solution,
        problem.noise_level,
        problem.sample_count,
    )
