"""Cartesian sampling masks from acceleration, calibration size and seed.

All masks are boolean (y, x) with DC at index ``n // 2`` and True where k-space is measured. Samples
are drawn without replacement, or trimmed to the exact number for the Poisson disc, so the
acceleration ``mask.numel() / mask.sum()`` is the requested one up to the rounding of one sample or
line.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from equipoise.outcome import BadInputError
from equipoise.shapes import Mask

DENSITY_POWER = 3.0
"""Sampling density ``(1 - |k| / k_max)^power``: the polynomial density of compressed sensing MRI
(Lustig, Donoho, Pauly, MRM 2007)."""

Shape = tuple[int, int]


def calibration_region(mask: torch.Tensor) -> tuple[int, ...]:
    """Size of the largest fully sampled block around DC, grown evenly and then along each axis.

    It is zero along every axis if DC itself is not sampled.
    """
    half = [0] * mask.ndim
    if not bool(mask[_block(mask, half)].all()):
        return (0,) * mask.ndim
    growing = True
    while growing:
        growing = False
        # Both axes in turn: growing one to its end first would make a long thin block.
        for axis in range(mask.ndim):
            trial = [h + (a == axis) for a, h in enumerate(half)]
            fits = trial[axis] <= (mask.shape[axis] + 1) // 2
            if fits and bool(mask[_block(mask, trial)].all()):
                half, growing = trial, True
    return tuple(min(2 * h, n) if h else 1 for h, n in zip(half, mask.shape))


def _block(mask: torch.Tensor, half: list[int]) -> tuple[slice, ...]:
    # A half width of 0 still selects DC itself.
    return tuple(slice(max(n // 2 - h, 0), n // 2 + max(h, 1)) for n, h in zip(mask.shape, half))


def centre_block(shape: Shape, size: Shape) -> np.ndarray:
    """True in the ``size`` block around DC."""
    block = np.zeros(shape, bool)
    (y, x), (height, width) = shape, size
    top, left = y // 2 - height // 2, x // 2 - width // 2
    block[top : top + height, left : left + width] = True
    return block


def partial_fourier(n: int, share: float, calibration: int) -> np.ndarray:
    """Which of n lines a partial Fourier scan may measure: the last ``share`` of them, (n,) bool.

    Raises
    ------
    BadInputError
        If the share is not in (0, 1], or leaves out lines of the calibration.
    """
    if not 0 < share <= 1:
        raise BadInputError(
            f"partial Fourier is {share:g}: give the share of k-space that is measured along the "
            "axis, from above 0.5 to 1"
        )
    first, centre = n - round(share * n), n // 2 - calibration // 2
    if first > centre:
        raise BadInputError(
            f"partial Fourier {share:g} of {n} lines begins at line {first}, and the {calibration} "
            f"lines of the calibration at line {centre}: raise the share, or calibrate on less"
        )
    return np.arange(n) >= first


def _draw(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` indices without replacement, with probability proportional to the weights."""
    # The Gumbel trick: the largest keys are such a draw. A weight of 0 comes last, but can be drawn
    # if nothing else is left, so the count is exact.
    keys = np.log(np.maximum(weights, 1e-12)) + rng.gumbel(size=weights.shape)
    return np.argsort(keys.ravel())[::-1][:count]


def count_to_draw(n_total: int, acceleration: float, n_calibration: int) -> int:
    """Number of samples to draw in addition to the calibration region."""
    # Written so that nan is refused too.
    if not acceleration >= 1:
        raise BadInputError(f"the acceleration is {acceleration}: it must be at least 1")
    budget = round(n_total / acceleration) - n_calibration
    if budget < 0:
        raise BadInputError(
            f"the calibration region alone holds {n_calibration} of {n_total} samples, more than "
            f"acceleration {acceleration:g} allows: lower the acceleration"
        )
    return budget


def _radius(shape: Shape) -> np.ndarray:
    """Distance from DC, 1 at the edge of the grid along each axis."""
    y, x = (np.abs(np.arange(n) - n // 2) / max(n / 2, 1) for n in shape)
    return np.hypot(y[:, None], x[None, :])


def variable_density_2d(
    shape: Shape, acceleration: float, calibration: int = 24, seed: int = 0
) -> Mask:
    """Non-uniform variable density, both phase-encoding directions undersampled."""
    rng = np.random.default_rng(seed)
    mask = centre_block(shape, _fit(shape, calibration))
    count = count_to_draw(mask.size, acceleration, int(mask.sum()))
    weights = np.maximum(1 - _radius(shape) / np.sqrt(2), 0) ** DENSITY_POWER
    weights[mask] = 0
    mask.ravel()[_draw(weights, count, rng)] = True
    return torch.from_numpy(mask)[None]


def variable_density_1d(
    shape: Shape, acceleration: float, calibration: int = 24, seed: int = 0
) -> Mask:
    """Variable density of whole lines: columns (the last axis) are kept or dropped."""
    rng = np.random.default_rng(seed)
    n = shape[1]
    lines = centre_block((1, n), (1, min(calibration, n)))[0]
    count = count_to_draw(n, acceleration, int(lines.sum()))
    # 0.999 keeps the outermost line possible; its weight would otherwise be exactly 0.
    weights = (1 - np.abs(np.arange(n) - n // 2) / max(n / 2, 1) * 0.999) ** DENSITY_POWER
    weights[lines] = 0
    lines[_draw(weights, count, rng)] = True
    return torch.from_numpy(np.broadcast_to(lines, shape).copy())[None]


def uniform(shape: Shape, acceleration: float, calibration: int = 24, seed: int = 0) -> Mask:
    """Equispaced lines with a calibration block; together they give the requested acceleration.

    The spacing is fractional if necessary (``equispaced_fraction`` of fastMRI). The seed chooses
    the offset.
    """
    n = shape[1]
    lines = centre_block((1, n), (1, min(calibration, n)))[0]
    count = count_to_draw(n, acceleration, int(lines.sum()))
    outside = np.flatnonzero(~lines)
    offset = np.random.default_rng(seed).random()
    picks = np.floor((np.arange(count) + offset) * len(outside) / max(count, 1)).astype(int)
    lines[outside[picks]] = True
    return torch.from_numpy(np.broadcast_to(lines, shape).copy())[None]


def poisson_disc(
    shape: Shape,
    acceleration: float,
    calibration: int = 24,
    seed: int = 0,
    *,
    elliptical: bool = False,
    partial: tuple[float, float] = (1.0, 1.0),
) -> Mask:
    """Variable-density Poisson disc: no two samples are closer than a radius that grows with |k|.

    Candidates are visited in random order (dart throwing). The radius is corrected until the
    number of samples fits; a few samples are then dropped or added at random to make it exact. With
    ``elliptical`` nothing is measured outside the ellipse within the matrix, and with ``partial``
    nothing in the first lines along each axis, see :func:`partial_fourier`.

    Raises
    ------
    BadInputError
        If fewer samples are left than the acceleration asks for.
    """
    rng = np.random.default_rng(seed)
    sides = _fit(shape, calibration)
    centre = centre_block(shape, sides)
    count = count_to_draw(centre.size, acceleration, int(centre.sum()))
    rows, columns = (partial_fourier(*own) for own in zip(shape, partial, sides))
    allowed = ~centre & rows[:, None] & columns
    if elliptical:
        allowed &= _radius(shape) <= 1
    if count > int(allowed.sum()):
        raise BadInputError(
            f"acceleration {acceleration:g} asks for {count} samples beside the calibration, and "
            f"{int(allowed.sum())} are left by the ellipse and by partial Fourier: raise the "
            "acceleration, or keep more of k-space"
        )
    order = rng.permutation(np.flatnonzero(allowed))
    radius = np.sqrt(acceleration)
    for _ in range(DISC_TRIALS):
        taken = _throw_darts(shape, order, radius)
        if count <= len(taken) <= DISC_EXCESS * count:
            break
        # The number of discs that fit is proportional to the inverse square of their radius.
        radius *= np.sqrt(max(len(taken), 1) / (max(count, 1) * (1 + DISC_EXCESS) / 2))
    mask = centre.copy()
    mask.ravel()[rng.permutation(taken)[:count]] = True
    missing = count - int(mask.sum() - centre.sum())
    mask.ravel()[rng.permutation(np.flatnonzero(allowed & ~mask))[:missing]] = True
    return torch.from_numpy(mask)[None]


DISC_TRIALS, DISC_EXCESS = 5, 1.04
"""Number of trials of the radius, and the ratio of samples to the count that ends them."""


def _throw_darts(shape: Shape, order: np.ndarray, radius: float) -> list[int]:
    """Accept candidates in order unless a sample lies within their radius."""
    radii = radius * (0.5 + _radius(shape).ravel())
    occupied = np.zeros(shape, bool)
    discs = {}
    taken = []
    for index in order:
        y, x = divmod(int(index), shape[1])
        r = float(radii[index])
        reach = int(r)
        # Few different radii occur, so the distances are kept instead of computed for each sample.
        if reach not in discs:
            offsets = np.arange(-reach, reach + 1)
            discs[reach] = offsets[:, None] ** 2 + offsets[None, :] ** 2
        top, left = max(y - reach, 0), max(x - reach, 0)
        window = occupied[top : y + reach + 1, left : x + reach + 1]
        distance = discs[reach][top - y + reach :, left - x + reach :]
        if not (window & (distance[: window.shape[0], : window.shape[1]] < r * r)).any():
            occupied[y, x] = True
            taken.append(int(index))
    return taken


def _fit(shape: Shape, calibration: int) -> Shape:
    return min(calibration, shape[0]), min(calibration, shape[1])


MASKS: dict[str, Callable[..., Mask]] = {
    "variable-density-2d": variable_density_2d,
    "variable-density-1d": variable_density_1d,
    "uniform": uniform,
    "poisson-disc": poisson_disc,
}
"""The masks under the names that configurations and commands use."""


def make_mask(
    kind: str, shape: Sequence[int], acceleration: float, calibration: int = 24, seed: int = 0
) -> Mask:
    """Draw the mask called ``kind``, shape (1, y, x).

    Raises
    ------
    BadInputError
        If there is no such kind, the shape is not (y, x), the acceleration is below 1, or the
        calibration region holds more samples than the acceleration allows.

    Examples
    --------
    >>> import equipoise as eq
    >>> mask = eq.make_mask("variable-density-2d", (128, 128), 4.0, calibration=16, seed=0)
    >>> mask.shape, mask.numel() / int(mask.sum())
    (torch.Size([1, 128, 128]), 4.0)
    """
    if len(shape) != 2 or min(shape) < 1:
        raise BadInputError(f"the shape is {tuple(shape)}: a mask has two sides, (y, x)")
    if kind not in MASKS:
        raise BadInputError(f"there is no mask called {kind!r}; there are {', '.join(MASKS)}")
    return MASKS[kind]((int(shape[0]), int(shape[1])), acceleration, calibration, seed)
