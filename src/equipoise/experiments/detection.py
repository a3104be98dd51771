"""How the features of a scan change when the scan is unlike those of the calibration."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.certificate.attack import Attackable, worst_case
from equipoise.experiments.results import Row, markdown_table, write_csv, write_json, write_text
from equipoise.formats.replacing import make_folder
from equipoise.methods.method import Method
from equipoise.methods.mol import MOL
from equipoise.methods.scan_features import slice_features
from equipoise.methods.solving import solve_slice
from equipoise.metrics import psnr
from equipoise.networks.jacobian import Jacobian, largest_symmetric_eigenvalue
from equipoise.outcome import BadInputError, Outcome, Solution
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.noise_level import complex_noise, noise_level
from equipoise.physics.problem import Problem
from equipoise.training.sources.simulated import Simulation
from equipoise.vectors import per_sample

log = logging.getLogger(__name__)

FILES = ("detection.md", "detection.csv", "detection.json")

STREAM = 4
"""Separates these random numbers from those of training, validation and calibration."""

ATTACK, ATTACKED = 0.05, 8
"""``||d|| / ||b||`` of the attacked scans, and their number. One costs as much as twenty others."""

SPIKE, SPIKES = 1.0, 12
"""Size of a spike relative to the largest k-space sample, and their number."""

M_LOCAL_STEPS = 15
"""Lanczos iterations for m_local."""

MAP_SHIFT = 12
"""Pixels by which the wrong coil maps are displaced."""


Scan = Problem[SenseOp]


@dataclass(frozen=True)
class Kind:
    """A way in which a scan may be unlike the others; ``most`` limits the number of such scans."""

    name: str
    change: Callable[[Scan, Method, np.random.Generator], Scan]
    most: int | None = None


def _like(problem: Scan, model: Method, rng: np.random.Generator) -> Scan:
    return problem


def _with_data(problem: Scan, kspace: Tensor) -> Scan:
    return replace(problem, data=kspace, noise_level=noise_level(kspace, problem.operator.mask))


def _spikes(problem: Scan, model: Method, rng: np.random.Generator) -> Scan:
    """A faulty receiver: a few samples are far too large in all coils."""
    kspace = problem.data.clone()
    measured = torch.nonzero(problem.operator.mask[0])
    # Only measured samples, because others would be ignored.
    chosen = measured[torch.from_numpy(rng.integers(len(measured), size=SPIKES))]
    phase = complex_noise((SPIKES, kspace.shape[1]), rng).T.to(kspace.device)
    size = SPIKE * kspace.abs().max()
    kspace[0][:, chosen[:, 0], chosen[:, 1]] += size * phase / phase.abs()
    return _with_data(problem, kspace)


def _motion(problem: Scan, model: Method, rng: np.random.Generator) -> Scan:
    """The head moves by several pixels while the upper half of k-space is measured."""
    shift = rng.uniform(4, 8)
    n = problem.data.shape[2]
    frequency = (torch.arange(n, device=problem.data.device) - n // 2) / n
    turned = torch.exp(-2j * torch.pi * shift * frequency).to(problem.data.dtype)
    # Half of the lines before the movement, half after it.
    turned[: n // 2] = 1
    return _with_data(problem, problem.data * turned[:, None])


def _wrong_maps(problem: Scan, model: Method, rng: np.random.Generator) -> Scan:
    """Coil maps from a calibration scan at another position."""
    # Displaced, not replaced: such maps look right, which is what makes the mistake hard to notice.
    csm = torch.roll(problem.operator.csm, (MAP_SHIFT, -MAP_SHIFT), dims=(2, 3))
    return replace(problem, operator=SenseOp(csm, problem.operator.mask))


def _attacked(problem: Scan, model: Method, rng: np.random.Generator) -> Scan:
    """The worst case of (17) that a few steps find."""
    with torch.no_grad():
        clean = solve_slice(problem, model, None, None)
    reconstruct = Attackable(problem.operator, model, clean, noise_level=problem.noise_level)
    attack = worst_case(reconstruct, problem.data, problem.measured, ATTACK, steps=4, starts=1)
    return _with_data(problem, problem.data + attack.perturbation)


KINDS = (
    Kind("like the calibration", _like),
    Kind("spikes in k-space", _spikes),
    Kind("motion", _motion),
    Kind("displaced coil maps", _wrong_maps),
    Kind("attacked, 5 %", _attacked, most=ATTACKED),
)


def study(
    model: Method,
    images: list[Tensor],
    others: list[Tensor],
    source: Simulation,
    *,
    scans: int = 20,
    seed: int = 0,
    say: Callable[[str], None] = log.info,
) -> list[Row]:
    """One row for each scan and kind, with its features and the flag.

    Parameters
    ----------
    model
        A calibrated model.
    images
        Images like those of the calibration, (y, x) each.
    others
        Images unlike them: another contrast, another anatomy or no anatomy. The list may be empty.
    source
        The simulation from which scans are drawn.
    scans
        Number of scans of each kind; at most ``ATTACKED`` of them are attacked.
    seed
        Seed of the simulation.

    Raises
    ------
    BadInputError
        If the model has no calibration.
    """
    if model.calibration is None:
        raise BadInputError("the model has no calibration: run `equipoise calibrate` first")
    rows: list[Row] = []
    for kind, image, rng in _scans(images, others, scans, seed):
        # Drawn on the CPU, so it does not depend on the device of the model.
        sample = source.sample(image, rng).to(next(model.parameters()).device)
        problem = Problem(sample.operator, sample.data, sample.noise_level)
        problem = kind.change(problem, model, rng)
        with torch.no_grad():
            solution = solve_slice(problem, model)
        found = slice_features(problem, solution)
        rows.append(
            {
                "kind": kind.name,
                "psnr": float(psnr(solution.value, sample.target)),
                **found,
                "m_local": _m_local(model, problem, solution),
                "score": model.calibration.score(found),
                "in_range": model.calibration.in_range(found),
            }
        )
        say(f"{kind.name}: score {rows[-1]['score']:.1f}")
    return rows


def _m_local(model: Method, problem: Scan, solution: Solution) -> float | None:
    """``1 - lambda_max`` of the symmetric part of J at the image, from above (5)."""
    # A derivative at an image that is not finite means nothing.
    if not isinstance(model, MOL) or solution.outcome[0] is Outcome.DIVERGED:
        return None
    assert solution.scale is not None
    image = solution.value / per_sample(solution.scale, solution.value).float()
    network = model.network_on(problem.operator.support(), network=solution.network)
    jacobian = Jacobian(network, image)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(image.shape, dtype=image.dtype, generator=generator).to(image.device)
    top = largest_symmetric_eigenvalue(jacobian, start, M_LOCAL_STEPS).value
    return 1 + model.shift - float(top[0])


def _scans(
    images: list[Tensor], others: list[Tensor], scans: int, seed: int
) -> Iterator[tuple[Kind, Tensor, np.random.Generator]]:
    for i in range(scans):
        # Every kind of a round gets the same image, mask and noise, so they differ by kind only.
        for kind in (k for k in KINDS if k.most is None or i < k.most):
            yield kind, images[i % len(images)], np.random.default_rng([seed, STREAM, i])
        if others:
            unlike = replace(KINDS[0], name="other images")
            yield unlike, others[i % len(others)], np.random.default_rng([seed, STREAM, i])


def number_of_scans(scans: int, others: bool) -> int:
    """How many scans a :func:`study` draws."""
    of_kinds = (scans if kind.most is None else min(scans, kind.most) for kind in KINDS)
    return sum(of_kinds) + scans * others


def write_study(folder: Path, rows: list[Row], settings: dict[str, Any]) -> dict[str, Any]:
    """Write ``detection.{md,csv,json}`` with medians and flagged shares; return the JSON."""
    make_folder(folder)
    table, result = [], {}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        chosen = [row for row in rows if row["kind"] == kind]
        keys = [k for k in chosen[0] if k not in ("kind", "in_range")]
        values = {k: [row[k] for row in chosen if row[k] is not None] for k in keys}
        medians = {k: float(np.median(v)) for k, v in values.items() if v}
        flagged = float(np.mean([not row["in_range"] for row in chosen]))
        result[kind] = {**medians, "flagged": flagged, "n": len(chosen)}
        shown = {k: f"{v:.3g}" for k, v in medians.items()}
        table.append({"kind": kind, **shown, "flagged": f"{flagged:.0%}", "n": len(chosen)})
    content = {"kinds": result, "settings": settings}
    write_csv(folder / "detection.csv", rows)
    write_json(folder / "detection.json", content)
    write_text(folder / "detection.md", markdown_table(table))
    return content
