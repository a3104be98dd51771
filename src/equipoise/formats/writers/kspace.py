"""K-space out, for other software and for reading back: fastMRI HDF5, npz, BART cfl."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from equipoise.formats.acquisition import Acquisition
from equipoise.formats.cfl import cfl_bytes
from equipoise.formats.replacing import replacing, replacing_set
from equipoise.formats.writers.target import suffix_of
from equipoise.outcome import BadInputError


def write_kspace(path: Path, acquisition: Acquisition) -> None:
    """Write k-space, mask, maps and target in the layout of the suffix.

    ``.h5``: fastMRI, with the geometry as an attribute; ``.npz``; ``.cfl``: k-space alone.

    Raises
    ------
    BadInputError
        If the suffix is another, or the file cannot be written.
    """
    writer = KSPACE_WRITERS.get(suffix_of(path))
    if writer is None:
        raise BadInputError(
            f"{path}: k-space is written to {', '.join(KSPACE_WRITERS)}, by the suffix"
        )
    try:
        writer(path, acquisition)
    except OSError as error:
        raise BadInputError(f"{path} cannot be written: {error.strerror or error}") from error


def _arrays(acquisition: Acquisition) -> dict[str, np.ndarray]:
    found = {"kspace": acquisition.kspace, "mask": acquisition.mask}
    found |= {
        name: array
        for name, array in (("csm", acquisition.csm), ("target", acquisition.target))
        if array is not None
    }
    return {name: array.numpy() for name, array in found.items()}


def _write_hdf5(path: Path, acquisition: Acquisition) -> None:
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        for name, array in _arrays(acquisition).items():
            file[name] = array
        file.attrs["header"] = json.dumps(acquisition.header.as_json())


def _write_npz(path: Path, acquisition: Acquisition) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **_arrays(acquisition))


def _write_cfl(path: Path, acquisition: Acquisition) -> None:
    array = acquisition.kspace.numpy().transpose(3, 2, 1, 0)[:, :, None]
    text, data = cfl_bytes(array.reshape(*array.shape[:4], *[1] * 9, array.shape[4]))
    with replacing_set([path, path.with_suffix(".hdr")]) as (temporary, beside):
        beside.write_bytes(text)
        temporary.write_bytes(data)


KSPACE_WRITERS: dict[str, Callable[[Path, Acquisition], None]] = {
    ".h5": _write_hdf5,
    ".npz": _write_npz,
    ".cfl": _write_cfl,
}
