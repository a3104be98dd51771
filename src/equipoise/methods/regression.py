"""Linear regression on the logarithms of features of scans."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Features = dict[str, float]

SMALLEST = 1e-12
"""Smallest value of a feature, because features are compared on a logarithmic scale."""

SHRINKAGE = 1.0
"""Number of further scans without a trend that slopes are shrunk by."""


def logarithm(value: float) -> float:
    """The logarithm of a feature."""
    return math.log(max(value, SMALLEST))


@dataclass(frozen=True)
class Regression:
    """``intercept + sum slope log f`` over features f.

    Attributes
    ----------
    intercept
        The value where every feature is 1.
    slopes
        By the name of the feature.
    """

    intercept: float
    slopes: Features

    def at(self, found: Mapping[str, float]) -> float:
        """The value for a scan."""
        return self.intercept + sum(s * logarithm(found[key]) for key, s in self.slopes.items())


def regress(
    values: Sequence[float], scans: Sequence[Mapping[str, float]], names: Sequence[str]
) -> Regression:
    """The least-squares fit of values of scans to the logarithms of their features.

    Features are standardised, and slopes are shrunk as by ``SHRINKAGE`` further scans without a
    trend (ridge regression), so that a few scans do not determine them.
    """
    logs = np.array([[logarithm(scan[key]) for key in names] for scan in scans])
    spread = logs.std(0)
    # A feature that never changes has no slope.
    unit = np.where(spread > SMALLEST, spread, 1.0)
    design = (logs - logs.mean(0)) / unit
    deviations = np.asarray(values) - np.mean(values)
    gram = design.T @ design + SHRINKAGE * np.eye(len(names))
    slopes = np.linalg.solve(gram, design.T @ deviations) / unit
    return Regression(
        float(np.mean(values) - slopes @ logs.mean(0)), dict(zip(names, slopes.tolist()))
    )
