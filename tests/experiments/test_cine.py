"""``equipoise experiment cine``: one series for every method, and honest numbers."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from equipoise.cli.app import app
from equipoise.experiments import cine as experiment
from equipoise.experiments.cine import measured
from equipoise.experiments.memory import CLEAR_REFS
from equipoise.experiments.series import quality, series_cases, temporal_sharpness
from equipoise.formats.sample_head import head_slice
from equipoise.methods.mol_ridge import MolRidge
from equipoise.methods.mol_ridge_3d import MolRidge3D
from equipoise.networks.ridge import Ridge
from equipoise.networks.ridge_volume import RidgeVolume
from equipoise.outcome import BadInputError, InputWarning
from equipoise.physics.dynamic import DynamicSenseOp
from equipoise.training.sources.cine import moving
from equipoise.zoo.model_file import save_model

SMALL = {"features": 4, "basis": 2, "filters": 1, "across": 2, "taps": 3}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("series") / "heart.h5"
    series = moving(head_slice()[0][::6, ::6], 6, 0.05, np.random.default_rng(0))
    with h5py.File(path, "w") as file:
        file["magnitude"] = (200 * series / series.max()).numpy().astype(np.uint8)
    return path


@pytest.fixture(scope="module")
def case(clip):
    return next(series_cases([clip], 3.0, 1, noise=(0.01, 0.01)))


class TestCase:
    def test_is_an_acquisition_of_its_target_with_estimated_maps_and_noise(self, case):
        assert case.target.shape == case.operator.image_shape
        misfit = case.operator.forward(case.target) - case.kspace
        assert float(misfit.norm() / case.kspace.norm()) < 0.2
        assert 0 < float(case.noise_level) < 0.1
        assert case.kspace.shape[1] == 8

    def test_what_moves_is_a_part_of_the_image(self, case):
        assert 0.005 < float(case.moving.double().mean()) < 0.6
        change = case.target[0].abs().std(0)
        assert float(change[case.moving].min()) > float(change[~case.moving].max()) * 0.999

    def test_the_psnr_where_it_moves_sees_errors_there_alone(self, case):
        where = case.moving[None, None]
        inside = quality(case.target + 0.05 * where, case)
        outside = quality(case.target + 0.05 * ~where, case)
        assert inside["psnr_moving"] < inside["psnr"] < 60
        assert outside["psnr_moving"] > 100

    def test_sharpness_is_the_share_of_the_true_change_whatever_the_noise(self, case):
        true = case.target[0].abs()
        mean = true.mean(0, keepdim=True)
        assert temporal_sharpness(true, true) == pytest.approx(1)
        assert temporal_sharpness(mean + 0.6 * (true - mean), true) == pytest.approx(0.6)
        assert temporal_sharpness(mean.expand_as(true), true) == 0
        noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(0))
        noisy = true + 0.02 * float(true.max()) * noise
        assert temporal_sharpness(noisy, true) == pytest.approx(1, abs=0.1)

    def test_in_a_still_series_nothing_moves_and_nothing_is_sharp(self, case):
        still = replace(case, target=case.target[:, :1].expand_as(case.target))
        found = quality(0.9 * still.target, still)
        assert found["psnr"] > 10
        assert found["psnr_moving"] is None
        assert found["temporal_sharpness"] is None

    def test_files_are_read_before_the_first_solve(self, clip, tmp_path):
        """One that was named must be of use; others of a folder are left out by name."""
        (tmp_path / "a.txt").write_text("notes")
        (tmp_path / "heart.h5").write_bytes(clip.read_bytes())
        with pytest.raises(BadInputError, match=r"a\.txt is damaged"):
            next(series_cases([clip, tmp_path / "a.txt"], 3.0, 1))
        with pytest.warns(InputWarning, match=r"left out: .*a\.txt is damaged"):
            assert len(list(series_cases([tmp_path], 3.0, 1))) == 1
        assert len(list(series_cases([clip, clip], 3.0, 1))) == 1
        (tmp_path / "heart.h5").unlink()
        with (
            pytest.warns(InputWarning, match="left out"),
            pytest.raises(BadInputError, match=r"no file can be used: .*a\.txt is damaged"),
        ):
            next(series_cases([tmp_path], 3.0, 1))

    def test_one_frame_is_no_series(self, tmp_path):
        with h5py.File(tmp_path / "one.h5", "w") as file:
            file["magnitude"] = np.ones((1, 24, 24), np.uint8)
        with pytest.raises(BadInputError, match="holds one frame"):
            next(series_cases([tmp_path / "one.h5"], 3.0, 1))


def test_the_best_weight_is_taken_for_methods_that_are_not_trained(case, monkeypatch):
    monkeypatch.setattr(experiment, "WEIGHTS", (100.0, 1e-3))
    monkeypatch.setattr(experiment, "SEARCH_ITERATIONS", 3)
    for name in ("tv-t", "llr"):
        found = experiment.solvers({})[name](case)
        assert found.row["lam"] == 100.0
        assert (
            quality(found.image, case)["psnr"]
            > quality(experiment.solvers({})["zero-filled"](case).image, case)["psnr"] + 1
        )


def test_the_command_prints_every_number_of_every_method(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "WEIGHTS", (100.0,))
    monkeypatch.setattr(experiment, "SEARCH_ITERATIONS", 2)
    frame = MolRidge(Ridge(0.05, features=4, basis=2))
    save_model(tmp_path / "frame.safetensors", frame, {"config": {"data": {"train": ["heart.h5"]}}})
    save_model(tmp_path / "time.safetensors", MolRidge3D(RidgeVolume("time", 0.05, **SMALL)), {})
    names = f"mol-2d={tmp_path}/frame.safetensors,mol-2dt={tmp_path}/time.safetensors"
    arguments = ["experiment", "cine", "--data", str(clip), "--acceleration", "3", "--methods"]
    arguments += [names, "-o", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    alone = {"tv-t", "llr", "zero-filled", "view-sharing"}
    assert set(result["methods"]) == {"mol-2d", "mol-2dt", *alone}
    keys = {"psnr", "psnr_moving", "ssim", "seconds", "peak_mb", "n", "worst_bound"}
    keys.add("temporal_sharpness")
    for entry in result["methods"].values():
        assert keys <= set(entry)
        assert entry["n"] == 1
        assert entry["psnr"][1] == 0
    bounds = {name: entry["worst_bound"] for name, entry in result["methods"].items()}
    assert 0 < bounds["mol-2d"] <= 1e-3
    assert 0 < bounds["mol-2dt"] <= 1e-3
    assert bounds["tv-t"] is None
    assert result["seen"] == ["NOT UNSEEN DATA: heart.h5 was training data of mol-2d."]
    assert (tmp_path / "out" / "cine.md").read_text().count("\n| ") == 7


def test_a_value_that_no_series_has_is_null_in_the_files(case, tmp_path):
    still = replace(case, target=case.target[:, :1].expand_as(case.target))
    methods = {"zero-filled": experiment.zero_filled}
    rows = experiment.compared(methods, [still], quality, print)
    experiment.write_study(tmp_path, rows, {})
    found = json.loads((tmp_path / "cine.json").read_text())["methods"]["zero-filled"]
    assert found["psnr_moving"] is None
    assert found["temporal_sharpness"] is None
    assert found["psnr"][0] > 10
    assert "|  |" in (tmp_path / "cine.md").read_text()


def test_view_sharing_is_exact_where_nothing_moves(case):
    still = case.target.mean(1, keepdim=True).expand_as(case.target).contiguous()
    full = case.operator.mask.any(1, keepdim=True).expand_as(case.operator.mask)
    complete = DynamicSenseOp(case.operator.csm[:, :, 0], full)
    shared = replace(case, kspace=case.operator.forward(still))
    found = experiment.solvers({})["view-sharing"](shared).image
    assert torch.allclose(found, complete.adjoint(complete.forward(still)), atol=1e-5)
    assert not torch.allclose(experiment.zero_filled(shared).image, found, atol=1e-2)


def test_a_model_of_volumes_is_refused():
    model = MolRidge3D(RidgeVolume("z", 0.05, **SMALL))
    with pytest.raises(BadInputError, match=r"a model of \(z, y, x\)"):
        experiment.solvers({"mol-3d": model})


@pytest.mark.skipif(not CLEAR_REFS.exists(), reason="the peak memory can be reset on Linux only")
def test_the_peak_of_a_method_does_not_hide_behind_that_of_the_one_before():
    # The last of all pieces stays, so the allocator keeps the others, once freed, for later use.
    def solve():
        return [bytearray(100_000) for _ in range(1000)][-1]

    rows = [measured(solve, torch.device("cpu")) for _ in range(2)]
    assert all(90 < row["peak_mb"] < 150 for _, row in rows)
