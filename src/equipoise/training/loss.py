"""The barrier (14) that training minimises in addition to the error of the image."""

import torch

from equipoise.shapes import PerSample


def log_barrier(estimate: PerSample, threshold: float, margin: float = 1e-3) -> PerSample:
    """``-log(T - l)`` for ``l < T - margin``, continued linearly with the same slope (14).

    Parameters
    ----------
    estimate
        l, (batch,).
    threshold
        T.
    margin
        Distance from T at which the straight line begins; its slope is ``1 / margin``.
    """
    # The logarithm is infinite at T, and an estimate can lie beyond it; the line keeps the slope
    # finite.
    gap = (threshold - estimate).clamp(min=margin)
    beyond = (estimate - (threshold - margin)).clamp(min=0)
    return -torch.log(gap) + beyond / margin
