"""One slice of a scan at a time, so that a volume is not in memory for the sake of a slice."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from equipoise.formats.acquisition import Acquisition
from equipoise.formats.encoding import CartesianEncoding
from equipoise.formats.readers.registry import damage_named, read, reader_of
from equipoise.formats.slices import as_slices

SUFFIXES = (".h5", ".hdf5", ".mat", ".mrd", ".cfl", ".npz", ".npy", ".dat")
"""Names of files in a folder that are taken for scans. The content of a file tells its format, but
thousands of files cannot be opened to be listed."""


class Slices(NamedTuple):
    """How many slices a scan has, and the function that reads one of them as a scan of its own.

    It gives None for a slice that holds no sample.
    """

    number: int
    read: Callable[[int], Acquisition | None]


def scan_files(path: Path) -> list[Path]:
    """The file itself, or the files of a folder that have the name of a scan, in order."""
    if not path.is_dir():
        return [path]
    return sorted(
        f
        for f in path.iterdir()
        if f.name.lower().endswith(SUFFIXES) and not f.name.startswith(".")
    )


def by_slice(path: Path) -> Slices:
    """The slices of a scan of any format, without reading more of the file than its layout needs.

    Files of the fastMRI layout with a header are read slice by slice. Of other files the last one
    that was read stays in memory, as a stack of slices.

    Raises
    ------
    BadInputError
        If the file is missing, damaged, of no known format, or cannot be a stack of slices.
    """
    with damage_named(path):
        alone = reader_of(path).by_slice
        count = None if alone is None else alone.number(path)
    if alone is None or count is None:
        stack = _stack(path, path.stat().st_mtime_ns if path.exists() else 0)
        return Slices(len(stack.kspace), lambda index: _one(stack, index))

    def read_one(index: int) -> Acquisition | None:
        with damage_named(path):
            return alone.read(path, index)

    return Slices(count, read_one)


@lru_cache(maxsize=1)
def _stack(path: Path, changed: int) -> Acquisition:
    return as_slices(read(path))


def _one(stack: Acquisition, index: int) -> Acquisition:
    """A slice of a stack as a scan of its own."""
    chosen, n = slice(index, index + 1), len(stack.kspace)
    mask = stack.mask if len(stack.mask) == 1 else stack.mask[chosen]
    csm, calibration = stack.csm, stack.calibration
    return replace(
        stack,
        encoding=CartesianEncoding(mask),
        samples=stack.kspace[chosen],
        csm=csm if csm is None or len(csm) < n else csm[chosen],
        target=None if stack.target is None else stack.target[chosen],
        header=replace(stack.header, labels=stack.labels[chosen], geometry=None),
        calibration=None if calibration is None else calibration.of([index]),
    )
