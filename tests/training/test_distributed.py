"""Several processes that train one model: their gradient, their files, and their ends."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from equipoise.outcome import EquipoiseError
from equipoise.training import train as training
from equipoise.training.config import TrainConfig, load_config
from equipoise.training.distributed import Processes, own_device
from equipoise.training.step import add_gradient
from equipoise.zoo.model_file import provenance

WORKER = Path(__file__).with_name("distributed_worker.py")


@pytest.fixture
def folder(tmp_path):
    images = np.random.default_rng(0).random((4, 40, 40)).cumsum(1).cumsum(2)
    np.save(tmp_path / "train.npy", images)
    np.save(tmp_path / "val.npy", images[::-1])
    return tmp_path


def configuration(folder: Path, **changes) -> Path:
    content = {
        "name": "tiny",
        "data": {"train": ["train.npy"], "validation": ["val.npy"]},
        "simulation": {"acceleration": 3, "calibration": 40, "coils": [2, 4]},
        "model": {"method": "mol-ridge", "network": {"features": 4, "basis": 2, "m": 0.2}},
        "crop": 24,
        "warmup_steps": 1,
        "steps": 3,
        "rtol": [0.01, 0.01],
        "backward_rtol": 0.01,
        "validate_every": 2,
        "validation_samples": 3,
        "validation_crop": 24,
        "pool": 2,
        **changes,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def started(rank: int, port: int, *arguments: object) -> subprocess.Popen:
    """One of two processes."""
    environment = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    return subprocess.Popen(
        [sys.executable, WORKER, *map(str, arguments)],
        env={**os.environ, **environment, "MASTER_PORT": str(port)},
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def gradient_of(config: TrainConfig, folder: Path) -> torch.Tensor:
    """The gradient of the first step after the warm-up, in one process."""
    run = training.Run(config, folder, print)
    run.state.step = config.warmup_steps
    for part in run.pool.parts:
        add_gradient(run.state, run.pool, part)
    return torch.cat([p.grad.flatten() for p in run.state.model.parameters() if p.grad is not None])


def test_two_processes_are_one_with_the_joint_batch(folder):
    """Their gradient is that of both batches, and their run continues in one process."""
    path = configuration(folder)
    port = free_port()
    ranks = [started(rank, port, "train", path, folder / "run") for rank in range(2)]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    gradients = [torch.load(folder / "run" / f"{r}.pt", weights_only=True) for r in range(2)]
    assert torch.equal(*gradients)
    for joint in ({"batch": 2}, {"accumulate": 2}):
        expected = gradient_of(load_config(configuration(folder, **joint)), folder)
        difference = (gradients[0] - expected).norm() / expected.norm()
        assert float(difference) < 1e-6
    # The same weights as in one process that takes both batches of each step itself.
    weights = folder / "run" / "tiny.safetensors"
    alone = training.train(load_config(configuration(folder, accumulate=2)), folder / "alone")
    for name, value in load_file(alone).items():
        assert torch.allclose(value, load_file(weights)[name], atol=1e-5)
    assert provenance(weights)["equilibrium_samples"] == 2 * 3
    log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in log if "psnr" in e] == [1, 2, 3, 4]
    state = torch.load(folder / "run" / "last.ckpt", weights_only=True)
    assert {part for part, _ in state["pool"]} == {0, 1}


def test_a_process_that_dies_ends_the_run_which_one_process_continues(folder):
    path = configuration(folder, validate_every=10)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", str(free_port()), WORKER, "die", path, folder / "run"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    said = []
    training.train(load_config(path), folder / "run", resume=True, say=said.append)
    assert said[:2] == [
        "resuming at step 2 of 4",
        "number of processes: 2 until here, 1 from now on",
    ]
    log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in log if "psnr" in e] == [1, 2, 3, 4]


def test_the_end_of_another_process_is_an_error_with_advice(monkeypatch):
    def closed(*_):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(torch.distributed, "all_gather_object", closed)
    with pytest.raises(EquipoiseError, match=r"another process.*--resume"):
        Processes(0, 2).gathered(1)


def test_each_process_of_a_machine_gets_its_own_gpu(monkeypatch):
    assert own_device("cuda") == "cuda"
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [own_device(name) for name in ("cuda", "cuda:1", "cpu")] == ["cuda:3", "cuda:1", "cpu"]
