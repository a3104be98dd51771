"""``equipoise experiment volume``: maps of one phase, and honest numbers for every method."""

import json

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from equipoise.cli.app import app
from equipoise.experiments import volume as experiment
from equipoise.experiments.volumes import volume_cases
from equipoise.methods.mol_ridge import MolRidge
from equipoise.methods.mol_ridge_3d import MolRidge3D
from equipoise.methods.prediction import weights_for
from equipoise.methods.solving import solve_slice
from equipoise.networks.ridge import Ridge
from equipoise.networks.ridge_volume import RidgeVolume
from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.readout import slices_along_readout
from equipoise.physics.problem import Problem
from equipoise.zoo.model_file import save_model

SMALL = {"features": 4, "basis": 2, "filters": 1, "across": 2, "taps": 3}


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A shell with a brain of two tissues, (z, y, x), and air around it."""
    path = tmp_path_factory.mktemp("volumes") / "head.h5"
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (24, 28, 10)), indexing="ij")
    radius = np.sqrt(z**2 + y**2 + (0.7 * x) ** 2)
    tissues = 120 * (radius < 0.7) + 60 * (np.hypot(z - 0.2, y) < 0.3) * (radius < 0.7)
    with h5py.File(path, "w") as file:
        file["magnitude"] = (tissues + 200 * (np.abs(radius - 0.8) < 0.06)).astype(np.uint8)
    return path


@pytest.fixture(scope="module")
def case(head):
    return next(volume_cases([head], 3.0, 1, noise=(0.01, 0.01)))


class TestCase:
    def test_is_an_acquisition_of_its_target_with_estimated_maps_and_noise(self, case):
        assert case.target.shape == case.operator.image_shape == (1, 24, 28, 10)
        misfit = case.operator.forward(case.target) - case.kspace
        assert float(misfit.norm() / case.kspace.norm()) < 0.2
        assert 0 < float(case.noise_level) < 0.1
        mask = case.operator.mask[0]
        assert bool((mask == mask[..., :1]).all())
        assert mask.numel() / int(mask.sum()) == pytest.approx(3, rel=0.01)

    def test_without_acceleration_the_corners_are_measured_too(self, head):
        (full,) = volume_cases([head], 1.0, 1, crop=4)
        assert bool(full.operator.mask.all())

    def test_one_slice_is_not_a_volume(self, tmp_path):
        with h5py.File(tmp_path / "one.h5", "w") as file:
            file["magnitude"] = np.ones((1, 24, 24), np.uint8)
        with pytest.raises(BadInputError, match="1 x 24 x 24 voxels"):
            next(volume_cases([tmp_path / "one.h5"], 3.0, 1))


class TestMethods:
    def test_slice_by_slice_is_the_solution_of_every_slice_of_the_volume(self, case):
        model = MolRidge(Ridge(0.05, features=4, basis=2))
        with torch.no_grad():
            found = experiment.solvers({"mol-2d": model})["mol-2d"](case)
        assert 0 < found.row["bound"] <= 1e-3
        operator = SenseOp(case.operator.csm[..., 4], case.operator.mask[..., 4])
        data = slices_along_readout(case.kspace[0])[4:5]
        problem = Problem(operator, data, case.noise_level)
        with torch.no_grad():
            alone = solve_slice(problem, model, weights_for(problem, model, None)).value
        difference = (found.image[..., 4] - alone).norm() / alone.norm()
        assert float(difference) <= 2 * found.row["bound"]

    def test_a_slice_that_no_coil_sees_is_zero(self, case):
        csm = case.operator.csm.clone()
        csm[..., 3] = 0
        blind = type(case)(
            **{**vars(case), "operator": type(case.operator)(csm, case.operator.mask)}
        )
        found = experiment.solvers({})["tv"](blind).image
        assert not bool(found[..., 3].abs().any())
        assert bool(found[..., 4].abs().any())

    def test_a_model_of_series_is_refused(self):
        model = MolRidge3D(RidgeVolume("time", 0.05, **SMALL))
        with pytest.raises(BadInputError, match=r"a model of \(time, y, x\)"):
            experiment.solvers({"mol-3d": model})


@pytest.mark.parametrize("whole", ["", ",mol-3d"])
def test_the_command_prints_every_number_of_every_method(head, tmp_path, whole):
    plane = MolRidge(Ridge(0.05, features=4, basis=2))
    save_model(tmp_path / "plane.safetensors", plane, {"config": {"data": {"train": ["head.h5"]}}})
    save_model(tmp_path / "whole.safetensors", MolRidge3D(RidgeVolume("z", 0.05, **SMALL)), {})
    arguments = ["experiment", "volume", "--data", str(head), "--acceleration", "3", "--methods"]
    arguments += [f"mol-2d={tmp_path}/plane.safetensors{whole}"]
    arguments += ["--model-3d", f"{tmp_path}/whole.safetensors"]
    done = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    methods = result["methods"]
    assert set(methods) == {"mol-2d", "mol-3d", "wavelet", "tv", "zero-filled"}
    keys = {"psnr", "ssim", "seconds", "peak_mb", "n", "worst_bound"}
    for entry in methods.values():
        assert keys <= set(entry)
        assert "psnr_moving" not in entry
        assert (entry["n"], entry["psnr"][1]) == (1, 0)
    assert 0 < methods["mol-2d"]["worst_bound"] <= 1e-3
    assert 0 < methods["mol-3d"]["worst_bound"] <= 1e-3
    assert methods["tv"]["worst_bound"] is None
    assert methods["tv"]["psnr"][0] > methods["zero-filled"]["psnr"][0] + 1
    gain = methods["mol-3d"]["psnr"][0] - methods["mol-2d"]["psnr"][0]
    assert methods["mol-3d"]["minus_slice_by_slice"]["mean"] == pytest.approx(gain)
    assert result["seen"] == ["NOT UNSEEN DATA: head.h5 was training data of mol-2d."]
    assert (tmp_path / "out" / "volume.md").read_text().count("\n| ") == 6
