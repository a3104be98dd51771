"""Arrays whose axes have names, brought into the order of a scan: frame, coil, [z,] y, x.

``axes`` names the axes of ``kspace``, in any order: ``coil``, ``y``, ``x`` and, of a volume, ``z``;
every other name labels frames (slice, time, phase, repetition, contrast, average, set). ``mask``,
``csm`` and ``target`` have the same order without the axes that they lack, or names of their own in
``mask_axes``, ``csm_axes`` and ``target_axes``.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from equipoise.outcome import BadInputError

SPACE = ("z", "y", "x")
FRAMES = ("set", "average", "contrast", "repetition", "phase", "time", "slice")
"""Axes of frames, in the order in which they become a stack: slices vary fastest."""

KNOWN = (*FRAMES, "coil", *SPACE)
NAMES = ("axes", "mask_axes", "csm_axes", "target_axes", "frame_time")
"""Arrays of a file that say what the others are; ``frame_time`` is in seconds."""


class Arranged(NamedTuple):
    """K-space (frame, coil, [z,] y, x), its companions, and the label of each frame."""

    kspace: np.ndarray
    others: dict[str, np.ndarray]
    labels: list[dict[str, int]]
    volume: bool


def arranged(arrays: Mapping[str, np.ndarray], source: str) -> Arranged:
    """The arrays of a file that names their axes in ``axes``.

    Raises
    ------
    BadInputError
        If a name is unknown or occurs twice, their number does not fit, y or x is missing, or an
        axis has another length than in k-space.
    """
    kspace = arrays["kspace"]
    axes = _names(arrays["axes"], kspace, "kspace", source)
    if not {"y", "x"} <= set(axes):
        raise BadInputError(f"{source}: axes is {list(axes)}: y and x are missing")
    sizes = {name: n for name, n in zip(axes, kspace.shape) if name != "z" or n > 1}
    frames = tuple(name for name in FRAMES if name in sizes)
    space = tuple(name for name in SPACE if name in sizes)
    shape = tuple(sizes[name] for name in frames)
    matrix = tuple(sizes[name] for name in space)
    others: dict[str, np.ndarray] = {}
    for name in ("mask", "csm", "target"):
        if name not in arrays:
            continue
        own = _names_of(arrays, name, axes, source)
        wanted = (*frames, *(("coil",) if name == "csm" else ()), *space)
        _check_sizes(arrays[name], own, dict(zip(axes, kspace.shape)), name, source)
        array = _ordered(arrays[name], own, wanted, name, source)
        # One set of maps serves all frames; a mask of lines stands for all of their samples.
        if name == "csm" and not set(own) & set(frames):
            others[name] = array.reshape(1, *array.shape[len(frames) :])
        else:
            middle = array.shape[len(frames) : array.ndim - len(space)]
            array = np.broadcast_to(array, (*shape, *middle, *matrix))
            others[name] = array.reshape(-1, *middle, *matrix)
    labels = [dict(zip(frames, index)) or {"slice": 0} for index in np.ndindex(*shape)]
    found = _ordered(kspace, axes, (*frames, "coil", *space), "kspace", source)
    stack = found.reshape(-1, *found.shape[len(frames) :])
    return Arranged(stack, others, labels, "z" in sizes)


def frame_ms(arrays: Mapping[str, np.ndarray], source: str) -> float | None:
    """The time between frames in ms; None if the file does not tell.

    Raises
    ------
    BadInputError
        If it is not one positive number.
    """
    if "frame_time" not in arrays:
        return None
    given = arrays["frame_time"]
    if given.size != 1 or not np.issubdtype(given.dtype, np.number) or not given.flat[0] > 0:
        raise BadInputError(
            f"{source}: frame_time is {given}: expected seconds, one positive number"
        )
    return float(given.flat[0]) * 1e3


def _names(given: np.ndarray, array: np.ndarray, what: str, source: str) -> tuple[str, ...]:
    """Names as an array of texts, or as one text with spaces or commas between them."""
    if given.dtype.kind != "U":
        raise BadInputError(
            f"{source}: the axes of {what} have the type {given.dtype}: expected texts, such as "
            'np.array(["time", "coil", "y", "x"])'
        )
    text = " ".join(str(name) for name in given.ravel())
    words = text.lower().replace(",", " ").split()
    # In arrays without names these axes are written as (slices, coils, y, x).
    found = tuple(word[:-1] if word[:-1] in KNOWN else word for word in words)
    unknown = [name for name in found if name not in KNOWN]
    if unknown or len(set(found)) < len(found) or len(found) != array.ndim:
        raise BadInputError(
            f"{source}: {what} has the shape {array.shape} and the axes {words}: each needs "
            f"a name of its own out of {', '.join(KNOWN)}"
        )
    return found


def _names_of(
    arrays: Mapping[str, np.ndarray], name: str, axes: tuple[str, ...], source: str
) -> tuple[str, ...]:
    """The names of the axes of a mask, maps or a target."""
    array, key = arrays[name], f"{name}_axes"
    if key in arrays:
        return _names(arrays[key], array, name, source)
    left_out = {"csm": ("coil", *SPACE), "mask": SPACE, "target": SPACE}[name]
    choices = [axes if name == "csm" else tuple(a for a in axes if a != "coil")]
    choices.append(tuple(a for a in axes if a in left_out))
    fitting = [one for one in choices if len(one) == array.ndim]
    if not fitting:
        raise BadInputError(
            f"{source}: {name} has the shape {array.shape}, and kspace has the axes {list(axes)}: "
            f"name those of {name} in {key}"
        )
    return fitting[0]


def _check_sizes(
    array: np.ndarray, axes: tuple[str, ...], sizes: dict[str, int], name: str, source: str
) -> None:
    """Refuse an array with another number of frames, coils or points than k-space."""
    for axis, n in zip(axes, array.shape):
        if n not in (1, sizes.get(axis, n)):
            raise BadInputError(
                f"{source}: {name} has {n} along {axis}, and kspace has {sizes[axis]}: every frame "
                "needs the matrix of k-space, and a mask for each frame, or one for all"
            )


def _ordered(
    array: np.ndarray, axes: tuple[str, ...], wanted: tuple[str, ...], what: str, source: str
) -> np.ndarray:
    """The array with its axes in another order; those that it lacks have the length 1."""
    extra = [name for name, n in zip(axes, array.shape) if name not in wanted and n > 1]
    if extra:
        raise BadInputError(
            f"{source}: {what} has the axes {list(axes)}, and {', '.join(extra)} does not belong "
            "to it"
        )
    present = [axes.index(name) for name in wanted if name in axes]
    alone = tuple(i for i in range(array.ndim) if i not in present)
    missing = tuple(i for i, name in enumerate(wanted) if name not in axes)
    moved = array.transpose(*alone, *present).reshape([array.shape[i] for i in present])
    return np.expand_dims(moved, missing)
