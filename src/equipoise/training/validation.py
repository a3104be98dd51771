"""Validation on fixed acquisitions."""

from pathlib import Path

import numpy as np
import torch

from equipoise.formats.by_slice import scan_files
from equipoise.methods.method import Method
from equipoise.methods.mol import MOL
from equipoise.methods.sense import best_sense
from equipoise.metrics import psnr
from equipoise.outcome import Solution
from equipoise.training.beginning import scan_samples
from equipoise.training.config import TrainConfig
from equipoise.training.sources.images import load_images
from equipoise.training.sources.scans import (
    DAMAGED,
    ScanDataset,
    none_usable,
    slices_with_signal,
)
from equipoise.training.sources.source import Measured, Sample, Source
from equipoise.vectors import per_sample

RTOL, MAX_ITERATIONS = 1e-3, 100
VALIDATION_STREAM = 1
"""Separates the random numbers of validation from those of training."""


def validation_set(config: TrainConfig, source: Source) -> list[Measured]:
    """One acquisition for each of ``validation_samples`` evenly spaced images, and of scans.

    Raises
    ------
    BadInputError
        If an image cannot be read, or no scan can be used.
    """
    samples: list[Measured] = []
    images = load_images(config.data.validation) if config.data.validation else []
    for i in _chosen(len(images), config.validation_samples):
        rng = np.random.default_rng([config.seed, VALIDATION_STREAM, i])
        samples.append(source.sample(images[i], rng, config.validation_crop))
    if config.data.validation_scans:
        scans = [f for path in config.data.validation_scans for f in scan_files(path)]
        samples += _of_scans(config, scans)
    return samples


def _chosen(count: int, wanted: int) -> list[int]:
    """Evenly spaced numbers, because neighbouring slices of one subject are alike."""
    if not count:
        return []
    found = np.linspace(0, count - 1, min(wanted, count)).round().astype(int)
    return [int(i) for i in found]


def _of_scans(config: TrainConfig, scans: list[Path]) -> list[Measured]:
    """One slice of each of ``validation_samples`` evenly spaced scans; bad files are skipped."""
    dataset, samples = ScanDataset(scans, scan_samples(config)), list[Measured]()
    for i in _chosen(len(scans), config.validation_samples):
        rng = np.random.default_rng([config.seed, VALIDATION_STREAM, i])
        try:
            samples.append(dataset.samples.sample(next(slices_with_signal(scans[i], rng)), rng))
        except DAMAGED as error:
            dataset.skip(scans[i], error)
    if not samples:
        raise none_usable(dataset.skipped)
    return samples


def sense_psnr(samples: list[Measured]) -> float | None:
    """Mean PSNR of regularised SENSE, with the best lam for each sample; None without targets."""
    known = [s for s in samples if isinstance(s, Sample)]
    if not known:
        return None
    values = [psnr(best_sense(s.operator, s.data, s.target).image, s.target) for s in known]
    return float(torch.cat(values).mean())


def score(validation: dict[str, float]) -> float:
    """What decides which weights are kept: the PSNR or, without targets, the SNR in k-space."""
    return validation.get("psnr", validation.get("kspace_snr", float("nan")))


@torch.no_grad()
def evaluate(model: Method, samples: list[Measured], lipschitz_steps: int) -> dict[str, float]:
    """The results that decide which weights are kept.

    ``psnr`` is a mean over the samples with a target, ``kspace_snr`` over the others. Equilibria
    also have ``iterations`` (mean), ``converged`` (share of the samples), ``bound`` (the largest)
    and, if training keeps a measured constant below ``1 - m``, ``constraint`` (the largest).
    """
    rows = []
    for sample in samples:
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
        rows.append(row)
    reduce = {"constraint": np.max, "bound": np.max}
    keys = dict.fromkeys(key for row in rows for key in row)
    return {
        key: float(reduce.get(key, np.mean)([row[key] for row in rows if key in row]))
        for key in keys
    }


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
