"""The command ``equipoise``. Commands import heavy modules when they run, so ``--help`` is fast.

Exit codes: 0 done; 1 bad input or failure; 2 usage; 3 with ``--strict`` when a slice did not
converge; 4 when some of many scans failed, or some images of a scan cannot be made (it was stopped,
or a slice holds no sample) and the others are written; 5 when a fine-tuned model is not better than
its start, so that nothing was written; 130 and 143 when SIGINT or SIGTERM stopped a training run,
whose checkpoint is saved. Results for scripts go to standard output, everything else to standard
error.
"""

from typing import Annotated

import typer

from equipoise.cli.calibrate import calibrate
from equipoise.cli.certify import certify
from equipoise.cli.demo import demo
from equipoise.cli.doctor import doctor
from equipoise.cli.experiment_cine import cine
from equipoise.cli.experiment_volume import volume
from equipoise.cli.experiments import app as experiments
from equipoise.cli.files import convert, info
from equipoise.cli.finetune import finetune
from equipoise.cli.import_model import import_model
from equipoise.cli.maps import maps
from equipoise.cli.models import app as models
from equipoise.cli.recon import recon
from equipoise.cli.send import send
from equipoise.cli.serve import serve
from equipoise.cli.superres import superres
from equipoise.cli.terminal import FiniteCommand, VerboseGroup, console, verbosity
from equipoise.cli.train import train

app = typer.Typer(
    help="MRI reconstruction at an equilibrium, with a bound on its error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    cls=VerboseGroup,
)
experiments.command()(cine)
experiments.command()(volume)
app.add_typer(experiments, name="experiment")
app.add_typer(models, name="models")
for command in (
    doctor,
    certify,
    calibrate,
    info,
    convert,
    superres,
    recon,
    demo,
    train,
    finetune,
    serve,
    send,
):
    app.command()(command)
app.command("import-model")(import_model)
app.command("maps")(maps)
app.command("calib", hidden=True)(maps)  # the older word
for group in (app, experiments, models):
    for registered in group.registered_commands:
        registered.cls = FiniteCommand


def _version(asked: bool) -> bool:
    """Print the version and end."""
    if asked:
        from equipoise.version import __version__

        print(f"equipoise {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def _verbosity(
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Print only errors and warnings.")
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Print more details.")] = False,
    debug: Annotated[bool, typer.Option(help="Print a traceback when a command fails.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    """MRI reconstruction at an equilibrium, with a bound on its error."""
    verbosity.quiet, verbosity.verbose, verbosity.debug = quiet, verbose, debug
    console.quiet = quiet


def main() -> None:
    """Entry point."""
    app()
