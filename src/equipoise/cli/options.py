"""The options that ``recon`` and ``certify`` share: scan, model and accuracy."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from equipoise.methods.prediction import LamSetting

Model = Annotated[str, typer.Option(help="Model, method or model file.")]
Maps = Annotated[Path | None, typer.Option(help="File of coil maps [estimated].")]
MaskFile = Annotated[Path | None, typer.Option(help="File of a sampling mask to apply.")]
Acceleration = Annotated[
    float | None, typer.Option(min=1, help="Undersample a fully sampled scan by this factor.")
]
LARGEST_SEED = 2**32 - 1
"""Largest seed that all generators of random numbers take."""

Seed = Annotated[
    int | None, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the drawn mask [0].")
]
Lam = Annotated[
    str | None,
    typer.Option(
        metavar="auto|rule|NUMBER",
        help="Data weight: it predicts samples best (auto), follows the noise (rule), or is given "
        "[auto with mol-ridge and mol-guided-sharp, else rule].",
    ),
]
Rtol = Annotated[
    float | None,
    typer.Option(help="Bound on ||x - x*||/||x|| (on the step for DE-GRAD) [of the model]."),
]

Device = Annotated[str, typer.Option(help="Device of the solve: auto, cpu or cuda:N.")]


@dataclass(frozen=True)
class ScanOptions:
    """What they were given; lam is None where the model decides."""

    model: str
    csm: Path | None
    mask: Path | None
    acceleration: float | None
    seed: int
    lam: "LamSetting | None"
    rtol: float | None


PARAMETERS: dict[str, tuple[Any, Any]] = {
    "model": (Model, "mol-guided-universal"),
    "csm": (Maps, None),
    "mask": (MaskFile, None),
    "acceleration": (Acceleration, None),
    "seed": (Seed, None),
    "lam": (Lam, None),
    "rtol": (Rtol, None),
}
"""Types and defaults of the options, in the order of the help."""


def with_scan_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with these options instead of its parameter ``how``, a :class:`ScanOptions`."""

    @wraps(command)
    def taking(**given: Any) -> None:
        found = {name: given.pop(name) for name in PARAMETERS}
        names = ("mask", "acceleration", "seed", "rtol")
        check_scan_options(*(found[name] for name in names))
        lam, seed = parse_lam(found["lam"]), found["seed"] or 0
        command(how=ScanOptions(**{**found, "lam": lam, "seed": seed}), **given)

    signature = inspect.signature(command)
    parameters: list[inspect.Parameter] = []
    for one in signature.parameters.values():
        if one.name != "how":
            parameters.append(one.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        parameters += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=usual, annotation=kind)
            for name, (kind, usual) in PARAMETERS.items()
        ]
    taking.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    taking.__annotations__ = {one.name: one.annotation for one in parameters}
    return taking


def check_scan_options(
    mask: Path | None, acceleration: float | None, seed: int | None, rtol: float | None
) -> None:
    """Refuse options that contradict each other."""
    if mask is not None and acceleration is not None:
        raise typer.BadParameter("--mask and --acceleration exclude each other: leave out one")
    if seed is not None and acceleration is None:
        raise typer.BadParameter("--seed needs --acceleration, which draws the mask")
    # Smaller numbers count as zero where the processor flushes them.
    if rtol is not None and not sys.float_info.min <= rtol < 1:
        raise typer.BadParameter(
            f"--rtol is {rtol}: it must lie between 0 and 1, a share of the norm of the image"
        )


def parse_lam(lam: str | None) -> "LamSetting | None":
    """The value of ``--lam``: a number, ``auto``, ``rule``, or None if the model decides."""
    if lam is None or lam in ("auto", "rule"):
        return lam
    try:
        value = float(lam)
    except ValueError as error:
        raise typer.BadParameter(
            f"--lam is {lam!r}: it must be a positive number, auto or rule"
        ) from error
    if not 0 < value < float("inf"):
        raise typer.BadParameter(f"--lam is {lam}: it must be positive and finite")
    from equipoise.methods.prediction import checked_lam
    from equipoise.outcome import BadInputError

    try:
        return checked_lam(value)
    except BadInputError as error:
        raise typer.BadParameter(f"--{error}") from error
