"""Training on a tiny problem: resume bit for bit, roll back, refuse, and learn."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from conftest import small_head
from equipoise.methods.registry import METHODS
from equipoise.metrics import nmse, psnr, ssim
from equipoise.outcome import BadInputError, EquipoiseError
from equipoise.physics.generic import FunctionOp
from equipoise.physics.noise_level import complex_noise
from equipoise.training import step, validation
from equipoise.training import train as training
from equipoise.training.config import load_config
from equipoise.training.sources.images import load_images
from equipoise.training.sources.simulated import Simulation
from equipoise.training.sources.source import Sample, Source
from equipoise.zoo.model_file import load_model, provenance, save_model
from problems import OF_PLANES, new_method

TINY = {
    "name": "tiny",
    "simulation": {"acceleration": 3, "calibration": 32, "coils": [3, 4]},
    "model": {"network": {"features": 8, "layers": 2}, "m": 0.01},
    "lipschitz": {"beta": 1.0, "every": 1, "steps": 5, "validation_steps": 5},
    "crop": 32,
    "warmup_steps": 3,
    "steps": 5,
    "validate_every": 4,
    "validation_samples": 2,
    "validation_crop": 32,
}


@pytest.fixture
def config_file(tmp_path, scan_arrays):
    image = scan_arrays["image"][0]
    np.save(tmp_path / "train.npy", np.stack([image, image[::-1]]))
    np.save(tmp_path / "val.npy", np.abs(image))
    return write(tmp_path, {})


def write(folder: Path, changes: dict) -> Path:
    content = {**TINY, "data": {"train": ["train.npy"], "validation": ["val.npy"]}, **changes}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_training_lowers_the_loss_and_writes_a_model(config_file, tmp_path):
    config = load_config(write(tmp_path, {"steps": 14, "warmup_steps": 6, "validate_every": 10}))
    losses = []
    path = training.train(config, tmp_path / "run", report=lambda p: losses.append(p.psnr))
    assert np.mean(losses[-5:]) > np.mean(losses[:3])
    model = load_model(path)
    assert model.m == 0.01
    origin = provenance(path)
    assert origin["config"]["data"]["train"] == ["train.npy"]
    assert origin["validation"]["constraint"] < 0.99
    assert origin["validation"]["sense_psnr"] > 10
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(log) == 22


@pytest.mark.parametrize("name", ["../x", "a/b", "/tmp/x", "..", ".hidden", "", "a\nb", "x" * 101])
def test_a_name_that_is_no_file_of_the_folder_is_refused(name, tmp_path):
    with pytest.raises(BadInputError, match="name"):
        load_config(write(tmp_path, {"name": name}))


@pytest.mark.parametrize("name", ["tiny.safetensors", "last.ckpt", "log.jsonl", "config.json"])
def test_nothing_in_the_folder_is_written_over(name, config_file, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).write_bytes(b"precious")
    with pytest.raises(BadInputError, match=f"{name} exists.*another folder with -o"):
        training.train(load_config(config_file), folder)
    assert [p.name for p in folder.iterdir()] == [name]
    assert (folder / name).read_bytes() == b"precious"


def model_section(method: str) -> dict:
    """The configuration of the tiny run, for a method."""
    settings = {"m": 0.01, "iterations": 3}
    known = METHODS[method].Config.model_fields
    networks = {
        "unet": {"features": 4},
        "mol-ridge": {"features": 4, "basis": 2},
        "mol-layered": {"features": 4, "basis": 2},
        "mol-composed": {"features": 4, "width": 4, "layers": 2},
    }
    network = networks.get(method, TINY["model"]["network"])
    kept = {key: value for key, value in settings.items() if key in known}
    return {"method": method, "network": network, **kept}


# A second pass begins at a trained first one: tests/test_universal.py.
FROM_NOTHING = [method for method in OF_PLANES if method != "mol-guided"]


@pytest.mark.parametrize("method", FROM_NOTHING)
def test_a_killed_run_resumes_to_the_same_weights(method, config_file, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 3)
    model = model_section(method)
    config = load_config(write(tmp_path, {"model": model}))
    whole = training.train(config, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(progress):
        if progress.step == 7:
            raise Killed

    with pytest.raises(Killed):
        training.train(config, tmp_path / "killed", report=kill)
    resumed = training.train(config, tmp_path / "killed", resume=True)
    expected, got = load_file(whole), load_file(resumed)
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    last, other = (
        torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "killed")
    )
    assert all(torch.equal(last["model"][k], other["model"][k]) for k in last["model"])
    assert load_model(whole).name == method


@pytest.mark.parametrize("method", FROM_NOTHING)
def test_every_method_learns(method, config_file, tmp_path):
    """From a data weight that is far too low."""
    lam = "value" if "threshold_rule" in METHODS[method].Config.model_fields else "lam"
    model = {**model_section(method), "data_weight": {lam: 1.0}}
    untrained = {"model": model, "steps": 1, "warmup_steps": 0, "learning_rate": 1e-9}
    trained = {"model": model, "steps": 20, "validate_every": 15, "weight_learning_rate": 0.3}
    before, after = (
        provenance(training.train(load_config(write(tmp_path, changes)), tmp_path / name))
        for name, changes in (("untrained", untrained), ("trained", trained))
    )
    assert after["validation"]["psnr"] > before["validation"]["psnr"] + 0.5


def test_whole_slices_with_estimated_maps(config_file, tmp_path):
    simulation = {**TINY["simulation"], "estimated": 1.0, "calibration": 80}
    changes = {"simulation": simulation, "crop": None, "validation_crop": None}
    changes["learning_rate"] = 1e-4  # five steps of the usual size leave the region below T
    path = training.train(load_config(write(tmp_path, changes)), tmp_path / "run")
    assert provenance(path)["validation"]["psnr"] > 10


def test_whole_slices_of_different_sizes_make_no_batch(config_file, tmp_path):
    with pytest.raises(BadInputError, match="batch 1"):
        training.train(load_config(write(tmp_path, {"batch": 2, "crop": None})), tmp_path / "run")


def test_kill_9_and_resume_end_in_the_weights_of_an_uninterrupted_run(config_file, tmp_path):
    """The process is killed for real, somewhere in the middle."""
    config = write(tmp_path, {"steps": 37, "validate_every": 10})
    command = [sys.executable, "-m", "equipoise", "train", str(config), "-o"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, str(whole)], check=True, env=environment, capture_output=True)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, str(killed)], stderr=log, env=environment)
        wait_for_lines(killed / "log.jsonl", 15)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    state = torch.load(killed / "last.ckpt", weights_only=True)
    assert 10 <= state["step"] < 37
    resume = [*command, str(killed), "--resume"]
    subprocess.run(resume, check=True, env=environment, capture_output=True)
    expected, got = (load_file(folder / "tiny.safetensors") for folder in (whole, killed))
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def wait_for_lines(path: Path, count: int) -> None:
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        if path.exists() and len(path.read_text().splitlines()) > count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not grow to {count} lines")


@pytest.mark.parametrize(("steps", "rollbacks"), [((5,), 0), ((5, 6, 7), 1)])
def test_a_step_that_explodes_is_left_out_and_three_are_rolled_back_with_half_the_rate(
    steps, rollbacks, config_file, tmp_path, monkeypatch
):
    original, broken = step.solve, []

    def explode(state, samples, start):
        solution = original(state, samples, start)
        if state.step in steps and state.step not in broken:
            broken.append(state.step)
            return replace(solution, value=solution.value * torch.nan)
        return solution

    monkeypatch.setattr(step, "solve", explode)
    messages = []
    path = training.train(load_config(config_file), tmp_path / "run", say=messages.append)
    assert tuple(broken) == steps
    assert sum("half the rate" in m for m in messages) == rollbacks
    assert sum("left out" in m for m in messages) == len(steps) - rollbacks
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert (state["lr_factor"], state["rollbacks"]) == (0.5**rollbacks, rollbacks)
    assert all(bool(torch.isfinite(t).all()) for t in load_file(path).values())


def test_a_run_that_always_diverges_ends_with_advice(config_file, tmp_path, monkeypatch):
    monkeypatch.setattr(step, "diverged", lambda *_: True)
    with pytest.raises(EquipoiseError, match="learning_rate"):
        training.train(load_config(config_file), tmp_path / "run")


def test_weights_whose_estimate_is_above_the_threshold_are_scaled_below_it(config_file, tmp_path):
    model = {**TINY["model"], "m": 0.5}
    config = load_config(
        write(tmp_path, {"model": model, "lipschitz": {"beta": 0, "validation_reserve": 0.02}})
    )
    path = training.train(config, tmp_path / "run")
    found = provenance(path)["validation"]
    assert found["scaled_by"] < 0.8
    assert found["constraint"] == pytest.approx(0.48, abs=0.02)


def test_weights_that_reach_no_equilibrium_are_not_kept(config_file, tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "MAX_ITERATIONS", 1)
    with pytest.raises(EquipoiseError, match=r"stayed below T = 0\.99 and converged"):
        training.train(load_config(config_file), tmp_path / "run")


def test_training_continues_from_given_weights(config_file, tmp_path):
    first = training.train(load_config(config_file), tmp_path / "first")
    changes = {"start": str(first), "warmup_steps": 0, "learning_rate": 1e-9}
    changes["final_learning_rate"] = changes["weight_learning_rate"] = 1e-9
    second = training.train(load_config(write(tmp_path, changes)), tmp_path / "second")
    before, after = load_file(first), load_file(second)
    assert all(torch.allclose(before[k], after[k], atol=1e-6) for k in before)
    assert provenance(second)["config"]["start"]["equilibrium_samples"] > 0
    wide = write(tmp_path, {**changes, "model": {"network": {"features": 12}}})
    with pytest.raises(BadInputError, match="features"):
        training.train(load_config(wide), tmp_path / "third")


def test_training_continues_with_the_skip_of_the_weights(config_file, tmp_path):
    options = {"network": {"features": 8, "layers": 2, "kernel_size": 3}, "iterations": 1}
    model = new_method("mol-lr", **options, lam=20.0, m=0.01, seed=0, skip=0.9)
    model.network.scale(0.95)
    save_model(tmp_path / "start.safetensors", model, {})
    changes = {"start": "start.safetensors", "warmup_steps": 0, "model": {**TINY["model"]}}
    path = training.train(load_config(write(tmp_path, changes)), tmp_path / "run")
    skip = load_model(path).network.skip
    assert 0 < skip <= 0.855
    assert provenance(path)["config"]["model"]["network"]["skip"] == pytest.approx(skip, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"network": {"skip": 0.5}}}, "model.network.skip is 0.5 and .* holds 0.9"),
        ({"model": {**TINY["model"], "m": 0.1}}, "the barrier is at .* = 0.85: lower model.m"),
    ],
)
def test_a_skip_that_does_not_suit_is_refused(changes, words, tmp_path, config_file):
    options = {"network": {"features": 8, "layers": 2, "kernel_size": 3}, "iterations": 1}
    model = new_method("mol-lr", **options, lam=20.0, m=0.01, seed=0, skip=0.9)
    save_model(tmp_path / "start.safetensors", model, {})
    start = {"start": "start.safetensors", "warmup_steps": 0}
    with pytest.raises(BadInputError, match=words):
        training.train(load_config(write(tmp_path, {**start, **changes})), tmp_path / "run")


class Deconvolution(Source):
    """A blur along the rows, by its own pair of functions."""

    def sample(self, image, rng, crop=None):
        image = image[None, :crop, :crop].to(torch.complex64)
        taps = torch.fft.fft(torch.tensor([0.6, 0.2] + [0.0] * (image.shape[2] - 3) + [0.2]))

        def filtered(x, response):
            return torch.fft.ifft(torch.fft.fft(x, dim=-1) * response, dim=-1).to(x.dtype)

        operator = FunctionOp(
            lambda x: filtered(x, taps), lambda b: filtered(b, taps.conj()), tuple(image.shape)
        )
        noise = 0.02 * complex_noise(tuple(image.shape), rng)
        level = torch.tensor([0.02], dtype=torch.float64)
        return Sample(operator, operator.forward(image) + noise, image, level)

    def batch(self, samples):
        (only,) = samples
        return only


def test_training_takes_your_own_operator(config_file, tmp_path):
    path = training.train(load_config(config_file), tmp_path / "run", source=Deconvolution())
    model, sample = (
        load_model(path),
        Deconvolution().sample(
            load_images([tmp_path / "val.npy"])[0], np.random.default_rng(0), 32
        ),
    )
    with torch.no_grad():
        solution = model.solve(sample.operator, sample.data, noise_level=sample.noise_level)
    assert solution.converged
    assert provenance(path)["source"] == "Deconvolution"
    with pytest.raises(BadInputError, match="samples of Deconvolution, not of Simulation"):
        training.train(load_config(config_file), tmp_path / "run", resume=True)


def test_a_network_for_real_images_takes_your_own_operator(config_file, tmp_path):
    network = {**TINY["model"]["network"], "channels": 1}
    config = load_config(write(tmp_path, {"model": {**TINY["model"], "network": network}}))
    path = training.train(config, tmp_path / "run", source=Deconvolution())
    assert load_model(path).real


def test_a_batch_needs_images_of_the_size_of_the_crop(config_file, tmp_path):
    with pytest.raises(BadInputError, match="lower crop"):
        training.train(load_config(write(tmp_path, {"batch": 2, "crop": 80})), tmp_path / "run")


def test_a_folder_with_a_run_is_not_overwritten(config_file, tmp_path):
    config = load_config(config_file)
    training.train(config, tmp_path / "run")
    with pytest.raises(BadInputError, match="--resume"):
        training.train(config, tmp_path / "run")


def test_resuming_needs_a_run_and_the_same_configuration(config_file, tmp_path):
    config = load_config(config_file)
    with pytest.raises(BadInputError, match="no checkpoint"):
        training.train(config, tmp_path / "none", resume=True)
    training.train(config, tmp_path / "run")
    other = load_config(write(tmp_path, {"seed": 1}))
    with pytest.raises(BadInputError, match="another configuration"):
        training.train(other, tmp_path / "run", resume=True)
    (tmp_path / "run" / "last.ckpt").write_bytes(b"damaged")
    with pytest.raises(BadInputError, match="not a checkpoint"):
        training.train(config, tmp_path / "run", resume=True)


class TestConfig:
    @pytest.mark.parametrize(
        "changes",
        [
            {"stepz": 3},
            {"steps": "many"},
            {"model": {"m": 1.5}},
            {"crop": 2},
            {"model": {"method": "modl", "network": {"skip": 0.5}}},
            {"model": {"method": "modl", "m": 0.1}},
            {"model": {"method": "unet", "layers": 5}},
            {"model": {"method": "unet", "network": {"layers": 5}}},
            {"model": {"network": {"kernel_size": 4}}},
            {"model": {"network": {"features": 9000}}},
        ],
    )
    def test_unknown_or_wrong_keys_are_errors(self, changes, config_file, tmp_path):
        with pytest.raises(BadInputError, match=next(iter(changes))):
            load_config(write(tmp_path, changes))

    def test_missing_and_broken_files(self, tmp_path):
        with pytest.raises(BadInputError, match="does not exist"):
            load_config(tmp_path / "none.yaml")
        (tmp_path / "bad.yaml").write_text("a: [")
        with pytest.raises(BadInputError, match="not a valid"):
            load_config(tmp_path / "bad.yaml")


class TestImages:
    def test_every_kind_is_read(self, tmp_path, scan_arrays):
        import h5py
        import nibabel
        from matplotlib.image import imsave

        image = scan_arrays["image"][0]
        magnitude = np.abs(image)
        np.save(tmp_path / "a.npy", image)
        imsave(tmp_path / "b.png", magnitude, cmap="gray")
        volume = np.stack([magnitude, magnitude], -1).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "c.nii.gz")
        with h5py.File(tmp_path / "d.h5", "w") as file:
            file["real"] = (image.real * 1000).astype(np.int16)[None]
            file["imag"] = (image.imag * 1000).astype(np.int16)[None]
            file["scale"] = np.array([1e-3], np.float32)
        with h5py.File(tmp_path / "e.h5", "w") as file:
            file["magnitude"] = np.zeros((2, 4, 4), np.uint8)
            file["magnitude"][0] = 7
        images = load_images([tmp_path])
        assert [tuple(i.shape) for i in images] == [(72, 64)] * 5 + [(4, 4)]
        for found in images[:5]:
            assert np.abs(found.abs().numpy() - magnitude / magnitude.max()).max() < 0.02

    def test_nan_is_refused(self, tmp_path):
        np.save(tmp_path / "a.npy", np.full((8, 8), np.nan))
        with pytest.raises(BadInputError, match="NaN"):
            load_images([tmp_path])

    def test_missing_unreadable_and_empty(self, tmp_path):
        with pytest.raises(BadInputError, match="does not exist"):
            load_images([tmp_path / "none"])
        with pytest.raises(BadInputError, match="no image"):
            load_images([tmp_path])
        (tmp_path / "bad.h5").write_bytes(b"x")
        with pytest.raises(BadInputError, match=r"bad\.h5"):
            load_images([tmp_path])


class TestSimulation:
    def sample(self, seed=0, crop=32, **options):
        magnitude = torch.rand((48, 40), generator=torch.Generator().manual_seed(0))
        magnitude[:, :16] = 0
        image = torch.polar(magnitude, torch.zeros(48, 40))
        simulation = Simulation(calibration=64, **options)
        return simulation.sample(image, np.random.default_rng(seed), crop)

    def test_is_a_function_of_the_seed(self):
        one, again, other = self.sample(0), self.sample(0), self.sample(1)
        assert torch.equal(one.data, again.data)
        assert one.data.dtype == one.target.dtype == torch.complex64
        assert not torch.equal(one.data[:, :3], other.data[:, :3])

    def test_every_option_changes_the_data(self):
        reference = self.sample().data
        maps = torch.randn((32, 24, 24), dtype=torch.complex64)
        for change in (
            {"acceleration": 3.0},
            {"mask": "variable-density-1d"},
            {"noise": (0.1, 0.2)},
            {"coils": (4, 4)},
            {"measured_coils": maps},
            {"phase": 0.5},
            {"zoom": (0.9, 0.9)},
            {"masked_maps": 0.0},
        ):
            other = self.sample(**change).data
            assert other.shape != reference.shape or not torch.equal(other, reference), change

    def test_estimated_maps_and_noise_replace_the_true_ones(self):
        image = small_head()[0]
        for seed in range(3):
            true, estimated = (
                Simulation(zoom=(1, 1), coils=(6, 6), calibration=80, estimated=share).sample(
                    image, np.random.default_rng(seed)
                )
                for share in (0.0, 1.0)
            )
            assert torch.equal(true.data, estimated.data)
            assert not torch.equal(true.operator.csm, estimated.operator.csm)
            misfit = estimated.operator.forward(estimated.target) - estimated.data
            relative = float(misfit.abs().square().sum() / estimated.data.abs().square().sum())
            assert relative < 0.05

    def test_the_noise_has_the_stated_level(self):
        image = torch.ones((48, 40), dtype=torch.complex64)
        simulation = Simulation(noise=(0.1, 0.1 + 1e-9), calibration=64, zoom=(1, 1))
        sample = simulation.sample(image, np.random.default_rng(0))
        assert 0.09 < float(sample.noise_level) < 0.14
        clean = sample.operator.forward(sample.target)
        noise = (sample.data - clean)[:, :, sample.operator.mask[0]]
        assert float(noise.abs().square().mean().sqrt()) == pytest.approx(0.1, rel=0.05)

    def test_samples_with_different_coil_counts_make_a_batch(self):
        batch = Simulation().batch([self.sample(0, coils=(3, 3)), self.sample(1, coils=(5, 5))])
        assert batch.data.shape == (2, 5, 32, 32)
        assert float(batch.data[0, 3:].abs().max()) == 0


class TestMetrics:
    def test_psnr_by_hand(self):
        target = torch.zeros((1, 16, 16), dtype=torch.complex64)
        target[0, 0, 0] = 2
        image = target.clone()
        image[0, 1, 1] = 0.2j
        assert float(psnr(image, target)) == pytest.approx(10 * np.log10(4 / (0.04 / 256)))
        assert float(nmse(image, target)) == pytest.approx(0.01)

    def test_metrics_see_magnitudes_and_each_sample_alone(self, scan_arrays):
        image = torch.from_numpy(scan_arrays["image"])
        both = torch.cat([image, 5 * image])
        noisy = (
            both * torch.exp(torch.tensor(0.7j)) + 0.01 * torch.tensor([1.0, 5.0])[:, None, None]
        )
        for metric in (psnr, ssim):
            values = metric(noisy, both)
            assert float(values[0]) == pytest.approx(float(values[1]), rel=1e-4)
        assert float(ssim(image, image)) == pytest.approx(1)
