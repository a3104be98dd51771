"""Measured samples that are withheld from a reconstruction, so that its predictions can be
tested."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from equipoise.physics.sampling.masks import calibration_region, centre_block

PROTECTED = 0.1
"""Largest share of the matrix, along each axis, of the central block that is never left out. Its
large samples would not test the fine detail that is to be predicted."""

FEWEST = 8
"""Smallest number of lines or samples that an error may rest on. To reach it, at most a third of
the candidates are left out."""

FEWEST_OF_SERIES = 30
"""The same for a series. The errors of its lines differ so much that with 12 of them a lam that was
five times too large, and cost 5.7 dB, was not significantly worse."""

NEIGHBOURS = 1 / 16
"""Side of the block over which the density of the sampling is averaged, relative to the matrix."""

LEAST_DENSITY = 0.05
"""A lower density counts as this one, because otherwise few samples at the edge of k-space, which
are mostly noise, would make up the error."""


class LeftOut(NamedTuple):
    """A mask in two parts.

    Attributes
    ----------
    kept, left_out
        (y, x), or (time, y, x) of a series, each; they do not overlap, and together they are the
        mask.
    along
        The axis of the lines that were left out as a whole; None if single samples were left out.
    """

    kept: Tensor
    left_out: Tensor
    along: int | None

    @property
    def measured(self) -> Tensor:
        """The mask."""
        return self.kept | self.left_out

    @property
    def unit(self) -> str:
        """The unit that was left out: ``line`` or ``sample``."""
        return "sample" if self.along is None else "line"

    def by_unit(self, power: Tensor) -> Tensor:
        """Sums of a map over each line, or each sample, that was left out, (units,)."""
        power = power * self.left_out
        if self.along is None:
            return power[self.left_out]
        return power.sum(self.along)[self.left_out.any(self.along)]


def leave_out(mask: Tensor, share: float, seed: int) -> LeftOut | None:
    """Leave out a share of the measured samples, or of the lines if whole lines were measured.

    The centre of the calibration region is kept, of a series that which every frame measured. The
    result is None if too few samples are left.

    Parameters
    ----------
    mask
        (y, x) or (time, y, x), True where measured.
    share
        Share of the samples, or lines, outside the calibration region.
    seed
        Seed of the draw.
    """
    y, x = mask.shape[-2:]
    region = zip(calibration_region(mask.reshape(-1, y, x).all(0)), (y, x))
    size = tuple(min(n, round(PROTECTED * whole)) for n, whole in region)
    free = mask.numpy() & ~centre_block((y, x), (size[0], size[1]))
    along = next((k for k in (mask.ndim - 2, mask.ndim - 1) if _constant(mask, k)), None)
    # A line may be left out only if none of its samples lies in the calibration region.
    units = free.ravel() if along is None else (free == mask.numpy()).all(along) & free.any(along)
    candidates = np.flatnonzero(units)
    fewest = FEWEST if mask.ndim == 2 else FEWEST_OF_SERIES
    count = max(round(share * len(candidates)), min(fewest, len(candidates) // 3))
    if count < FEWEST:
        return None
    chosen = np.zeros(units.size, bool)
    chosen[np.random.default_rng(seed).choice(candidates, count, replace=False)] = True
    if along is None:
        left_out = torch.from_numpy(chosen.reshape(mask.shape))
    else:
        lines = np.expand_dims(chosen.reshape(units.shape), along)
        left_out = torch.from_numpy(lines) & mask
    return LeftOut(mask & ~left_out, left_out, along)


def _constant(mask: Tensor, axis: int) -> bool:
    """Whether whole lines along the axis were measured, and some were not."""
    return bool((mask == mask.narrow(axis, 0, 1)).all()) and not bool(mask.all())


def density_weights(measured: Tensor, held: Tensor) -> Tensor:
    """Weights (batch, y, x) of held-back samples: one over the local density, of sum 1.

    The density at a sample is the measured share of the block around it.
    """
    weights = held / _density(measured.double())
    return weights / weights.flatten(1).sum(1)[:, None, None]


def weights_of_full_scan(measured: Tensor, held: Tensor) -> Tensor:
    """Weights (batch, y, x) of errors whose sum estimates the mean error of a full scan.

    One over the size of the matrix for the samples that were seen. Those held back stand for what
    was not measured, in proportion to the ratio of what was not to what was in the block around
    each, and are not counted themselves: the sum is one less their share of the matrix.
    """
    density = _density(measured.double())
    unmeasured = held * (1 / density - 1)
    total = unmeasured.flatten(1).sum(1)[:, None, None]
    share = (~measured).double().flatten(1).mean(1)[:, None, None]
    seen = (measured & ~held).double() / measured[0].numel()
    return seen + unmeasured * share / total.clamp(min=torch.finfo(torch.float64).tiny)


def density_weights_of_series(measured: Tensor, held: Tensor) -> Tensor:
    """The same of a series, (time, y, x), of sum 1; the density is that of all frames."""
    weights = held / _density(measured.double().mean(0, keepdim=True))
    return weights / weights.sum()


def _density(measured: Tensor) -> Tensor:
    """The measured share of the block around each sample, (batch, y, x), not below the least."""
    sides = [2 * round(n * NEIGHBOURS / 2) + 1 for n in measured.shape[1:]]
    found = F.avg_pool2d(
        measured[:, None],
        sides,
        stride=1,
        padding=[side // 2 for side in sides],
        count_include_pad=False,
    )[:, 0]
    return found.clamp(min=LEAST_DENSITY)
