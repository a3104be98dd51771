"""CMRxRecon: MATLAB 7.3 files (HDF5) with ``kspace_full`` or ``kspace_sub04``, ``08``, ``10``.

Files of 2024 and later call it ``kspace`` or ``kus``. MATLAB's (kx, ky, coil, slice, time) is
(time, slice, coil, ky, kx) here, and numbers are compound (real, imag). Single-coil files lack the
coil axis, and other contrasts lack the time. A ``mask`` (ky, kx) in the same file is used. K-space
that is zero in all coils counts as not measured.
"""

from pathlib import Path

import h5py
import numpy as np

from equipoise.formats.acquisition import Acquisition, make_acquisition
from equipoise.formats.hdf5 import dataset_names, open_hdf5, read_complex
from equipoise.formats.header import Header
from equipoise.outcome import BadInputError

PREFIX = "kspace_"
UNDERSAMPLED = "kus"
MATLAB_COMPLEX = ("real", "imag")
"""Names of the parts of MATLAB's complex numbers; h5py itself calls them r and i."""

AXES = 5
"""(time, slice, coil, ky, kx)."""


def recognizes(path: Path) -> bool:
    """True for an HDF5 file with ``kspace_...`` or ``kus``, or a ``kspace`` as MATLAB saves it."""
    names = dataset_names(path)
    # fastMRI uses the same name, so the type and the number of axes decide.
    if "kspace" in names:
        return _saved_by_matlab(path)
    return UNDERSAMPLED in names or any(name.startswith(PREFIX) for name in names)


def _saved_by_matlab(path: Path) -> bool:
    with open_hdf5(path) as file:
        found = file["kspace"]
        return (
            isinstance(found, h5py.Dataset)
            and found.ndim == AXES
            and found.dtype.names == MATLAB_COMPLEX
        )


def read(path: Path) -> Acquisition:
    """Read a CMRxRecon file; frames and slices become one stack, with labels to tell them apart."""
    with open_hdf5(path) as file:
        named = [n for n in ("kspace", UNDERSAMPLED) if n in file]
        name = (named or sorted(n for n in file if n.startswith(PREFIX)))[0]
        array = read_complex(file[name])
        masks = sorted(n for n in file if n.startswith("mask"))
        mask = read_complex(file[masks[0]]) if masks else None
        # MATLAB keeps its own references in groups that begin with #.
        ignored = sorted(n for n in file if n not in {name, *masks[:1]} and n[0] != "#")
    notes = [f"{name}: the readout is x; pixel size and orientation are not in the file"]
    if "single" in name:
        array = array[..., None, :, :]
        notes.append("single-coil file: treated as one coil")
    if array.ndim == AXES - 1:
        array = array[None]
    if array.ndim != AXES:
        raise BadInputError(
            f"{path}: {name} has shape {array.shape}; expected (time, slice, coil, ky, kx), or "
            "the same without time"
        )
    n_times, n_slices = array.shape[:2]
    labels = [
        {"slice": s} | ({"time": t} if n_times > 1 else {})
        for t in range(n_times)
        for s in range(n_slices)
    ]
    return make_acquisition(
        array.reshape(-1, *array.shape[2:]),
        str(path),
        "CMRxRecon",
        mask=None if mask is None else np.asarray(mask),
        notes=notes,
        header=Header(labels=labels, ignored=ignored),
    )
