"""``equipoise models``: list, show, verify, export and install model files."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from equipoise.cli.terminal import CleanConsole, console, errors, failures, say


class _ListByDefault(TyperGroup):
    """``models`` without a subcommand is ``models list``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert ``list`` if there is no subcommand."""
        # --json alone belongs to the list.
        alone = not args or args[0] == "--json"
        return super().parse_args(ctx, ["list", *args] if alone else args)


app = typer.Typer(
    help="List, show, verify, export and install models.",
    no_args_is_help=False,
    cls=_ListByDefault,
)
LICENCE = "Apache-2.0"

Name = Annotated[str, typer.Argument(help="Name or file of a model.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Overwrite = Annotated[bool, typer.Option(help="Replace a file that exists.")]


@app.command("list")
def models(as_json: AsJson = False) -> None:
    """List the models of the package and those that were installed."""
    with failures():
        from equipoise.methods.variational import UNTRAINED
        from equipoise.zoo.find import available_models
        from equipoise.zoo.model_file import damage

        problems = {name: damage(name) for name in available_models()}
        # One damaged file must not hide the others.
        whole = [name for name, problem in problems.items() if not problem]
        found = {name: _summary(name) for name in (*whole, *UNTRAINED)}
    for problem in filter(None, problems.values()):
        errors.print(f"warning: {problem}", style="yellow", markup=False)
    if as_json:
        print(json.dumps(found, allow_nan=False))
        return
    table = Table("model", "method", "m", "validation (dB)", "range", box=None)
    # A name that is cut off cannot be given to another command.
    table.columns[0].min_width = max(map(len, found))
    for name, summary in found.items():
        m = summary["m"]
        table.add_row(
            name,
            summary["method"],
            "-" if m is None else f"{m:g} {summary['m_evidence']}",
            _number(summary["provenance"].get("validation", {}).get("psnr")),
            "calibrated" if summary["calibrated"] else "-",
        )
    CleanConsole().print(table)


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show everything that a model file says about itself."""
    with failures():
        summary = _summary(name)
    if as_json:
        print(json.dumps(summary, allow_nan=False))
        return
    for key, value in summary.items():
        if key != "provenance":
            say(f"{key:12} {value}")
    say(*json.dumps(summary["provenance"], indent=2).splitlines())


@app.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names or files of models [all].")
    ] = None,
) -> None:
    """Compare the checksums of models with the stored ones."""
    with failures():
        from equipoise.zoo.find import available_models
        from equipoise.zoo.model_file import damage
        from equipoise.zoo.model_file import verify as check

        found = {name: damage(name) for name in names or available_models()}
        for name, problem in found.items():
            if problem is None:
                say(f"{name}: {check(name)}")
            else:
                errors.print(f"error: {problem}", style="bold red", markup=False)
    if any(found.values()):
        raise typer.Exit(1)


@app.command()
def export(
    name: Name,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, .safetensors.")],
    overwrite: Overwrite = False,
) -> None:
    """Write a model as one file, to install it on a machine without a network connection."""
    with failures():
        from equipoise.formats.writers.target import MODELS, check_target, input_files
        from equipoise.zoo.find import find_model
        from equipoise.zoo.install import copy_model
        from equipoise.zoo.model_file import verify as check

        found = check(name)
        inputs = input_files(find_model(name))
        check_target(output, overwrite=overwrite, suffixes=MODELS, inputs=inputs)
        copy_model(find_model(name), output)
    console.print(f"written: {output}, checksum {found}", markup=False)


@app.command()
def install(
    file: Annotated[Path, typer.Argument(help="A model file.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the installed model [name of the file].")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Verify a model file and copy it to the folder where models are found by name."""
    with failures():
        from equipoise.zoo.install import install_model

        target = install_model(file, name, overwrite=overwrite)
    console.print(f"installed: {target}", markup=False)


def _summary(name: str) -> dict[str, Any]:
    from equipoise.zoo.find import find_model, packaged_models
    from equipoise.zoo.model_file import load_model, provenance
    from equipoise.zoo.untrained import untrained_model

    model = load_model(name)
    untrained, origin = untrained_model(name) is not None, provenance(name)
    ours = untrained or name in packaged_models()
    return {
        "file": None if untrained else str(find_model(name)),
        "method": model.name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "m": model.m,
        "m_evidence": model.m_evidence,
        "calibrated": model.calibration is not None,
        # The licence of the package says nothing about weights from others.
        "licence": LICENCE if ours else origin.get("licence", "not stated"),
        "provenance": origin,
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
