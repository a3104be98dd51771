"""The command ``equipoise``. Heavy imports live inside the commands: ``--help`` is instant.

Exit codes: 0 done; 1 bad input or failure; 2 usage; 3 with ``--strict`` when a slice did not
converge; 4 when some of many scans failed. Results for machines go to standard output, everything
else to standard error.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from equipoise import (
    cli_batch,
    cli_calib,
    cli_certify,
    cli_experiments,
    cli_files,
    cli_models,
    cli_superres,
)
from equipoise.cli_batch import NOT_CONVERGED, BatchOptions, is_batch, recon_many
from equipoise.cli_calib import calib
from equipoise.cli_certify import calibrate, certify, check_report_target, command_line
from equipoise.cli_doctor import doctor
from equipoise.cli_experiments import app as experiments
from equipoise.cli_files import convert, info
from equipoise.cli_models import app as models
from equipoise.cli_scan import (
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
from equipoise.cli_superres import superres
from equipoise.cli_verbosity import VerboseGroup, errors, verbosity

if TYPE_CHECKING:
    import torch

    from equipoise.equilibrium.method import Method
    from equipoise.reconstruction import Reconstruction
    from equipoise.retrospective import Experiment

app = typer.Typer(
    help="MRI reconstruction at an equilibrium, with a bound on its error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    cls=VerboseGroup,
)
app.add_typer(experiments, name="experiment")
app.add_typer(models, name="models")
app.command()(doctor)
app.command()(certify)
app.command()(calibrate)
app.command()(calib)
app.command()(info)
app.command()(convert)
app.command()(superres)
# Away from a terminal (a log, a pipe) tables keep their full width.
console = Console(stderr=True, width=None if sys.stderr.isatty() else 140)


@app.callback()
def _verbosity(
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="only errors and warnings")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="more on the way")] = False,
    debug: Annotated[bool, typer.Option(help="a traceback where a command fails")] = False,
) -> None:
    """MRI reconstruction at an equilibrium, with a bound on its error."""
    verbosity.quiet, verbosity.verbose, verbosity.debug = quiet, verbose, debug
    for module in (
        cli_batch,
        cli_calib,
        cli_certify,
        cli_experiments,
        cli_files,
        cli_models,
        cli_superres,
    ):
        module.console.quiet = quiet
    console.quiet = quiet


@contextmanager
def failures() -> Iterator[None]:
    """Failures that the user can act on end in one line and exit code 1."""
    from equipoise.outcome import EquipoiseError

    try:
        yield
    except EquipoiseError as error:
        if verbosity.debug:
            raise
        errors.print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from error
    except MemoryError as error:
        if verbosity.debug:
            raise
        errors.print("error: not enough memory for this scan", style="bold red")
        raise typer.Exit(1) from error


@app.command()
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
        from equipoise.batch import Settings

        settings = Settings(model, weight, rtol, acceleration, seed or 0, csm, mask)
        flags = {"as_json": as_json, "overwrite": overwrite, "strict": strict}
        recon_many(scans, output, settings, options, **flags)
        return
    (scan,) = scans
    target = output or Path(f"{scan.name.split('.')[0]}_mol.h5")
    with failures():
        from equipoise.formats.write import check_target
        from equipoise.methods.weights import load_model
        from equipoise.result_file import save
        from equipoise.retrospective import load_experiment

        check_target(target, overwrite=overwrite)
        check_report_target(report, overwrite)
        network = load_model(model)
        experiment = load_experiment(
            scan, csm=csm, mask=mask, acceleration=acceleration, seed=seed or 0
        )
        result = _run(experiment, network, weight, rtol, device)
        save(target, result, str(scan), model, overwrite=overwrite)
        if report is not None:
            from equipoise.html_page import write_report
            from equipoise.html_report import of_reconstruction

            page = of_reconstruction(
                result,
                experiment,
                model,
                network.name,
                command_line(),
                lam_given=weight is not None,
            )
            write_report(report, page)
    _announce(result, target, as_json, scan, model)
    if report is not None:
        console.print(f"report: {report}", markup=False, soft_wrap=True)
    if strict and result.outcome.value != "converged":
        raise typer.Exit(NOT_CONVERGED)


def _run(
    experiment: "Experiment",
    model: "Method",
    lam: float | None,
    rtol: float | None,
    device: str = "auto",
) -> "Reconstruction":
    from dataclasses import replace

    from equipoise.device import pick_device
    from equipoise.memory import fit_memory
    from equipoise.reconstruction import reconstruct

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

    from equipoise import __version__
    from equipoise.formats.limits import size_text

    console.print(
        f"equipoise {__version__}, python {platform.python_version()}, torch {torch.__version__}, "
        f"{device}, {torch.get_num_threads()} threads; memory beside the scan: about "
        f"{size_text(needed)}",
        style="dim",
        markup=False,
    )


def _announce(
    result: "Reconstruction", target: Path, as_json: bool, scan: Path, model: str
) -> None:
    from equipoise.outcome import Outcome
    from equipoise.report import short_certificate, slice_table

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


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("-o", "--output", help="folder for the results")] = Path(
        "demo"
    ),
) -> None:
    """Simulate a scan of a real head, reconstruct it, and show the result."""
    with failures():
        from equipoise.demo import simulate_scan, zero_filled
        from equipoise.formats.write import make_folder
        from equipoise.methods.weights import DEFAULT_MODEL, load_model
        from equipoise.report import comparison_figure
        from equipoise.result_file import save
        from equipoise.retrospective import load_experiment

        make_folder(folder)
        scan = folder / "scan.h5"
        simulate_scan(scan)
        result = _run(load_experiment(scan), load_model(), None, None)
        image = folder / "reconstruction.h5"
        save(image, result, str(scan), DEFAULT_MODEL, overwrite=True)
        picture = folder / "demo.png"
        assert result.csm is not None
        maps = result.csm
        title = "T1w head, 8 simulated coils, 4-fold, noise 2 %"
        comparison_figure(picture, result, zero_filled(scan, maps), title)
    _announce(result, image, False, scan, DEFAULT_MODEL)
    console.print(f"picture: {picture}", markup=False)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML configuration")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="folder of the run [runs/NAME]")
    ] = None,
    resume: Annotated[bool, typer.Option(help="continue a run that was stopped")] = False,
) -> None:
    """Train a model on simulated scans of images."""
    with failures():
        from equipoise.learning.config import load_config
        from equipoise.learning.progress import TrainingProgress
        from equipoise.learning.train import train as run

        settings = load_config(config)
        folder = output or Path("runs") / settings.name
        with TrainingProgress(console) as progress:
            weights = run(
                settings, folder, resume=resume, report=progress.report, say=console.print
            )
    console.print(f"best validated weights: {weights}", markup=False)


@app.command("import-model")
def import_model(
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint of the released MOL code")],
    output: Annotated[Path, typer.Option("-o", "--output", help="model file, .safetensors")],
    shift: Annotated[
        float, typer.Option(help="0.1: the model as trained; 0: the equation of the paper")
    ] = 0.1,
    overwrite: Annotated[bool, typer.Option(help="replace a model that exists")] = False,
) -> None:
    """Bring the checkpoint that the authors of MOL released into a model file."""
    if not 0 <= shift < float("inf"):
        raise typer.BadParameter(f"--shift is {shift}: it must be 0 or positive")
    with failures():
        from equipoise.methods.weights import import_authors_checkpoint, save_model
        from equipoise.outcome import BadInputError

        if output.exists() and not overwrite:
            raise BadInputError(f"{output} exists: give another name with -o, or --overwrite")
        model = import_authors_checkpoint(checkpoint, shift)
        source = "anikpram/Monotone-Operator-Learning, released checkpoint"
        save_model(output, model, {"source": source, "file": checkpoint.name, "shift": shift})
    console.print(f"written: {output}", markup=False)


def main() -> None:
    """Entry point."""
    app()
