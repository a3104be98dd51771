"""``equipoise train``."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equipoise.cli.options import Device
from equipoise.cli.terminal import console, errors, failures, verbosity

if TYPE_CHECKING:
    from equipoise.training.distributed import Processes
    from equipoise.training.step import Progress

AUTO = -1
"""Stands for a number of workers that suits the processors."""

VALIDATION_SHARE = 0.1
"""Share of the subjects of ``--data`` that is set aside if no validation is given."""


def train(
    config: Annotated[
        Path,
        typer.Argument(
            help="A YAML configuration, or the name of a preset: brain-4x, brain-4x-whole, "
            "cine, superres-3x, universal, volume.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the run [runs/NAME].")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue a run that was stopped.")] = False,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Training images: a file or folder; may be given several times."),
    ] = None,
    validation: Annotated[
        list[Path] | None,
        typer.Option(help="Images for validation [a tenth of the subjects of --data]."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, such as steps=5000."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="float32, or bfloat16 where nothing is certified [of the file]."),
    ] = None,
    device: Device = "auto",
    workers: Annotated[
        int,
        typer.Option(
            min=AUTO, max=1024, help="Processes that prepare samples [-1: by processors]."
        ),
    ] = AUTO,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the whole configuration and end.")
    ] = False,
    slurm: Annotated[bool, typer.Option("--slurm", help="Submit the run to SLURM.")] = False,
    nodes: Annotated[int, typer.Option(min=1, max=100_000, help="Nodes of the SLURM job.")] = 1,
    tasks: Annotated[
        int,
        typer.Option(min=1, max=1024, help="Processes on each node of the SLURM job, one per GPU."),
    ] = 1,
    slurm_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Such as partition=gpu.")
    ] = None,
) -> None:
    """Train a model on images, of which scans are simulated, and on measured scans.

    torchrun --nproc-per-node N -m equipoise train ... trains on N devices. SIGINT and SIGTERM end
    the run after its step with a checkpoint, and the exit code is 130 or 143.
    """
    with failures():
        from equipoise.training.config import load_config

        settings = load_config(config, _changes(data, validation, precision, changes))
        folder = output or Path("runs") / settings.name
        if print_config:
            from equipoise.training.reference import as_yaml

            print(as_yaml(settings), end="")
        elif slurm:
            from equipoise.cli.slurm_train import submit
            from equipoise.training.beginning import check_new_run

            if not resume:
                # Here, because the first task would take an old run for its own that was stopped.
                check_new_run(settings, folder)
            submit(folder, nodes, tasks, slurm_option or [])
        else:
            _run(settings, folder, resume, device, workers)


def _changes(
    data: list[Path] | None,
    validation: list[Path] | None,
    precision: str | None,
    changes: list[str] | None,
) -> list[str]:
    """The options as changes of the configuration."""
    import json

    found = []
    if data:
        found.append(f"data.train={json.dumps([str(path) for path in data])}")
        found.append(f"data.validation_share={'null' if validation else VALIDATION_SHARE}")
        found.append("data.validation=[]")
    if validation:
        found.append(f"data.validation={json.dumps([str(path) for path in validation])}")
    if precision is not None:
        found.append(f"precision={json.dumps(precision)}")
    # Last, because --set is the more particular one.
    return [*found, *(changes or [])]


def _run(settings: Any, folder: Path, resume: bool, device: str, workers: int) -> None:
    """Train in this process, which may be one of several."""
    from equipoise.recon.device import pick_device
    from equipoise.training.distributed import joined, local_count, own_device
    from equipoise.training.feed import usual_workers
    from equipoise.training.stopping import StoppedError
    from equipoise.training.train import train as run

    where = pick_device(own_device(device))
    if workers == AUTO:
        workers = usual_workers(local_count())
    with joined(where) as processes:
        # Every process reports its own failure, and the first one reports the progress.
        console.quiet = verbosity.quiet or not processes.writes
        with _Shown(folder, processes) as report:
            try:
                weights = run(
                    settings,
                    folder,
                    resume=resume,
                    device=where,
                    workers=workers,
                    processes=processes,
                    report=report,
                    say=lambda text: console.print(text, markup=False),
                )
            except StoppedError as error:
                if processes.writes:
                    errors.print(f"{error}", style="yellow", markup=False)
                    errors.print(
                        f"resume with: {resuming(sys.argv)}", markup=False, highlight=False
                    )
                raise typer.Exit(error.exit_code) from error
    console.print(f"best validated weights: {weights}", markup=False)


def resuming(arguments: list[str]) -> str:
    """The command line that continues this run."""
    kept = [argument for argument in arguments[1:] if argument != "--no-resume"]
    return shlex.join(["equipoise", *kept, *([] if "--resume" in kept else ["--resume"])])


class _Shown:
    """The bar and the curve of the first process."""

    def __init__(self, folder: Path, processes: "Processes") -> None:
        from equipoise.training.curve import recorder
        from equipoise.training.progress import TrainingProgress

        self.record, self.progress = recorder(folder), TrainingProgress(console)
        self.writes = processes.writes

    def __enter__(self) -> "Callable[[Progress], None]":
        if self.writes:
            self.progress.__enter__()
        return self._report

    def __exit__(self, *error: Any) -> None:
        if self.writes:
            self.progress.__exit__(*error)

    def _report(self, step: "Progress") -> None:
        self.progress.report(step)
        self.record(step)
