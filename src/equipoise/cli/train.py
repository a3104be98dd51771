"""``equipoise train``."""

from pathlib import Path
from typing import Annotated

import typer

from equipoise.cli.terminal import console, failures


def train(
    config: Annotated[Path, typer.Argument(help="A YAML configuration.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the run [runs/NAME].")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue a run that was stopped.")] = False,
) -> None:
    """Train a model on simulated scans of images."""
    with failures():
        from equipoise.training.config import load_config
        from equipoise.training.progress import TrainingProgress
        from equipoise.training.train import train as run

        settings = load_config(config)
        folder = output or Path("runs") / settings.name
        with TrainingProgress(console) as progress:
            weights = run(
                settings, folder, resume=resume, report=progress.report, say=console.print
            )
    console.print(f"best validated weights: {weights}", markup=False)
