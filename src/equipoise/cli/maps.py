"""``equipoise maps``: coil maps of a scan."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from equipoise.cli.terminal import console, failures


def maps(
    scan: Annotated[Path, typer.Argument(help="A scan of any known format.")],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="File: .h5 (with eigenvalues and channels), .npy or .cfl."
        ),
    ],
    coils: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Compress to this number of virtual coils (SVD)."),
    ] = None,
    whiten: Annotated[
        bool, typer.Option(help="Whiten the channels with the noise at the edge of k-space.")
    ] = False,
    crop: Annotated[
        str, typer.Option(help="Eigenvalue below which maps are zero; auto chooses it per slice.")
    ] = "auto",
    kernel: Annotated[
        int, typer.Option(min=2, max=64, help="Width of the kernel in k-space samples.")
    ] = 6,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an output that exists.")] = False,
) -> None:
    """Estimate coil maps (ESPIRiT) from the calibration region, for `recon --csm`."""
    threshold = _threshold(crop)
    with failures():
        from equipoise.formats import as_slices, read
        from equipoise.formats.writers.target import input_files
        from equipoise.recon.coil_maps import calibrate_maps, check_maps_target, save_maps

        acquisition = as_slices(read(scan))
        # A scan that the reader whitened has other channels than the scanner, too.
        changed = whiten or coils is not None or acquisition.header.whitening is not None
        inputs = input_files(scan)
        check_maps_target(output, changed=changed, overwrite=overwrite, inputs=inputs)
        with console.status(f"{len(acquisition.kspace)} slices"):
            result = calibrate_maps(
                acquisition, virtual=coils, whiten=whiten, crop=threshold, kernel=kernel
            )
        save_maps(output, result)
    table = Table("slice", "calibration", "support", "eigenvalue", "unexplained", "||A||")
    for s in result.slices:
        table.add_row(
            str(s.index),
            " x ".join(map(str, s.calibration)),
            f"{s.support:.0%}",
            f"{s.eigenvalue:.4f}",
            f"{s.unexplained:.2%}",
            f"{s.operator_norm:.4f}",
        )
    console.print(table)
    console.print(f"written: {output}", markup=False, soft_wrap=True)
    if as_json:
        print(json.dumps(result.as_json(str(scan)), allow_nan=False))


def _threshold(crop: str) -> float | None:
    if crop == "auto":
        return None
    try:
        value = float(crop)
    except ValueError as error:
        raise typer.BadParameter(
            f"--crop is {crop!r}: it must be a number between 0 and 1, or auto"
        ) from error
    if not 0 <= value < 1:
        raise typer.BadParameter(f"--crop is {crop}: it must lie between 0 and 1")
    return value
