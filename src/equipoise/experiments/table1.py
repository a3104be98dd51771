"""Table I and Fig. 1 of the supplement: every method on the same acquisitions."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.experiments.cases import Case
from equipoise.experiments.oracle import at_weights
from equipoise.experiments.results import Row, markdown_table, write_csv, write_json, write_text
from equipoise.experiments.subjects import about_subjects, paired_difference
from equipoise.formats.replacing import make_folder, replacing
from equipoise.methods.method import Method
from equipoise.methods.sense import best_sense
from equipoise.methods.variational import Variational
from equipoise.metrics import psnr, ssim
from equipoise.physics.least_squares import tikhonov
from equipoise.physics.linop import LinearOperator
from equipoise.recon.device import CPU, on_device, seconds_since

log = logging.getLogger(__name__)

SENSE = "sense"
REFERENCE = "mol-lr"
"""The method with which the others are compared, pair by pair."""

FILES = ("table1.md", "table1.csv", "table1.json", "slices.csv", "figure1.png")


@dataclass
class Comparison:
    """One row for each case and method, and the images of the first case for the figure."""

    rows: list[Row]
    images: dict[str, Tensor]
    first: Case


def compare(
    methods: dict[str, Method | None],
    acquisitions: Iterable[Case],
    say: Callable[[str], None] = log.info,
    lams: Sequence[str] | None = None,
) -> Comparison:
    """Reconstruct every case with every method.

    SENSE is None in ``methods``. It uses the lam of a grid that is best for the target, and its
    time is that of one solve. ``lams`` are the ways in which the others choose theirs, ``rule`` and
    ``auto``; None is the usual one of each method.
    """
    rows: list[Row] = []
    images: dict[str, Tensor] = {}
    first: Case | None = None
    for case in acquisitions:
        first = first or case
        before = len(rows)
        for name, image, row in _all_methods(methods, case, lams):
            quality = {
                "psnr": float(psnr(image, case.target)),
                "ssim": float(ssim(image, case.target)),
            }
            place = {"slice": case.name, "subject": case.subject, "seed": case.seed}
            unknown = {"lam": None, "objective_gap": None, "trials": 0}
            rows.append({**place, "method": name, **quality, **unknown, **row})
            if case is first:
                images[name] = image.cpu()
        done = {r["method"]: f"{r['psnr']:.2f}" for r in rows[before:]}
        say(f"{case.name}, mask {case.seed}: {done}")
    assert first is not None
    return Comparison(rows, images, on_device(first, CPU))


def _all_methods(
    methods: dict[str, Method | None], case: Case, lams: Sequence[str] | None
) -> Iterator[tuple[str, Tensor, Row]]:
    """Name, image and row of every method at each of its weights."""
    for name, method in methods.items():
        if method is None:
            image, row = _sense(case)
            yield name, image, {**row, "guarantee": guarantee(None)}
            continue
        for lam, (image, row) in at_weights(method, case, lams).items():
            # The best weight of a method that is not trained stands beside the usual one.
            plain = lam == method.usual_lam and not isinstance(method, Variational)
            row["guarantee"] = guarantee(method)
            yield name if plain else f"{name}, {lam}", image, row


def guarantee(method: Method | None) -> str:
    """What is bounded of an image of the method, and what the bound rests on."""
    if isinstance(method, Variational):
        return "objective: proved"
    if method is None or method.m is None:
        return "none"
    bounded = "distance, change of data" if getattr(method, "robust", True) else "distance"
    return f"{bounded}: {method.m_evidence}"


def _sense(case: Case) -> tuple[Tensor, Row]:
    # Before the clock starts: the search for the best lam is not part of the method.
    lam = best_sense(case.operator, case.kspace, case.target).lam
    started = time.perf_counter()
    image = tikhonov(case.operator, case.kspace, lam, rtol=1e-4)
    seconds = seconds_since(started, image.device)
    return image, {"seconds": seconds, "evaluations": 0, "outcome": "sense", "bound": None}


@torch.no_grad()
def learned(
    method: Method, operator: LinearOperator, data: Tensor, noise_level: Tensor
) -> tuple[Tensor, Row]:
    """The image of a trained method, and the entries of its row."""
    started = time.perf_counter()
    solution = method.solve(operator, data, noise_level=noise_level)
    seconds = seconds_since(started, data.device)
    bound = float(solution.distance_bound)
    return solution.value, {
        "seconds": seconds,
        "evaluations": int(solution.network_evaluations),
        "outcome": solution.outcome[0].value,
        "bound": bound if np.isfinite(bound) else None,
    }


def summary(rows: list[Row]) -> dict[str, Any]:
    """Mean and standard deviation over slices and masks, and the paired differences."""
    names = list(dict.fromkeys(row["method"] for row in rows))
    methods: dict[str, Any] = {}
    for name in names:
        own = [row for row in rows if row["method"] == name]
        methods[name] = {
            key: [float(np.mean([r[key] for r in own])), float(np.std([r[key] for r in own]))]
            for key in ("psnr", "ssim", "seconds", "evaluations", "trials")
            if key in own[0]
        }
        methods[name]["n"] = len(own)
        methods[name]["guarantee"] = own[0].get("guarantee", "none")
    result: dict[str, Any] = {"methods": methods, "paired": {}}
    # A comparison of other methods has no paired differences.
    if REFERENCE in names:
        others = [name for name in names if name != REFERENCE]
        result["paired"] = {name: paired_difference(rows, REFERENCE, name) for name in others}
    return result


def write_table(
    folder: Path, comparison: Comparison, settings: dict[str, Any], seen: Sequence[str] = ()
) -> dict[str, Any]:
    """Write ``table1.{md,csv,json}``, ``slices.csv`` and ``figure1.png``; return the JSON.

    ``seen`` holds sentences about data that the models have seen, from
    :func:`equipoise.experiments.subjects.seen_before`.
    """
    make_folder(folder)
    result = {**summary(comparison.rows), "seen": [*seen], "settings": settings}
    table = [table_row(name, result) for name in result["methods"]]
    write_csv(folder / "slices.csv", comparison.rows)
    write_csv(folder / "table1.csv", table)
    write_json(folder / "table1.json", result)
    notes = [
        "SENSE uses the lam that is best for the target. Standard deviations are over slices.",
        about_subjects(comparison.rows),
        *seen,
    ]
    write_text(folder / "table1.md", "\n".join([markdown_table(table), *notes, ""]))
    figure(folder / "figure1.png", comparison)
    return result


def table_row(name: str, result: dict[str, Any]) -> Row:
    """The row that is printed for one method of a :func:`summary`."""
    m = result["methods"][name]
    paired = result["paired"].get(name)
    difference = ""
    if paired:
        difference = f"{paired['mean']:+.2f}"
        if paired["interval"]:
            difference += " [{:+.2f}, {:+.2f}]".format(*paired["interval"])
    return {
        "method": name,
        "PSNR (dB)": "{:.2f} ± {:.2f}".format(*m["psnr"]),
        "SSIM": "{:.4f} ± {:.4f}".format(*m["ssim"]),
        "seconds": "{:.2f} ± {:.2f}".format(*m["seconds"]),
        "evaluations": f"{m['evaluations'][0]:.1f}",
        **({"in trials of lam": f"{m['trials'][0]:.1f}"} if "trials" in m else {}),
        "n": m["n"],
        "guarantee": m["guarantee"],
        f"{REFERENCE} minus method (dB), 95 %": difference,
    }


def figure(path: Path, comparison: Comparison) -> None:
    """Draw Fig. 1: magnitude images with PSNR above, errors on one scale below, and the mask."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    case = comparison.first
    target = case.target[0].abs().numpy()
    images = {name: image[0].abs().numpy() for name, image in comparison.images.items()}
    quality = {row["method"]: row["psnr"] for row in comparison.rows[: len(images)]}
    n_columns = len(images) + 1
    figure, axes = plt.subplots(2, n_columns, figsize=(2.4 * n_columns, 5.6), layout="constrained")
    largest = float(target.max())
    axes[0, 0].imshow(target, cmap="gray", vmin=0, vmax=0.9 * largest)
    axes[0, 0].set_title("target", fontsize=9)
    mask = case.operator.mask[0].numpy()
    axes[1, 0].imshow(mask, cmap="gray")
    axes[1, 0].set_title(f"mask, {mask.size / mask.sum():.2f}-fold", fontsize=9)
    for column, (name, image) in enumerate(images.items(), start=1):
        axes[0, column].imshow(image, cmap="gray", vmin=0, vmax=0.9 * largest)
        axes[0, column].set_title(f"{name}\n{quality[name]:.2f} dB", fontsize=9)
        error = np.abs(image - target)
        shown = axes[1, column].imshow(error, cmap="magma", vmin=0, vmax=0.12 * largest)
    figure.colorbar(shown, ax=axes[1, -1], label="|error|")
    for axis in axes.flat:
        axis.set_axis_off()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
