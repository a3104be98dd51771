"""Files appear under their name only when they are complete."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from equipoise.outcome import BadInputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside the target that takes its place when the block ends well.

    A block that writes nothing changes nothing. A folder replaces a folder.
    """
    temporary = path.with_name(f".{os.getpid()}.tmp.{path.name}")
    _remove(temporary)
    try:
        yield temporary
        if temporary.is_dir():
            _remove(path)
        if temporary.exists():
            temporary.replace(path)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Create a folder for results, with its parents.

    Raises
    ------
    BadInputError
        If a file stands in the way, or it may not be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"{folder} cannot be made a folder: {error.strerror}") from error
