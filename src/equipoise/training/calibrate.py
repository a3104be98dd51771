"""Calibration of a model on simulated scans of images: what is usual, and how good images are."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.methods.method import Method
from equipoise.methods.prediction import weights_for
from equipoise.methods.scan_features import slice_features
from equipoise.methods.solving import solve_slice
from equipoise.methods.usual import Calibration, CalibrationScan, calibrate, check_subjects
from equipoise.metrics import psnr
from equipoise.outcome import BadInputError
from equipoise.physics.problem import Problem
from equipoise.training.config import refuse_test_data
from equipoise.training.drawn import SimulationConfig
from equipoise.training.sources.images import LabelledImage, load_labelled
from equipoise.training.sources.simulated import Simulation, load_coils

STREAM = 3
"""Separates the random numbers of the calibration from those of training and validation."""

ORDER = 0
"""Separates the order of the subjects from the random numbers of the scans."""


def simulation_of(
    provenance: Mapping[str, Any],
    coils: Path | None = None,
    zoom: tuple[float, float] | None = None,
) -> Simulation:
    """The simulation with which a model was trained, with coil maps and noise always estimated.

    Parameters
    ----------
    provenance
        The provenance of the model file.
    coils
        Measured coil maps, if training used them.
    zoom
        Range of the factor that lowers the resolution of the images, instead of that of training.

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
    changed = {"estimated": 1.0} | ({} if zoom is None else {"zoom": zoom})
    settings = SimulationConfig.model_validate({**options, **changed})
    measured = None if coils is None else load_coils(coils)
    return Simulation(**settings.model_dump(), measured_coils=measured)


def calibration_images(paths: list[Path], provenance: Mapping[str, Any]) -> dict[str, list[Tensor]]:
    """The images of each subject, without the subjects that training kept for tests.

    Raises
    ------
    BadInputError
        If nothing can be read, or nothing is left.
    """
    kept = set(provenance.get("config", {}).get("data", {}).get("held_out", ()))
    found = by_subject(image for image in load_labelled(paths) if image.subject not in kept)
    if not found:
        raise BadInputError("all subjects are kept for tests: give images of other subjects")
    return found


def by_subject(images: Iterator[LabelledImage]) -> dict[str, list[Tensor]]:
    """The images of each subject."""
    found: dict[str, list[Tensor]] = {}
    for image in images:
        found.setdefault(image.subject, []).append(image.image)
    return found


def calibrate_model(
    model: Method,
    images: Mapping[str, Sequence[Tensor]],
    source: Simulation,
    *,
    scans: int,
    rate: float,
    level: float,
    seed: int = 0,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Calibration:
    """Simulate scans as in training, with estimated maps and noise, and measure what is usual.

    Parameters
    ----------
    model
        The model.
    images
        The images of each subject, (y, x) each. Half of the subjects set what is usual and from
        what the PSNR is predicted; the others set the thresholds.
    source
        The simulation from which scans are drawn.
    scans
        Number of scans. They go through the subjects in a random order, again and again, and each
        is of a random slice.
    rate
        Share of scans like these that may be flagged as unlike them.
    level
        Share of scans like these for which the bound on the PSNR holds.
    seed
        Of the order and of the simulation.
    tell
        Called with how many scans are done, and of how many.

    Raises
    ------
    BadInputError
        If there are too few subjects for the rate or the level.
    """
    check_subjects(min(len(images), scans), rate, level)
    found = simulated_scans(model, images, source, scans=scans, seed=seed, tell=tell)
    return calibrate([*found], false_alarm_rate=rate, level=level, lam=model.usual_lam)


def simulated_scans(
    model: Method,
    images: Mapping[str, Sequence[Tensor]],
    source: Simulation,
    *,
    scans: int,
    seed: int,
    stream: int = STREAM,
    skip: int = 0,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[CalibrationScan]:
    """One scan after the other of subjects in a random order, each of a random slice."""
    order = subjects_of(images, scans, seed)
    for i in range(skip, scans):
        tell(i, scans)
        rng = np.random.default_rng([seed, stream, 1, i])
        own = images[order[i]]
        image = own[int(rng.integers(len(own)))]
        yield simulated_scan(model, source, image, rng, order[i])


def subjects_of(images: Mapping[str, Any], scans: int, seed: int) -> list[str]:
    """The subject of each scan: all in a random order, again and again."""
    rng = np.random.default_rng([seed, STREAM, ORDER])
    rounds = -(-scans // len(images))
    order = [str(name) for _ in range(rounds) for name in rng.permutation(sorted(images))]
    return order[:scans]


def simulated_scan(
    model: Method, source: Simulation, image: Tensor, rng: np.random.Generator, subject: str = ""
) -> CalibrationScan:
    """The features of one simulated scan with the usual weights, and the PSNR of its image."""
    kind = source.mask
    # Drawn here, so that the kind is known.
    if not isinstance(kind, str):
        kind = str(rng.choice(kind))
        source = replace(source, mask=(kind,))
    # Drawn on the CPU, so it does not depend on the device of the model.
    sample = source.sample(image, rng).to(next(model.parameters()).device)
    problem = Problem(sample.operator, sample.data, sample.noise_level)
    with torch.no_grad():
        solution = solve_slice(problem, model, weights_for(problem, model, None))
        found = slice_features(problem, solution)
    return CalibrationScan(subject, found, float(psnr(solution.value, sample.target)), kind)
