"""ISMRMRD (MRD version 1) HDF5: a group with ``xml`` and ``data``, one record for each readout.

All readouts are read at once, because one by one takes 37 times as long. Each has a header with
flags (numbered from 1), counters and the index of its centre sample.
:mod:`equipoise.formats.readers.mrd_scan` makes a scan of them.
"""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from equipoise.formats.acquisition import Acquisition
from equipoise.formats.hdf5 import check_filters, dataset_names, load, open_hdf5
from equipoise.formats.limits import check_size
from equipoise.formats.readers.mrd_scan import Records, scan_of
from equipoise.outcome import BadInputError

NEEDED = ("flags", "number_of_samples", "active_channels", "center_sample", "idx")


def recognizes(path: Path) -> bool:
    """True for an HDF5 file with a group that has ``data`` records with a ``head``."""
    if not dataset_names(path):
        return False
    with open_hdf5(path) as file:
        return next(_groups(file), None) is not None


def _groups(file: h5py.File) -> Iterator[str]:
    for name, group in file.items():
        data = group.get("data") if isinstance(group, h5py.Group) else None
        fields = data.dtype.names if isinstance(data, h5py.Dataset) else None
        if fields and "head" in fields and "data" in fields:
            yield str(name)


def read(path: Path) -> Acquisition:
    """Read the first measurement of the file."""
    with open_hdf5(path) as file:
        first, *others = _groups(file)
        content, records = _content(file, first, path)
        ignored = [f"{first}/{name}" for name in sorted(set(file[first]) - {"xml", "data"})]
    # Groups of one file may be different scans, so they are not joined.
    notes = [f"only the measurement {first!r} is read, not {others}"] if others else []
    return scan_of(records, content, str(path), notes, ignored + others)


def stored(path: Path) -> tuple[bytes | str, Records]:
    """The XML header and the readouts of the first measurement as they are stored."""
    with open_hdf5(path) as file:
        return _content(file, next(_groups(file)), path)


def _content(file: h5py.File, name: str, path: Path) -> tuple[bytes | str, Records]:
    group = file[name]
    if not isinstance(group.get("xml"), h5py.Dataset) or group["xml"].size != 1:
        raise BadInputError(f"{path}: the group {name!r} has no XML header")
    text = load(group["xml"]).flat[0]
    # A damaged file may hold an array of numbers in place of the text.
    return text if isinstance(text, str) else bytes(text), _records(group["data"], path)


def _records(data: h5py.Dataset, path: Path) -> Records:
    """All readouts, after a check of the declared sizes."""
    fields = data.dtype["head"].names or ()
    missing = [name for name in NEEDED if name not in fields]
    if missing or data.ndim != 1 or not len(data):
        raise BadInputError(
            f"{path}: {data.name} has shape {data.shape}; its headers lack {missing or 'nothing'}; "
            "expected a list of at least one readout with ISMRMRD headers"
        )
    check_filters(data, f"{path}: {data.name}")
    stored = path.stat().st_size
    # Samples have variable length, so HDF5 trusts the declared sizes; they are checked before
    # memory is allocated for them.
    check_size(f"{path}: {data.name}", data.shape[0] * data.dtype.itemsize, stored)
    heads = data.fields("head")[()]
    declared = heads["number_of_samples"].astype(np.int64) * heads["active_channels"]
    check_size(f"{path}: {data.name}", 8 * int(declared.sum()), stored)
    samples = data.fields("data")[()]
    for i, values in enumerate(samples):
        if np.size(values) != 2 * declared[i]:
            raise BadInputError(
                f"{path}: readout {i} holds {np.size(values)} numbers, but its header says "
                f"{2 * int(declared[i])} (real and imaginary parts): the file is damaged"
            )
    return Records(heads, samples, _coordinates(data, heads))


def _coordinates(data: h5py.Dataset, heads: np.ndarray) -> np.ndarray | None:
    """The stored coordinates of each readout, flat; None if there are none."""
    names = {*(data.dtype.names or ()), *(heads.dtype.names or ())}
    if not {"traj", "trajectory_dimensions"} <= names or not heads["trajectory_dimensions"].any():
        return None
    declared = heads["number_of_samples"].astype(np.int64) * heads["trajectory_dimensions"]
    size = Path(data.file.filename).stat().st_size
    check_size(f"{data.file.filename}: {data.name}", 4 * int(declared.sum()), size)
    return np.asarray(data.fields("traj")[()])
