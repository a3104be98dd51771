"""The model of series in the package: proved, certified, and better than frame by frame."""

import math

import numpy as np
import pytest
import torch

from equipoise.formats.sample_head import head_slice
from equipoise.methods.mol_ridge_3d import MolRidge3D
from equipoise.methods.prediction import weights_for
from equipoise.methods.solving import solve_slice
from equipoise.networks.ridge_volume import RidgeVolume
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.dynamic import DynamicSenseOp
from equipoise.physics.noise_level import complex_noise
from equipoise.physics.problem import Problem
from equipoise.physics.sampling.dynamic import kt_mask
from equipoise.training.sources.cine import moving
from equipoise.vectors import norm
from equipoise.zoo.model_file import load_model

FRAMES, SIGMA = 16, 0.01
MOTION = 0.01
"""Of the side: where everything moves fast, a frame alone is as good."""


def series_problem():
    """A scan of the small head in motion, and the series."""
    head = head_slice()[0][::5, ::5].abs()
    rng = np.random.default_rng(0)
    truth = (moving(head / head.max(), FRAMES, MOTION, rng) + 0j)[None]
    csm = biot_savart_maps(tuple(truth.shape[2:]), 4)
    operator = DynamicSenseOp(csm, kt_mask(tuple(truth.shape[1:]), 6.0, 2, seed=0))
    clean = operator.forward(truth)
    noise = SIGMA * complex_noise(tuple(clean.shape), rng) * operator.mask[:, None]
    return Problem(operator, clean + noise, SIGMA), truth


DECIBEL = 10 ** (1 / 20)


def relative_error(image, truth):
    return float(norm(image - truth) / norm(truth))


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def test_frames_together_are_better_than_one_by_one():
    problem, truth = series_problem()
    operator, data, level = problem.operator, problem.data, problem.noise_level
    together, alone = load_model("mol-ridge-cine"), load_model("mol-ridge-universal")
    assert (together.axes, together.m, together.m_evidence) == (("time", "y", "x"), 0.003, "proved")
    series = together.solve(operator, data, noise_level=level)
    frames = alone.solve(operator.frames(), data[0].movedim(1, 0), noise_level=level.expand(FRAMES))
    assert series.converged
    assert float(series.distance_bound) <= 1e-3
    # Half the error is 6 dB.
    assert relative_error(series.value, truth) < 0.5 * relative_error(frames.value[None], truth)


@pytest.mark.parametrize("wrong", [1 / 8, 8])
def test_a_weight_of_a_series_that_is_far_off_is_corrected(wrong):
    problem, truth = series_problem()
    model = load_model("mol-ridge-cine")
    model.data_weight.coefficients[0] += math.log(wrong)
    choice = weights_for(problem, model, None)
    assert choice.basis == "prediction"
    assert "lines left out" in choice.reason
    first, found = choice.trials[0].weights, choice.weights
    assert (found["lam"] / first["lam"]) ** -math.copysign(1, math.log(wrong)) > 2
    assert found["threshold"] == first["threshold"]
    before, after = (
        relative_error(solve_slice(problem, model, c).value, truth) for c in (None, choice)
    )
    assert after < 0.95 * before


def test_prediction_loses_at_most_a_fifth_of_a_decibel_and_costs_a_few_trials():
    problem, truth = series_problem()
    model = load_model("mol-ridge-cine")
    choice = weights_for(problem, model, None)
    chosen, rule = (solve_slice(problem, model, c) for c in (choice, None))
    assert relative_error(chosen.value, truth) < DECIBEL**0.2 * relative_error(rule.value, truth)
    assert choice.evaluations <= 3 * int(rule.network_evaluations[0])


def test_a_volume_has_its_weights_by_prediction_too():
    model = MolRidge3D(RidgeVolume("z", 0.05, features=4, basis=2, filters=1, across=2, taps=3))
    csm = biot_savart_maps((16, 16), 2)[:, :, None].expand(-1, -1, 4, -1, -1)
    operator = SenseOp(csm, torch.ones(1, 4, 16, 16, dtype=torch.bool))
    problem = Problem(operator, operator.forward(torch.ones(1, 4, 16, 16) + 0j), SIGMA)
    choice = weights_for(problem, model, None)
    assert choice.setting == "auto"
    assert choice.basis == "prediction"
