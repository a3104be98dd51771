"""``equipoise experiment volume``: volumes, slice by slice along the readout and whole."""

from pathlib import Path
from typing import Annotated

import typer

from equipoise.cli.experiment_cine import models_of
from equipoise.cli.experiments import (
    Acceleration,
    AsJson,
    Folder,
    Overwrite,
    check_results,
    finish,
    settings_of,
)
from equipoise.cli.options import Device
from equipoise.cli.progress import progress
from equipoise.cli.terminal import console, failures


def volume(
    data: Annotated[
        list[Path],
        typer.Option(help="Volumes (z, y, x), fully sampled scans, or folder of them; repeat."),
    ],
    acceleration: Acceleration = 8.0,
    seeds: Annotated[
        int, typer.Option(min=1, max=1000, help="Number of masks for each volume.")
    ] = 1,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Models of (y, x) or (z, y, x) as NAME=FILE, with mol-3d in any case [mol-2d].",
            metavar="LIST",
        ),
    ] = None,
    model_3d: Annotated[
        str,
        typer.Option(
            "--model-3d",
            help="Model of (z, y, x) that solves the volume whole: the file of mol-3d.",
        ),
    ] = "mol-guided-volume",
    crop: Annotated[
        int | None,
        typer.Option(min=2, help="Number of central slices along the readout x [all]."),
    ] = None,
    partial_fourier: Annotated[
        tuple[float, float],
        typer.Option(help="Shares of k-space along z and y that are measured, such as 0.75 0.75."),
    ] = (1.0, 1.0),
    device: Device = "auto",
    output: Folder = Path("volume"),
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Volumes: slice by slice along the readout, whole in 3D, wavelets, TV, zero-filled."""
    with failures():
        from equipoise.experiments import volume as experiment
        from equipoise.experiments.cases import expanded
        from equipoise.experiments.series import NOISE
        from equipoise.experiments.volumes import volume_cases
        from equipoise.recon.device import on_device, pick_device

        if methods and WHOLE not in (
            entry.partition("=")[0].strip() for entry in methods.split(",")
        ):
            methods += f",{WHOLE}"
        read = f"{methods or ''},{model_3d}"
        check_results(output, experiment.FILES, overwrite, data, read)
        where = pick_device(device)
        chosen = models_of(methods, {**OF_SLICES, WHOLE: model_3d}).to(where)
        models = {name: model for name, model in chosen.loaded.items() if model is not None}
        volumes = volume_cases(data, acceleration, seeds, crop=crop, partial=partial_fourier)
        found = (on_device(case, where) for case in volumes)
        with progress() as bar:
            say = bar.saying("volume", len(expanded(data)) * seeds)
            rows = experiment.study(models, found, say)
        settings = {
            **settings_of(data, acceleration, seeds, where),
            "simulated_noise": list(NOISE),
            "crop": crop,
            "partial_fourier": list(partial_fourier),
        }
        result = experiment.write_study(output, rows, settings, chosen.seen(data))
        console.document((output / experiment.FILES[0]).read_text())
    finish(output, result, as_json)


OF_SLICES, WHOLE = {"mol-2d": "mol-guided-universal"}, "mol-3d"
"""The usual model of a slice, and the name of that of a volume in tables, where it always is."""
