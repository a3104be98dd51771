"""Single arrays beside a scan: coil maps and masks given by the user."""

from pathlib import Path

import numpy as np

from equipoise.formats.bart import COIL, SLICE, read_cfl, recognizes
from equipoise.formats.hdf5 import dataset_names, open_hdf5, read_complex
from equipoise.outcome import BadInputError


def read_array(path: Path, name: str) -> np.ndarray:
    """An array of an npy, npz, HDF5 or cfl file.

    Parameters
    ----------
    path
        The file.
    name
        The dataset or member that is meant (``csm`` or ``mask``); if there is just one, that one.

    Raises
    ------
    BadInputError
        If the file is missing, unreadable, or does not hold the array.
    """
    if recognizes(path):
        array = read_cfl(path)
        order = (SLICE, COIL, 2, 1, 0)
        volume = array.transpose(*order, *[d for d in range(array.ndim) if d not in order])
        volume = volume.reshape(volume.shape[:5])
        axis = next((4 - d for d in (2, 0, 1) if array.shape[d] == 1), None)
        return volume if axis is None else volume.squeeze(axis)
    if not path.is_file():
        raise BadInputError(f"{path} does not exist")
    names = dataset_names(path)
    if names:
        with open_hdf5(path) as file:
            return read_complex(file[_choose(names, name, path)])
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            return np.asarray(content[_choose(set(content.files), name, path)])
    except (OSError, ValueError, EOFError) as error:
        raise BadInputError(
            f"{path} cannot be read as an array (npy, npz, h5 or cfl): {error}"
        ) from error


def _choose(names: set[str], wanted: str, path: Path) -> str:
    if wanted in names:
        return wanted
    if len(names) == 1:
        return next(iter(names))
    raise BadInputError(f"{path} has no {wanted!r}; it has {sorted(names)}")
