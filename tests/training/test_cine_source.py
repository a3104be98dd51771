"""Training on series in time: what is drawn, and a run that starts from a model of one frame."""

import math

import h5py
import numpy as np
import pytest
import torch

from equipoise.formats.sample_head import head_slice
from equipoise.methods.mol_ridge import MolRidge
from equipoise.methods.mol_ridge_3d import MolRidge3D
from equipoise.networks.ridge import Ridge
from equipoise.outcome import BadInputError
from equipoise.physics.linop import adjoint_error
from equipoise.training.config import load_config
from equipoise.training.sources.cine import Cine, load_clips, moving
from equipoise.training.train import Run, train
from equipoise.vectors import norm
from equipoise.zoo.model_file import load_model, provenance, save_model
from problems import run_of_three_axes


@pytest.fixture(scope="module")
def head():
    return head_slice()[0][::4, ::4]


@pytest.fixture
def clip(head, tmp_path):
    """A file with one series of 10 frames."""
    series = moving(head, 10, 0.05, np.random.default_rng(0))
    with h5py.File(tmp_path / "clip.h5", "w") as file:
        file["magnitude"] = (200 * series / series.max()).numpy().astype(np.uint8)
    return tmp_path / "clip.h5"


class TestMotion:
    def test_is_periodic_smooth_and_bounded(self, head):
        series = moving(head, 24, 0.05, np.random.default_rng(1))
        assert series.shape == (24, *head.shape)
        steps = (series - series.roll(1, 0)).flatten(1).norm(dim=1)
        # The step from the last frame to the first is like any other.
        assert float(steps[0]) < 2 * float(steps.median())
        assert float(steps.min()) > 0
        still = moving(head, 6, 0.0, np.random.default_rng(1))
        assert float((still - head.abs()).abs().max()) < 1e-4

    def test_every_draw_is_another_motion(self, head):
        one, other = (moving(head, 5, 0.05, np.random.default_rng(s)) for s in (0, 1))
        assert float((one - other).norm() / one.norm()) > 0.01


class TestSource:
    def test_a_sample_is_a_noisy_k_t_acquisition_of_its_target(self, clip):
        series = load_clips([clip])[0].image
        source = Cine(noise=(0.01, 0.01), acceleration=(3.0, 3.0), frames=(6, 6), coils=(4, 4))
        sample = source.sample(series, np.random.default_rng(0), 16)
        frames, height, width = sample.target.shape[1:]
        assert (frames, height, width) == (6, 16, 48)
        assert sample.data.shape == (1, 4, 6, 16, 48)
        assert adjoint_error(sample.operator) < 1e-12
        noise = sample.data - sample.operator.forward(sample.target)
        share = float(norm(noise) / math.sqrt(4 * int(sample.operator.mask.sum())))
        assert 0.005 < share / float(sample.target.abs().quantile(0.99)) < 0.02
        assert sample.operator.mask.numel() / int(sample.operator.mask.sum()) == 3.0

    def test_maps_are_those_of_an_undersampled_scan_of_whole_frames(self, clip):
        series = load_clips([clip])[0].image
        settings = {"noise": (0.003, 0.003), "frames": (10, 10), "coils": (4, 4)}
        true, found = (
            Cine(**settings, estimated=share).sample(series, np.random.default_rng(0), 16)
            for share in (0.0, 1.0)
        )
        known = found.operator.csm.abs().square().sum(1) > 0.5
        explained = (found.operator.forward(found.target) - found.data).abs().square().sum()
        # The target is combined with these maps, so they explain most of the data, but not all.
        assert float((explained / found.data.abs().square().sum()).sqrt()) < 0.3
        assert true.operator.csm.shape == found.operator.csm.shape
        assert not torch.equal(true.operator.csm, found.operator.csm)
        assert bool(known.any())

    def test_the_same_seed_draws_the_same_sample_and_another_one_another(self, clip):
        series = load_clips([clip])[0].image
        one, same, other = (
            Cine().sample(series, np.random.default_rng(s), 16).data for s in (0, 0, 1)
        )
        assert torch.equal(one, same)
        assert one.shape != other.shape or not torch.equal(one, other)

    def test_stills_are_set_in_motion(self, head):
        source = Cine(stills=(head,), still=1.0, frames=(5, 5))
        sample = source.sample(torch.zeros(3, 40, 40) + 0j, np.random.default_rng(0), 16)
        assert sample.target.shape[1] == 5
        assert float(sample.target.std(1).abs().max()) > 0


def configuration(tmp_path, clip, **changes):
    usual = {"cine": {"frames": [4, 6], "coils": [2, 3]}, "steps": 4, "validate_every": 2}
    return run_of_three_axes(tmp_path, clip, "time", **{**usual, **changes})


class TestRun:
    def test_a_model_of_one_frame_starts_it_and_the_weights_say_what_they_saw(self, clip, tmp_path):
        frame = MolRidge(Ridge(0.02, features=4, basis=2))
        save_model(tmp_path / "frame.safetensors", frame, {"by": "test"})
        config = load_config(configuration(tmp_path, clip, start="frame.safetensors"))
        path = train(config, tmp_path / "run")
        model, origin = load_model(path), provenance(path)
        assert isinstance(model, MolRidge3D)
        assert (model.network.features, model.m, model.m_evidence) == (4, 0.01, "proved")
        assert model.network.axis == "time"
        moved = (model.network.first - frame.network.first).norm()
        assert 0 < moved < 0.5 * frame.network.first.norm()
        assert origin["config"]["data"]["train"] == ["clip.h5"]
        assert origin["config"]["start"] == {"by": "test"}
        assert origin["source"] == "Cine"

    def test_bad_files_of_every_folder_are_skipped_and_listed(self, clip, tmp_path):
        stills = {"train": ["clips"], "validation": ["others"], "stills": ["stills"]}
        for name in stills.values():
            (tmp_path / name[0]).mkdir()
        for name in ("clips", "others"):
            (tmp_path / name / "clip.h5").write_bytes(clip.read_bytes())
        np.save(tmp_path / "stills" / "still.npy", np.ones((32, 32)))
        (tmp_path / "clips" / "torn.h5").write_bytes(b"\x89HDF\r\n")
        np.save(tmp_path / "others" / "zero.npy", np.zeros((4, 32, 32)))
        np.save(tmp_path / "stills" / "nan.npy", np.full((32, 32), np.nan))
        cine = {"still": 0.5, "frames": [4, 4], "coils": [2, 2]}
        path = configuration(tmp_path, clip, data=stills, cine=cine, steps=1)
        said = []
        train(load_config(path), tmp_path / "run", say=said.append)
        assert said[-4] == "3 files could not be used:"
        expected = ("torn.h5 is damaged", "zero.npy is zero everywhere", "nan.npy holds NaN")
        assert all(words in line for words, line in zip(expected, said[-3:], strict=True)), said
        # A file that is named itself is not skipped.
        with pytest.raises(BadInputError, match=r"zero\.npy is zero everywhere"):
            load_clips([clip, tmp_path / "others" / "zero.npy"], {})
        (tmp_path / "others" / "clip.h5").unlink()
        with pytest.raises(BadInputError, match=r"none of 1 file can be used.*zero everywhere"):
            Run(load_config(path), tmp_path / "other", said.append)

    def test_what_does_not_belong_together_is_refused(self, clip, tmp_path):
        plane = configuration(tmp_path, clip, model={"method": "mol-ridge"})
        with pytest.raises(BadInputError, match=r"a network of \(time, y, x\)"):
            load_config(plane)
        stills = {"train": [str(clip)], "validation": [str(clip)], "stills": [str(clip)]}
        with pytest.raises(BadInputError, match="give both, or neither"):
            load_config(configuration(tmp_path, clip, data=stills))
        for scans in ("scans", "validation_scans"):
            data = {"train": [str(clip)], "validation": [str(clip)], scans: [str(clip)]}
            with pytest.raises(BadInputError, match=rf"cine simulates .*data\.{scans} names"):
                load_config(configuration(tmp_path, clip, data=data))
            with pytest.raises(BadInputError, match=r"is for images \(time, y, x\)"):
                load_config(configuration(tmp_path, clip, data=data, cine=None))
