"""CMRxRecon: MATLAB 7.3 files (HDF5) with ``kspace_full`` or ``kspace_sub04``, ``08``, ``10``.

MATLAB's (kx, ky, coil, slice, time) is (time, slice, coil, ky, kx) here, numbers are compound
(real, imag). Single-coil files lack the coil axis, other contrasts the time. A ``mask`` (ky, kx) is
read where it lies in the same file; k-space that is zero everywhere counts as not measured.
"""

from pathlib import Path

import numpy as np

from equipoise.formats.acquisition import Acquisition, make_acquisition
from equipoise.formats.hdf5 import dataset_names, open_hdf5, read_complex
from equipoise.formats.header import Header
from equipoise.outcome import BadInputError

PREFIX = "kspace_"


def recognizes(path: Path) -> bool:
    """True for an HDF5 file with ``kspace_...`` and no ``kspace``."""
    names = dataset_names(path)
    return "kspace" not in names and any(name.startswith(PREFIX) for name in names)


def read(path: Path) -> Acquisition:
    """Read a CMRxRecon file; frames and slices are one stack, their labels keep them apart."""
    with open_hdf5(path) as file:
        name = sorted(n for n in file if n.startswith(PREFIX))[0]
        array = read_complex(file[name])
        masks = sorted(n for n in file if n.startswith("mask"))
        mask = read_complex(file[masks[0]]) if masks else None
        ignored = sorted(n for n in file if n not in {name, *masks[:1]} and n[0] != "#")
    notes = [f"{name}: the readout is x; the file says nothing of pixel size and orientation"]
    if "single" in name:
        array = array[..., None, :, :]
        notes.append("single-coil file: treated as one coil")
    if array.ndim == 4:
        array = array[None]
    if array.ndim != 5:
        raise BadInputError(
            f"{path}: {name} has shape {array.shape}; needed is (time, slice, coil, ky, kx), or "
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
