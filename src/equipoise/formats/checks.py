"""Arrays of a scan, checked before anything is built from them."""

import numpy as np

from equipoise.outcome import BadInputError
from equipoise.readable import counted


def as_mask(mask: np.ndarray, kspace: np.ndarray, source: str) -> np.ndarray:
    """The mask of a file as (1 or slices, matrix) bool; (x,) means whole columns.

    (y, 1) means whole rows. (y,) means rows too if it cannot mean columns: if the matrix is not
    square, or if columns would leave out existing samples and rows would not.

    Raises
    ------
    BadInputError
        If the mask does not fit the matrix of the k-space, is not finite, holds more than one value
        besides zero, or selects nothing, or nothing of a frame that has samples.
    """
    n_slices, _, *matrix = kspace.shape
    x = matrix[-1]
    if not np.issubdtype(np.asarray(mask).dtype, np.number) and mask.dtype != bool:
        raise BadInputError(f"{source}: the mask has the type {mask.dtype}; expected numbers")
    if not np.isfinite(mask).all():
        raise BadInputError(f"{source}: the mask holds NaN or Inf; expected zeros and ones")
    # Masks come as bool, integers or floats.
    selected = np.asarray(mask) != 0
    values = np.unique(np.asarray(mask)[selected])
    # A sampling density or an image, given by mistake, would count as fully sampled.
    if len(values) > 1:
        raise BadInputError(
            f"{source}: the mask holds values such as {values[0]:.4g} and {values[-1]:.4g}; "
            "expected zeros and ones: write mask = mask > threshold"
        )
    if selected.ndim == 1 or selected.shape in ((1, x), (*matrix[:-1], 1)):
        selected = _lines(selected, kspace)
    if selected.ndim == len(matrix):
        selected = selected[None]
    if selected.shape not in ((1, *matrix), (n_slices, *matrix)):
        raise BadInputError(
            f"{source}: the mask has shape {np.shape(mask)}; expected ({x},) for columns, "
            f"{(*matrix[:-1], 1)} for rows, {tuple(matrix)} or {(n_slices, *matrix)} for "
            "this k-space"
        )
    seen = selected.any(axis=matrix_axes(selected))
    if not seen.any():
        raise BadInputError(f"{source}: the sampling mask is empty: nothing was measured")
    # It would give an image of zeros that looks like a result. Frames without samples are left out.
    lost = [i for i in np.flatnonzero(~seen).tolist() if kspace[i].any()]
    if lost:
        raise BadInputError(
            f"{source}: the mask is empty for {counted(len(lost), 'frame')} of {n_slices} that "
            f"have samples, the first is frame {lost[0]} (from 0): correct the mask"
        )
    return selected


def _lines(selected: np.ndarray, kspace: np.ndarray) -> np.ndarray:
    """A mask of whole lines on the matrix; a mask that does not fit is returned unchanged."""
    matrix = kspace.shape[2:]
    y, x = matrix[-2:]
    if selected.shape == (y,) and len(matrix) == 2 and (x != y or _are_rows(selected, kspace)):
        selected = selected[:, None]
    # What does not fit is refused by the caller, which knows the shapes to name.
    fits = all(n in (1, m) for n, m in zip(selected.shape[::-1], matrix[::-1]))
    return np.broadcast_to(selected, matrix) if fits else selected


def _are_rows(selected: np.ndarray, kspace: np.ndarray) -> bool:
    """Whether the zeros of k-space tell that a mask (n,) of an (n, n) matrix means rows."""
    sampled = np.asarray(kspace.any(axis=(0, 1)))
    return not sampled[~selected].any() and bool(sampled[:, ~selected].any())


def as_maps(csm: np.ndarray, shape: tuple[int, ...], source: str) -> np.ndarray:
    """Coil maps of a file as (1 or slices, coils, matrix) complex.

    Raises
    ------
    BadInputError
        If they do not fit the k-space, hold NaN or Inf, or are zero everywhere.
    """
    maps = np.asarray(csm)
    if not np.issubdtype(maps.dtype, np.number):
        raise BadInputError(f"{source}: the coil maps have the type {maps.dtype}; expected complex")
    # One set of maps serves all slices.
    maps = maps[None] if maps.ndim == len(shape) - 1 else maps
    if maps.shape not in (tuple(shape), (1, *shape[1:])):
        raise BadInputError(
            f"{source}: the coil maps have shape {np.shape(csm)}; this k-space needs "
            f"{tuple(shape[1:])} or {tuple(shape)} (slices, coils, y, x)"
        )
    if not np.isfinite(maps).all():
        raise BadInputError(f"{source}: the coil maps hold NaN or Inf: estimate them again")
    if not maps.any(axis=matrix_axes(maps)).all():
        raise BadInputError(
            f"{source}: the coil maps are zero everywhere: estimate them again, or leave them out "
            "so that they are estimated from the calibration region"
        )
    check_range(maps, f"{source}: the coil maps")
    return maps.astype(np.complex64)


def check_samples(samples: np.ndarray, source: str, axes: str) -> None:
    """Check that k-space is complex with the named axes, finite, and not zero everywhere.

    Raises
    ------
    BadInputError
        If it is not.
    """
    if samples.ndim != len(axes.split(",")) or not np.iscomplexobj(samples):
        raise BadInputError(
            f"{source}: kspace has shape {samples.shape} and type {samples.dtype}; expected "
            f"complex ({axes})"
        )
    if 0 in samples.shape:
        raise BadInputError(f"{source}: kspace is empty, its shape is {samples.shape}")
    n_bad = int((~np.isfinite(samples)).sum())
    if n_bad:
        raise BadInputError(
            f"{source}: {n_bad} of {samples.size} samples of k-space are NaN or Inf: repair the "
            "file, or set lost samples to zero so that they count as not measured"
        )
    if not samples.any():
        raise BadInputError(
            f"{source}: k-space is zero everywhere: there is nothing to reconstruct"
        )
    check_range(samples, f"{source}: samples of k-space")


def check_range(array: np.ndarray, what: str) -> None:
    """Refuse finite numbers of which single precision can hold none, or not the largest.

    Raises
    ------
    BadInputError
        If the largest magnitude overflows or vanishes.
    """
    smallest, most = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
    if array.dtype.kind not in "fc" or float(np.finfo(array.dtype).max) <= most:
        return
    largest = max(float(np.abs(part).max()) for part in (array.real, array.imag))
    if largest > most or 0 < largest < smallest:
        raise BadInputError(
            f"{what} reach {largest:.3g}, beyond single precision, which holds {smallest:.2g} to "
            f"{most:.2g}: divide them by that number"
        )


def check_target(target: np.ndarray, needed: tuple[int, ...], source: str) -> None:
    """Check that a target has the needed shape and holds finite numbers.

    Raises
    ------
    BadInputError
        If it does not.
    """
    if target.shape != needed:
        raise BadInputError(f"{source}: target has shape {target.shape}, expected {needed}")
    if not np.issubdtype(target.dtype, np.number):
        raise BadInputError(f"{source}: the target has the type {target.dtype}; expected numbers")
    if not np.isfinite(target).all():
        raise BadInputError(f"{source}: the target holds NaN or Inf: leave it out of the file")
    check_range(target, f"{source}: values of the target")


def matrix_axes(array: np.ndarray) -> tuple[int, ...]:
    """All axes but the first."""
    return tuple(range(1, array.ndim))
