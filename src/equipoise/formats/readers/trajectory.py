"""HDF5 and npz of k-space along a trajectory, with names that scripts commonly use.

Needed are ``kspace`` ([frame,] coil, readout, sample) and ``traj`` or ``trajectory`` ([frame,]
readout, sample, 2 or 3) in the order x, y, z, in cycles per field of view or from -0.5 to 0.5.
Optional are ``dcf`` or ``density`` ([frame,] readout, sample), and ``matrix``, one number or
(y, x), as an array or attribute.
"""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equipoise.formats.acquisition import Acquisition, make_trajectory_acquisition
from equipoise.formats.encoding import TrajectoryEncoding, holding_matrix, in_cycles
from equipoise.formats.hdf5 import dataset_names, is_hdf5, names_of, open_hdf5, read_complex
from equipoise.formats.header import stored_header
from equipoise.formats.readers.npz import read_arrays
from equipoise.outcome import BadInputError

TRAJECTORY, DENSITY = ("traj", "trajectory"), ("dcf", "density")
OTHERS = ("matrix", "header")


def recognizes(path: Path) -> bool:
    """True for HDF5 and npz with ``kspace`` and a trajectory."""
    names = _names(path)
    return "kspace" in names and any(name in names for name in TRAJECTORY)


def _names(path: Path) -> set[str]:
    if is_hdf5(path):
        return dataset_names(path)
    # A .npy file cannot hold a trajectory next to the k-space.
    if not path.is_file() or not zipfile.is_zipfile(path):
        return set()
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    # The reader of npz is tried next and says what is wrong.
    except zipfile.BadZipFile:
        return set()


def read(path: Path) -> Acquisition:
    """Read k-space and its trajectory."""
    arrays, ignored = _arrays(path)
    source, notes = str(path), list[str]()
    kspace = np.asarray(arrays["kspace"])
    kspace = kspace[None] if kspace.ndim == 3 else kspace
    points = _with_frames(next(arrays[n] for n in TRAJECTORY if n in arrays), 4, source)
    if points.shape[-1] not in (2, 3):
        raise BadInputError(
            f"{source}: the trajectory has the shape {points.shape}; expected (readout, sample, "
            "2 or 3)"
        )
    matrix = _matrix(arrays.get("matrix"), points, source, notes)
    points, note = in_cycles(points, matrix)
    density = next((arrays[n] for n in DENSITY if n in arrays), None)
    encoding = TrajectoryEncoding(
        _tensor(points),
        matrix,
        density=None if density is None else _tensor(_with_frames(density, 3, source)),
    )
    text = arrays.get("header")
    header = stored_header(None if text is None else str(text), len(kspace), source)
    header.ignored = ignored
    return make_trajectory_acquisition(
        kspace, encoding, source, "trajectory", notes=[*notes, note], header=header
    )


def _arrays(path: Path) -> tuple[dict[str, Any], list[str]]:
    names = ("kspace", *TRAJECTORY, *DENSITY, *OTHERS)
    if not is_hdf5(path):
        return read_arrays(path, names)
    with open_hdf5(path) as file:
        arrays = {name: read_complex(file[name]) for name in names if name in file}
        arrays |= {name: file.attrs[name] for name in OTHERS if name in file.attrs}
        ignored = sorted(set(names_of(file)) - set(names))
        return arrays, ignored + [f"attribute {a}" for a in names_of(file.attrs) if a not in OTHERS]


def _with_frames(array: np.ndarray, axes: int, source: str) -> np.ndarray:
    """The real part of an array, with an axis for the frames."""
    if array.ndim not in (axes - 1, axes) or not np.issubdtype(array.dtype, np.number):
        raise BadInputError(
            f"{source}: an array of the trajectory has the shape {array.shape} and the type "
            f"{array.dtype}; expected numbers with {axes - 1} axes, or {axes} with frames"
        )
    return array.real[None] if array.ndim == axes - 1 else array.real


def _matrix(found: Any, points: np.ndarray, source: str, notes: list[str]) -> tuple[int, ...]:
    """The matrix in the file, else the smallest even one that holds the coordinates."""
    axes = points.shape[-1]
    if found is None:
        notes.append(
            "the matrix is not in the file: the smallest that holds the coordinates is used"
        )
        return holding_matrix(points)
    numbers = np.ravel(found)
    if numbers.size not in (1, axes) or not (np.isfinite(numbers) & (numbers >= 1)).all():
        raise BadInputError(
            f"{source}: the matrix is {found}; expected one or {axes} positive numbers"
        )
    return tuple(int(n) for n in np.broadcast_to(numbers, axes))


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.require(array, np.float32, ["C", "W"]))
