"""``equipoise superres``: a photograph with more pixels."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from equipoise.cli.batch import NOT_CONVERGED
from equipoise.cli.options import Device, Model, Rtol, check_scan_options, parse_lam
from equipoise.cli.progress import progress
from equipoise.cli.terminal import console, failures

if TYPE_CHECKING:
    from equipoise.recon.enlarge import Enlargement


def superres(
    image: Annotated[Path, typer.Argument(help="A PNG, JPEG, TIFF or BMP, grey or colour.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File to write: .png, .jpg or .tif.")
    ],
    model: Model = "mol-lr-superres-3x",
    noise: Annotated[
        float,
        typer.Option(min=0, help="Standard deviation of the noise relative to white; it sets lam."),
    ] = 0.01,
    lam: Annotated[
        str, typer.Option(metavar="rule|NUMBER", help="Data weight; rule follows the noise.")
    ] = "rule",
    rtol: Rtol = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an output that exists.")] = False,
    strict: Annotated[bool, typer.Option(help="Exit with 3 if a block did not converge.")] = False,
) -> None:
    """Enlarge a photograph: its luminance by a model, colour and transparency by interpolation."""
    if lam == "auto":
        raise typer.BadParameter("--lam auto needs samples of a scan: give rule, or a number")
    number = parse_lam(lam)
    weight = None if isinstance(number, str) else number
    check_scan_options(None, None, None, rtol)
    with failures():
        from equipoise.formats.photograph import (
            check_photograph_target,
            read_photograph,
            write_photograph,
        )
        from equipoise.formats.writers.target import input_files
        from equipoise.recon.device import pick_device
        from equipoise.recon.enlarge import blur_of, enlarge
        from equipoise.zoo.find import chosen_model
        from equipoise.zoo.model_file import load_model

        photograph, where = read_photograph(image), pick_device(device)
        model = chosen_model(model, real=True)
        network, blur = load_model(model), blur_of(model)
        inputs = input_files(image, model if Path(model).is_file() else None)
        check_photograph_target(output, photograph, blur.factor, overwrite=overwrite, inputs=inputs)
        options = None if rtol is None else replace(network.options, rtol=rtol)
        size = f"{photograph.luminance.shape[1]} x {photograph.luminance.shape[0]}"
        with progress() as bar:
            result = enlarge(
                photograph,
                network,
                blur,
                noise=noise,
                lam=weight,
                options=options,
                device=where,
                tell=bar.of(size),
            )
        write_photograph(output, result.photograph)
    _announce(result, output)
    if as_json:
        print(json.dumps(result.as_json(str(image), model), allow_nan=False))
    # After the file is written: a loose image is better than none.
    if strict and result.outcome.value != "converged":
        raise typer.Exit(NOT_CONVERGED)


def _announce(result: "Enlargement", output: Path) -> None:
    for note in result.photograph.notes:
        console.print(note, style="dim", markup=False)
    y, x = result.photograph.luminance.shape
    evaluations = max(block.network_evaluations for block in result.blocks)
    bound = result.distance_bound
    blocks = "" if len(result.blocks) == 1 else f" in {len(result.blocks)} blocks"
    promise = (
        "no bound"
        if bound is None
        else f"||x - x*|| <= {bound:.1e} ||x|| ({result.blocks[0].m_evidence} m)"
    )
    console.print(
        f"{x} x {y}{blocks}: {result.outcome.value}, {promise}, {evaluations} network "
        f"evaluations, lam {result.blocks[0].lam:.3g}, {result.seconds:.1f} s",
        markup=False,
    )
    console.print(f"written: {output}", markup=False, soft_wrap=True)
