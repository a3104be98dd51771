"""The readers, tried in order; each recognises its layout from the content of the file."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from equipoise.formats import cfl
from equipoise.formats.acquisition import Acquisition
from equipoise.formats.readers import bart, calgary, cmrxrecon, fastmri, modl, mrd, npz, twix
from equipoise.outcome import BadInputError


class Reader(NamedTuple):
    """A format: its name, whether a file has it, and how to read it."""

    name: str
    recognizes: Callable[[Path], bool]
    read: Callable[[Path], Acquisition]


READERS = [
    Reader("BART", cfl.recognizes, bart.read),
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


def read(path: Path | str) -> Acquisition:
    """Read a scan of any known format.

    Raises
    ------
    BadInputError
        If the file is missing, damaged, of no known format, or holds no usable k-space.
    """
    path = Path(path)
    if not path.exists() and not cfl.recognizes(path):
        raise BadInputError(f"{path} does not exist")
    if path.is_dir():
        raise BadInputError(f"{path} is a folder; name one scan file")
    try:
        for reader in READERS:
            if reader.recognizes(path):
                return reader.read(path)
    except BadInputError:
        raise
    except UNREADABLE as error:
        raise BadInputError(
            f"{path} cannot be read: {type(error).__name__}: {error}. It is damaged, or a variant "
            "that is not known"
        ) from error
    raise BadInputError(
        f"{path} has no known format: known are {', '.join(r.name for r in READERS)}"
    )
