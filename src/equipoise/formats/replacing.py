"""Files appear under their name only when they are complete."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
