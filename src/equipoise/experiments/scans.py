"""Every method on real fully sampled scans, undersampled by masks of four kinds."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.experiments.cases import Case, as_scan, expanded, scan_case
from equipoise.experiments.oracle import ORACLE
from equipoise.experiments.results import Row, markdown_table, write_csv, write_json, write_text
from equipoise.formats.replacing import make_folder
from equipoise.methods.variational import UNTRAINED
from equipoise.outcome import BadInputError
from equipoise.recon.experiment import is_fully_sampled, undersample

FILES = ("scans.md", "scans.csv", "scans.json", "summary.csv")

MASKS = {
    "variable-density-2d": 4.0,
    "poisson-disc": 6.0,
    "variable-density-1d": 4.0,
    "uniform": 4.0,
}
"""Kinds of masks, each with its acceleration."""

TUNED = tuple(f"{name}, {ORACLE}" for name in UNTRAINED)
"""What the others are compared with: the better of these, case by case."""


def scan_cases(data: Sequence[Path], seeds: int) -> Iterator[Case]:
    """The central slice of every scan with every kind of mask and every seed.

    Raises
    ------
    BadInputError
        If a file is not a fully sampled scan.
    """
    for path in expanded(list(data)):
        scan = as_scan(path)
        if scan is None or not is_fully_sampled(scan):
            raise BadInputError(f"{path} is not a fully sampled scan: there is no target")
        for kind, acceleration in MASKS.items():
            for seed in range(seeds):
                reduced = undersample(scan, acceleration, seed, kind)
                case = scan_case(scan, reduced, path, len(scan.kspace) // 2, seed)
                case.name += f", {kind} {acceleration:g}-fold"
                yield case


def against_tuned(rows: Sequence[Row]) -> list[Row]:
    """Of each method, its mean, and its PSNR minus that of the better tuned one on the same case.

    The difference is None where none of the tuned methods was run.
    """
    by_case: dict[tuple[str, int], dict[str, Row]] = {}
    for row in rows:
        by_case.setdefault((row["slice"], row["seed"]), {})[row["method"]] = row
    found = []
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        differences = [
            case[name]["psnr"] - max(case[t]["psnr"] for t in TUNED if t in case)
            for case in by_case.values()
            if any(t in case for t in TUNED)
        ]
        found.append(
            {
                "method": name,
                "psnr": float(np.mean([row["psnr"] for row in own])),
                "ssim": float(np.mean([row["ssim"] for row in own])),
                "mean_difference": float(np.mean(differences)) if differences else None,
                "worst_difference": float(np.min(differences)) if differences else None,
                "better_in": sum(d > 0 for d in differences),
                "cases": len(own),
            }
        )
    return found


def write_scans(
    folder: Path, rows: list[Row], settings: dict[str, Any], seen: Sequence[str] = ()
) -> dict[str, Any]:
    """``scans.{md,csv,json}`` and ``summary.csv``; returns the JSON."""
    make_folder(folder)
    summary = against_tuned(rows)
    result = {"summary": summary, "cases": rows, "seen": [*seen], "settings": settings}
    write_csv(folder / "scans.csv", rows)
    write_csv(folder / "summary.csv", summary)
    write_json(folder / "scans.json", result)
    notes = [
        "Each entry is PSNR in dB / SSIM. The last table compares with the better of "
        f"{' and '.join(TUNED)} on the same case.",
        "SENSE is at the lam that is best for the target, and so is every method named oracle.",
        *seen,
    ]
    tables = [markdown_table(_by_case(rows)), markdown_table([_printed(s) for s in summary])]
    write_text(folder / "scans.md", "\n".join([*tables, *notes, ""]))
    return result


def _by_case(rows: Sequence[Row]) -> list[Row]:
    table: dict[str, Row] = {}
    for row in rows:
        case = f"{row['slice']}, mask {row['seed']}"
        entry = table.setdefault(case, {"case": case})
        entry[row["method"]] = f"{row['psnr']:.2f} / {row['ssim']:.3f}"
    return list(table.values())


def _printed(entry: Row) -> Row:
    compared = entry["mean_difference"] is not None
    return {
        "method": entry["method"],
        "PSNR (dB)": f"{entry['psnr']:.2f}",
        "SSIM": f"{entry['ssim']:.4f}",
        "minus the better tuned one, mean": f"{entry['mean_difference']:+.2f}" if compared else "",
        "worst": f"{entry['worst_difference']:+.2f}" if compared else "",
        "better in": f"{entry['better_in']} of {entry['cases']}",
    }
