"""How many threads a computation gets on a shared machine."""

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

SMALL = 32768
"""Data with fewer elements are processed by one thread; this is torch's own grain size."""


BEFORE_TORCH = {"OMP_WAIT_POLICY": "passive", "THP_MEM_ALLOC_ENABLE": "1"}
"""Variables that are read when torch is loaded. A thread that spins while it waits takes the
processor from the one that it waits for: where other processes keep all processors busy, that makes
two threads many times slower than one. Pages of 2 MB, which Linux gives to arrays of this size and
more, save a quarter of the time of a solve: a page is cleared at its first use, and arrays come and
go."""


def prepare_torch() -> None:
    """Set the variables :data:`BEFORE_TORCH` that are not set; nothing once torch is loaded."""
    # Setting them too late would change nothing here, only the processes started later.
    if "torch" not in sys.modules:
        for name, value in BEFORE_TORCH.items():
            os.environ.setdefault(name, value)


@contextmanager
def threads_for(elements: int) -> Iterator[None]:
    """Run a block with a number of threads that suits the number of elements of the data.

    That is one thread for fewer than :data:`SMALL` elements, else the threads that torch has, and
    never more than :func:`usable_processors`. ``OMP_NUM_THREADS`` and ``torch.set_num_threads``
    remain upper limits. The previous number of threads is restored when the block ends.
    """
    # Imported here, so that `prepare_torch` can run before torch is loaded.
    import torch

    before = torch.get_num_threads()
    wanted = 1 if elements < SMALL else min(before, usable_processors())
    if wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def suits_the_problem(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function whose first argument is a problem run with :func:`threads_for` its data."""

    @wraps(function)
    def limited(*given: P.args, **options: P.kwargs) -> R:
        problem: Any = given[0] if given else options["problem"]
        with threads_for(problem.data.numel()):
            return function(*given, **options)

    return limited


def usable_processors(
    environment: Mapping[str, str] = os.environ, groups: Path = Path("/sys/fs/cgroup")
) -> int:
    """The minimum of the machine's processors, affinity, SLURM's share and the container's quota.

    Parameters
    ----------
    environment
        Has ``SLURM_CPUS_PER_TASK`` in a SLURM job.
    groups
        Where Linux mounts the control groups; ``cpu.max`` or ``cpu/cpu.cfs_quota_us`` is read.
    """
    counts = [os.cpu_count() or 1]
    # macOS and Windows do not have it.
    if hasattr(os, "sched_getaffinity"):
        counts.append(len(os.sched_getaffinity(0)))
    share = environment.get("SLURM_CPUS_PER_TASK", "")
    if share.isdigit():
        counts.append(int(share))
    quota = _quota(groups)
    if quota is not None:
        counts.append(math.ceil(quota))
    return max(1, min(counts))


def _quota(groups: Path) -> float | None:
    """Processors' worth of time that the control group grants; None without a limit."""
    try:
        if (groups / "cpu.max").exists():
            quota, period = (groups / "cpu.max").read_text().split()
        else:
            quota = (groups / "cpu/cpu.cfs_quota_us").read_text()
            period = (groups / "cpu/cpu.cfs_period_us").read_text()
        # "max" in version 2 and -1 in version 1 stand for no limit.
        return float(quota) / float(period) if float(quota) > 0 else None
    # Without control groups, or with files that cannot be read, no limit is known.
    except (OSError, ValueError, ZeroDivisionError):
        return None
