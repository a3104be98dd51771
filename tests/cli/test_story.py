"""From a file to an image: the command line as a whole, with the packaged model."""

import json
import os

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from equipoise.cli.app import app
from equipoise.methods.data_weight import FixedWeight
from equipoise.methods.mol import MOL
from equipoise.networks.cnn import CNN
from equipoise.outcome import BadInputError
from equipoise.physics.fourier import kspace_to_image
from equipoise.zoo import find
from equipoise.zoo import model_file as weights

SLICE_KEYS = {
    "index",
    "images",
    "outcome",
    "iterations",
    "network_evaluations",
    "lam",
    "threshold",
    "choice",
    "relative_residual",
    "distance_bound",
    "m",
    "m_evidence",
    "perturbation_bound",
    "second_pass_bound",
    "slack",
    "objective_gap",
    "noise_bound",
    "in_range",
    "psnr_bound",
    "seconds",
    "psnr",
    "ssim",
    "sense_psnr",
    "sense_ssim",
}


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def run_json(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def leftovers(folder):
    return [p.name for p in folder.iterdir() if "tmp" in p.name]


BY_RULE = ("--lam", "rule")
"""In a third of the time; the choice by prediction is tested where it is the subject."""


class TestRecon:
    def test_an_undersampled_experiment(self, full_scan, tmp_path, scan_arrays):
        out = tmp_path / "out.h5"
        arguments = ("recon", full_scan, "-o", out, "--acceleration", 3, "--seed", 0)
        report = run_json(*arguments, "--lam", "auto")
        assert set(report) == {"scan", "model", "axes", "outcome", "left_out", "slices"}
        assert report["outcome"] == "converged"
        (only,) = report["slices"]
        assert set(only) == SLICE_KEYS
        assert only["distance_bound"] <= 1e-3
        assert only["m_evidence"] == "proved"
        assert only["choice"]["basis"] == "prediction"
        assert only["choice"]["trials"]
        assert only["psnr"] > 30
        assert only["sense_psnr"] > 30
        with h5py.File(out) as file:
            coil_images = kspace_to_image(torch.from_numpy(scan_arrays["kspace"])).numpy()
            target = np.abs((file["csm"][:].conj() * coil_images).sum(1))
            error = np.mean((file["reconstruction"][:] - target) ** 2)
            by_hand = 10 * np.log10(target.max() ** 2 / error)
            assert only["psnr"] == pytest.approx(by_hand, abs=0.01)
            assert file["reconstruction"].shape == (1, 72, 64)
            assert file["mask"].shape == (1, 72, 64)
            assert file.attrs["outcome"] == "converged"
            assert file.attrs["distance_bound"] <= 1e-3
        assert leftovers(tmp_path) == []

    def test_the_short_certificate_is_said(self, full_scan, tmp_path):
        arguments = ("recon", full_scan, "--acceleration", 3, "--json", "-o")
        result = run(*arguments, tmp_path / "mol.h5")
        (only,) = json.loads(result.stdout)["slices"]
        assert f"certificate (m = {only['m']:.3g}, proved)" in result.stderr
        assert f"at most {only['perturbation_bound']:.3g} ||d||" in result.stderr
        without = run(*arguments, tmp_path / "modl.h5", "--model", "modl-brain-4x")
        assert "certificate (m" not in without.stderr
        assert "note: " in without.stderr

    def test_without_a_target_the_metrics_are_null(self, tmp_path, scan_arrays):
        kspace = scan_arrays["kspace"].copy()
        kspace[..., ::2, :] = 0
        kspace[..., 24:48, 20:44] = scan_arrays["kspace"][..., 24:48, 20:44]
        np.savez(tmp_path / "scan.npz", kspace=kspace)
        report = run_json("recon", tmp_path / "scan.npz", *BY_RULE, "-o", tmp_path / "out.npy")
        assert report["slices"][0]["psnr"] is None
        assert report["slices"][0]["sense_ssim"] is None

    def test_the_acceleration_holds_when_part_of_the_matrix_was_not_measured(
        self, tmp_path, scan_arrays
    ):
        kspace = scan_arrays["kspace"].copy()
        kspace[..., :10] = 0
        np.savez(tmp_path / "scan.npz", kspace=kspace)
        out = tmp_path / "out.h5"
        arguments = ("recon", tmp_path / "scan.npz", *BY_RULE, "-o", out, "--acceleration", 3)
        assert run(*arguments).exit_code == 0
        with h5py.File(out) as file:
            mask = file["mask"][:]
        assert mask.size / mask.sum() == pytest.approx(3, rel=0.02)
        assert not mask[..., :10].any()

    def test_a_bound_that_is_not_finite_is_null_in_json(self, full_scan, tmp_path):
        arguments = ("recon", full_scan, *BY_RULE, "-o", tmp_path / "o.npy", "--acceleration", 3)
        (only,) = run_json(*arguments, "--model", "modl-brain-4x")["slices"]
        assert only["outcome"] == "feed_forward"
        assert only["distance_bound"] is None

    def test_weights_that_explode_end_in_divergence(self, full_scan, tmp_path):
        network = CNN(8, 2)
        with torch.no_grad():
            network.convolutions[-1].weight.fill_(3e38)
        model = MOL(network, FixedWeight(5.0), 0.05)
        weights.save_model(tmp_path / "large.safetensors", model, {})
        arguments = ("recon", full_scan, *BY_RULE, "-o", tmp_path / "o.npy", "--acceleration", 3)
        (only,) = run_json(*arguments, "--model", tmp_path / "large.safetensors")["slices"]
        assert only["outcome"] == "diverged"

    def test_the_output_has_a_default_name(self, full_scan, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert run("recon", full_scan).exit_code == 0
        assert (tmp_path / "scan_mol.h5").exists()

    def test_every_option_changes_the_result(self, full_scan, tmp_path, scan_arrays):
        np.save(tmp_path / "csm.npy", scan_arrays["csm"])
        np.save(tmp_path / "mask.npy", np.arange(64) % 2 == 0)
        model = MOL(CNN(8, 2), FixedWeight(5.0), 0.05)
        weights.save_model(tmp_path / "other.safetensors", model, {})
        base = ("--acceleration", "3")

        def image(*options):
            out = tmp_path / "out.npy"
            result = run("recon", full_scan, *BY_RULE, "-o", out, "--overwrite", *options)
            assert result.exit_code == 0, result.stderr
            return np.load(out)

        reference = image(*base)
        assert np.array_equal(image(*base, "--seed", "0"), reference)
        for options in (
            (*base, "--seed", "1"),
            ("--acceleration", "2"),
            (*base, "--lam", "1"),
            (*base, "--rtol", "0.3"),
            (*base, "--csm", tmp_path / "csm.npy"),
            (*base, "--model", tmp_path / "other.safetensors"),
            ("--mask", tmp_path / "mask.npy", "--csm", tmp_path / "csm.npy"),
        ):
            assert not np.array_equal(image(*options), reference), options

    def test_a_lam_that_could_not_be_predicted_is_said(self, tmp_path, scan_arrays):
        few = np.zeros(32, bool)
        few[11:22] = few[[2, 8, 25]] = True
        np.savez(tmp_path / "scan.npz", kspace=scan_arrays["kspace"][..., 18:54, 16:48] * few)
        page = tmp_path / "page.html"
        arguments = ("recon", tmp_path / "scan.npz", "-o", tmp_path / "o.npy", "--json")
        result = run(*arguments, "--lam", "auto", "--report", page)
        (only,) = json.loads(result.stdout)["slices"]
        assert only["choice"]["setting"] == "auto"
        assert only["choice"]["basis"] == "rule"
        reason = "too few samples outside the calibration region to predict: the rule is followed"
        assert f"lam was not chosen by prediction: slice 0: {reason}" in result.stderr
        assert reason in page.read_text()
        asked = run(*arguments, *BY_RULE, "--overwrite")
        assert asked.exit_code == 0
        assert "prediction" not in asked.stderr

    def test_a_slice_that_did_not_converge_is_written_named_and_fails_only_when_strict(
        self, full_scan, tmp_path
    ):
        out = tmp_path / "out.npy"
        arguments = ["recon", full_scan, *BY_RULE, "-o", out, "--acceleration", 3, "--rtol", 1e-12]
        result = run(*arguments)
        assert result.exit_code == 0
        assert out.exists()
        assert "slice 0 did not converge" in result.stderr
        result = run(*arguments, "--overwrite", "--strict", "--json")
        assert result.exit_code == 3
        assert json.loads(result.stdout)["slices"][0]["outcome"] != "converged"

    @pytest.mark.parametrize("factor", [1e-12, 1e12])
    def test_the_image_scales_with_the_data(self, factor, full_scan, tmp_path, scan_arrays):
        with h5py.File(tmp_path / "scaled.h5", "w") as file:
            file["kspace"] = (scan_arrays["kspace"] * factor).astype(np.complex64)
        images = []
        for scan in (full_scan, tmp_path / "scaled.h5"):
            out = tmp_path / f"{scan.stem}.npy"
            assert run("recon", scan, *BY_RULE, "-o", out, "--acceleration", 3).exit_code == 0
            images.append(np.load(out))
        difference = np.abs(images[1] / factor - images[0]).max() / np.abs(images[0]).max()
        assert difference < 1e-4

    @pytest.mark.parametrize("shape", [(1, 1, 48, 40), (2, 3, 37, 41)])
    def test_one_coil_and_odd_sizes_work(self, shape, tmp_path, scan_arrays):
        kspace = scan_arrays["kspace"][:, : shape[1]]
        top, left = (72 - shape[2]) // 2, (64 - shape[3]) // 2
        kspace = kspace[..., top : top + shape[2], left : left + shape[3]]
        kspace = np.repeat(kspace, shape[0], axis=0)
        np.savez(tmp_path / "scan.npz", kspace=kspace)
        out = tmp_path / "out.npy"
        result = run("recon", tmp_path / "scan.npz", *BY_RULE, "-o", out, "--acceleration", 2)
        assert result.exit_code == 0, result.stderr
        assert np.load(out).shape == (shape[0], *shape[2:])

    @pytest.mark.parametrize("suffix", [".h5", ".npy", ".nii.gz", ".png", ".cfl"])
    def test_every_suffix(self, suffix, full_scan, tmp_path):
        out = tmp_path / f"out{suffix}"
        assert run("recon", full_scan, *BY_RULE, "-o", out, "--acceleration", 3).exit_code == 0
        assert out.exists()


class TestBadInput:
    def fails(self, tmp_path, *arguments, match, code=1):
        before = {p.name for p in tmp_path.iterdir()}
        result = run(*arguments)
        assert result.exit_code == code, result.stderr
        assert match in " ".join(result.stderr.split()), result.stderr
        assert result.stdout == ""
        assert {p.name for p in tmp_path.iterdir()} == before

    def test_an_output_that_exists(self, full_scan, tmp_path):
        out = tmp_path / "out.npy"
        out.write_text("precious")
        self.fails(tmp_path, "recon", full_scan, *BY_RULE, "-o", out, match="--overwrite")
        assert out.read_text() == "precious"

    def test_a_folder_that_cannot_be_written(self, full_scan, tmp_path):
        self.fails(
            tmp_path, "recon", full_scan, *BY_RULE, "-o", full_scan / "x.h5", match="not a folder"
        )
        if os.geteuid() != 0:
            locked = tmp_path / "locked"
            locked.mkdir(mode=0o500)
            self.fails(
                tmp_path, "recon", full_scan, *BY_RULE, "-o", locked / "x.h5", match="cannot be"
            )

    def test_a_model_that_is_no_model(self, full_scan, tmp_path):
        (tmp_path / "m.safetensors").write_bytes(b"nonsense")
        out = tmp_path / "out.h5"
        arguments = ("recon", full_scan, *BY_RULE, "-o", out, "--model")
        self.fails(tmp_path, *arguments, tmp_path / "m.safetensors", match="not a model file")
        self.fails(tmp_path, *arguments, "none", match="there is no model 'none'")

    def test_coil_maps_that_are_zero(self, full_scan, tmp_path, scan_arrays):
        np.save(tmp_path / "csm.npy", scan_arrays["csm"] * 0)
        arguments = (
            "recon",
            full_scan,
            *BY_RULE,
            "-o",
            tmp_path / "o.h5",
            "--csm",
            tmp_path / "csm.npy",
        )
        self.fails(tmp_path, *arguments, match="zero everywhere")

    @pytest.mark.parametrize(("shape", "match"), [((5, 5), "has shape (5, 5)"), (None, "empty")])
    def test_masks(self, shape, match, full_scan, tmp_path):
        mask = np.ones(shape) if shape else np.zeros((72, 64))
        np.save(tmp_path / "mask.npy", mask)
        arguments = (
            "recon",
            full_scan,
            *BY_RULE,
            "-o",
            tmp_path / "o.h5",
            "--mask",
            tmp_path / "mask.npy",
        )
        self.fails(tmp_path, *arguments, match=match)

    def test_a_demo_folder_that_is_a_file(self, full_scan, tmp_path):
        self.fails(tmp_path, "demo", "-o", full_scan, match="cannot be written")

    def test_a_damaged_scan(self, full_scan, tmp_path):
        path = tmp_path / "cut.h5"
        path.write_bytes(full_scan.read_bytes()[:5000])
        self.fails(tmp_path, "recon", path, "-o", tmp_path / "o.h5", match="damaged or truncated")

    def test_acceleration_of_an_undersampled_scan(self, tmp_path, scan_arrays):
        kspace = scan_arrays["kspace"].copy()
        kspace[..., ::2] = 0
        np.savez(tmp_path / "scan.npz", kspace=kspace)
        arguments = (
            "recon",
            tmp_path / "scan.npz",
            *BY_RULE,
            "-o",
            tmp_path / "o.h5",
            "--acceleration",
            "4",
        )
        self.fails(tmp_path, *arguments, match="already undersampled")

    @pytest.mark.parametrize(
        "options",
        [
            ("--seed", "1"),
            ("--acceleration", "0.5"),
            ("--lam", "-1"),
            ("--lam", "much"),
            ("--rtol", "0"),
            ("--acceleration", "4", "--mask", "m.npy"),
            ("--nonsense",),
        ],
    )
    def test_usage_errors_end_with_2(self, options, full_scan, tmp_path):
        result = run("recon", full_scan, *BY_RULE, "-o", tmp_path / "o.h5", *options)
        assert result.exit_code == 2


class TestDemo:
    def test_makes_a_scan_a_reconstruction_and_a_picture(self, tmp_path):
        result = run("demo", "-o", tmp_path / "demo")
        assert result.exit_code == 0, result.stderr
        names = {p.name for p in (tmp_path / "demo").iterdir()}
        assert names == {"scan.h5", "reconstruction.h5", "demo.png"}
        with h5py.File(tmp_path / "demo" / "reconstruction.h5") as file:
            (only,) = json.loads(file.attrs["slices"])
        assert only["outcome"] == "converged"
        assert only["psnr"] > only["sense_psnr"] + 0.5


class TestModels:
    def test_the_shipped_model_says_where_it_comes_from(self):
        result = run("models", "--json")
        found = json.loads(result.stdout)
        origin = found[find.DEFAULT_MODEL]["provenance"]
        assert weights.load_model().m_evidence == "proved"
        assert origin["validation"]["psnr"] > 32
        assert origin["config"]["seed"] == 100
        assert "siat_subject6.h5" in origin["config"]["data"]["validation"]
        assert find.DEFAULT_MODEL in run("models").stdout
        shown = run("models", "show", find.DEFAULT_MODEL)
        assert "m_evidence   proved" in shown.stdout
        assert "siat_subject6.h5" in shown.stdout

    def test_every_shipped_model_is_as_it_was_written(self):
        done = run("models", "verify")
        assert done.exit_code == 0, done.output
        assert len(done.stdout.splitlines()) == len(find.packaged_models())

    def test_a_model_travels_in_one_file(self, tmp_path, monkeypatch, full_scan):
        monkeypatch.setenv("EQUIPOISE_MODELS", str(tmp_path / "installed"))
        file = tmp_path / "hospital.safetensors"
        assert run("models", "export", find.DEFAULT_MODEL, "-o", file).exit_code == 0
        assert run("models", "export", find.DEFAULT_MODEL, "-o", file).exit_code == 1
        assert run("models", "install", file).exit_code == 0
        assert run("models", "install", file).exit_code == 1
        assert "hospital" in find.available_models()
        target = tmp_path / "image.npy"
        assert run("recon", full_scan, *BY_RULE, "--model", "hospital", "-o", target).exit_code == 0
        taken = run("models", "install", file, "--name", find.DEFAULT_MODEL)
        assert taken.exit_code == 1
        assert "cannot be the name" in taken.stderr

    def test_damage_is_found(self, tmp_path, monkeypatch):
        monkeypatch.setenv("EQUIPOISE_MODELS", str(tmp_path / "installed"))
        file = tmp_path / "m.safetensors"
        weights.save_model(file, MOL(CNN(6, 3), FixedWeight(7.0), 0.2), {"note": "x"})
        content = bytearray(file.read_bytes())
        content[-100] ^= 1
        file.write_bytes(content)
        for command in (("verify",), ("install",)):
            done = run("models", *command, file)
            assert done.exit_code == 1
            assert "is damaged" in done.stderr
        assert not (tmp_path / "installed").exists()

    def test_a_model_comes_back_from_its_file(self, tmp_path):
        model = MOL(CNN(6, 3, gain=0.5), FixedWeight(7.0), 0.2, shift=0.1)
        weights.save_model(tmp_path / "m.safetensors", model, {"note": "x"})
        again = weights.load_model(tmp_path / "m.safetensors")
        assert again.config == model.config
        state = again.state_dict()
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
        assert weights.provenance(tmp_path / "m.safetensors") == {"note": "x"}

    def test_other_safetensors_files_are_refused(self, tmp_path):
        from safetensors.torch import save_file

        save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
        with pytest.raises(BadInputError, match="not a model of this package"):
            weights.load_model(tmp_path / "x.safetensors")
        metadata = {"format": weights.FORMAT, "configuration": "[]"}
        save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors", metadata=metadata)
        with pytest.raises(BadInputError, match="not a model of this version"):
            weights.load_model(tmp_path / "x.safetensors")


class TestAuthorsCheckpoint:
    @pytest.fixture
    def checkpoint(self, tmp_path):
        """The layout of the released file: a zipped torch file, weights of a real network."""
        network = CNN(12, 4, gain=0.9)
        state = {"f.lam": torch.tensor(30.0)}
        for i, convolution in enumerate(network.convolutions):
            state[f"f.dw.net.{i}.conv.weight"] = convolution.weight.detach().contiguous()
            state[f"f.dw.net.{i}.conv.bias"] = convolution.bias.detach()
        torch.save({"epoch": 12, "state_dict": state}, tmp_path / "model.pth.tar")
        return tmp_path / "model.pth.tar"

    def test_becomes_a_model_that_reconstructs(self, checkpoint, full_scan, tmp_path):
        bounds = {}
        for shift in ("0.1", "0"):
            out = tmp_path / f"m{shift}.safetensors"
            assert run("import-model", checkpoint, "-o", out, "--shift", shift).exit_code == 0
            model = weights.load_model(out)
            size = {"features": 12, "layers": 4, "kernel_size": 3, "channels": 2}
            assert model.network.config.model_dump() == size
            assert model.m == pytest.approx(0.02 + float(shift))
            scan = ("recon", full_scan, *BY_RULE, "--acceleration", 3, "--model", out)
            bounds[shift] = run_json(*scan, "-o", tmp_path / f"{shift}.npy")["slices"][0]
            assert bounds[shift]["lam"] == pytest.approx(30)
        assert bounds["0"]["m"] != bounds["0.1"]["m"]
        images = [np.load(tmp_path / f"{shift}.npy") for shift in ("0.1", "0")]
        assert not np.allclose(images[0], images[1], rtol=1e-3)

    def test_other_files_are_refused(self, tmp_path, checkpoint):
        (tmp_path / "x.pth").write_bytes(b"nonsense")
        out = tmp_path / "m.safetensors"
        result = run("import-model", tmp_path / "x.pth", "-o", out)
        assert result.exit_code == 1
        assert not out.exists()
        torch.save({"state_dict": {}}, tmp_path / "x.pth")
        assert run("import-model", tmp_path / "x.pth", "-o", out).exit_code == 1
        out.write_text("precious")
        assert run("import-model", checkpoint, "-o", out).exit_code == 1
        assert out.read_text() == "precious"


def test_the_training_command(tmp_path, scan_arrays):
    np.save(tmp_path / "images.npy", scan_arrays["image"])
    config = {
        "name": "tiny",
        "data": {"train": ["images.npy"], "validation": ["images.npy"]},
        "simulation": {"acceleration": 3, "calibration": 40},
        "model": {"network": {"features": 8, "layers": 2}, "m": 0.005},
        "lipschitz": {"steps": 3, "validation_steps": 3, "reserve": 0},
        "crop": 32,
        "validation_crop": 32,
        "warmup_steps": 2,
        "steps": 3,
        "validate_every": 5,
    }
    (tmp_path / "c.yaml").write_text(json.dumps(config))  # JSON is YAML
    result = run("train", tmp_path / "c.yaml", "-o", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert "validation" in result.stderr
    assert (tmp_path / "run" / "tiny.safetensors").exists()
    assert run("train", tmp_path / "c.yaml", "-o", tmp_path / "run").exit_code == 1
    assert run("train", tmp_path / "none.yaml").exit_code == 1
