"""Peak memory and time of one training step against the number of iterations."""

import ctypes
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.experiments.results import Row, markdown_table, write_csv, write_json, write_text
from equipoise.formats.replacing import make_folder, replacing
from equipoise.methods.method import Method
from equipoise.methods.registry import METHODS as KINDS
from equipoise.methods.registry import new_method
from equipoise.outcome import EquipoiseError
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.noise_level import complex_noise
from equipoise.physics.sampling.masks import make_mask

log = logging.getLogger(__name__)

FILES = ("memory.md", "memory.csv", "memory.json", "memory.png")

ITERATIONS = (10, 50, 200)
METHODS = ("modl", "mol-lr")
SMALL_STEP = 0.02
"""alpha of the equilibrium, so small that the solve uses every iteration that it may take."""

RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""With this variable, glibc returns freed tensors to the system at once. The peak is then the
memory in use and not what the allocator keeps. Other C libraries ignore it."""

NETWORK = {"features": 64, "layers": 5, "kernel_size": 3}


def study(
    iterations: Sequence[int] = ITERATIONS,
    size: int = 128,
    n_coils: int = 8,
    say: Callable[[str], None] = log.info,
) -> list[Row]:
    """One row for each method and number of iterations, each measured in its own process.

    ``peak_mb`` is the growth of the peak resident memory of the process during one training step,
    forward and backward, after network, operator and data have been built.

    Raises
    ------
    EquipoiseError
        If a measurement fails, or the system is not Linux.
    """
    if not CLEAR_REFS.exists():
        raise EquipoiseError("peak memory is read from /proc, so this experiment needs Linux")
    rows = []
    for method in METHODS:
        for count in iterations:
            arguments = [method, str(count), str(size), str(n_coils)]
            code = "from equipoise.experiments.memory import main; main()"
            # One process for each measurement: memory that one returns late would count for the
            # next.
            done = subprocess.run(
                [sys.executable, "-c", code, *arguments],
                capture_output=True,
                text=True,
                env={**os.environ, **RETURN_MEMORY},
            )
            if done.returncode:
                raise EquipoiseError(f"{method} with {count} iterations failed: {done.stderr}")
            peak, seconds = (float(v) for v in done.stdout.split())
            rows.append(
                {"method": method, "iterations": count, "peak_mb": peak, "seconds": seconds}
            )
            say(f"{method}, {count} iterations: {peak:.0f} MB, {seconds:.1f} s")
    return rows


def main() -> None:
    """Measure one combination, given as command line arguments."""
    name, iterations, size, n_coils = sys.argv[1], *map(int, sys.argv[2:5])
    # Other threads would keep memory of their own, which would count.
    torch.set_num_threads(1)
    shape = (size, size)
    mask = make_mask("variable-density-2d", shape, 4.0, 12, 0)
    operator = SenseOp(biot_savart_maps(shape, n_coils, 0), mask)
    rng = np.random.default_rng(0)
    data = operator.forward(complex_noise((1, *shape), rng))
    blocks = {"iterations": iterations} if name == "modl" else {}
    method = new_method(KINDS[name].Config.model_validate({"network": NETWORK, **blocks}))
    before = reset_peak()
    started = time.perf_counter()
    _training_step(method, operator, data, iterations)
    seconds = time.perf_counter() - started
    print(peak_since(before), seconds)


CLEAR_REFS = Path("/proc/self/clear_refs")
"""Linux is the only system on which the peak resident memory can be reset."""


def peak_since(before: float) -> float:
    """Growth of the peak memory since :func:`reset_peak` returned a number, in MB."""
    return _status("VmHWM") - before


def reset_peak() -> float:
    """Reset the peak memory of the process; return the memory that it holds, in MB."""
    # What was freed and not given back would be used again, and no growth would be seen.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    # 5 resets the peak resident set size, see proc(5).
    CLEAR_REFS.write_text("5")
    return _status("VmRSS")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def _training_step(method: Method, operator: SenseOp, data: torch.Tensor, iterations: int) -> None:
    options = None
    if method.m is not None:
        # Without the bound of rounding, as training runs.
        options = SolverOptions(
            method="picard", rtol=1e-12, max_iter=iterations, alpha=SMALL_STEP, exact=False
        )
    image = method.solve(operator, data, options=options).value
    image.abs().square().mean().backward()  # type: ignore[no-untyped-call]


def write_study(folder: Path, rows: list[Row], settings: dict[str, Any]) -> dict[str, Any]:
    """Write ``memory.{md,csv,json,png}``; return the JSON."""
    make_folder(folder)
    result = {"rows": rows, "settings": settings}
    shown = [
        {**row, "peak_mb": f"{row['peak_mb']:.0f}", "seconds": f"{row['seconds']:.1f}"}
        for row in rows
    ]
    write_csv(folder / "memory.csv", rows)
    write_json(folder / "memory.json", result)
    write_text(folder / "memory.md", markdown_table(shown))
    _figure(folder / "memory.png", rows)
    return result


def _figure(path: Path, rows: list[Row]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, key, label in zip(
        axes, ("peak_mb", "seconds"), ("peak memory (MB)", "time (s)"), strict=True
    ):
        for name in dict.fromkeys(row["method"] for row in rows):
            own = [row for row in rows if row["method"] == name]
            x, y = [row["iterations"] for row in own], [row[key] for row in own]
            axis.loglog(x, y, "o-", label=name)
        axis.set(xlabel="iterations", ylabel=f"{label} of a training step")
        axis.grid(alpha=0.3)
    axes[0].legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
