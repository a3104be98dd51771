"""The readers, which are tried in order; each recognises its layout by the content of the file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from equipoise.formats import cfl
from equipoise.formats.acquisition import Acquisition
from equipoise.formats.inputs import check_regular, kind_of
from equipoise.formats.readers import (
    bart,
    calgary,
    cmrxrecon,
    fastmri,
    modl,
    mrd,
    npz,
    trajectory,
    twix,
)
from equipoise.formats.readers.slice_reader import SliceReader
from equipoise.outcome import BadInputError


class Reader(NamedTuple):
    """A format: its name, a test of a file, and the functions that read it."""

    name: str
    recognizes: Callable[[Path], bool]
    read: Callable[[Path], Acquisition]
    by_slice: SliceReader | None = None


# The order matters: the last reader accepts every HDF5 file, to say what is missing.
READERS = [
    Reader("BART", cfl.recognizes, bart.read),
    Reader("trajectory", trajectory.recognizes, trajectory.read),
    Reader("npz", npz.recognizes, npz.read),
    Reader("Siemens twix", twix.recognizes, twix.read),
    Reader("MoDL", modl.recognizes, modl.read),
    Reader("ISMRMRD", mrd.recognizes, mrd.read),
    Reader("CMRxRecon", cmrxrecon.recognizes, cmrxrecon.read),
    Reader("Calgary-Campinas", calgary.recognizes, calgary.read),
    Reader("fastMRI", fastmri.recognizes, fastmri.read, fastmri.BY_SLICE),
]


UNREADABLE = (OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, EOFError)
"""Exceptions that libraries raise for damaged files."""


def read(path: Path | str, *, trajectory_file: Path | str | None = None) -> Acquisition:
    """Read a scan of any known format.

    Parameters
    ----------
    path
        The scan.
    trajectory_file
        The positions of the samples in k-space, for formats that store them in a separate file: a
        BART cfl (3, sample, readout).

    Raises
    ------
    BadInputError
        If the file is missing, damaged, of no known format, or holds no usable k-space; if a
        trajectory file is given for a format that stores it in the scan.
    """
    path = Path(path)
    with damage_named(path):
        reader = reader_of(path)
        # Refused for other formats, because a second trajectory would contradict their own.
        if trajectory_file is not None:
            return _read_along(path, reader, Path(trajectory_file))
        return reader.read(path)


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Exceptions of libraries about a damaged file become a :class:`BadInputError`."""
    try:
        yield
    except BadInputError:
        raise
    except UNREADABLE as error:
        raise BadInputError(
            f"{path} cannot be read: {type(error).__name__}: {error}. It is damaged, or an unknown "
            "variant of its format"
        ) from error


def reader_of(path: Path) -> Reader:
    """The reader that recognises a file.

    Raises
    ------
    BadInputError
        If the file is missing, or of no known format.
    """
    # A BART scan may be named by its stem, which is not a file.
    if not cfl.recognizes(path):
        check_regular(path)
    for reader in READERS:
        if reader.recognizes(path):
            return reader
    kind = kind_of(path)
    raise BadInputError(
        f"{path} {'has no known format' if kind is None else f'is {kind}'}: the known formats are "
        f"{', '.join(r.name for r in READERS)}"
    )


def _read_along(path: Path, reader: Reader, points: Path) -> Acquisition:
    if not cfl.recognizes(points):
        raise BadInputError(f"{points} does not exist, or is not a .cfl with its .hdr")
    if reader.read is not bart.read:
        raise BadInputError(
            f"{path} is {reader.name}: only BART's k-space (.cfl) has its trajectory in a separate "
            "file; other formats store it in the scan"
        )
    return bart.read_along(path, points)
