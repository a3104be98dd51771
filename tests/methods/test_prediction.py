"""Weights chosen by prediction: they find what the rule misses, and leave it where it is right."""

import math

import pytest
import torch

from conftest import small_head
from equipoise.methods.data_weight import FixedWeight
from equipoise.methods.prediction import MOST_TRIALS, STEP, choose_weights
from equipoise.metrics import psnr
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.problem import Problem
from equipoise.physics.sampling.masks import make_mask
from equipoise.zoo.model_file import load_model

NOISE = 0.03


def head_problem(kind="variable-density-2d", acceleration=3.0, noise=NOISE, n_coils=6):
    """A scan of the small head, and the head."""
    image = small_head((96, 80))
    csm = biot_savart_maps(tuple(image.shape[1:]), n_coils, seed=1)
    operator = SenseOp(csm, make_mask(kind, tuple(image.shape[1:]), acceleration, 8, seed=0))
    generator = torch.Generator().manual_seed(0)
    n = noise * torch.randn(csm.shape, dtype=torch.complex64, generator=generator)
    data = operator.forward(image) + operator.mask[:, None] * n
    return Problem(operator, data, noise), image


def quality(problem, model, image, weights):
    solution = model.solve(problem.operator, problem.data, **weights)
    return float(psnr(solution.value, image))


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def model():
    return load_model("mol-lr-brain-4x")


@pytest.mark.parametrize("kind", ["variable-density-2d", "variable-density-1d"])
@pytest.mark.parametrize("wrong", [1 / 30, 30.0])
def test_a_weight_that_is_far_off_is_corrected(model, kind, wrong):
    problem, image = head_problem(kind)
    usual = float(model.lam(torch.tensor([NOISE], dtype=torch.float64)))
    model.data_weight = FixedWeight(wrong * usual)
    choice = choose_weights(problem, model)
    assert choice.basis == "prediction"
    trials = {round(math.log(t.weights["lam"] / usual, STEP)): t for t in choice.trials}
    curve = {
        k: quality(problem, model, image, {"lam": t.weights["lam"]}) for k, t in trials.items()
    }
    reached = quality(problem, model, image, choice.weights)
    assert reached > max(curve.values()) - 0.5
    assert reached > quality(problem, model, image, {"lam": wrong * usual}) + 1


def test_the_choice_names_its_trials_and_what_they_cost(model):
    problem, _ = head_problem()
    choice = choose_weights(problem, model)
    assert 2 <= len(choice.trials) <= MOST_TRIALS
    assert choice.evaluations == sum(t.evaluations for t in choice.trials) > 0
    assert choice.trials[0].weights["lam"] == pytest.approx(
        float(model.rule(problem.operator, relative_noise(problem))["lam"])
    )
    best = min(choice.trials, key=lambda t: t.error)
    assert best.error <= choice.trials[0].error
    assert 0.5 < best.error < 3


def relative_noise(problem):
    return problem.noise_level / problem.operator.intensity_scale(problem.data)


def test_the_same_seed_gives_the_same_choice(model):
    problem, _ = head_problem()
    assert choose_weights(problem, model, seed=3) == choose_weights(problem, model, seed=3)


def test_nothing_to_predict_falls_back_to_the_rule_and_says_so(model):
    problem, _ = head_problem()
    centre = torch.zeros_like(problem.operator.mask)
    centre[:, 40:56, 32:48] = True
    few = Problem(SenseOp(problem.operator.csm, centre), problem.data * centre, NOISE)
    choice = choose_weights(few, model)
    assert choice.basis == "rule"
    assert "too few" in choice.reason
    assert not choice.trials


def test_a_method_without_an_equilibrium_keeps_its_rule():
    problem, _ = head_problem()
    choice = choose_weights(problem, load_model("modl-brain-4x"))
    assert choice.basis == "rule"
    assert "modl" in choice.reason


@pytest.mark.parametrize("noise", [0.0, NOISE])
@pytest.mark.parametrize("case", ["one coil", "fully sampled"])
def test_one_coil_full_sampling_and_no_noise_work(model, case, noise):
    coils = 1 if case == "one coil" else 6
    acceleration = 3.0 if case == "one coil" else 1.0
    problem, image = head_problem(acceleration=acceleration, noise=noise, n_coils=coils)
    choice = choose_weights(problem, model)
    assert choice.basis == "prediction"
    assert all(math.isfinite(t.error) for t in choice.trials)
    assert quality(problem, model, image, choice.weights) > 20
