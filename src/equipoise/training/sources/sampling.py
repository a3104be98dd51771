"""Masks of training samples: of a fixed kind and acceleration, or drawn from ranges."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from equipoise.physics.sampling.masks import make_mask

Shape = tuple[int, int]


@dataclass(frozen=True)
class Sampling:
    """The distribution from which masks are drawn.

    Attributes
    ----------
    acceleration
        A number, or a range from which every sample draws log-uniformly. A range is lowered to what
        the coils of the sample and the calibration region allow.
    calibration
        Side of the calibration region, or a range; for a matrix of 256, and in proportion for
        others.
    mask
        A kind, see :func:`equipoise.make_mask`, or several, which are drawn with equal chances and
        turned by 90 degrees half of the time.
    """

    acceleration: float | tuple[float, float] = 4.0
    calibration: int | tuple[int, int] = 24
    mask: str | tuple[str, ...] = "variable-density-2d"

    def draw_mask(self, shape: Shape, n_coils: int, rng: np.random.Generator) -> Tensor:
        """A mask (1, y, x) for a matrix and a number of coils."""
        several = not isinstance(self.mask, str)
        kind = str(rng.choice(self.mask)) if several else str(self.mask)
        width = self.calibration
        full = width if isinstance(width, int) else int(rng.integers(width[0], width[1] + 1))
        calibration = max(round(full * min(shape) / 256), 6)
        acceleration = self.acceleration
        if isinstance(acceleration, tuple):
            lowest, highest = _usable(acceleration, kind, shape, calibration, n_coils)
            acceleration = float(np.exp(rng.uniform(np.log(lowest), np.log(highest))))
        mask = make_mask(kind, shape, acceleration, calibration, int(rng.integers(2**31)))
        turned = several and shape[0] == shape[1] and rng.random() < 0.5
        return mask.mT.contiguous() if turned else mask


def _usable(
    between: tuple[float, float], kind: str, shape: Shape, calibration: int, n_coils: int
) -> tuple[float, float]:
    """The part of a range of accelerations that the coils and the calibration region allow."""
    lines = kind in WHOLE_LINES
    offset, slope = USEFUL[lines]
    share = min(calibration / shape[1], 1) * (1 if lines else min(calibration / shape[0], 1))
    # Beyond this the coils cannot separate the aliases, and training would learn to invent them.
    highest = min(between[1], offset + slope * n_coils, MOST_CALIBRATION / share)
    return min(between[0], highest), highest


WHOLE_LINES = ("variable-density-1d", "uniform")
"""Masks that sample whole lines."""

USEFUL = {False: (3.0, 1.2), True: (2.0, 0.6)}
"""a and b of the highest acceleration for which n coils are trained, ``a + b n``; it is lower for
whole lines."""

MOST_CALIBRATION = 0.8
"""Largest share of the samples that the calibration region may take."""
