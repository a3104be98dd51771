"""Sizes that a file declares are compared with its content before memory is allocated."""

import os
from pathlib import Path

from equipoise.outcome import BadInputError

MAX_EXPANSION = 100
"""Largest ratio of declared to stored bytes. Noise hardly compresses, but empty samples of a sparse
matrix do."""

FREE_BYTES = 64 * 2**20
"""Arrays up to this size may expand by any ratio."""

COPIES = 3
"""Number of arrays of the size of the k-space in memory while it is read."""


def check_size(what: str, declared: int, stored: int) -> None:
    """Refuse an array that its file cannot hold, or that does not fit into memory.

    Raises
    ------
    BadInputError
        If far more bytes are declared than stored, or more than this machine has free.
    """
    if declared > FREE_BYTES and declared > MAX_EXPANSION * max(stored, 1):
        raise BadInputError(
            f"{what} declares {size_text(declared)} but the file stores {size_text(stored)} for "
            "it: it is empty, damaged, or compressed implausibly well; copy or export it again"
        )
    free = available_memory()
    if declared > FREE_BYTES and free is not None and COPIES * declared > free:
        raise BadInputError(
            f"{what} needs {size_text(COPIES * declared)} of memory, and {size_text(free)} "
            "are free: split the file, or use a machine with more memory"
        )


def available_memory() -> int | None:
    """Bytes that can be allocated without swapping; None if the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    # Without /proc the physical memory is the best bound that is known.
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def size_text(n_bytes: float) -> str:
    """A number of bytes as readable text."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"
