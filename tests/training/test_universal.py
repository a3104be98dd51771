"""Training for every scan: ranges to draw from, held-out subjects, averages, two passes."""

import h5py
import numpy as np
import pytest
import torch
import yaml

from equipoise.methods.mol_guided import MolGuided
from equipoise.methods.mol_ridge import MolRidge
from equipoise.networks.adaptation import Adaptation, LimitedAdaptation
from equipoise.networks.ridge import Ridge
from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.training import train as training
from equipoise.training.beginning import first_model, training_images
from equipoise.training.config import load_config
from equipoise.training.sources.simulated import Simulation
from equipoise.training.step import take_step
from equipoise.zoo.model_file import load_model, save_model

KINDS = ("variable-density-2d", "poisson-disc", "variable-density-1d", "uniform")
IMAGE = torch.polar(
    torch.rand((64, 64), generator=torch.Generator().manual_seed(0)), torch.zeros(64, 64)
)


def universal(**changes):
    ranges = {"acceleration": (2.0, 10.0), "calibration": (16, 60), "mask": KINDS}
    return Simulation(**{**ranges, "coils": (1, 12), "zoom": (1.0, 1.0), **changes})


def masks(source, n=40):
    for seed in range(n):
        scan = source.sample(IMAGE, np.random.default_rng(seed))
        yield scan.operator.mask[0], scan.data.shape[1]


class TestRanges:
    def test_every_kind_direction_and_many_accelerations_are_drawn(self):
        seen, factors = set(), []
        for mask, _ in masks(universal()):
            rows, columns = (len(torch.unique(mask, dim=axis)) for axis in (0, 1))
            lines = bool((mask == mask[:1]).all()), bool((mask == mask[:, :1]).all())
            seen.add((*lines, rows == columns))
            factors.append(mask.numel() / float(mask.sum()))
        assert {kind[:2] for kind in seen} == {(True, False), (False, True), (False, False)}
        assert min(factors) < 3
        assert max(factors) > 5

    def test_few_coils_are_not_asked_for_what_they_cannot_do(self):
        for mask, _ in masks(universal(coils=(1, 1))):
            assert mask.numel() / float(mask.sum()) < 4.4

    def test_a_large_calibration_region_lowers_the_acceleration(self):
        for mask, _ in masks(universal(calibration=(200, 200))):
            assert 1 <= mask.numel() / float(mask.sum()) < 1.7

    def test_a_noisy_target_has_the_noise_of_the_data_and_as_much_elsewhere(self):
        drawn = {"coils": (1, 1), "masked_maps": 0.0, "noise": (0.1, 0.1 + 1e-9)}
        clean, noisy = (
            universal(**drawn, noisy_targets=share).sample(IMAGE, np.random.default_rng(3))
            for share in (0.0, 1.0)
        )
        assert torch.equal(clean.data, noisy.data)
        mask, everywhere = clean.operator.mask, torch.ones_like(clean.operator.mask)
        kspace, true = (
            SenseOp(clean.operator.csm, everywhere).forward(scan.target) for scan in (noisy, clean)
        )
        assert torch.allclose(kspace * mask[:, None], noisy.data, atol=1e-5)
        noise = (kspace - true)[0, 0].abs().square()
        measured, other = (float(noise[part].mean()) for part in (mask[0], ~mask[0]))
        assert 0.7 < measured / other < 1.4

    def test_one_of_a_range_is_the_number_itself(self):
        """A configuration without ranges draws the same samples as before ranges existed."""
        plain = Simulation(acceleration=3.0, mask="uniform")
        narrow = Simulation(acceleration=(3.0, 3.0), mask="uniform")
        one, other = (s.sample(IMAGE, np.random.default_rng(3), 32) for s in (plain, narrow))
        assert one.data.shape == other.data.shape


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    images = generator.random((3, 40, 40)).cumsum(1).cumsum(2)
    with h5py.File(tmp_path / "train.h5", "w") as file:
        file["magnitude"] = images
        file["subject"] = ["anna", "bert", "bert"]
    np.save(tmp_path / "val.npy", images[0])
    return tmp_path


def configuration(folder, **changes):
    content = {
        "name": "tiny",
        "data": {"train": ["train.h5"], "validation": ["val.npy"]},
        "simulation": {
            "acceleration": [2, 4],
            "calibration": [30, 60],
            "mask": list(KINDS),
            "coils": [2, 4],
        },
        "model": {
            "method": "mol-ridge",
            "network": {"features": 6, "m": 0.02},
            "data_weight": {"value": 5},
        },
        "crop": 32,
        "warmup_steps": 0,
        "steps": 6,
        "validate_every": 6,
        "validation_samples": 1,
        "validation_crop": 32,
        **changes,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_config(path)


class TestTraining:
    def test_subjects_that_are_held_out_are_not_seen(self, folder):
        data = {"train": ["train.h5"], "validation": ["val.npy"], "held_out": ["bert"]}
        assert len(training_images(configuration(folder))) == 3
        assert len(training_images(configuration(folder, data=data))) == 1

    def test_a_misspelt_subject_is_an_error(self, folder):
        for held_out, words in (
            (["berta"], "berta"),
            (["anna", "bert"], "leaves no training image"),
        ):
            data = {"train": ["train.h5"], "validation": ["val.npy"], "held_out": held_out}
            with pytest.raises(BadInputError, match=words):
                training_images(configuration(folder, data=data))

    def test_the_wrong_order_of_a_range_is_an_error(self, folder):
        with pytest.raises(BadInputError, match="smaller number first"):
            configuration(folder, simulation={"acceleration": [8, 2]})

    def test_the_average_is_what_is_kept(self, folder):
        paths = [
            training.train(configuration(folder, average=average), folder / f"run{i}")
            for i, average in enumerate((0.0, 0.9))
        ]
        plain, averaged = (load_model(path) for path in paths)
        start = first_model(configuration(folder))
        moved = [
            float((model.network.second - start.network.second).norm().detach())
            for model in (plain, averaged)
        ]
        assert 0 < moved[1] < moved[0]

    def test_a_run_with_an_average_resumes_to_the_same_weights(self, folder, monkeypatch):
        config = configuration(folder, average=0.9)
        whole = load_model(training.train(config, folder / "whole"))
        monkeypatch.setattr(training, "CHECKPOINT_EVERY", 3)
        run = training.Run(config, folder / "cut", print)
        run.begin()
        for _ in range(3):
            assert take_step(run.state, run.pool) is not None
            run.state.step += 1
        run.save(folder / "cut" / "last.ckpt")
        resumed = load_model(training.train(config, folder / "cut", resume=True))
        for a, b in zip(whole.parameters(), resumed.parameters()):
            assert torch.equal(a, b)

    def test_a_second_pass_starts_as_its_first_and_leaves_it_alone(self, folder):
        guide = MolRidge(Ridge(0.02, features=6, basis=3, seed=5))
        save_model(folder / "guide.safetensors", guide, {})
        model = {"method": "mol-guided"}
        config = configuration(folder, model=model, start="guide.safetensors")
        trained = load_model(training.train(config, folder / "run"))
        assert isinstance(trained, MolGuided)
        assert torch.equal(trained.guide.network.second, guide.network.second)
        assert not torch.equal(trained.network.second, guide.network.second)
        assert bool(trained.adaptation.last.any())
        assert (trained.m, trained.guide.m) == (0.02, 0.02)
        assert isinstance(trained.adaptation, Adaptation)

    def test_a_second_pass_may_have_other_ms_and_a_limit(self, folder):
        guide = MolRidge(Ridge(0.02, features=6, basis=3, seed=5))
        save_model(folder / "guide.safetensors", guide, {})
        model = {
            "method": "mol-guided",
            "network": {"m": 0.1},
            "guide": {"network": {"m": 0.05}},
            "adaptation": {"hidden": 7, "limit": 0.4},
        }
        config = configuration(folder, model=model, start="guide.safetensors")
        trained = load_model(training.train(config, folder / "run"))
        assert (trained.m, trained.guide.m) == (0.1, 0.05)
        assert torch.equal(trained.guide.network.second, guide.network.second)
        assert isinstance(trained.adaptation, LimitedAdaptation)
        assert trained.adaptation.last.shape == (6, 7, 1, 1)
        assert bool(trained.adaptation.last.any())
        found = first_model(configuration(folder, model=model, start="guide.safetensors"))
        assert not torch.equal(trained.adaptation.weights[0], found.adaptation.weights[0])
