"""Sizes that a file declares are compared with its content before memory is allocated."""

import os
from pathlib import Path

from equipoise.outcome import BadInputError

MAX_EXPANSION = 100
"""Largest ratio of declared to stored bytes. Noise hardly compresses, but empty samples of a sparse
matrix do."""

FREE_BYTES = 64 * 2**20
"""Arrays up to this size may expand by any ratio."""

GROUPS = Path("/sys/fs/cgroup")
"""Where Linux mounts the control groups."""

KILOBYTE, UNLIMITED = 1024, 2**60
"""Unit of /proc, and the size from which a limit of a control group of version 1 is none."""

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


def available_memory(processes: Path = Path("/proc"), groups: Path = GROUPS) -> int | None:
    """Bytes that can be allocated without swapping; None if the system does not tell.

    It is the least of what the machine has free, what the control group of a container or of a
    SLURM job still grants, and what ``ulimit -v`` leaves.

    Parameters
    ----------
    processes, groups
        Where Linux shows processes and mounts the control groups.
    """
    known = [_of_machine(processes), _of_group(processes, groups), _of_limit(processes)]
    return min((found for found in known if found is not None), default=None)


def _of_machine(processes: Path) -> int | None:
    free = _entry(processes / "meminfo", "MemAvailable:")
    if free is not None:
        return free * KILOBYTE
    # Without /proc the physical memory is the best bound that is known.
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _of_group(processes: Path, groups: Path) -> int | None:
    """What the control group of this process, or one above it, still grants; None without one."""
    try:
        lines = (processes / "self/cgroup").read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        number, names, place = line.split(":", 2)
        # Version 2 has one tree with the number 0, and version 1 one for each resource.
        if number == "0" or "memory" in names.split(","):
            top = groups if number == "0" else groups / "memory"
            own = top / place.lstrip("/")
            # A container may mount its own group as the root of the tree.
            found += [
                _granted(folder) for folder in (own, *own.parents) if folder.is_relative_to(top)
            ]
    return min((left for left in found if left is not None), default=None)


def _granted(folder: Path) -> int | None:
    """The limit of a control group without what it uses, of which unused files do not count."""
    limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
    if limit is None or limit >= UNLIMITED:
        return None
    used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
    files = _entry(folder / "memory.stat", "inactive_file") or 0
    return max(limit - used + files, 0)


def _of_limit(processes: Path) -> int | None:
    """What ``ulimit -v`` leaves of the address space; None without a limit."""
    # Windows does not have this module.
    try:
        import resource
    except ImportError:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = _entry(processes / "self/status", "VmSize:")
    if limit in (resource.RLIM_INFINITY, -1) or used is None:
        return None
    return max(limit - used * KILOBYTE, 0)


def _number(path: Path) -> int | None:
    """The number in a file; None if there is none, or it says ``max``."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _entry(path: Path, name: str) -> int | None:
    """The number behind a name in a file of names and numbers."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
        return next((int(line[1]) for line in lines if line[:1] == [name]), None)
    except (OSError, ValueError, IndexError):
        return None


def size_text(n_bytes: float) -> str:
    """A number of bytes as readable text."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"
