"""The options that ``recon`` and ``certify`` have in common: which scan, which model, how exact."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Option(help="name or file")]
Maps = Annotated[Path | None, typer.Option(help="coil maps; estimated if not given")]
MaskFile = Annotated[Path | None, typer.Option(help="sampling mask to apply")]
Acceleration = Annotated[float | None, typer.Option(min=1, help="undersample a full scan")]
Seed = Annotated[int | None, typer.Option(min=0, help="of the drawn mask [0]")]
Lam = Annotated[str, typer.Option(help="data weight, or auto: follows the noise")]
Rtol = Annotated[
    float | None,
    typer.Option(help="bound on ||x - x*||/||x|| to reach; of the step for DE-GRAD [model's]"),
]


def check_scan_options(
    mask: Path | None, acceleration: float | None, seed: int | None, rtol: float | None
) -> None:
    """Refuse options that contradict each other."""
    if mask is not None and acceleration is not None:
        raise typer.BadParameter("--mask and --acceleration exclude each other")
    if seed is not None and acceleration is None:
        raise typer.BadParameter("--seed belongs to the mask that --acceleration draws")
    if rtol is not None and not rtol > 0:
        raise typer.BadParameter(f"--rtol is {rtol}: it must be positive")


def parse_lam(lam: str) -> float | None:
    """A number, or None for ``auto``."""
    if lam == "auto":
        return None
    try:
        value = float(lam)
    except ValueError as error:
        raise typer.BadParameter(f"--lam is {lam!r}: a positive number or auto") from error
    if not 0 < value < float("inf"):
        raise typer.BadParameter(f"--lam is {lam}: it must be positive and finite")
    return value
