"""A pool of acquisitions: which one a step uses, where its solves start, and what that saves."""

import json

import h5py
import numpy as np
import pytest
import torch
import yaml

from equipoise.outcome import BadInputError
from equipoise.training import train as training
from equipoise.training.config import load_config
from equipoise.training.pool import drawn_at
from equipoise.zoo.model_file import load_model
from problems import TIGHT, model_of, sense_problem


class TestTurns:
    @pytest.mark.parametrize(("size", "uses"), [(1, 1), (3, 1), (5, 4), (7, 8)])
    def test_an_acquisition_is_used_in_successive_rounds_and_never_more_often(self, size, uses):
        of_slot = {}
        for step in range(size * uses * 3):
            of_slot.setdefault(step % size, []).append(drawn_at(step, size, uses))
        for slot, drawn in of_slot.items():
            counts = np.unique(drawn, return_counts=True)[1]
            assert drawn == sorted(drawn)
            assert all(d % size == slot for d in drawn)
            assert set(counts[1:-1]) <= {uses}
            assert max(counts) <= uses

    def test_every_round_renews_its_share(self):
        size, uses = 40, 8
        for turn in range(uses, 3 * uses):
            steps = range(turn * size, (turn + 1) * size)
            assert sum(drawn_at(step, size, uses) == step for step in steps) == size // uses


@pytest.fixture
def folder(tmp_path):
    images = np.random.default_rng(0).random((3, 40, 40)).cumsum(1).cumsum(2)
    with h5py.File(tmp_path / "train.h5", "w") as file:
        file["magnitude"] = images
    np.save(tmp_path / "val.npy", images[0])
    return tmp_path


def configuration(folder, **changes):
    content = {
        "name": "tiny",
        "data": {"train": ["train.h5"], "validation": ["val.npy"]},
        "simulation": {"acceleration": 3, "calibration": 40, "coils": [2, 4]},
        "model": {"method": "mol-ridge", "network": {"features": 4, "basis": 2, "m": 0.2}},
        "crop": 24,
        "warmup_steps": 0,
        "steps": 9,
        "rtol": [0.03, 0.03],
        "validate_every": 9,
        "validation_samples": 1,
        "validation_crop": 24,
        "pool": 2,
        "pool_uses": 3,
        **changes,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_config(path)


class TestTraining:
    def test_a_killed_run_resumes_to_the_same_weights(self, folder, monkeypatch):
        monkeypatch.setattr(training, "CHECKPOINT_EVERY", 5)
        config = configuration(folder, warmup_steps=1, batch=2)
        whole = load_model(training.train(config, folder / "whole"))

        class Killed(Exception):
            pass

        def kill(progress):
            if progress.step == 7:
                raise Killed

        with pytest.raises(Killed):
            training.train(config, folder / "cut", report=kill)
        resumed = load_model(training.train(config, folder / "cut", resume=True))
        for a, b in zip(whole.parameters(), resumed.parameters()):
            assert torch.equal(a, b)

    def test_solves_of_a_known_acquisition_are_shorter(self, folder):
        sums = {}
        for pool in (0, 1):
            run = folder / f"pool{pool}"
            changes = {"steps": 8, "pool": pool, "pool_uses": 8, "backward_rtol": 0.03}
            training.train(configuration(folder, **changes, validate_every=8), run)
            log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
            rows = [(e["iterations"], e["adjoint_iterations"]) for e in log if "iterations" in e]
            sums[pool] = np.mean(rows[1:], 0)
        assert (sums[1] < 0.5 * sums[0]).all()

    def test_a_method_without_an_equilibrium_has_nothing_to_keep(self, folder):
        with pytest.raises(BadInputError, match="modl has none: leave pool out"):
            configuration(folder, model={"method": "modl"})


def test_the_adjoint_solve_ends_at_once_where_it_ended_before():
    model, (operator, data) = model_of(0.8), sense_problem()
    first = model.solve(operator, data, options=TIGHT)
    first.value.abs().square().sum().backward()
    known = first.backward.value
    again = model.solve(operator, data, options=TIGHT, adjoint_start=known)
    again.value.abs().square().sum().backward()
    assert int(first.backward.network_evaluations.min()) > 5
    assert int(again.backward.network_evaluations.max()) == 1
    assert float((again.backward.value - known).abs().max()) == 0
