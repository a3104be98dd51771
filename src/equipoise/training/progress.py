"""Progress of a training run: a bar on a terminal, plain lines elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from equipoise.readable import duration
from equipoise.training.step import Progress as StepProgress

LINE_EVERY = 50
"""Steps between two lines of a log."""

MEASURES = {"psnr": "PSNR", "kspace_snr": "SNR of held-back samples"}
"""The words for the qualities of training samples."""

SMOOTHING = 0.95
"""Decay of the running means of the PSNR and of the time of a step."""


class Remaining:
    """The time that remains, from a running mean of the time between steps.

    A step of the warm-up takes a fraction of the others, so it says nothing of them: the time is
    that of the warm-up until it is over.
    """

    def __init__(self) -> None:
        self.last, self.mean = time.perf_counter(), 0.0
        self.seen, self.warming = 0, True

    def after(self, step: StepProgress) -> str:
        """The time that remains after a step."""
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        warming = step.iterations == 0 and step.step < step.warmup_steps
        # The first step of each kind has nothing to be averaged with, and that of a run waits for
        # the first samples, so its time does not count once there is another.
        fresh = self.seen < 2 or warming != self.warming
        self.mean = seconds if fresh else SMOOTHING * self.mean + (1 - SMOOTHING) * seconds
        self.seen, self.warming = self.seen + 1, warming
        if warming:
            return f"{duration((step.warmup_steps - step.step) * self.mean)} of the warm-up left"
        return f"{duration((step.total - step.step) * self.mean)} left"


class TrainingProgress:
    """Shows loss, PSNR, Lipschitz estimate, iterations, share of waiting and the time left."""

    def __init__(self, console: Console):
        self.console = console
        self.bar = Progress(
            TextColumn("{task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=None)
        self.psnr: float | None = None
        self.waiting = 0.0
        self.remaining = Remaining()

    def __enter__(self) -> "TrainingProgress":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def report(self, step: StepProgress) -> None:
        """Show one step, and its validation if there was one."""
        previous = step.psnr if self.psnr is None else self.psnr
        self.psnr = SMOOTHING * previous + (1 - SMOOTHING) * step.psnr
        self.waiting = SMOOTHING * self.waiting + (1 - SMOOTHING) * step.waiting
        text = (
            f"loss {step.loss:.2e}  {MEASURES[step.measure]} {self.psnr:.2f} dB  "
            f"constraint {step.constraint:.3f}  iterations {step.iterations:.1f}  "
            f"waiting {self.waiting:.0%}  {self.remaining.after(step)}"
        )
        self.bar.update(self.task, completed=step.step, total=step.total, description=text)
        if step.validation:
            values = "  ".join(f"{k} {v:.4g}" for k, v in step.validation.items())
            kept = f"written: step {step.best_step}" if step.best_step else "nothing written yet"
            self.console.print(
                f"step {step.step}: validation of the weights as written  {values}  ({kept})",
                markup=False,
            )
        # A log has no bar, and a line for each step would fill it.
        elif not self.console.is_terminal and step.step % LINE_EVERY == 0:
            self.console.print(f"step {step.step}/{step.total}  {text}", markup=False)
