"""``equipoise recon``: file in, image and its error bound out."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from equipoise.cli.batch import NOT_CONVERGED, BatchOptions, is_batch, recon_many
from equipoise.cli.certify import check_report_target, command_line
from equipoise.cli.options import (
    Acceleration,
    Lam,
    Maps,
    MaskFile,
    Model,
    Rtol,
    Seed,
    check_scan_options,
    parse_lam,
)
from equipoise.cli.terminal import console, errors, failures, verbosity

if TYPE_CHECKING:
    import torch

    from equipoise.methods.method import Method
    from equipoise.recon.experiment import Experiment
    from equipoise.recon.reconstruct import Reconstruction


def recon(
    scans: Annotated[list[Path], typer.Argument(help="one scan, or many with -o FOLDER")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help=".h5, .nii.gz, .dcm, .mrd, .cfl, .npy or .png, or a folder [SCAN_mol.h5]",
        ),
    ] = None,
    model: Model = "mol-lr-brain-4x",
    csm: Maps = None,
    mask: MaskFile = None,
    acceleration: Acceleration = None,
    seed: Seed = None,
    lam: Lam = "auto",
    rtol: Rtol = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    overwrite: Annotated[bool, typer.Option(help="replace an output that exists")] = False,
    strict: Annotated[bool, typer.Option(help="exit 3 if a slice did not converge")] = False,
    report: Annotated[Path | None, typer.Option(help="one scan: page of the result, .html")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:N or mps")] = "auto",
    suffix: Annotated[str, typer.Option(help="many: format of the images")] = ".h5",
    resume: Annotated[bool, typer.Option(help="many: skip what is complete")] = False,
    num_parts: Annotated[
        int | None, typer.Option(min=1, help="many: parts of the work [of the SLURM array]")
    ] = None,
    part_id: Annotated[
        int | None, typer.Option(min=0, help="many: the part to do, from 0 [SLURM array task]")
    ] = None,
    slurm: Annotated[bool, typer.Option(help="many: submit the parts as a SLURM array")] = False,
    slurm_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="as partition=gpu")
    ] = None,
) -> None:
    """Reconstruct scans: file in, image and its error bound out."""
    weight = parse_lam(lam)
    check_scan_options(mask, acceleration, seed, rtol)
    options = BatchOptions(suffix, resume, num_parts, part_id, slurm, slurm_option or [], device)
    if is_batch(scans, output, options):
        if report is not None:
            raise typer.BadParameter("--report is for one scan")
        from equipoise.recon.batch import Settings

        settings = Settings(model, weight, rtol, acceleration, seed or 0, csm, mask)
        flags = {"as_json": as_json, "overwrite": overwrite, "strict": strict}
        recon_many(scans, output, settings, options, **flags)
        return
    (scan,) = scans
    target = output or Path(f"{scan.name.split('.')[0]}_mol.h5")
    with failures():
        from equipoise.formats.writers.write import check_target
        from equipoise.recon.experiment import load_experiment
        from equipoise.recon.result_file import save
        from equipoise.zoo.model_file import load_model

        check_target(target, overwrite=overwrite)
        check_report_target(report, overwrite)
        network = load_model(model)
        experiment = load_experiment(
            scan, csm=csm, mask=mask, acceleration=acceleration, seed=seed or 0
        )
        result = run_recon(experiment, network, weight, rtol, device)
        save(target, result, str(scan), model, overwrite=overwrite)
        if report is not None:
            from equipoise.report.content import of_reconstruction
            from equipoise.report.page import write_report

            page = of_reconstruction(
                result,
                experiment,
                model,
                network.name,
                command_line(),
                lam_given=weight is not None,
            )
            write_report(report, page)
    announce(result, target, as_json, scan, model)
    if report is not None:
        console.print(f"report: {report}", markup=False, soft_wrap=True)
    if strict and result.outcome.value != "converged":
        raise typer.Exit(NOT_CONVERGED)


def run_recon(
    experiment: "Experiment",
    model: "Method",
    lam: float | None,
    rtol: float | None,
    device: str = "auto",
) -> "Reconstruction":
    """Reconstruct an experiment with what fits into memory, saying what is assumed."""
    from dataclasses import replace

    from equipoise.recon.device import pick_device
    from equipoise.recon.memory import fit_memory
    from equipoise.recon.reconstruct import reconstruct

    acquisition = experiment.acquisition
    fitting = fit_memory(acquisition, model)
    if verbosity.verbose:
        say_more(fitting.needed, pick_device(device))
    for note in acquisition.notes:
        console.print(f"{acquisition.layout}: {note}", style="dim", markup=False)
    if fitting.note:
        console.print(f"note: {fitting.note}", style="yellow", markup=False)
    accuracy = model.options.rtol if rtol is None else rtol
    options = replace(model.options, rtol=accuracy, tile=fitting.tile)
    with console.status(f"{len(acquisition.kspace)} slices, {acquisition.acceleration:.2f}-fold"):
        return reconstruct(
            acquisition,
            model,
            full=experiment.full,
            lam=lam,
            options=options,
            device=pick_device(device),
            keep_maps=fitting.keep_maps,
        )


def say_more(needed: int, device: "torch.device") -> None:
    """What ``-v`` adds: versions, where it runs, and the memory that it is thought to take."""
    import platform

    import torch

    from equipoise.formats.limits import size_text
    from equipoise.version import __version__

    console.print(
        f"equipoise {__version__}, python {platform.python_version()}, torch {torch.__version__}, "
        f"{device}, {torch.get_num_threads()} threads; memory beside the scan: about "
        f"{size_text(needed)}",
        style="dim",
        markup=False,
    )


def announce(result: "Reconstruction", target: Path, as_json: bool, scan: Path, model: str) -> None:
    """Say how each slice ended, what is promised, and where the image is."""
    from equipoise.outcome import Outcome
    from equipoise.report.tables import short_certificate, slice_table

    console.print(slice_table(result))
    certificate = short_certificate(result)
    if certificate is not None:
        console.print(certificate, markup=False, soft_wrap=True)
    if result.target is not None:
        console.print("SENSE is at the lam that is best for the target.", style="dim")
    if result.outcome is Outcome.FEED_FORWARD:
        console.print(f"note: {result.outcome.advice}", style="yellow", markup=False)
    for s in result.slices:
        if s.outcome not in (Outcome.CONVERGED.value, Outcome.FEED_FORWARD.value):
            advice = Outcome(s.outcome).advice
            errors.print(
                f"warning: slice {s.index} did not converge ({s.outcome}, bound "
                f"{s.distance_bound:.1e}): {advice}",
                style="yellow",
                markup=False,
            )
    console.print(f"written: {target}", markup=False, soft_wrap=True)
    if as_json:
        print(json.dumps(result.as_json(str(scan), model), allow_nan=False))
