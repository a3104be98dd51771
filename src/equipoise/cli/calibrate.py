"""``equipoise calibrate``: which scans are usual, and how good their images are at least."""

from pathlib import Path
from typing import Annotated

import typer

from equipoise.cli.options import LARGEST_SEED, Device
from equipoise.cli.progress import progress
from equipoise.cli.terminal import console, failures


def calibrate(
    model: Annotated[str, typer.Argument(help="Name or file of the model to calibrate.")],
    data: Annotated[
        list[Path],
        typer.Option(help="File or folder of images with the dataset `subject`; may be repeated."),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Model file to write, .safetensors.")
    ],
    coils: Annotated[
        Path | None, typer.Option(help="Measured coil maps, if training used them.")
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0, max=1, help="Rate of false alarms on scans like these.")
    ] = 0.05,
    level: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of scans like these that the PSNR bound is right of."
        ),
    ] = 0.95,
    scans: Annotated[
        int, typer.Option(min=4, max=100_000, help="Number of simulated scans.")
    ] = 120,
    zoom: Annotated[
        tuple[float, float] | None,
        typer.Option(
            min=0.01, max=1, help="Range of the reduction of resolution [that of training]."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the simulation.")] = 0,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option(help="Replace a model that exists.")] = False,
) -> None:
    """Measure on images of many subjects which scans are usual, and how good images are.

    The result is `in_range` and a bound on the PSNR that a stated share of such scans reaches.
    """
    if zoom is not None and zoom[0] > zoom[1]:
        raise typer.BadParameter(f"--zoom is {zoom}: give the smaller number first")
    with failures():
        from equipoise.experiments.subjects import seen_before
        from equipoise.formats.writers.target import MODELS, check_target, input_files
        from equipoise.recon.device import pick_device
        from equipoise.training.calibrate import (
            calibrate_model,
            calibration_images,
            simulation_of,
        )
        from equipoise.zoo.model_file import load_model, provenance, save_model

        inputs = input_files(Path(model) if Path(model).is_file() else None, coils, *data)
        check_target(output, overwrite=overwrite, suffixes=MODELS, inputs=inputs)
        network, origin = load_model(model).to(pick_device(device)), provenance(model)
        source = simulation_of(origin, coils, zoom)
        images = calibration_images(data, origin)
        with progress() as bar:
            found = calibrate_model(
                network,
                images,
                source,
                scans=scans,
                rate=rate,
                level=level,
                seed=seed,
                tell=bar.of("simulated scans"),
            )
        network.calibration = found
        seen = seen_before({network.name: origin}, data)
        origin["calibration"] = {
            "data": [p.name for p in data],
            "seen": seen,
            "subjects": found.subjects,
            "scans": scans,
            "lam": found.lam,
            "zoom": list(source.zoom),
            "rate": rate,
            "level": level,
            "seed": seed,
        }
        save_model(output, network.cpu(), origin)
    for sentence in seen:
        console.print(sentence, style="yellow", markup=False)
    assert found.psnr is not None
    console.print(
        f"PSNR bound: {found.psnr.margin:.2f} dB below what the scan predicts, for {level:.0%} of "
        f"scans like these ({found.psnr.subjects} subjects; measured, not proved)",
        markup=False,
    )
    console.print(f"written: {output}", markup=False)
