"""The loss of split scans: what it sees, what it does not, and its gradient."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.mol_ridge import MolRidge
from equipoise.networks.ridge import RidgeConfig
from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.noise_level import complex_noise
from equipoise.physics.problem import Problem
from equipoise.physics.sampling.masks import make_mask
from equipoise.training.beginning import first_model
from equipoise.training.config import TrainConfig
from equipoise.training.sources.dataset import Dataset
from equipoise.training.sources.self_supervised import (
    SplitScan,
    Splitting,
    density_weights,
    split_problem,
    stacked_splits,
)
from equipoise.training.train import train
from equipoise.zoo.model_file import load_model, provenance
from problems import OF_PLANES, config_of

SHAPE = (32, 32)
ACCELERATION = {"variable-density-2d": 2.5, "uniform": 1.3}
EXACT = SolverOptions(rtol=1e-9, max_iter=400, exact=False)


def scan(seed=0, kind="variable-density-2d"):
    rng = np.random.default_rng(seed)
    csm = biot_savart_maps(SHAPE, 4, seed).to(torch.complex128)
    operator = SenseOp(csm, make_mask(kind, SHAPE, ACCELERATION[kind], 8, seed))
    image = complex_noise((1, *SHAPE), rng).to(torch.complex128).cumsum(1).cumsum(2)
    data = operator.forward(image / image.abs().max())
    return Problem(operator, data, 0.01)


def split(seed=0, kind="variable-density-2d", **options):
    problem = scan(seed, kind)
    held = Splitting(**options).split(problem.operator.mask[0], np.random.default_rng(seed))
    return split_problem(problem, held[None])


def model():
    return MolRidge(RidgeConfig(features=4, basis=2, m=0.2).build(0).double())


@pytest.mark.parametrize("kind", ["variable-density-2d", "uniform"])
class TestParts:
    def test_no_sample_is_both_solved_with_and_judged(self, kind):
        problem, parts = scan(kind=kind), split(kind=kind)
        seen, held = parts.operator.mask, parts.held_back.mask
        assert not (seen & held).any()
        assert torch.equal(seen | held, problem.operator.mask)
        assert (parts.weights[seen] == 0).all()
        assert (parts.weights[held] > 0).all()
        assert float(parts.weights.sum()) == pytest.approx(1)
        assert (parts.data * held[:, None] == 0).all()

    def test_the_loss_ignores_what_was_solved_with_and_the_solve_what_is_judged(self, kind):
        parts = split(kind=kind)
        image = torch.ones(1, *SHAPE, dtype=torch.complex128)
        loss = parts.error(image, parts.scale)
        assert torch.equal(replace(parts, data=parts.data * 2).error(image, parts.scale), loss)
        other = replace(parts, held_data=parts.held_data * 2)
        assert not torch.equal(other.error(image, parts.scale), loss)
        solved = [
            model().solve(s.operator, s.data, noise_level=0.01, scale=s.scale, options=EXACT).value
            for s in (parts, other)
        ]
        assert torch.equal(*solved)


class TestSplits:
    def test_a_share_of_the_samples_is_held_back_and_the_centre_is_not(self):
        mask = scan().operator.mask[0]
        held = Splitting(fraction=0.4).split(mask, np.random.default_rng(0))
        assert float(held.sum() / mask.sum()) == pytest.approx(0.4, abs=0.03)
        assert not held[16, 16]

    def test_a_few_splits_of_each_slice_or_a_new_one_every_time(self):
        mask = scan().operator.mask[0]

        def different(masks, of_slice):
            rng = np.random.default_rng(0)
            found = [Splitting(0.4, masks).split(mask, rng, of_slice) for _ in range(12)]
            return {f.numpy().tobytes() for f in found}

        assert len(different(None, 0)) == 12
        assert len(different(1, 0)) == 1
        assert len(different(3, 0)) == 3
        assert not different(3, 0) & different(3, 1)

    def test_too_few_samples_are_refused(self):
        mask = torch.zeros(SHAPE, dtype=torch.bool)
        mask[14:18, 14:18] = True
        with pytest.raises(BadInputError, match="only 16 of 1024 samples"):
            Splitting().split(mask, np.random.default_rng(0))


class TestWeights:
    def test_samples_weigh_inversely_to_their_density(self):
        measured = torch.ones(1, 64, 64, dtype=torch.bool)
        measured[:, :, 33::2] = False
        weights = density_weights(measured, measured)
        dense, sparse = weights[0, 32, 10], weights[0, 32, 52]
        assert float(sparse / dense) == pytest.approx(2, rel=0.3)

    def test_the_mean_loss_is_the_error_of_the_whole_kspace(self):
        """Over many masks and splits, without noise."""
        problem = scan()
        whole = SenseOp(problem.operator.csm, torch.ones(1, *SHAPE, dtype=torch.bool))
        error = complex_noise((1, *SHAPE), np.random.default_rng(9)).to(torch.complex128)
        error = error.cumsum(1).cumsum(2)
        error = error - error.mean()
        losses = []
        for seed in range(100):
            mask = torch.from_numpy(np.random.default_rng(seed).random((1, *SHAPE)) < 0.5)
            held = torch.from_numpy(np.random.default_rng(seed + 999).random((1, *SHAPE)) < 0.4)
            data = torch.zeros_like(problem.data)
            parts = split_problem(
                Problem(SenseOp(problem.operator.csm, mask), data, 0.01), held & mask
            )
            losses.append(float(parts.error(error, torch.ones(1))))
        expected = float(whole.forward(error).abs().square().sum(1).mean())
        assert np.mean(losses) == pytest.approx(expected, rel=0.1)

    def test_the_losses_of_a_batch_are_those_of_its_scans(self):
        pair = [split(seed) for seed in (0, 1)]
        batch = stacked_splits(pair)
        assert isinstance(batch, SplitScan)
        image = torch.ones(2, *SHAPE, dtype=torch.complex128)
        single = [float(p.error(image[:1], p.scale)) for p in pair]
        assert batch.error(image, batch.scale).tolist() == pytest.approx(single)
        quality = [p.quality(image[:1])["kspace_snr"] for p in pair]
        assert batch.quality(image)["kspace_snr"] == pytest.approx(np.mean(quality))


def test_the_gradient_of_the_loss_is_that_of_finite_differences(monkeypatch):
    monkeypatch.setitem(globals(), "SHAPE", (20, 20))
    parts, net = split(), model()

    def loss():
        solution = net.solve(
            parts.operator, parts.data, noise_level=0.01, scale=parts.scale, options=EXACT
        )
        return parts.error(solution.value, solution.scale).log()

    loss().backward()
    rng, step, expected = np.random.default_rng(0), 1e-5, 0.0
    trained = (net.data_weight.coefficients, net.network.log_threshold, net.network.second)
    directions = [torch.from_numpy(rng.standard_normal(p.shape)).to(p) for p in trained]
    expected = sum(float((p.grad * d).sum()) for p, d in zip(trained, directions))
    values = []
    with torch.no_grad():
        for sign in (1, -2):
            for parameter, direction in zip(trained, directions):
                parameter += sign * step * direction
            values.append(float(loss()))
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(expected, rel=1e-4)


class Splits(Dataset):
    """One undersampled slice, split anew for every sample."""

    def draw(self, generators, crop):
        (rng,) = generators
        problem = scan()
        operator = SenseOp(problem.operator.csm.to(torch.complex64), problem.operator.mask)
        single = Problem(operator, problem.data.to(torch.complex64), 0.01)
        return split_problem(single, Splitting().split(operator.mask[0], rng)[None])


MEASURED = ("mol-lr", "mol-m")
"""Methods whose constant each certificate measures."""


@pytest.mark.parametrize("method", OF_PLANES)
def test_every_method_trains_on_splits_and_keeps_its_constraint(method, tmp_path):
    """Weights that break it are not written, and of those with a proof it is computed again."""
    content = {
        "name": "tiny",
        "data": {"scans": ["site.h5"], "validation_scans": ["site.h5"], "self_supervised": {}},
        "model": config_of(method, {"features": 4, "layers": 2, "basis": 2, "width": 4}, m=0.02),
        "lipschitz": {"beta": 1.0, "every": 1, "steps": 5, "validation_steps": 5},
        "warmup_steps": 0,
        "steps": 2,
        "validate_every": 2,
    }
    config, steps = TrainConfig.model_validate(content), []
    judged = Splits().draw([np.random.default_rng(9)], None)
    path = train(
        config, tmp_path / "run", dataset=Splits(), validation=[judged], report=steps.append
    )
    trained, start = load_model(path), first_model(config)
    assert [step.measure for step in steps] == ["kspace_snr"] * 2
    assert np.isfinite([step.loss for step in steps]).all()
    assert trained.m == start.m
    if trained.m is not None:
        assert trained.m_evidence == ("claimed" if method in MEASURED else "proved")
    assert provenance(path)["validation"].get("constraint", 0.0) < config.limit
    before, after = (dict(model.named_parameters()) for model in (start, trained))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(bool(value.isfinite().all()) for value in after.values())
