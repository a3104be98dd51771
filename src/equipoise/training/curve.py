"""The training curve: ``log.jsonl`` as a picture, and as TensorBoard events if it is installed."""

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from equipoise.formats.replacing import replacing
from equipoise.training.log import LOG, entries
from equipoise.training.step import Progress
from equipoise.training.validation import score

CURVE = "curve.png"
SMOOTHING = 50
"""Number of steps whose mean is one point of a curve."""

SHOWN = ("loss", "psnr", "constraint", "iterations", "adjoint_iterations")
"""The values that TensorBoard shows for every step."""

LIVE_SECONDS = 120
"""Longest time between two drawings of the curve, each of which takes half a second."""

OF_A_STEP = ("step", "loss", "psnr", "iterations")


class Log(NamedTuple):
    """A training log by step; a step that was repeated after a resume or roll-back counts once."""

    step: np.ndarray
    loss: np.ndarray
    psnr: np.ndarray
    iterations: np.ndarray
    validated: np.ndarray
    validation_psnr: np.ndarray


def read_log(path: Path) -> Log:
    """The last entry of every step of a ``log.jsonl``."""
    steps: dict[int, dict[str, Any]] = {}
    validations: dict[int, float] = {}
    for entry in entries(path):
        if "psnr" in entry:
            steps[entry["step"]] = entry
        elif "validation" in entry:
            validations[entry["step"]] = score(entry["validation"])
    rows = [steps[step] for step in sorted(steps)]
    step, loss, psnr, iterations = (np.array([row[key] for row in rows]) for key in OF_A_STEP)
    validated = np.array(sorted(validations))
    reached = np.array([validations[s] for s in sorted(validations)])
    return Log(step, loss, psnr, iterations, validated, reached)


def write_curve(folder: Path) -> Path:
    """Draw the log of a run: loss, PSNR with that of the validation, and iterations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    log = read_log(folder / LOG)
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    curves = {"loss (log MSE)": log.loss, "PSNR (dB)": log.psnr, "iterations": log.iterations}
    for axis, (name, values) in zip(axes, curves.items()):
        axis.plot(_means(log.step), _means(values), label="training")
        axis.set(xlabel="step", ylabel=name)
        axis.grid(alpha=0.3)
    axes[1].plot(log.validated, log.validation_psnr, "o-", label="validation")
    axes[1].legend()
    path = folder / CURVE
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
    return path


def _means(values: np.ndarray) -> np.ndarray:
    """Means over groups of successive steps; the last group may be smaller."""
    cuts = np.arange(SMOOTHING, len(values), SMOOTHING)
    return np.array([part.mean() for part in np.split(values, cuts)])


def recorder(folder: Path) -> Callable[[Progress], None]:
    """A function that is called after every step, for ``report`` of ``train``.

    It draws the curve at every validation and at least every two minutes, and writes TensorBoard
    events if it is installed.
    """
    boards: list[Any] = []
    drawn = [time.monotonic()]

    def record(progress: Progress) -> None:
        # Not before the first step, because the run may be refused.
        if not boards:
            boards.append(_board(folder))
        (board,) = boards
        if board is not None:
            for name in SHOWN:
                board.add_scalar(name, getattr(progress, name), progress.step)
            for name, value in progress.validation.items():
                board.add_scalar(f"validation/{name}", value, progress.step)
        now = time.monotonic()
        if progress.validation or now > drawn[-1] + LIVE_SECONDS:
            write_curve(folder)
            drawn.append(time.monotonic())
            if board is not None:
                board.flush()

    return record


def _board(folder: Path) -> Any:
    """A writer of TensorBoard events into the folder of the run; None without TensorBoard."""
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
