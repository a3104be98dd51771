"""``equipoise import-model``."""

from pathlib import Path
from typing import Annotated

import typer

from equipoise.cli.terminal import console, failures


def import_model(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of the released MOL code.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Model file to write, .safetensors.")
    ],
    shift: Annotated[
        float, typer.Option(help="0.1 for the model as trained, 0 for the equation of the paper.")
    ] = 0.1,
    overwrite: Annotated[bool, typer.Option(help="Replace a model that exists.")] = False,
) -> None:
    """Convert the checkpoint that the authors of MOL released to a model file."""
    if not 0 <= shift < float("inf"):
        raise typer.BadParameter(f"--shift is {shift}: it must be 0 or positive")
    with failures():
        from equipoise.formats.writers.target import MODELS, check_target, input_files
        from equipoise.zoo.authors import import_authors_checkpoint
        from equipoise.zoo.model_file import save_model

        inputs = input_files(checkpoint)
        check_target(output, overwrite=overwrite, suffixes=MODELS, inputs=inputs)
        model = import_authors_checkpoint(checkpoint, shift)
        source = "anikpram/Monotone-Operator-Learning, released checkpoint"
        save_model(output, model, {"source": source, "file": checkpoint.name, "shift": shift})
    console.print(f"written: {output}", markup=False)
