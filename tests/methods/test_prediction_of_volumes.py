"""Weights of volumes by prediction: lines along the readout are left out of a slab."""

import math

import pytest
import torch

from conftest import small_head
from equipoise.methods.prediction import choose_weights, weights_for
from equipoise.metrics import psnr
from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.coils.readout import slab_of
from equipoise.physics.problem import Problem
from equipoise.physics.sampling.masks import make_mask
from equipoise.zoo.model_file import load_model

SHAPE, NOISE = (48, 44), 0.03


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def head_volume(planes):
    """A scan of planes (z, y) of a head that fades along x, with air at its end, and the head."""
    fading = torch.linspace(1, 0.5, planes)
    fading[-1] = 0
    image = small_head(SHAPE)[..., None] * fading
    csm = biot_savart_maps(SHAPE, 4, seed=1)[..., None] * (fading > 0)
    mask = make_mask("variable-density-2d", SHAPE, 3.0, 8, seed=0)[..., None]
    operator = SenseOp(csm, mask.expand(*mask.shape[:-1], planes).clone())
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(operator.data_shape, dtype=torch.complex64, generator=generator)
    data = operator.forward(image) + operator.mask[:, None] * NOISE * noise
    return Problem(operator, data, NOISE), image


def test_a_slab_is_the_scan_of_its_planes():
    problem, image = head_volume(9)
    operator = problem.operator
    exact = Problem(operator, operator.forward(image), 0.0)
    slab = slab_of(exact, 4)
    cut = slice(1, 5)
    assert torch.equal(slab.operator.csm, operator.csm[..., cut])
    assert torch.allclose(slab.data, slab.operator.forward(image[..., cut]), atol=1e-5)
    assert slab_of(exact, 16).data.shape == exact.data.shape


def test_a_slab_of_lines_that_were_measured_in_parts_is_refused():
    problem, _ = head_volume(4)
    mask = problem.operator.mask.clone()
    mask[..., 0] = False
    operator = SenseOp(problem.operator.csm, mask)
    with pytest.raises(BadInputError, match="varies along x"):
        slab_of(Problem(operator, problem.data, NOISE), 2)
    choice = choose_weights(Problem(operator, problem.data, NOISE), load_model("mol-guided-volume"))
    assert choice.basis == "rule"
    assert "lines along x were not measured as a whole" in choice.reason


@pytest.mark.parametrize("planes", [3, 6])
def test_weights_that_are_far_off_are_corrected(planes, monkeypatch):
    monkeypatch.setattr("equipoise.methods.prediction.PLANES", 4)
    problem, image = head_volume(planes)
    model = load_model("mol-guided-volume")
    for rule in (model.data_weight, model.threshold_rule):
        rule.coefficients[0] += math.log(10)
    choice = weights_for(problem, model, None)
    assert choice.setting == "auto"
    assert choice.basis == "prediction"
    assert not choice.follows_rule
    solutions = (
        model.solve(problem.operator, problem.data, noise_level=NOISE, **weights)
        for weights in (choice.weights, {})
    )
    reached, by_rule = (float(psnr(solution.value, image)) for solution in solutions)
    assert reached > by_rule + 0.3
