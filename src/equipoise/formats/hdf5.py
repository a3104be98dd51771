"""What the HDF5 layouts share: opening, and naming what is wrong."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from equipoise.formats.limits import check_size
from equipoise.outcome import BadInputError


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open for reading; damage found at any time becomes a :class:`BadInputError`."""
    try:
        with h5py.File(path) as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise BadInputError(
            f"{path} is damaged or truncated and cannot be read as HDF5 ({error}): copy it again"
        ) from error


def is_hdf5(path: Path) -> bool:
    """True if the file begins as HDF5."""
    return path.is_file() and bool(h5py.is_hdf5(path))


def dataset_names(path: Path) -> set[str]:
    """Names at the top of an HDF5 file; empty for other files.

    Raises
    ------
    BadInputError
        If the file begins as HDF5 and cannot be opened.
    """
    if not is_hdf5(path):
        return set()
    with open_hdf5(path) as file:
        return set(file.keys())


def load(dataset: h5py.Dataset | h5py.Group) -> np.ndarray:
    """The whole of a dataset, after a look at its size.

    Raises
    ------
    BadInputError
        If the name stands for a group, or the file does not hold what the dataset declares.
    """
    if not isinstance(dataset, h5py.Dataset):
        raise BadInputError(f"{dataset.file.filename}: {dataset.name} is a group, not a dataset")
    if dataset.external:
        raise BadInputError(
            f"{dataset.file.filename}: {dataset.name} keeps its data in another file, "
            f"{dataset.external[0][0]}: copy it into this one"
        )
    declared = math.prod(dataset.shape or (0,)) * dataset.dtype.itemsize
    name = f"{dataset.file.filename}: {dataset.name} {dataset.shape}"
    check_size(name, declared, dataset.id.get_storage_size())
    return np.asarray(dataset[()])


def read_complex(dataset: h5py.Dataset | h5py.Group) -> np.ndarray:
    """A dataset as it is, but compound (real, imag) pairs as complex numbers.

    Raises
    ------
    BadInputError
        If the name stands for a group, or the file cannot hold what the dataset declares.
    """
    array = load(dataset)
    names = array.dtype.names
    if names is not None and len(names) == 2:
        kind = np.result_type(array.dtype[0], np.complex64)
        found = np.empty(array.shape, kind)  # no arithmetic: NaN stays as it is
        found.real, found.imag = array[names[0]], array[names[1]]
        return found
    return array
