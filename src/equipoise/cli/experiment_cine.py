"""``equipoise experiment cine``: series in time, frame by frame and with time."""

from pathlib import Path
from typing import Annotated

import typer

from equipoise.cli.compared import Chosen
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


def cine(
    data: Annotated[
        list[Path],
        typer.Option(help="Series (time, y, x), fully sampled scans, or folder of them; repeat."),
    ],
    acceleration: Acceleration = 8.0,
    seeds: Annotated[
        int, typer.Option(min=1, max=1000, help="Number of masks for each series.")
    ] = 1,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Models of (y, x) or (time, y, x) as NAME=FILE [mol-2d and mol-2dt].",
            metavar="LIST",
        ),
    ] = None,
    crop: Annotated[
        int | None, typer.Option(min=16, help="Side of the central part of every frame [all].")
    ] = None,
    partial_fourier: Annotated[
        float, typer.Option(help="Share of k-space along x that is measured, such as 0.75.")
    ] = 1.0,
    device: Device = "auto",
    output: Folder = Path("cine"),
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Series in time: frame by frame, with time, temporal TV, locally low rank, zero-filled."""
    with failures():
        from equipoise.experiments import cine as experiment
        from equipoise.experiments.cases import expanded
        from equipoise.experiments.series import NOISE, series_cases
        from equipoise.recon.device import on_device, pick_device

        check_results(output, experiment.FILES, overwrite, data, methods)
        where = pick_device(device)
        chosen = models_of(methods, OF_SERIES).to(where)
        models = {name: model for name, model in chosen.loaded.items() if model is not None}
        series = series_cases(data, acceleration, seeds, crop=crop, partial=partial_fourier)
        found = (on_device(case, where) for case in series)
        with progress() as bar:
            say = bar.saying("series", len(expanded(data)) * seeds)
            rows = experiment.study(models, found, say)
        settings = {
            **settings_of(data, acceleration, seeds, where),
            "simulated_noise": list(NOISE),
            "crop": crop,
            "partial_fourier": partial_fourier,
        }
        result = experiment.write_study(output, rows, settings, chosen.seen(data))
        console.document((output / "cine.md").read_text())
    finish(output, result, as_json)


OF_SERIES = {"mol-2d": "mol-guided-universal", "mol-2dt": "mol-ridge-cine"}
"""Models of the comparison of series, by their names there."""


def models_of(names: str | None, usual: dict[str, str]) -> Chosen:
    """The models of a list NAME=FILE, in which usual names need no file; all usual ones if None."""
    from equipoise.outcome import BadInputError
    from equipoise.zoo.model_file import load_model, provenance

    listed = usual if names is None else names.split(",")
    entries = [entry.strip().partition("=") for entry in listed]
    pairs = [(name, file or usual.get(name, name)) for name, _, file in entries]
    found = Chosen({}, {})
    for name, file in pairs:
        # Rows are told apart by the names of their methods.
        if name in found.loaded or not name:
            raise BadInputError(f"--methods is {names!r}: each method needs a different name")
        found.loaded[name], found.origins[name] = load_model(file), provenance(file)
    return found
