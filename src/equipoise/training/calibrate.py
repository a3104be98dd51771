"""Calibration of a model's range on simulated scans of validation images."""

from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.methods.method import Method
from equipoise.methods.solving import solve_slice
from equipoise.methods.usual import Calibration, Features, calibrate, slice_features
from equipoise.outcome import BadInputError
from equipoise.physics.problem import Problem
from equipoise.training.config import SimulationConfig, refuse_test_data
from equipoise.training.sources.simulated import Simulation, load_coils

STREAM = 3
"""Separates the random numbers of the calibration from those of training and validation."""


def simulation_of(provenance: dict[str, Any], coils: Path | None = None) -> Simulation:
    """The simulation with which a model was trained, with coil maps and noise always estimated.

    Parameters
    ----------
    provenance
        The provenance of the model file.
    coils
        Measured coil maps, if training used them.

    Raises
    ------
    BadInputError
        If the model file does not say how its scans were simulated, or names test data.
    """
    config = provenance.get("config", {})
    refuse_test_data(config.get("data"))
    options = config.get("simulation")
    if options is None:
        raise BadInputError(
            "the model file does not say how its training scans were simulated, so it is unknown "
            "which scans are usual: train the model with `equipoise train`"
        )
    settings = SimulationConfig.model_validate({**options, "estimated": 1.0})
    measured = None if coils is None else load_coils(coils)
    return Simulation(**settings.model_dump(), measured_coils=measured)


def calibrate_model(
    model: Method,
    images: list[Tensor],
    source: Simulation,
    *,
    scans: int,
    rate: float,
    seed: int = 0,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Calibration:
    """Simulate scans as in training, with estimated maps and noise, and measure what is usual.

    Parameters
    ----------
    model
        The model.
    images
        Validation images, (y, x) each. The first half sets what is usual, the second half sets the
        threshold. The rate is about new images of the same kind, so use many subjects.
    source
        The simulation from which scans are drawn.
    scans
        Number of scans.
    rate
        Share of scans like these that may be flagged as unlike them.
    seed
        Of the simulation.
    tell
        Called with how many scans are done, and of how many.

    Raises
    ------
    BadInputError
        If there are too few scans for the rate.
    """
    # Scans of one image in both halves would not be exchangeable with a scan of a new image.
    middle = (len(images) + 1) // 2
    halves = images[:middle], images[middle:] or images
    found = []
    for i, half in zip(range(scans), cycle(halves)):
        tell(i, scans)
        image = half[i // 2 % len(half)]
        found.append(simulated_features(model, source, image, [seed, STREAM, i]))
    return calibrate(found, rate)


def simulated_features(
    model: Method, source: Simulation, image: Tensor, seed: list[int]
) -> Features:
    """The features of one simulated scan."""
    sample = source.sample(image, np.random.default_rng(seed))
    problem = Problem(sample.operator, sample.data, sample.noise_level)
    with torch.no_grad():
        return slice_features(problem, solve_slice(problem, model))
