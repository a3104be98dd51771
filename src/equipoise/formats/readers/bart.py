"""BART ``.cfl`` with ``.hdr``: complex64, column-major, up to 16 dimensions.

Dimensions 0 to 2 are space, 3 is coils, and the frames of a series lie along 5 (echoes), 10 (time),
11 (cardiac or respiratory phase), 13 (slices), 14 (averages) and 15. Along a trajectory, which is
a cfl of its own, (3, sample, readout), the k-space is (1, sample, readout, coil).
"""

from pathlib import Path

import numpy as np
import torch

from equipoise.formats.acquisition import (
    Acquisition,
    make_acquisition,
    make_trajectory_acquisition,
)
from equipoise.formats.arrange import look_like_spokes
from equipoise.formats.cfl import COIL, LABELS, N_DIMENSIONS, frames_of, read_cfl
from equipoise.formats.encoding import TrajectoryEncoding, holding_matrix
from equipoise.formats.header import Header
from equipoise.outcome import BadInputError


def read(path: Path) -> Acquisition:
    """Read Cartesian k-space; coil maps are in another cfl and given with ``--csm``."""
    array = read_cfl(path)
    labels = _labels(array, path)
    # (frame, coil, dim 2, dim 1, dim 0), the byte order of the cfl. A spatial dimension of 1 makes
    # the scan 2D, whichever it is.
    frames = frames_of(array)
    if array.shape[0] == 1 and array.shape[2] > 1 and look_like_spokes(frames):
        raise BadInputError(
            f"{path} {_text(array)} looks like readouts of a trajectory: their energy is spread "
            "evenly over dimension 2, where k-space has its centre. Describe it with `equipoise "
            "info --trajectory`, and grid it first to reconstruct it (`bart nufft -i`, `bart fft "
            "-u`)"
        )
    flat = next((axis for axis in (2, 4, 3) if frames.shape[axis] == 1), None)
    return make_acquisition(
        frames if flat is None else frames.squeeze(flat),
        str(path),
        "BART",
        notes=["assumed: centred unitary transform (bart fft -u)"],
        header=Header(labels=labels),
        volume=flat is None,
    )


def read_along(path: Path, trajectory: Path) -> Acquisition:
    """Read k-space (1, sample, readout, coil) with its trajectory (3, sample, readout).

    The matrix is not in these files. It is the smallest even one that holds the coordinates, which
    is the rule of `bart nufft`.

    Raises
    ------
    BadInputError
        If the two files do not belong together.
    """
    array, points = read_cfl(path), read_cfl(trajectory)
    labels = _labels(array, path)
    if array.shape[0] != 1 or points.shape[0] not in (2, 3) or points.shape[COIL] != 1:
        raise BadInputError(
            f"{path} {_text(array)} and {trajectory} {_text(points)} are not k-space with its "
            "trajectory: expected (1, sample, readout, coil) and (3, sample, readout)"
        )
    n = tuple(points.shape[d] for d in LABELS)
    if n not in ((1,) * len(n), tuple(array.shape[d] for d in LABELS)):
        raise BadInputError(
            f"{trajectory} {_text(points)} has neither one frame nor those of {path} {_text(array)}"
        )
    coordinates = frames_of(points).real.squeeze(1)  # (frame, readout, sample, 3)
    # BART always stores three coordinates; a third of zeros is a trajectory in two dimensions.
    if not coordinates[..., 2:].any():
        coordinates = coordinates[..., :2]
    return make_trajectory_acquisition(
        frames_of(array).squeeze(-1),
        TrajectoryEncoding(
            torch.from_numpy(np.ascontiguousarray(coordinates)), holding_matrix(coordinates)
        ),
        str(path),
        "BART",
        notes=[f"the matrix is the smallest that holds the coordinates of {trajectory}"],
        header=Header(labels=labels),
    )


def _labels(array: np.ndarray, path: Path) -> list[dict[str, int]]:
    """The labels of the frames, in the order of :func:`frames_of`."""
    known = (0, 1, 2, COIL, *LABELS)
    other = [d for d in range(N_DIMENSIONS) if array.shape[d] > 1 and d not in known]
    if other:
        raise BadInputError(
            f"{path}: dimensions {other} of the cfl are larger than one (shape "
            f"{tuple(array.shape)}); known are space (0-2), coils (3) and the frames of a series "
            f"({', '.join(f'{d} {name}' for d, name in LABELS.items())}): slice the others first, "
            "for instance with `bart slice`"
        )
    sizes = {d: array.shape[d] for d in LABELS}
    return [
        {name: index[i] for i, (d, name) in enumerate(LABELS.items()) if sizes[d] > 1}
        or {"slice": 0}
        for index in np.ndindex(*sizes.values())
    ]


def _text(array: np.ndarray) -> str:
    """The shape without the ones at its end."""
    used = max((d for d in range(array.ndim) if array.shape[d] > 1), default=0)
    return str(tuple(array.shape[: used + 1]))
