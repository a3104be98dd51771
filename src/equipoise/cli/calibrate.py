"""``equipoise calibrate``: what is usual on validation data."""

from pathlib import Path
from typing import Annotated

import typer

from equipoise.cli.progress import progress
from equipoise.cli.terminal import console, failures


def calibrate(
    model: Annotated[Path, typer.Argument(help="The model file to calibrate.")],
    data: Annotated[list[Path], typer.Option(help="File or folder of validation images.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Model file to write, .safetensors.")
    ],
    coils: Annotated[
        Path | None, typer.Option(help="Measured coil maps, if training used them.")
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0, max=1, help="Rate of false alarms on scans like these.")
    ] = 0.05,
    scans: Annotated[int, typer.Option(min=4, help="Number of simulated scans.")] = 120,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulation.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace a model that exists.")] = False,
) -> None:
    """Measure what is usual on validation data, so that `in_range` can be computed."""
    with failures():
        from equipoise.formats.writers.target import MODELS, check_target, input_files
        from equipoise.training.calibrate import calibrate_model, simulation_of
        from equipoise.training.sources.images import load_images
        from equipoise.zoo.model_file import load_model, provenance, save_model

        inputs = input_files(model, coils, *data)
        check_target(output, overwrite=overwrite, suffixes=MODELS, inputs=inputs)
        network, origin = load_model(model), provenance(model)
        source = simulation_of(origin, coils)
        with progress() as bar:
            network.calibration = calibrate_model(
                network,
                load_images(data),
                source,
                scans=scans,
                rate=rate,
                seed=seed,
                tell=bar.of("simulated scans"),
            )
        origin["calibration"] = {"data": [p.name for p in data], "scans": scans, "seed": seed}
        save_model(output, network, origin)
    console.print(f"written: {output}", markup=False)
