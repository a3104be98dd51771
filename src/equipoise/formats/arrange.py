"""The axes and the centre of arrays without a header, inferred from the data.

K-space concentrates its energy about one point, while coils share it evenly. This tells which axis
is which, and where DC lies. A certain mistake is corrected with a note; everything else is left
unchanged.
"""

import warnings

import numpy as np

from equipoise.formats.coil_axis import checked_coil_axis
from equipoise.outcome import BadInputError, InputWarning

CERTAIN, DIFFERENT = 0.8, 0.6
"""Shares of the energy in a quarter of an axis. An axis with more than the first is one of k-space;
an axis with less than the second is not. Heads and knees have 0.9 and more, noise has 0.25."""

MAX_COILS, MIN_MATRIX = 128, 16
"""Most coils, and smallest matrix, for which axes are told apart."""

OFF_CENTRE = 1 / 8
"""Share of the matrix by which an echo is never off centre, however the scan was shimmed."""

PROMINENT = 20
"""Smallest ratio of the energy of the largest sample to the mean that counts as a peak."""


def arranged(kspace: np.ndarray, *, alone: bool, source: str, notes: list[str]) -> np.ndarray:
    """Complex k-space (slices, coils, y, x) with DC at ``n // 2``, inferred from the data.

    Parameters
    ----------
    kspace
        The array; it is returned unchanged unless it has four axes.
    alone
        Whether no other array (mask, maps, target) follows the same order.
    source
        The file.
    notes
        Receives a note for each change.

    Raises
    ------
    BadInputError
        If DC must be moved but other arrays follow the same order, or the axes are in another order
        that is not certain.

    Warns
    -----
    InputWarning
        If the data do not tell which axis holds the coils, but may.
    """
    if kspace.ndim != 4 or not np.iscomplexobj(kspace) or 0 in kspace.shape:
        return kspace
    power = _power(kspace)
    # NaN and zero k-space are refused later, with a message of their own.
    if power is None:
        return kspace
    if _coils_are_last(power):
        notes.append(
            f"the axes are taken as (slices, y, x, coils): axis 1 of {kspace.shape} is peaked as "
            "k-space is, the last one is not"
        )
        kspace = np.moveaxis(kspace, -1, 1)
        power = np.moveaxis(power, -1, 0)
    else:
        _check_order(kspace, source)
    axes = _corner_axes(power.sum(0))
    # Shifting only the k-space would silently separate it from its mask and maps.
    if axes and not alone:
        raise BadInputError(
            f"{source}: the energy of the k-space lies in the corner of the matrix, but DC must be "
            "at the centre (index n // 2): apply fftshift to k-space and mask, and shift maps and "
            "target to match"
        )
    if axes:
        kspace = _from_corner(kspace, axes, notes)
    return checked_coil_axis(kspace, alone=alone, source=source, notes=notes)


def _power(kspace: np.ndarray) -> np.ndarray | None:
    """Energy summed over slices; None if it is not finite or zero."""
    # Scaled first: squares of large or tiny samples would overflow or vanish in single precision.
    with np.errstate(over="ignore", invalid="ignore"):
        scale = float(np.abs(kspace).max())
        if not np.isfinite(scale) or scale == 0:
            return None
        power: np.ndarray = np.square(np.abs(kspace) / scale).sum(0, dtype=float)
    return power


def _share(power: np.ndarray, axis: int, corner: bool = False) -> float:
    """Share of the energy in the middle quarter of an axis, or in the quarter about its corner."""
    profile = power.sum(tuple(a for a in range(power.ndim) if a != axis))
    # A quarter about the corner is the middle quarter after this shift.
    profile = np.fft.fftshift(profile) if corner else profile
    n = len(profile)
    half = max(n // 8, 1)
    return float(profile[n // 2 - half : n // 2 + half].sum() / profile.sum())


def _coils_are_last(power: np.ndarray) -> bool:
    """Whether the last of the axes (1, 2, 3) of an array is that of the coils."""
    rows, _, last = power.shape
    # Small matrices have no clear peak, and an axis as long as the first is of the matrix.
    if last > MAX_COILS or min(power.shape[:2]) < MIN_MATRIX or last >= rows:
        return False
    # DC may lie in the middle or in the corner, which is decided only after the axes.
    looks = [max(_share(power, a), _share(power, a, corner=True)) for a in range(3)]
    return looks[0] > CERTAIN and looks[1] > CERTAIN and looks[2] < DIFFERENT


def _check_order(kspace: np.ndarray, source: str) -> None:
    """Refuse an array in which two other axes than the last two are those of k-space."""
    power = _power(kspace[None])
    assert power is not None  # the same samples were found to be finite and not zero
    looks = [max(_share(power, a), _share(power, a, corner=True)) for a in range(4)]
    long = [n >= MIN_MATRIX for n in kspace.shape]
    peaked = [a for a in range(4) if long[a] and looks[a] > CERTAIN]
    # The middle of a short axis is most of it, whatever it holds.
    flat = [a for a in range(4) if not long[a] or looks[a] < DIFFERENT]
    if len(peaked) != 2 or not {2, 3} & set(flat):
        return
    first, second = (a for a in range(4) if a not in peaked)
    raise BadInputError(
        f"{source}: axes {peaked[0]} and {peaked[1]} of the shape {kspace.shape} are peaked as "
        "k-space is, but the order must be (slices, coils, y, x): write "
        f"kspace.transpose({first}, {second}, {peaked[0]}, {peaked[1]}), or "
        f"({second}, {first}, {peaked[0]}, {peaked[1]}) if axis {first} holds the coils"
    )


def _corner_axes(power: np.ndarray) -> tuple[int, ...]:
    """The axes of a plane, as -2 and -1, along which the energy lies at the ends."""
    if min(power.shape) < MIN_MATRIX:
        return ()
    # One spike can hold most of the energy, but the energy of an object is never in one sample.
    power = power.copy()
    power[np.unravel_index(power.argmax(), power.shape)] = 0
    if not power.any():
        return ()
    return tuple(
        a for a in (-2, -1)
        if _share(power, a + 2, corner=True) > CERTAIN and _share(power, a + 2) < 1 - CERTAIN
    )  # fmt: skip


def _from_corner(kspace: np.ndarray, axes: tuple[int, ...], notes: list[str]) -> np.ndarray:
    """Convert k-space of a transform without shifts along axes to that of the centred transform.

    The object tells whether the origin of the image was in the corner too; it ends in the middle.
    """
    images = np.fft.ifftn(kspace, axes=axes, norm="ortho")
    # In double precision, because squares of large samples overflow single precision.
    power = np.square(np.abs(np.fft.ifft2(kspace)), dtype=float).sum((0, 1))
    # Twice as much, because a large object fills the corner and the middle alike.
    moved = all(_share(power, a + 2, corner=True) > 2 * _share(power, a + 2) for a in axes)
    if not moved:
        images = np.fft.ifftshift(images, axes=axes)
    centred = np.fft.fftshift(np.fft.fftn(images, axes=axes, norm="ortho"), axes=axes)
    of = "" if len(axes) == 2 else f" along {'yx'[axes[0]]} only"
    notes.append(
        f"the energy lay in the corner of the matrix{of}: DC was moved to the centre, assuming a "
        "transform without shifts" + (" of a shifted image" if moved else "")
    )
    measured = np.fft.fftshift(kspace.any(1, keepdims=True), axes=axes)
    # The two transforms leave rounding where nothing was measured, which would count as samples.
    return (centred * measured).astype(kspace.dtype)


EVEN = 0.45
"""Share of the energy in a quarter of an axis, up to which it is spread over the axis."""


def look_like_spokes(frames: np.ndarray) -> bool:
    """Whether the readouts of (frame, coil, readout, sample, 1) each cross the centre of k-space.

    Their energy is then peaked along the samples and even along the readouts, which that of
    k-space on a matrix never is.
    """
    power = _power(frames[..., 0].reshape(-1, *frames.shape[2:4]))
    if power is None or min(power.shape) < MIN_MATRIX:
        return False
    evenly = max(_share(power, 0), _share(power, 0, corner=True)) < EVEN
    along = np.sort(power.sum(0))[::-1]
    return evenly and bool(along[: len(along) // 4].sum() > CERTAIN * along.sum())


def warn_off_centre(kspace: np.ndarray, source: str) -> None:
    """Warn if the energy of a stack of slices peaks far from the assumed position of DC.

    Warns
    -----
    InputWarning
        If it does.
    """
    power = _power(kspace)
    if power is None or min(kspace.shape[2:]) < MIN_MATRIX:
        return
    power = power.sum(0)
    peak = np.unravel_index(int(power.argmax()), power.shape)
    if power.max() < PROMINENT * power.mean():
        return
    off = [abs(int(p) - n // 2) / n for p, n in zip(peak, power.shape)]
    if max(off) > OFF_CENTRE:
        centre = tuple(n // 2 for n in power.shape)
        warnings.warn(
            f"{source}: the energy of the k-space peaks at {tuple(int(p) for p in peak)} (y, x), "
            f"but DC is assumed at {centre}: if that is wrong, the image is wrong too. Give the "
            "matrix and the encoding limits of the whole k-space, or pad it with zeros",
            InputWarning,
            stacklevel=3,
        )
