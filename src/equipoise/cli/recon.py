"""``equipoise recon``: from the file of a scan to its images and their error bounds."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from equipoise.cli.batch import (
    NOT_CONVERGED,
    SOME_FAILED,
    BatchOptions,
    is_batch,
    parse_parts,
    recon_many,
)
from equipoise.cli.options import Device, ScanOptions, with_scan_options
from equipoise.cli.report import check_report_target, write_recon_report
from equipoise.cli.terminal import console, failures, verbosity

if TYPE_CHECKING:
    import torch

    from equipoise.recon.reconstruct import SliceResult
    from equipoise.recon.reconstruct_file import FileReconstruction, Prepared
    from equipoise.recon.settings import ReconSettings


@with_scan_options
def recon(
    scans: Annotated[list[Path], typer.Argument(help="One scan, or many with -o FOLDER.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="File (.h5, .nii.gz, .dcm, .mrd, .cfl, .npy, .png, .gif, .mp4) or folder "
            "[SCAN_mol.h5].",
        ),
    ] = None,
    *,
    how: ScanOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an output that exists.")] = False,
    strict: Annotated[bool, typer.Option(help="Exit with 3 if a slice did not converge.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write a .html page, or for many scans a folder of pages.")
    ] = None,
    dicom_template: Annotated[
        Path | None,
        typer.Option(help="Folder of DICOM images whose patient and study the output takes."),
    ] = None,
    device: Device = "auto",
    suffix: Annotated[str, typer.Option(help="Many scans: format of the images.")] = ".h5",
    resume: Annotated[
        bool, typer.Option(help="Many scans: skip images that are complete and up to date.")
    ] = False,
    num_parts: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Many scans: number of parts of the work; auto takes that of the SLURM array.",
        ),
    ] = None,
    part_id: Annotated[
        int | None,
        typer.Option(min=0, help="Many scans: part to do, from 0 [the SLURM array task]."),
    ] = None,
    slurm: Annotated[
        bool, typer.Option(help="Many scans: submit the parts as a SLURM array.")
    ] = False,
    slurm_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Option for SLURM, such as partition=gpu."),
    ] = None,
) -> None:
    """Reconstruct scans, with a bound on the error of each image."""
    options = BatchOptions(
        suffix, resume, parse_parts(num_parts), part_id, slurm, slurm_option or [], device, report
    )
    with failures():
        from equipoise.recon.settings import ReconSettings
        from equipoise.zoo.find import chosen_model

        model = chosen_model(how.model, real=False)
        settings = ReconSettings(
            model, how.lam, how.rtol, how.acceleration, how.seed, how.csm, how.mask
        )
    if is_batch(scans, output, options):
        if report is not None and report.suffix == ".html":
            raise typer.BadParameter("--report must be a folder for many scans: use --report DIR")
        if dicom_template is not None:
            raise typer.BadParameter("--dicom-template belongs to one scan, of one patient")
        flags = {"as_json": as_json, "overwrite": overwrite, "strict": strict}
        recon_many(scans, output, settings, options, **flags)
        return
    (scan,) = scans
    target = output or Path(f"{scan.name.split('.')[0]}_mol.h5")
    with failures():
        from equipoise.formats.writers.target import check_target, input_files

        inputs = input_files(scan, dicom_template, *settings.files())
        check_target(target, overwrite=overwrite, inputs=inputs)
        check_report_target(report, overwrite, inputs)
        done = recon_one(
            scan,
            settings,
            target,
            overwrite=overwrite,
            device=device,
            dicom_template=dicom_template,
        )
        if report is not None:
            write_recon_report(report, done)
    announce(done, as_json)
    if report is not None:
        console.print(f"report: {report}", markup=False, soft_wrap=True)
    if done.result.header.left_out:
        raise typer.Exit(SOME_FAILED)
    if strict and done.result.outcome.value != "converged":
        raise typer.Exit(NOT_CONVERGED)


def recon_one(
    scan: Path,
    settings: "ReconSettings",
    target: Path,
    *,
    overwrite: bool,
    device: str = "auto",
    dicom_template: Path | None = None,
) -> "FileReconstruction":
    """Reconstruct a scan, with notes and progress on the console."""
    from equipoise.cli.progress import SolveText
    from equipoise.equilibrium.watching import watched
    from equipoise.recon.device import pick_device
    from equipoise.recon.reconstruct_file import reconstruct_file

    chosen, text, size, done = pick_device(device), SolveText(), "", 0
    with (
        console.status(f"reading {scan.name}") as status,
        watched(lambda seen: status.update(f"{size}, {done} done: {text.after(seen)}")),
    ):

        def on_ready(prepared: "Prepared") -> None:
            nonlocal size
            say_what_is_assumed(prepared, chosen)
            acquisition = prepared.experiment.acquisition
            size = f"{prepared.size}, {acquisition.acceleration:.2f}-fold"
            status.update(size)

        def on_slice(result: "SliceResult") -> None:
            nonlocal done
            done += 1

        return reconstruct_file(
            scan,
            settings,
            chosen,
            target=target,
            overwrite=overwrite,
            dicom_template=dicom_template,
            on_ready=on_ready,
            on_slice=on_slice,
        )


def say_what_is_assumed(prepared: "Prepared", device: "torch.device") -> None:
    """Print the notes of the reader, and what is done differently because memory is short."""
    from equipoise.methods.method import PLANE, SERIES
    from equipoise.recon.memory import memory_text
    from equipoise.recon.stack import kind_of
    from equipoise.zoo.find import MODELS_OF

    acquisition = prepared.experiment.acquisition
    if verbosity.verbose:
        say_more(prepared.plan.needed, device)
    elif len(prepared.axes) > len(PLANE):
        console.print(f"{prepared.size}: {memory_text(prepared.plan.needed)}", style="dim")
    for note in acquisition.notes:
        console.print(f"{acquisition.layout}: {note}", style="dim", markup=False)
    together = prepared.experiment.together
    if prepared.axes == PLANE and together != PLANE:
        text = f"image by image; --model {MODELS_OF[together]} solves a {kind_of(together)} as one"
        console.print(text, style="dim", markup=False)
    if prepared.axes == SERIES and together != SERIES:
        text = "note: every series has one frame: name the axis of time, or use a model of (y, x)"
        console.print(text, style="yellow", markup=False)
    if prepared.plan.note:
        console.print(f"note: {prepared.plan.note}", style="yellow", markup=False)


def say_more(needed: int, device: "torch.device") -> None:
    """Print what ``-v`` adds: versions, device, threads, and the estimated memory."""
    import platform

    import torch

    from equipoise.formats.limits import size_text
    from equipoise.version import __version__

    console.print(
        f"equipoise {__version__}, python {platform.python_version()}, torch {torch.__version__}, "
        f"{device}, {torch.get_num_threads()} threads; memory in addition to the scan: about "
        f"{size_text(needed)}",
        style="dim",
        markup=False,
    )


def announce(done: "FileReconstruction", as_json: bool) -> None:
    """Print how each slice ended, what is promised, and where the image is."""
    from equipoise.formats.writers.write import written_files
    from equipoise.outcome import Outcome
    from equipoise.report.tables import (
        objective_sentence,
        psnr_sentence,
        rule_sentence,
        short_certificate,
        slice_table,
    )

    result = done.result
    console.print(slice_table(result))
    certificate = short_certificate(result) or objective_sentence(result)
    for sentence in filter(None, (certificate, rule_sentence(result), psnr_sentence(result))):
        console.print(sentence, markup=False, soft_wrap=True)
    if result.target is not None:
        console.print("SENSE uses the lam that is best for the target.", style="dim")
    if result.outcome is Outcome.FEED_FORWARD:
        console.print(f"note: {result.outcome.advice}", style="yellow", markup=False)
    for path in () if done.target is None else written_files(done.target, result.header):
        console.print(f"written: {path}", markup=False, soft_wrap=True)
    if as_json:
        found = result.as_json(str(done.scan), done.settings.model)
        print(json.dumps(found, allow_nan=False))
