"""Training on volumes: what is drawn, and a run that starts from a model of one frame."""

import math

import h5py
import numpy as np
import pytest
import torch

from equipoise.methods.mol_guided_3d import MolGuided3D, MolGuided3DConfig
from equipoise.methods.mol_ridge import MolRidge
from equipoise.methods.mol_ridge_3d import MolRidge3D
from equipoise.methods.registry import new_method
from equipoise.networks.ridge import Ridge
from equipoise.outcome import BadInputError
from equipoise.physics.linop import adjoint_error
from equipoise.training.config import load_config
from equipoise.training.sources.cine import load_clips
from equipoise.training.sources.volumes import Volumes, deformed, placed
from equipoise.training.train import train
from equipoise.vectors import norm
from equipoise.zoo.model_file import load_model, save_model
from problems import run_of_three_axes

SHAPE = (20, 24, 28)


def ball():
    """An ellipsoid with a smaller one in it, (z, y, x)."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    large, small = z**2 + y**2 + x**2 < 0.8, (z - 0.2) ** 2 + y**2 + (x + 0.3) ** 2 < 0.1
    return torch.from_numpy((large + 0.8 * small).astype(np.float32)) + 0j


@pytest.fixture
def file(tmp_path):
    with h5py.File(tmp_path / "volume.h5", "w") as found:
        found["magnitude"] = (100 * ball().real).numpy().astype(np.uint8)
    return tmp_path / "volume.h5"


def drawn(seed=0, crop=8, **settings):
    fixed = {"noise": (0.01, 0.01), "coils": (4, 4), "acceleration": (2.0, 2.0), "calibration": 10}
    source = Volumes(**{**fixed, **settings})
    return source.sample(ball(), np.random.default_rng(seed), crop)


class TestSource:
    def test_a_sample_is_a_noisy_acquisition_of_its_target_with_a_readout_along_x(self):
        sample = drawn()
        assert sample.target.shape == (1, 16, 16, 8)
        assert sample.data.shape == (1, 4, 16, 16, 8)
        assert adjoint_error(sample.operator) < 1e-12
        mask = sample.operator.mask
        assert bool((mask == mask[..., :1]).all())
        assert mask.numel() / int(mask.sum()) == pytest.approx(2.0, rel=0.01)
        noise = sample.data - sample.operator.forward(sample.target)
        share = float(norm(noise) / math.sqrt(4 * int(mask.sum())))
        assert 0.005 < share / float(sample.target.abs().quantile(0.99)) < 0.03
        assert 0.85 < float(sample.noise_level) / share < 1.5

    def test_planes_are_whole_with_a_thickness(self):
        for crop in (8, None):
            z, y, x = drawn(crop=crop, thickness=3, deformed=0.0).target.shape[1:]
            assert x == 3
            assert z * y in (20 * 24, 20 * 28, 24 * 28)

    def test_the_maps_are_those_of_the_place_of_the_crop(self):
        field = torch.linspace(-1, 1, 9)[:, None, None].expand(9, 9, 9)[None] + 0j
        cut = (slice(6, 12), slice(0, 3), slice(0, 3))
        found = placed(field, (18, 18, 18), cut)[0].real
        # Voxel 9 of 18 and voxel 4 of 9 are the centre, and a step is half of one.
        expected = (torch.arange(6, 12) - 9) * 0.125
        assert torch.allclose(found[:, 0, 0], expected, atol=1e-6)

    def test_estimated_maps_explain_most_of_the_data_and_not_all(self):
        true, found = (drawn(estimated=share, noise=(0.003, 0.003)) for share in (0.0, 1.0))
        assert not torch.equal(true.operator.csm, found.operator.csm)
        rest = found.operator.forward(found.target) - found.data
        assert 0.003 < float(norm(rest) / norm(found.data)) < 0.3
        strength = found.operator.csm.abs().square().sum(1)
        inside = strength > 0
        assert bool(inside.any())
        assert torch.allclose(strength[inside], torch.ones(()), atol=1e-4)

    def test_a_deformation_is_smooth_bounded_and_another_one_for_every_seed(self):
        volume = ball().real
        one, other = (deformed(volume, 0.05, np.random.default_rng(s)) for s in (0, 1))
        assert one.shape == volume.shape
        assert 0.01 < float((one - volume).norm() / volume.norm()) < 0.5
        assert float((one - other).norm() / volume.norm()) > 0.01
        still = deformed(volume, 0.0, np.random.default_rng(0))
        assert float((still - volume).abs().max()) < 1e-4

    def test_axes_change_places_and_the_same_seed_draws_the_same(self):
        found = [drawn(seed, crop=None, coils=(2, 2)) for seed in (0, 0, 1, 2)]
        shapes = {tuple(sample.target.shape[1:]) for sample in found}
        assert len(shapes) > 1
        assert all(sorted(shape) == sorted(SHAPE) for shape in shapes)
        assert torch.equal(found[0].data, found[1].data)


def configuration(tmp_path, file, **changes):
    usual = {
        "volumes": {"coils": [2, 3], "acceleration": [2, 3], "calibration": 10},
        "steps": 1,
        "validate_every": 1,
    }
    return run_of_three_axes(tmp_path, file, "z", **{**usual, **changes})


class TestRun:
    def test_a_model_of_one_frame_starts_it_and_it_stays_proved(self, file, tmp_path):
        frame = MolRidge(Ridge(0.02, features=4, basis=2))
        save_model(tmp_path / "frame.safetensors", frame, {"by": "test"})
        config = load_config(configuration(tmp_path, file, start="frame.safetensors"))
        model = load_model(train(config, tmp_path / "run"))
        assert isinstance(model, MolRidge3D)
        assert (model.network.axis, model.axes[0], model.m_evidence) == ("z", "z", "proved")
        assert not torch.equal(model.network.first, frame.network.first)

    @pytest.mark.parametrize("blocks", [0, 1, 2])
    def test_the_second_of_two_passes_is_trained_and_the_first_one_stays(
        self, file, tmp_path, blocks
    ):
        model = {
            "method": "mol-guided-3d",
            "network": {"features": 4, "basis": 2},
            "guide": {"network": {"features": 4, "basis": 2}},
            "adaptation": {"features": 4, "hidden": 4},
        }
        before = new_method(MolGuided3DConfig.model_validate(model), seed=3)
        save_model(tmp_path / "both.safetensors", before, {"by": "test"})
        changes = {"model": {"method": "mol-guided-3d"}, "start": "both.safetensors"}
        if blocks:
            changes["model"]["refinement"] = {"features": 2, "blocks": blocks}
        config = load_config(configuration(tmp_path, file, **changes))
        after = load_model(train(config, tmp_path / "run"))
        assert isinstance(after, MolGuided3D)
        assert after.m_evidence == "proved"
        assert not torch.equal(after.network.first, before.network.first)
        assert not torch.equal(after.adaptation.last, before.adaptation.last)
        assert torch.equal(after.guide.network.first, before.guide.network.first)
        assert (after.refinement is not None) == bool(blocks)
        if after.refinement is not None:
            assert all(bool(block.last.weight.any()) for block in after.refinement.blocks)
            held = {"method": "mol-guided-3d", "refinement": {"features": 3, "blocks": blocks}}
            again = {"model": held, "start": "run/tiny.safetensors"}
            wrong = load_config(configuration(tmp_path, file, **again))
            with pytest.raises(BadInputError, match=r"model.refinement.features is 3 .* holds 2"):
                train(wrong, tmp_path / "again")

    def test_what_does_not_belong_together_is_refused(self, file, tmp_path):
        with pytest.raises(BadInputError, match=r"volumes needs a network of \(z, y, x\)"):
            load_config(configuration(tmp_path, file, model={"method": "mol-ridge"}))
        with pytest.raises(BadInputError, match="cine and volumes are two kinds of samples"):
            load_config(configuration(tmp_path, file, cine={}))

    def test_a_file_is_one_volume(self, file):
        assert [found.image.shape for found in load_clips([file])] == [SHAPE]
