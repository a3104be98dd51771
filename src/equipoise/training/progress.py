"""Progress of a training run: a bar on a terminal, plain lines elsewhere."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from equipoise.training.step import Progress as StepProgress

LINE_EVERY = 50
"""Steps between two lines of a log."""

MEASURES = {"psnr": "PSNR", "kspace_snr": "SNR of held-back samples"}
"""The words for the qualities of training samples."""

SMOOTHING = 0.95
"""Decay of the running mean of the PSNR."""


class TrainingProgress:
    """Shows loss, PSNR, Lipschitz estimate, iterations and the remaining time."""

    def __init__(self, console: Console):
        self.console = console
        self.bar = Progress(
            TextColumn("{task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=None)
        self.psnr: float | None = None

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
        text = (
            f"loss {step.loss:.2e}  {MEASURES[step.measure]} {self.psnr:.2f} dB  "
            f"constraint {step.constraint:.3f}  iterations {step.iterations:.1f}"
        )
        self.bar.update(self.task, completed=step.step, total=step.total, description=text)
        if step.validation:
            values = "  ".join(f"{k} {v:.4g}" for k, v in step.validation.items())
            self.console.print(f"step {step.step}: validation  {values}", markup=False)
        # A log has no bar, and a line for each step would fill it.
        elif not self.console.is_terminal and step.step % LINE_EVERY == 0:
            self.console.print(f"step {step.step}/{step.total}  {text}", markup=False)
