"""Validation on fixed simulated acquisitions."""

import numpy as np
import torch

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.equilibrium.mol import MOL
from equipoise.learning.baselines import best_sense
from equipoise.learning.config import TrainConfig
from equipoise.learning.images import load_images
from equipoise.learning.metrics import psnr
from equipoise.learning.simulate import Sample, Simulation
from equipoise.physics.linop import per_sample
from equipoise.robustness.lipschitz import lipschitz_lower

RTOL = 1e-3
VALIDATION_STREAM = 1
"""Keeps the random numbers of validation apart from those of training."""


def validation_set(config: TrainConfig, simulation: Simulation) -> list[Sample]:
    """One acquisition of each of ``validation_samples`` evenly spaced validation images."""
    images = load_images(config.data.validation)
    chosen = np.linspace(0, len(images) - 1, min(config.validation_samples, len(images)))
    samples = []
    for i in chosen.round().astype(int):
        rng = np.random.default_rng([config.seed, VALIDATION_STREAM, int(i)])
        samples.append(simulation.sample(images[i], rng, config.validation_crop))
    return samples


def sense_psnr(samples: list[Sample]) -> float:
    """Mean PSNR of regularised SENSE, each sample at its best lam."""
    values = [psnr(best_sense(s.operator, s.kspace, s.target).image, s.target) for s in samples]
    return float(torch.cat(values).mean())


@torch.no_grad()
def evaluate(model: MOL, samples: list[Sample], lipschitz_steps: int) -> dict[str, float]:
    """What decides which weights are kept.

    ``psnr`` (mean), ``lipschitz`` (the largest estimate at any equilibrium), ``iterations``
    (mean), ``converged`` (share of the samples), ``bound`` (the largest).
    """
    rows = []
    for sample in samples:
        solution = model.solve(
            sample.operator,
            sample.kspace,
            noise_level=sample.noise_level,
            options=SolverOptions(rtol=RTOL),
        )
        assert solution.scale is not None
        point = solution.value / per_sample(solution.scale, solution.value).float()
        estimate = lipschitz_lower(model.network, point, steps=lipschitz_steps)
        rows.append(
            (
                float(psnr(solution.value, sample.target)),
                float(estimate),
                float(solution.iterations),
                float(solution.converged),
                float(solution.distance_bound),
            )
        )
    psnrs, estimates, iterations, converged, bounds = np.array(rows).T
    return {
        "psnr": float(psnrs.mean()),
        "lipschitz": float(estimates.max()),
        "iterations": float(iterations.mean()),
        "converged": float(converged.mean()),
        "bound": float(bounds.max()),
    }
