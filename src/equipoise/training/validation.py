"""Validation on fixed simulated acquisitions."""

import numpy as np
import torch

from equipoise.methods.method import Method
from equipoise.methods.mol import MOL
from equipoise.methods.sense import best_sense
from equipoise.metrics import psnr
from equipoise.outcome import Solution
from equipoise.training.config import TrainConfig
from equipoise.training.sources.images import load_images
from equipoise.training.sources.source import Sample, Source
from equipoise.vectors import per_sample

RTOL, MAX_ITERATIONS = 1e-3, 100
VALIDATION_STREAM = 1
"""Separates the random numbers of validation from those of training."""


def validation_set(config: TrainConfig, source: Source) -> list[Sample]:
    """One acquisition for each of ``validation_samples`` evenly spaced validation images."""
    images = load_images(config.data.validation)
    # Evenly spaced, because neighbouring slices of one subject are alike.
    chosen = np.linspace(0, len(images) - 1, min(config.validation_samples, len(images)))
    samples = []
    for i in chosen.round().astype(int):
        rng = np.random.default_rng([config.seed, VALIDATION_STREAM, int(i)])
        samples.append(source.sample(images[i], rng, config.validation_crop))
    return samples


def sense_psnr(samples: list[Sample]) -> float:
    """Mean PSNR of regularised SENSE, with the best lam for each sample."""
    values = [psnr(best_sense(s.operator, s.data, s.target).image, s.target) for s in samples]
    return float(torch.cat(values).mean())


@torch.no_grad()
def evaluate(model: Method, samples: list[Sample], lipschitz_steps: int) -> dict[str, float]:
    """The results that decide which weights are kept.

    ``psnr`` is a mean. Equilibria also have ``iterations`` (mean), ``converged`` (share of the
    samples), ``bound`` (the largest) and, if training keeps a measured constant below ``1 - m``,
    ``constraint`` (the largest).
    """
    rows = []
    for sample in samples:
        solution = model.solve(
            sample.operator,
            sample.data,
            noise_level=sample.noise_level,
            options=model.training_options(RTOL, MAX_ITERATIONS),
        )
        row = {"psnr": float(psnr(solution.value, sample.target))}
        if isinstance(model, MOL):
            row |= _equilibrium_row(model, solution, lipschitz_steps)
        rows.append(row)
    reduce = {"constraint": np.max, "bound": np.max}
    return {key: float(reduce.get(key, np.mean)([row[key] for row in rows])) for key in rows[0]}


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
