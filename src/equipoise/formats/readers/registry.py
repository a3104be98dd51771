"""The readers, tried in order; each recognises its layout from the content of the file."""

from collections.abc import Callable
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
from equipoise.outcome import BadInputError


class Reader(NamedTuple):
    """A format: its name, whether a file has it, and how to read it."""

    name: str
    recognizes: Callable[[Path], bool]
    read: Callable[[Path], Acquisition]


READERS = [
    Reader("BART", cfl.recognizes, bart.read),
    Reader("trajectory", trajectory.recognizes, trajectory.read),
    Reader("npz", npz.recognizes, npz.read),
    Reader("Siemens twix", twix.recognizes, twix.read),
    Reader("MoDL", modl.recognizes, modl.read),
    Reader("ISMRMRD", mrd.recognizes, mrd.read),
    Reader("CMRxRecon", cmrxrecon.recognizes, cmrxrecon.read),
    Reader("Calgary-Campinas", calgary.recognizes, calgary.read),
    Reader("fastMRI", fastmri.recognizes, fastmri.read),
]


UNREADABLE = (OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, EOFError)
"""What damaged files raise in the libraries that read them; the cause stays attached."""


def read(path: Path | str, *, trajectory_file: Path | str | None = None) -> Acquisition:
    """Read a scan of any known format.

    Parameters
    ----------
    path
        The scan.
    trajectory_file
        Where the samples lie in k-space, for the formats that keep it in a file of its own: a BART
        cfl (3, sample, readout).

    Raises
    ------
    BadInputError
        If the file is missing, damaged, of no known format, or holds no usable k-space; if a
        trajectory is given for a format that has none beside it.
    """
    path = Path(path)
    try:
        if not cfl.recognizes(path):
            check_regular(path)
        for reader in READERS:
            if reader.recognizes(path):
                if trajectory_file is not None:
                    return _read_along(path, reader, Path(trajectory_file))
                return reader.read(path)
    except BadInputError:
        raise
    except UNREADABLE as error:
        raise BadInputError(
            f"{path} cannot be read: {type(error).__name__}: {error}. It is damaged, or a variant "
            "that is not known"
        ) from error
    kind = kind_of(path)
    raise BadInputError(
        f"{path} {'has no known format' if kind is None else f'is {kind}'}: the known formats are "
        f"{', '.join(r.name for r in READERS)}"
    )


def _read_along(path: Path, reader: Reader, points: Path) -> Acquisition:
    if not cfl.recognizes(points):
        raise BadInputError(f"{points} does not exist, or is no .cfl with its .hdr")
    if reader.read is not bart.read:
        raise BadInputError(
            f"{path} is {reader.name}: only BART's k-space (.cfl) has a trajectory as a file of "
            "its own; other formats keep it in the scan"
        )
    return bart.read_along(path, points)
