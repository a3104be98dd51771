"""Validation on fixed acquisitions."""

import copy
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from equipoise.formats.by_slice import scan_files
from equipoise.methods.method import Method
from equipoise.methods.mol import MOL
from equipoise.methods.sense import best_sense
from equipoise.metrics import psnr
from equipoise.outcome import Solution
from equipoise.training.beginning import scan_samples, validation_images
from equipoise.training.config import TrainConfig
from equipoise.training.distributed import ALONE, Processes
from equipoise.training.sources.scans import ScanDataset, none_usable
from equipoise.training.sources.source import Measured, Sample, Source
from equipoise.training.state import State
from equipoise.vectors import per_sample

RTOL, MAX_ITERATIONS = 1e-3, 100
VALIDATION_STREAM = 1
"""Separates the random numbers of validation from those of training."""


def validation_set(
    config: TrainConfig,
    source: Source,
    processes: Processes = ALONE,
    skipped: dict[Path, str] | None = None,
) -> list[Measured]:
    """One acquisition for each of ``validation_samples`` evenly spaced images, and of scans.

    Of several processes each gets its share of them. ``skipped`` receives the files of folders that
    cannot be used, and why.

    Raises
    ------
    BadInputError
        If a file that is named itself cannot be read, or no image or no scan can be used.
    """
    samples: list[Measured] = []
    skipped = {} if skipped is None else skipped
    images = validation_images(config, skipped)
    for i in _chosen(len(images), config.validation_samples, processes):
        rng = np.random.default_rng([config.seed, VALIDATION_STREAM, i])
        samples.append(source.sample(images[i], rng, config.validation_crop))
    if config.data.validation_scans:
        samples += _of_scans(config, processes, skipped)
    return samples


def _chosen(count: int, wanted: int, processes: Processes) -> list[int]:
    """Evenly spaced numbers, because neighbouring slices of one subject are alike."""
    if not count:
        return []
    found = np.linspace(0, count - 1, min(wanted, count)).round().astype(int)
    return [int(i) for i in found[processes.rank :: processes.count]]


def _of_scans(
    config: TrainConfig, processes: Processes, skipped: dict[Path, str]
) -> list[Measured]:
    """One slice of each of ``validation_samples`` evenly spaced scans; bad files are skipped."""
    scans = [file for path in config.data.validation_scans for file in scan_files(path)]
    dataset, found = ScanDataset(scans, scan_samples(config)), []
    for i in _chosen(len(scans), config.validation_samples, processes):
        rng = np.random.default_rng([config.seed, VALIDATION_STREAM, i])
        found.append(dataset.try_sample(scans[i], rng))
    samples: list[Measured] = [sample for sample in found if sample is not None]
    skipped.update(dataset.skipped)
    # The share of one process may be empty.
    if not processes.any(bool(samples)):
        raise none_usable(dataset.skipped)
    return samples


def sense_psnr(samples: list[Measured], processes: Processes = ALONE) -> float | None:
    """Mean PSNR of regularised SENSE, with the best lam for each sample; None without targets."""
    known = [s for s in samples if isinstance(s, Sample)]
    values = [psnr(best_sense(s.operator, s.data, s.target).image, s.target) for s in known]
    found = _in_order([float(value) for value in values], processes)
    return float(np.mean(found)) if found else None


def score(validation: dict[str, float]) -> float:
    """What decides which weights are kept: the PSNR or, without targets, the SNR in k-space."""
    return validation.get("psnr", validation.get("kspace_snr", float("nan")))


@torch.no_grad()
def evaluate(
    model: Method, samples: list[Measured], lipschitz_steps: int, processes: Processes = ALONE
) -> dict[str, float]:
    """The results that decide which weights are kept.

    ``psnr`` is a mean over the samples with a target, ``kspace_snr`` over the others. Equilibria
    also have ``iterations`` (mean), ``converged`` (share of the samples), ``bound`` (the largest)
    and, if training keeps a measured constant below ``1 - m``, ``constraint`` (the largest).
    Several processes evaluate their shares, and all of them get the same results.
    """
    own = [_row(model, sample, lipschitz_steps) for sample in samples]
    rows = _in_order(own, processes)
    reduce = {"constraint": np.max, "bound": np.max}
    keys = dict.fromkeys(key for row in rows for key in row)
    return {
        key: float(reduce.get(key, np.mean)([row[key] for row in rows if key in row]))
        for key in keys
    }


class Validated(NamedTuple):
    """Weights as they would be written, and what they reach.

    Attributes
    ----------
    model
        The weights: the average, scaled down if it validated above ``T - validation_reserve``.
    results
        What they reach, see :func:`evaluate`; with ``scaled_by`` if they were scaled.
    trained
        What the weights reach before they are scaled.
    factor
        By which H was scaled; 1 if it was not.
    """

    model: Method
    results: dict[str, float]
    trained: dict[str, float]
    factor: float


def validated(state: State, samples: list[Measured], processes: Processes = ALONE) -> Validated:
    """Validate the weights as they would be written.

    If the estimate is above ``T - validation_reserve``, a copy of H is scaled down to that and
    validated again. Training continues with the original.
    """
    settings, average = state.config.lipschitz, state.average
    average.refresh(exact=True)

    def reached(model: Method) -> dict[str, float]:
        return evaluate(model.for_inference(), samples, settings.validation_steps, processes)

    trained, goal = reached(average), state.config.limit - settings.validation_reserve
    if not trained.get("constraint", 0.0) > goal:
        return Validated(average, trained, trained, 1.0)
    factor, scaled = goal / trained["constraint"], copy.deepcopy(average)
    body: Any = scaled.network
    body.scale(factor)
    return Validated(scaled, {**reached(scaled), "scaled_by": factor}, trained, factor)


def _in_order(own: list[Any], processes: Processes) -> list[Any]:
    """The results of all processes in the order of one process, which rounds the same."""
    rounds = zip_longest(*processes.gathered(own))
    return [result for result in chain.from_iterable(rounds) if result is not None]


def _row(model: Method, sample: Measured, lipschitz_steps: int) -> dict[str, float]:
    solution = model.solve(
        sample.operator,
        sample.data,
        noise_level=sample.noise_level,
        scale=sample.scale,
        options=model.training_options(RTOL, MAX_ITERATIONS),
    )
    row = sample.quality(solution.value)
    if isinstance(model, MOL):
        row |= _equilibrium_row(model, solution, lipschitz_steps)
    return row


def _equilibrium_row(model: MOL, solution: Solution, steps: int) -> dict[str, float]:
    assert solution.scale is not None
    point = solution.value / per_sample(solution.scale, solution.value).float()
    row = {
        "iterations": float(solution.iterations),
        "converged": float(solution.converged),
        "bound": float(solution.distance_bound),
    }
    constraint = model.constraint(point, steps)
    return row if constraint is None else {**row, "constraint": float(constraint)}
