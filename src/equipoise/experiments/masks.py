"""Every method over kinds of masks and accelerations, on the same images or scans."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.experiments.cases import Case, cases
from equipoise.experiments.results import Row, markdown_table, write_csv, write_json, write_text
from equipoise.experiments.subjects import about_subjects
from equipoise.formats.replacing import make_folder

FILES = ("masks.md", "masks.csv", "masks.json")

GRID = (
    ("variable-density-2d", 4.0),
    ("variable-density-2d", 8.0),
    ("poisson-disc", 4.0),
    ("poisson-disc", 8.0),
    ("variable-density-1d", 2.5),
    ("variable-density-1d", 4.0),
    ("uniform", 2.5),
    ("uniform", 4.0),
)
"""Kinds of masks with accelerations; eight coils cannot separate more aliases of whole lines."""


def mask_cases(data: list[Path], seeds: int) -> Iterator[Case]:
    """Every slice of every file with every mask of ``GRID`` and every seed."""
    for kind, acceleration in GRID:
        for case in cases(data, acceleration, seeds, mask=kind):
            case.name += condition(kind, acceleration)
            yield case


def condition(kind: str, acceleration: float) -> str:
    """How a mask is named behind the name of a slice."""
    return f", {kind} {acceleration:g}-fold"


def write_masks(
    folder: Path, rows: list[Row], settings: dict[str, Any], seen: Sequence[str] = ()
) -> dict[str, Any]:
    """Write ``masks.{md,csv,json}``; return the JSON."""
    make_folder(folder)
    means = [found for mask in GRID if (found := _means(rows, condition(*mask)))]
    table = [{"mask": m["mask"], **{k: f"{v:.2f}" for k, v in m["psnr"].items()}} for m in means]
    result = {"means": means, "cases": rows, "seen": [*seen], "settings": settings}
    write_csv(folder / "masks.csv", rows)
    write_json(folder / "masks.json", result)
    notes = ["PSNR in dB, mean over slices and seeds.", _guarantees(rows), about_subjects(rows)]
    write_text(folder / "masks.md", "\n".join([markdown_table(table), *notes, *seen, ""]))
    return result


def _means(rows: list[Row], ending: str) -> dict[str, Any] | None:
    """The mean PSNR of every method with one mask; None if it was not run."""
    own = [row for row in rows if row["slice"].endswith(ending)]
    if not own:
        return None
    names = dict.fromkeys(row["method"] for row in own)
    psnr = {
        name: float(np.mean([row["psnr"] for row in own if row["method"] == name]))
        for name in names
    }
    return {"mask": ending.removeprefix(", "), "psnr": psnr, "n": len(own) // len(names)}


def _guarantees(rows: list[Row]) -> str:
    """What is bounded of each method, and what that rests on."""
    found = {row["method"]: row["guarantee"] for row in rows}
    return "Guarantees: " + "; ".join(f"{name}: {what}" for name, what in found.items()) + "."
