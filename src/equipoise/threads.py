"""How many threads a piece of work gets on a machine that others use too."""

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
"""Elements of the data below which one thread does the work; torch's own grain size."""


def wait_passively() -> None:
    """Let threads sleep while they wait for each other, unless ``OMP_WAIT_POLICY`` says otherwise.

    A thread that spins takes the processor from the one that it waits for. Where other processes
    keep all processors busy, that makes two threads many times slower than one. OpenMP reads the
    variable when torch is loaded, so this has no effect afterwards.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@contextmanager
def threads_for(elements: int) -> Iterator[None]:
    """Run a block with the threads that suit data of a number of elements.

    One thread for fewer than :data:`SMALL`, else those that torch has, and never more than
    :func:`usable_processors`. ``OMP_NUM_THREADS`` and ``torch.set_num_threads`` remain upper
    limits. The number of threads is as before when the block ends.
    """
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
    """Run a function of a problem, its first argument, with :func:`threads_for` its data."""

    @wraps(function)
    def limited(*given: P.args, **options: P.kwargs) -> R:
        problem: Any = given[0] if given else options["problem"]
        with threads_for(problem.data.numel()):
            return function(*given, **options)

    return limited


def usable_processors(
    environment: Mapping[str, str] = os.environ, groups: Path = Path("/sys/fs/cgroup")
) -> int:
    """The fewest of: processors of the machine, affinity, SLURM's share, quota of the container.

    Parameters
    ----------
    environment
        Has ``SLURM_CPUS_PER_TASK`` in a SLURM job.
    groups
        Where Linux mounts the control groups; ``cpu.max`` or ``cpu/cpu.cfs_quota_us`` is read.
    """
    counts = [os.cpu_count() or 1]
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
    except (OSError, ValueError, ZeroDivisionError):
        return None
