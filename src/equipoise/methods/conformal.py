"""Bounds that hold for a stated share of new scans, from the scores of calibration scans.

Scans of one subject are not exchangeable with those of a new one, so the unit is the subject
(hierarchical conformal prediction; Lee, Barber, Willett, arXiv:2306.06342, 2023).
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from equipoise.outcome import BadInputError

ROUNDING = 1e-9
"""Rounding of a level, such as 0.95, and of sums of weights: far below one over any number of
scans."""


def highest_level(subjects: int) -> float:
    """The highest level of a bound from this number of subjects, ``n / (n + 1)``."""
    return subjects / (subjects + 1)


def needed_subjects(level: float) -> int:
    """The smallest number of subjects from which a bound of a level exists."""
    return math.ceil(level / (1 - level) - ROUNDING)


def conformal_quantile(scores: Iterable[Sequence[float]], level: float) -> float:
    """The smallest q that a score of a new subject does not exceed with a stated probability.

    With K subjects, subject k with N_k scores, q is the quantile of the distribution that gives
    each score of subject k the weight ``1 / ((K + 1) N_k)`` and infinity the weight ``1 / (K +
    1)``. If the K subjects and a new one are exchangeable, and so are the scans of each of them,
    then ``P(score <= q) >= level`` for one scan of the new subject. The probability is over the
    calibration too. With one scan for each subject this is split conformal prediction.

    Parameters
    ----------
    scores
        The scores of each subject.
    level
        The probability, in (0, 1).

    Raises
    ------
    BadInputError
        If the level is not in (0, 1), or there are too few subjects for it.
    """
    if not 0 < level < 1:
        raise BadInputError(f"the level is {level:g}: it must lie in (0, 1)")
    groups = [np.asarray(own, float) for own in scores if len(own)]
    # The weight of infinity alone would exceed 1 - level, and no finite bound has this level.
    if len(groups) < needed_subjects(level):
        raise BadInputError(too_few(len(groups), level))
    values = np.concatenate(groups)
    weights = np.concatenate([np.full(len(own), 1 / len(own)) for own in groups])
    order = values.argsort()
    reached = weights[order].cumsum()
    place = reached.searchsorted((len(groups) + 1) * level - ROUNDING)
    return float(values[order][place])


def too_few(subjects: int, level: float) -> str:
    """The message for too few subjects, with the level that exists."""
    text = (
        f"{subjects} calibration subjects (one half of all) give no bound at a level of "
        f"{level:.4g}: a level exists for n >= level / (1 - level) subjects, here "
        f"{needed_subjects(level)}. "
    )
    if not subjects:
        return text + "Give images of more subjects"
    highest = math.floor(highest_level(subjects) * 1000) / 1000
    return (
        text + f"From {subjects} subjects the level can be {highest:g} at most: --level {highest:g}"
    )
