"""``equipoise train``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from equipoise.cli.options import Device
from equipoise.cli.terminal import console, failures

if TYPE_CHECKING:
    from equipoise.training.step import Progress


def train(
    config: Annotated[Path, typer.Argument(help="A YAML configuration.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the run [runs/NAME].")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue a run that was stopped.")] = False,
    device: Device = "auto",
) -> None:
    """Train a model on simulated scans of images."""
    with failures():
        from equipoise.recon.device import pick_device
        from equipoise.training.config import load_config
        from equipoise.training.curve import recorder
        from equipoise.training.progress import TrainingProgress
        from equipoise.training.train import train as run

        settings = load_config(config)
        folder = output or Path("runs") / settings.name
        where, record = pick_device(device), recorder(folder)
        with TrainingProgress(console) as progress:

            def report(step: "Progress") -> None:
                progress.report(step)
                record(step)

            weights = run(
                settings, folder, resume=resume, device=where, report=report, say=console.print
            )
    console.print(f"best validated weights: {weights}", markup=False)
