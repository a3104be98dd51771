"""Calibration of a model's range on simulated scans of validation images."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.equilibrium.method import Method
from equipoise.learning.config import SimulationConfig
from equipoise.learning.simulate import Simulation
from equipoise.reconstruction import SliceProblem, slice_features, solve_slice
from equipoise.robustness.detection import Calibration, Features, calibrate

STREAM = 3
"""Keeps the random numbers of the calibration apart from those of training and validation."""


def simulation_of(provenance: dict[str, Any]) -> Simulation:
    """The simulation that a model was trained with, coil maps and noise level always estimated."""
    options = provenance.get("config", {}).get("simulation", {})
    settings = SimulationConfig.model_validate({**options, "estimated": 1.0})
    return Simulation(**settings.model_dump())


def calibrate_model(
    model: Method,
    images: list[Tensor],
    source: Simulation,
    *,
    scans: int,
    rate: float,
    seed: int = 0,
) -> Calibration:
    """Simulate scans as in training, maps and noise level estimated, and see what is usual.

    Parameters
    ----------
    model
        The model.
    images
        Validation images, (y, x) each; they are used in turn.
    source
        What scans are drawn from.
    scans
        Number of scans.
    rate
        Share of scans like these that may be called unlike them.
    seed
        Of the simulation.

    Raises
    ------
    BadInputError
        If there are too few scans for the rate.
    """
    found = [
        simulated_features(model, source, images[i % len(images)], [seed, STREAM, i])
        for i in range(scans)
    ]
    return calibrate(found, rate)


def simulated_features(
    model: Method, source: Simulation, image: Tensor, seed: list[int]
) -> Features:
    """The features of one simulated scan."""
    sample = source.sample(image, np.random.default_rng(seed))
    problem = SliceProblem(sample.operator, sample.kspace, sample.noise_level, 1.0)
    with torch.no_grad():
        return slice_features(problem, solve_slice(problem, model, None, None))
