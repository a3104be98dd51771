"""Masks of series and of volumes: k-t variable density, and Poisson discs across a readout."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from equipoise.outcome import BadInputError
from equipoise.physics.sampling.masks import (
    centre_block,
    count_to_draw,
    partial_fourier,
    poisson_disc,
)
from equipoise.shapes import Mask

GOLDEN = (math.sqrt(5) - 1) / 2
"""The golden ratio: multiples of it modulo 1 put successive frames far from each other."""

TIME_POWER = 1.0
"""Sampling density ``(1 - |k| / k_max)^power`` of a frame. It falls more slowly than that of
one image, because a series covers the outer columns only if they are not too rare."""

BISECTIONS = 60
"""Halvings of the interval in which the factor of a density is sought: down to double precision."""


def kt_mask(
    shape: Sequence[int],
    acceleration: float,
    calibration: int = 4,
    seed: int = 0,
    partial: float = 1.0,
) -> Mask:
    """Variable density of whole columns, different in every frame, (1, time, y, x).

    Every frame holds the central ``calibration`` columns. Of the others, each is measured with a
    probability that falls towards the edge of k-space, by systematic sampling: where the cumulative
    probability passes ``u_t, u_t + 1, ...``. The offsets of n frames are ``u_0 + k / n`` modulo 1,
    in the order of the multiples of the golden ratio, which interleave successive frames, as in
    golden-ratio-offset sampling (Joshi et al., arXiv:2206.03630) and VISTA (Ahmad et al., Magn.
    Reson. Med. 74:1266-1278, 2015). A column whose probability is at least 1 / n is measured in
    some frame: all frames together leave no gap about the centre, so that their mean calibrates.
    All frames have the same number of columns, so the acceleration is the requested one up to the
    rounding of one column.

    Parameters
    ----------
    shape
        (time, y, x). The columns vary along x, the phase encoding; y is the readout.
    acceleration
        Columns of the matrix divided by measured columns.
    calibration
        Central columns of every frame.
    seed
        Of the offset of the first frame.
    partial
        Share of k-space along x that is measured (partial Fourier): no frame holds a column of the
        rest. The acceleration stays the requested one.

    Raises
    ------
    BadInputError
        If the shape does not have three sides, the acceleration is below 1, the calibration holds
        more columns than the acceleration allows, or partial Fourier leaves too few.

    Examples
    --------
    >>> import equipoise as eq
    >>> mask = eq.kt_mask((20, 64, 64), 8.0, seed=0)
    >>> mask.shape, mask.numel() / int(mask.sum())
    (torch.Size([1, 20, 64, 64]), 8.0)
    """
    frames, height, width = _three(shape)
    centre = centre_block((1, width), (1, min(calibration, width)))[0]
    count = count_to_draw(width, acceleration, int(centre.sum()))
    measured = partial_fourier(width, partial, int(centre.sum()))
    outside = np.flatnonzero(~centre & measured)
    if count > len(outside):
        raise BadInputError(
            f"acceleration {acceleration:g} asks for {count} columns beside the calibration, and "
            f"partial Fourier {partial:g} leaves {len(outside)}: raise one of them"
        )
    distance = np.abs(outside - width // 2) / max(width / 2, 1)
    # 0.999 keeps the outermost column possible; its weight would otherwise be exactly 0.
    chances = _inclusion((1 - 0.999 * distance) ** TIME_POWER, count)
    passed = np.concatenate([[0.0], np.cumsum(chances)])
    first = np.random.default_rng(seed).random()
    places = np.argsort(np.argsort(np.arange(frames) * GOLDEN % 1)) / frames
    mask = np.zeros((frames, width), bool)
    for t in range(frames):
        offset = (first + places[t]) % 1
        # The number of thresholds below each end; an interval that holds one is chosen.
        below = np.ceil(np.maximum(passed - offset, 0)).astype(int)
        mask[t] = centre
        mask[t, outside[np.diff(below) > 0]] = True
    lines = torch.from_numpy(mask)
    return lines[None, :, None].expand(1, frames, height, width).clone()


def _inclusion(weights: np.ndarray, count: int) -> np.ndarray:
    """Probabilities ``min(1, c w)`` whose sum is a count, rounded so that the last sum is exact."""
    if count == 0:
        return np.zeros(len(weights))
    low, high = 0.0, len(weights) / max(weights.min(), np.finfo(float).tiny)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if np.minimum(1, middle * weights).sum() < count else (low, middle)
        )
    chances = np.minimum(1, high * weights)
    # Systematic sampling draws exactly `count` only if the sum is that number.
    return chances * (count / chances.sum())


def volume_mask(
    shape: Sequence[int],
    acceleration: float,
    calibration: int = 24,
    seed: int = 0,
    elliptical: bool = True,
    partial: tuple[float, float] = (1.0, 1.0),
) -> Mask:
    """Variable-density Poisson disc in the plane (z, y), whole lines along the readout x.

    Parameters
    ----------
    shape
        (z, y, x).
    acceleration
        Points of the matrix divided by measured points, with the corners that are left out.
    calibration
        Side of the fully sampled centre in z and y.
    seed
        See :func:`equipoise.make_mask`.
    elliptical
        Leave out the corners of k-space, outside the ellipse within the plane: about a fifth of it.
    partial
        Shares of k-space along z and y that are measured (partial Fourier): the first lines of each
        are left out. The acceleration stays the requested one.

    Returns
    -------
    (1, z, y, x).

    Raises
    ------
    BadInputError
        If the shape does not have three sides, the acceleration is below 1, or the calibration
        region holds more samples than the acceleration allows, or partial Fourier leaves too few.

    Examples
    --------
    >>> import equipoise as eq
    >>> mask = eq.volume_mask((48, 64, 8), 6.0, calibration=12, seed=0)
    >>> mask.shape, round(mask.numel() / int(mask.sum()), 2), bool(mask[0, 0, 0].any())
    (torch.Size([1, 48, 64, 8]), 6.0, False)
    """
    z, y, x = _three(shape)
    plane = poisson_disc(
        (z, y), acceleration, calibration, seed, elliptical=elliptical, partial=partial
    )
    return plane[..., None].expand(1, z, y, x).clone()


def _three(shape: Sequence[int]) -> tuple[int, int, int]:
    if len(shape) != 3 or min(shape) < 1:
        raise BadInputError(
            f"the shape is {tuple(shape)}: a series has the sides (time, y, x), and a volume "
            "(z, y, x)"
        )
    first, second, third = (int(n) for n in shape)
    return first, second, third
