"""What a run shows and leaves behind: signals, the log, the weights as written, the time left."""

import json
import signal

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from equipoise.training import progress
from equipoise.training import train as training
from equipoise.training.config import load_config
from equipoise.training.log import append, drop_after, entries
from equipoise.training.progress import TrainingProgress
from equipoise.training.step import Progress, mixed
from equipoise.training.stopping import StoppedError, stoppable
from equipoise.zoo.model_file import load_model


@pytest.fixture
def folder(tmp_path):
    images = np.random.default_rng(0).random((2, 32, 32)).cumsum(1).cumsum(2)
    np.save(tmp_path / "images.npy", images)
    return tmp_path


def configuration(folder, **changes):
    content = {
        "name": "tiny",
        "data": {"train": ["images.npy"], "validation": ["images.npy"]},
        "simulation": {"acceleration": 3, "calibration": 60, "coils": [2, 2]},
        "model": {"method": "mol-ridge", "network": {"features": 4, "basis": 2, "m": 0.2}},
        "crop": 24,
        "warmup_steps": 1,
        "steps": 4,
        "validate_every": 2,
        "validation_samples": 1,
        "validation_crop": 24,
        **changes,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_config(path)


def test_a_signal_ends_the_run_after_its_step_and_it_resumes(folder):
    config, run = configuration(folder), folder / "run"

    def interrupt(progress):
        if progress.step == 3:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(StoppedError, match="SIGTERM at step 3 of 5") as error:
        training.train(config, run, report=interrupt)
    assert error.value.exit_code == 143
    assert StoppedError(signal.SIGINT, 1, 2).exit_code == 130
    assert torch.load(run / "last.ckpt", weights_only=True)["step"] == 3
    # As after a kill: a step that is not in the checkpoint, and half a line.
    with (run / "log.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, "psnr": 0}) + '\n{"step": 5, "ps')
    said = []
    training.train(config, run, resume=True, say=said.append)
    assert said == ["resuming at step 3 of 5"]
    assert [e["step"] for e in entries(run / "log.jsonl") if "psnr" in e] == [1, 2, 3, 4, 5]


def test_the_second_signal_ends_at_once_unless_processes_pass_it_on():
    before = signal.getsignal(signal.SIGTERM)
    with stoppable(patient=False):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    with stoppable(patient=True) as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert stop.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_psnr_that_is_shown_is_that_of_the_weights_that_are_written(folder):
    """Also where they are scaled: H learns beyond a limit that is low here."""
    model = {"network": {"features": 8, "layers": 2}, "m": 0.5}
    limits = {"beta": 0, "validation_reserve": 0.02, "validation_steps": 5}
    config = configuration(folder, model=model, lipschitz=limits, warmup_steps=2)
    shown = []
    path = training.train(config, folder / "run", report=lambda p: shown.append(p))
    run = training.Run(config, folder / "again", print)
    run.state.average = load_model(path).train()
    found = run.validate().trained
    best = next(p for p in shown if p.step == p.best_step)
    assert best.validation["scaled_by"] < 1
    assert found["psnr"] == pytest.approx(best.validation["psnr"], abs=1e-3)
    logged = [e for e in entries(folder / "run" / "log.jsonl") if "validation" in e]
    assert logged[-1]["unscaled"]["constraint"] > logged[-1]["validation"]["constraint"]


def test_lines_of_later_steps_are_dropped_and_others_stay(tmp_path):
    path = tmp_path / "log.jsonl"
    drop_after(path, 3)
    for step in range(1, 6):
        append(path, {"step": step, "psnr": 1.0})
    append(path, {"step": 2, "returned_from": 5, "reason": "loss"})
    drop_after(path, 3)
    assert [entry["step"] for entry in entries(path)] == [1, 2, 3, 2]


def test_the_console_tells_what_is_written_and_how_long_it_takes():
    console = Console(record=True, width=200, force_terminal=False)
    with TrainingProgress(console) as shown:
        for step in range(1, 101):
            warming = step <= 50
            values = {"psnr": 31.25} if step == 75 else {}
            means = (-3.0, 25.0, 0.0, 0.0 if warming else 7.0, 4.0)
            seen = {"waiting": 0.25, "best_step": 75, "warmup_steps": 60}
            shown.report(Progress(step, 100, *means, values, **seen))
    text = console.export_text()
    assert "waiting 2" in text
    assert "of the warm-up left" in text
    assert "step 100/100" in text
    assert "0 s left" in text
    assert "validation of the weights as written  psnr 31.25  (written: step 75)" in text


def test_the_wait_for_the_first_samples_does_not_count_for_the_rest(monkeypatch):
    times = iter([0.0, 60.0, 61.0, 62.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(times))
    remaining = progress.Remaining()
    steps = [Progress(step, 100, 0.0, 20.0, 0.0, 5.0, 4.0, {}) for step in (1, 2, 3)]
    assert [remaining.after(step) for step in steps][1:] == ["2 min left", "2 min left"]


def test_half_precision_is_for_what_is_not_certified(folder):
    config = configuration(folder, precision="bfloat16")
    state = training.Run(config, folder / "run", print).state
    kernel = torch.ones(1, 1, 3, 3)
    kinds = []
    for state.step in (0, 1):
        with mixed(state):
            kinds.append(torch.nn.functional.conv2d(kernel, kernel).dtype)
    assert kinds == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("method", ["modl", "unet", "mol-ridge"])
def test_half_precision_trains_nearly_the_same(method, folder):
    network = {"modl": {"features": 4, "layers": 2}, "unet": {"features": 4}}.get(method)
    model = {"method": method, "network": network or {"features": 4, "basis": 2}}
    losses = {}
    for precision in ("float32", "bfloat16"):
        changes = {"warmup_steps": 2, "steps": 1, "validate_every": 3, "precision": precision}
        found = losses[precision] = []
        training.train(
            configuration(folder, model=model, **changes),
            folder / precision,
            report=lambda p, found=found: found.append(p.loss),
        )
    assert losses["float32"] != losses["bfloat16"]
    assert losses["float32"] == pytest.approx(losses["bfloat16"], abs=0.05)
