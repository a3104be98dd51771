"""PSNR under noise and under a worst-case perturbation of the data, for every method."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.certificate.attack import Attackable, worst_case
from equipoise.experiments.cases import Case
from equipoise.experiments.results import Row, markdown_table, write_csv, write_json, write_text
from equipoise.formats.replacing import make_folder, replacing
from equipoise.methods.feed_forward import data_consistency
from equipoise.methods.method import Method
from equipoise.methods.sense import best_sense
from equipoise.metrics import psnr
from equipoise.physics.noise_level import complex_noise
from equipoise.vectors import per_sample

log = logging.getLogger(__name__)

FILES = ("robustness.md", "robustness.csv", "robustness.json", "robustness.png")

NOISE_LEVELS = (0.0, 0.01, 0.02, 0.04, 0.08)
"""Standard deviations of the added noise, relative to the intensity scale."""

EPSILONS = (0.01, 0.02, 0.05, 0.1)
"""``||d|| / ||b||`` of the attacks."""

ATTACK_RTOL = 1e-3
"""Tolerance of the solves within an attack."""


def study(
    methods: dict[str, Method | None],
    acquisitions: Iterable[Case],
    *,
    steps: int = 8,
    starts: int = 2,
    noise_levels: Sequence[float] = NOISE_LEVELS,
    epsilons: Sequence[float] = EPSILONS,
    say: Callable[[str], None] = log.info,
) -> list[Row]:
    """One row for each slice, method, kind (``noise`` or ``worst case``) and size.

    The attack knows the method and ascends its gradient, which is implicit for an equilibrium and
    unrolled for the others. lam and the intensity scale are those of the clean data.
    """
    rows: list[Row] = []
    for case in acquisitions:
        for name, method in methods.items():
            rows += _noise_rows(name, method, case, noise_levels)
            rows += _attack_rows(name, method, case, epsilons, steps, starts)
            say(f"{case.name}, mask {case.seed}: {name}")
    return rows


def _noise_rows(name: str, method: Method | None, case: Case, levels: Sequence[float]) -> list[Row]:
    scale = float(case.operator.intensity_scale(case.kspace))
    rows = []
    for level in levels:
        # Drawn on the CPU, so that a seed gives the same noise on every device.
        drawn = complex_noise(tuple(case.kspace.shape), np.random.default_rng(case.seed))
        noise = drawn.to(case.kspace.device)
        moved = case.with_kspace(
            case.kspace + case.operator.mask[:, None] * noise * (level * scale)
        )
        if method is None:
            image = best_sense(moved.operator, moved.kspace, case.target).image
        else:
            with torch.no_grad():
                solution = method.solve(moved.operator, moved.kspace, noise_level=moved.noise_level)
            image = solution.value
        rows.append(_row(name, case, "noise", level, image))
    return rows


def _attack_rows(
    name: str,
    method: Method | None,
    case: Case,
    epsilons: Sequence[float],
    steps: int,
    starts: int,
) -> list[Row]:
    reconstruct = _attackable(method, case)
    measured = case.operator.mask[:, None]
    rows = []
    for epsilon in epsilons:
        attack = worst_case(reconstruct, case.kspace, measured, epsilon, steps=steps, starts=starts)
        row = _row(name, case, "worst case", epsilon, attack.image)
        rows.append({**row, "amplification": float(attack.amplification)})
    return rows


def _attackable(method: Method | None, case: Case) -> Callable[[Tensor], Tensor]:
    """The reconstruction as a function of the data, by the equation of the clean data."""
    operator = case.operator
    if method is None:
        # Held at the value of the clean data, as for the learned methods.
        lam = best_sense(operator, case.kspace, case.target).lam.double()

        def sense(data: Tensor) -> Tensor:
            adjoint_image = operator.adjoint(data)
            weighted = per_sample(lam, data[:, 0]).to(data.real.dtype) * adjoint_image
            return data_consistency(operator, weighted, lam)

        return sense
    with torch.no_grad():
        clean = method.solve(operator, case.kspace, noise_level=case.noise_level)
    options = replace(method.options, rtol=ATTACK_RTOL)
    return Attackable(operator, method, clean, options, case.noise_level)


def _row(name: str, case: Case, kind: str, size: float, image: Tensor) -> Row:
    return {
        "slice": case.name,
        "subject": case.subject,
        "seed": case.seed,
        "method": name,
        "kind": kind,
        "size": size,
        "psnr": float(psnr(image, case.target)),
        "amplification": None,
    }


def summary(rows: list[Row]) -> dict[str, Any]:
    """``{kind: {method: {size: {"psnr": [mean, std], "n"}}}}``; attacks also have amplification."""
    result: dict[str, Any] = {}
    for row in rows:
        sizes = result.setdefault(row["kind"], {}).setdefault(row["method"], {})
        sizes.setdefault(str(row["size"]), []).append((row["psnr"], row["amplification"]))
    for methods in result.values():
        for sizes in methods.values():
            for size, values in sizes.items():
                psnrs = [v[0] for v in values]
                entry = {"psnr": [float(np.mean(psnrs)), float(np.std(psnrs))], "n": len(values)}
                # Only attacks have an amplification.
                if values[0][1] is not None:
                    entry["amplification"] = float(np.mean([v[1] for v in values]))
                sizes[size] = entry
    return result


def write_study(
    folder: Path, rows: list[Row], settings: dict[str, Any], seen: Sequence[str] = ()
) -> dict[str, Any]:
    """Write ``robustness.{md,csv,json,png}``; return the JSON."""
    make_folder(folder)
    result = {**summary(rows), "seen": [*seen], "settings": settings}
    write_csv(folder / "robustness.csv", rows)
    write_json(folder / "robustness.json", result)
    tables = []
    for kind in ("noise", "worst case"):
        table = [
            {"method": name} | {size: f"{v['psnr'][0]:.2f}" for size, v in sizes.items()}
            for name, sizes in result[kind].items()
        ]
        tables.append(f"PSNR (dB) against {kind}\n\n{markdown_table(table)}")
    write_text(folder / "robustness.md", "\n".join([*tables, *seen]))
    _figure(folder / "robustness.png", result)
    return result


def _figure(path: Path, result: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    labels = {
        "noise": "standard deviation of the added noise / intensity scale",
        "worst case": "||d|| / ||b||",
    }
    for axis, (kind, label) in zip(axes, labels.items(), strict=True):
        for name, sizes in result[kind].items():
            values = [v["psnr"][0] for v in sizes.values()]
            axis.plot([float(s) for s in sizes], values, "o-", markersize=3, label=name)
        axis.set(xlabel=label, ylabel="PSNR (dB)", title=kind)
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
