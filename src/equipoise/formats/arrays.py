"""Single arrays from files: coil maps and masks that a user gives with a scan."""

from pathlib import Path

import numpy as np

from equipoise.formats.cfl import COIL, SLICE, read_cfl, recognizes
from equipoise.formats.hdf5 import dataset_names, open_hdf5, read_complex
from equipoise.formats.inputs import check_regular, kind_of
from equipoise.formats.readers import npz
from equipoise.formats.readers.npz import read_arrays
from equipoise.outcome import BadInputError


def read_array(path: Path, name: str) -> np.ndarray:
    """An array of an npy, npz, HDF5 or cfl file.

    Parameters
    ----------
    path
        The file.
    name
        The dataset or member to read (``csm`` or ``mask``). If the file holds only one array, that
        one is read.

    Raises
    ------
    BadInputError
        If the file is missing, unreadable, or does not hold the array.
    """
    if recognizes(path):
        return _from_cfl(read_cfl(path), path)
    check_regular(path)
    names = dataset_names(path)
    if names:
        with open_hdf5(path) as file:
            return read_complex(file[_choose(names, name, path)])
    kind = kind_of(path)
    if kind is not None and not npz.recognizes(path):
        raise BadInputError(f"{path} is {kind}; use npy, npz, HDF5 or cfl")
    arrays, others = read_arrays(path, (name,))
    if name not in arrays:
        chosen = _choose(set(others), name, path)
        arrays, _ = read_arrays(path, (chosen,))
        return arrays[chosen]
    return arrays[name]


def _from_cfl(array: np.ndarray, path: Path) -> np.ndarray:
    """(slices, coils, y, x), or (slices, y, x) without a coil axis; of map sets the first."""
    order = (SLICE, COIL, 2, 1, 0, MAPS)
    other = [d for d in range(array.ndim) if d not in order]
    if any(array.shape[d] > 1 for d in other):
        raise BadInputError(f"{path}: the cfl has shape {array.shape}; slice it first")
    volume = array.transpose(*order, *other)[:, :, :, :, :, 0].reshape(
        [array.shape[d] for d in order[:-1]]
    )
    axis = next((4 - d for d in (2, 0, 1) if array.shape[d] == 1), None)
    volume = volume if axis is None else volume.squeeze(axis)
    return volume.squeeze(1) if volume.shape[1] == 1 else volume


MAPS = 4
"""BART's dimension of ESPIRiT map sets; the first set belongs to the largest eigenvalue."""


def _choose(names: set[str], wanted: str, path: Path) -> str:
    if wanted in names:
        return wanted
    if len(names) == 1:
        return next(iter(names))
    raise BadInputError(f"{path} has no {wanted!r}; it has {sorted(names)}")
