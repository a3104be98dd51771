"""``equipoise finetune``: a model for the scans of a site."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from equipoise.cli.options import LARGEST_SEED, Device
from equipoise.cli.terminal import console, errors, failures

if TYPE_CHECKING:
    from equipoise.training.finetune import Finetuned

NOT_BETTER = 5
"""Exit code if the fine-tuned model is not better than the start, so that nothing was written."""


def finetune(
    model: Annotated[str, typer.Argument(help="The model to start from: a name or a file.")],
    scans: Annotated[
        list[Path], typer.Argument(help="Scans, fully sampled or undersampled, or folders of them.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Model file to write, .safetensors.")
    ],
    steps: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Number of steps, one slice each.")
    ] = 30,
    learning_rate: Annotated[
        float, typer.Option(min=1e-12, max=1, help="Learning rate of the network at the beginning.")
    ] = 1e-3,
    acceleration: Annotated[
        float | None,
        typer.Option(
            min=1, max=1000, help="Masks of fully sampled scans [as the model was trained]."
        ),
    ] = None,
    fraction: Annotated[
        float, typer.Option(help="Share of undersampled scans held back from each solve.")
    ] = 0.4,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the split and of the samples.")
    ] = 0,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a model that exists.")] = False,
) -> None:
    """Train a model further on your own scans; it is written only if it is better."""
    if not 0 < fraction < 1:
        raise typer.BadParameter(f"--fraction is {fraction}: it must lie between 0 and 1")
    with failures():
        from equipoise.recon.device import pick_device
        from equipoise.training.finetune import FinetuneSettings
        from equipoise.training.finetune import finetune as run
        from equipoise.training.progress import TrainingProgress
        from equipoise.training.stopping import StoppedError

        settings = FinetuneSettings(
            steps, learning_rate, acceleration=acceleration, fraction=fraction, seed=seed
        )
        try:
            with TrainingProgress(console) as progress:
                found = run(
                    model,
                    scans,
                    output,
                    settings,
                    overwrite=overwrite,
                    device=pick_device(device),
                    report=progress.report,
                    say=lambda text: console.print(text, markup=False),
                )
        # A few steps are begun again sooner than they are continued.
        except StoppedError as error:
            errors.print("stopped, and nothing was written", style="yellow")
            raise typer.Exit(error.exit_code) from error
    _tell(found)
    if as_json:
        print(json.dumps(found.as_json()))
    if found.path is None:
        raise typer.Exit(NOT_BETTER)


def _tell(found: "Finetuned") -> None:
    from equipoise.training.finetune import QUALITIES
    from equipoise.training.progress import MEASURES

    for scan, why in found.skipped.items():
        errors.print(f"skipped {scan}: {why}", style="yellow", markup=False)
    for name in QUALITIES:
        if name in found.before:
            before, after = found.before[name], found.after[name]
            console.print(
                f"{MEASURES[name]} of what was held out: {before:.2f} dB before, {after:.2f} dB "
                f"after ({after - before:+.2f} dB)",
                markup=False,
            )
    m = "no equilibrium, so nothing is bounded"
    console.print(m if found.m is None else f"m {found.m:.3g} ({found.evidence})", markup=False)
    if found.path is None:
        errors.print(f"{found.outcome.value}: {found.outcome.advice}", style="bold red")
        return
    console.print(f"written: {found.path}", markup=False)
    console.print(
        "`in_range` needs a new calibration: `equipoise calibrate`", style="dim", markup=False
    )
