"""Temporal total variation and locally low rank: what they minimise, and what they recover."""

import math

import pytest
import torch

from equipoise.methods.temporal import (
    PRIORS,
    LocallyLowRank,
    TemporalTV,
    minimise_series,
)
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.dynamic import DynamicSenseOp
from equipoise.physics.sampling.dynamic import kt_mask
from equipoise.vectors import norm
from problems import DOUBLE, random_complex

SHAPE = (6, 16, 16)


def series():
    operator = DynamicSenseOp(biot_savart_maps(SHAPE[1:], 4).to(DOUBLE), kt_mask(SHAPE, 2.0, 2))
    still = random_complex((1, 1, *SHAPE[1:])).expand(1, *SHAPE)
    return operator, still, operator.forward(still)


@pytest.mark.parametrize("name", PRIORS)
def test_a_still_series_is_recovered_from_frames_that_are_not_enough_alone(name):
    operator, still, data = series()
    found = minimise_series(operator, data, torch.tensor([100.0]).double(), PRIORS[name])
    alone = operator.adjoint(data)
    assert float(norm(found.image - still) / norm(still)) < 0.1
    assert float(norm(alone - still) / norm(still)) > 0.3


@pytest.mark.parametrize("name", PRIORS)
def test_k_has_its_adjoint_and_gram(name):
    prior, x, y = PRIORS[name], random_complex((2, *SHAPE)), random_complex((2, *SHAPE), 1)
    left = (prior.analysis(x).conj() * y).sum()
    right = (x.conj() * prior.synthesis(y)).sum()
    assert abs(complex(left - right)) < 1e-10
    assert float(norm(prior.gram(x) - prior.synthesis(prior.analysis(x))).max()) < 1e-12


def test_the_minimum_of_temporal_tv_is_one():
    """No direction lowers the objective, and a converged solve says so."""
    operator, _, data = series()
    data = data + 0.1 * random_complex(data.shape, 2) * operator.mask[:, None]
    lam, prior = 20.0, TemporalTV()
    found = minimise_series(operator, data, torch.tensor([lam]).double(), prior, rtol=2e-4)
    assert found.converged

    def objective(x):
        misfit = (operator.forward(x) - data).abs().square().sum()
        return float(lam / 2 * misfit + prior.analysis(x).abs().sum())

    least = objective(found.image)
    for seed in range(6):
        move = random_complex(found.image.shape, seed + 5)
        for step in (0.1, -0.1, 0.01):
            assert objective(found.image + step * move) > least * (1 - 1e-4)


@pytest.mark.parametrize("iteration", [0, 1, 5])
@pytest.mark.parametrize("shape", [(5, 16, 16), (4, 13, 18)])
def test_low_rank_thresholds_the_singular_values_of_every_shifted_block(iteration, shape):
    prior, x, step = LocallyLowRank(), random_complex((2, *shape)), 0.7
    found = prior.proximal(x, step, iteration)
    shift = (3 * iteration) % 8, (5 * iteration) % 8
    moved, expected = x.roll(shift, (-2, -1)), torch.zeros_like(x)
    for top in range(0, shape[1], 8):
        for left in range(0, shape[2], 8):
            block = moved[:, :, top : top + 8, left : left + 8]
            u, s, v = torch.linalg.svd(block.flatten(2), full_matrices=False)
            low = (u * (s - step).clamp(min=0)[:, None].to(u.dtype)) @ v
            expected[:, :, top : top + 8, left : left + 8] = low.reshape(block.shape)
    expected = expected.roll((-shift[0], -shift[1]), (-2, -1))
    assert float((found - expected).abs().max()) < 1e-9


def test_soft_thresholding_moves_by_the_step_and_keeps_the_phase():
    v = random_complex((1, 3, 4, 4))
    found = TemporalTV().proximal(v, 0.5, 0)
    large = v.abs() > 0.5
    assert torch.allclose(found.abs()[large], v.abs()[large] - 0.5)
    assert float(found[~large].abs().sum()) == 0
    assert float((found * v.conj()).imag.abs().max()) < 1e-12
    assert math.isfinite(float(TemporalTV().proximal(0 * v, 0.5, 0).abs().sum()))
