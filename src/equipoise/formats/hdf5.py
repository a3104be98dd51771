"""Opening HDF5 files and reading their datasets, with errors that name what is wrong.

Every HDF5 file of a user is opened here, and every dataset is read here: scans, maps, masks, images
and training data.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from equipoise.formats.hdf5_links import check_links, target_of, virtual_sources
from equipoise.formats.inputs import check_regular
from equipoise.formats.limits import check_size
from equipoise.outcome import BadInputError

BUSY = ("unable to lock file", "already open")
"""Parts of HDF5's messages about a file that is being written, or a file system without locks."""

FILTERS = ("required filter", "plugin")
"""Parts of HDF5's messages about a filter that is not installed."""

PLUGIN = (
    "install the filter plug-ins (`pip install hdf5plugin`) and set HDF5_PLUGIN_PATH to what "
    '`python -c "import hdf5plugin; print(hdf5plugin.PLUGIN_PATH)"` prints'
)


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open for reading; damage that is found at any time becomes a :class:`BadInputError`.

    Raises
    ------
    BadInputError
        If the file is missing, not a regular file, open elsewhere or damaged, or if it refers to
        files outside its folder (:func:`equipoise.formats.hdf5_links.check_links`).
    """
    check_regular(path)
    try:
        # Before the file is opened for reading, because h5py follows links on access.
        check_links(path)
        with h5py.File(path.resolve()) as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        # HDF5 raises the same type for everything, so only its words tell the causes apart.
        if any(text in str(error) for text in BUSY):
            raise BadInputError(
                f"{path} is open for writing in another program, or lies on a file system without "
                "locks: wait until it is closed, or set HDF5_USE_FILE_LOCKING=FALSE"
            ) from error
        if any(text in str(error) for text in FILTERS):
            raise BadInputError(f"{path} cannot be read ({error}): {PLUGIN}") from error
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
        return set(names_of(file))


def load(dataset: h5py.Dataset | h5py.Group, row: int | None = None) -> np.ndarray:
    """The whole dataset, or one row of its first axis (1, ...), after a check of size and filters.

    Raises
    ------
    BadInputError
        If the name belongs to a group, a filter is not installed, or the file does not hold what
        the dataset declares.
    """
    rows = 1 if row is None else max(dataset.shape[0], 1)
    check_dataset(dataset, rows)
    return np.asarray(dataset[()] if row is None else dataset[row : row + 1])


def check_dataset(dataset: h5py.Dataset | h5py.Group, parts: int = 1) -> None:
    """Check that :func:`load` will be able to read a dataset, or one of its equal parts.

    Raises
    ------
    BadInputError
        See :func:`load`.
    """
    if not isinstance(dataset, h5py.Dataset):
        raise BadInputError(f"{dataset.file.filename}: {dataset.name} is a group, not a dataset")
    name = f"{dataset.file.filename}: {dataset.name} {dataset.shape}"
    check_filters(dataset, name)
    declared = math.prod(dataset.shape or (0,)) * dataset.dtype.itemsize
    check_size(name, declared // parts, _stored_bytes(dataset) // parts)


def check_filters(dataset: h5py.Dataset, name: str) -> None:
    """Check that the filters of a dataset, such as its compression, are installed.

    Raises
    ------
    BadInputError
        If a filter is missing; the message says what to install.
    """
    creation = dataset.id.get_create_plist()
    for i in range(creation.get_nfilters()):
        number, _, _, label = creation.get_filter(i)
        if not h5py.h5z.filter_avail(number):
            raise BadInputError(
                f"{name} is compressed with the filter {number} ({os.fsdecode(label) or 'unnamed'})"
                f", whose plug-in is not installed: {PLUGIN}"
            )


def _stored_bytes(dataset: h5py.Dataset) -> int:
    """Bytes in the file, or in the files of a virtual dataset."""
    # A virtual dataset stores nothing itself.
    stored, path = int(dataset.id.get_storage_size()), Path(dataset.file.filename)
    for source, inner in set(virtual_sources(dataset.id)):
        with h5py.File(target_of(path, source)) as file:
            stored += int(file[inner].id.get_storage_size())
    return stored


def read_complex(dataset: h5py.Dataset | h5py.Group, row: int | None = None) -> np.ndarray:
    """A dataset, or one row of it, with pairs (real, imag) converted to complex numbers.

    Raises
    ------
    BadInputError
        If the name belongs to a group, or the file cannot hold what the dataset declares.
    """
    array = load(dataset, row)
    names = array.dtype.names
    if names is not None and len(names) == 2:
        kind = np.result_type(array.dtype[0], np.complex64)
        # Filled in instead of computed: real + 1j * imag would spread a NaN to both parts.
        found = np.empty(array.shape, kind)
        found.real, found.imag = array[names[0]], array[names[1]]
        return found
    return array


def names_of(mapping: h5py.Group | h5py.AttributeManager) -> list[str]:
    """The names of datasets or attributes in order; bytes that are no UTF-8 as escapes."""
    return sorted(
        n.decode("utf-8", "backslashreplace") if isinstance(n, bytes) else n for n in mapping
    )
