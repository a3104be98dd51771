"""A job of SLURM that trains with two processes, ends early, and is continued by one."""

import os
import signal
import sys
import time

import pytest
import typer
from test_distributed import configuration, folder
from typer.testing import CliRunner

import fake_slurm
from equipoise.cli.app import app
from equipoise.cli.slurm import slurm_parameters
from equipoise.training.log import entries
from equipoise.zoo.model_file import provenance

pytest.importorskip("submitit")


images = folder
"""The fixture, under a name of its own."""


@pytest.fixture
def submit(images, monkeypatch):
    """A function that submits a training and gives the result; its commands are on PATH."""
    monkeypatch.chdir(images)
    for name in [name for name in os.environ if name.startswith(("SLURM", "SUBMITIT"))]:
        monkeypatch.delenv(name)

    def run(path, *options):
        words = ["train", "config.yaml", "-o", "run", "--slurm", "--device", "cpu", *options]
        monkeypatch.setenv("PATH", path)
        monkeypatch.setattr("sys.argv", ["equipoise", *words, "--workers", "0"])
        return CliRunner().invoke(app, sys.argv[1:])

    return run


def until(is_so, seconds=300.0):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def steps_of(run):
    found = entries(run / "log.jsonl") if (run / "log.jsonl").exists() else []
    return [entry["step"] for entry in found if "psnr" in entry]


def test_a_job_trains_is_stopped_and_goes_on_with_another_number_of_processes(images, submit):
    configuration(images, steps=14)
    run, spool = images / "run", images / "spool"
    path = fake_slurm.install(spool)["PATH"]
    done = submit(path, "--tasks", "2", "--slurm-option", "account=mri")
    assert done.exit_code == 0, done.output
    assert "(SLURM): 1 nodes x 2 processes" in done.output
    (script,) = spool.glob("*.sh")
    for option in ("account=mri", "ntasks-per-node=2"):
        assert f"#SBATCH --{option}\n" in script.read_text()
    until(lambda: len(steps_of(run)) > 2)
    # As scancel does it.
    os.killpg(int((spool / "pid").read_text()), signal.SIGTERM)
    logs = [run / "slurm" / f"{script.stem}_{rank}_log.err" for rank in range(2)]
    until(lambda: all("exit code 143" in log.read_text() for log in logs))
    stopped = steps_of(run)[-1]
    assert f"stopped by SIGTERM at step {stopped} of 15" in logs[0].read_text()
    # Refused before the job waits in the queue.
    done = submit(path)
    assert done.exit_code == 1
    assert "continue the run with --resume" in done.output
    done = submit(path, "--resume")
    assert done.exit_code == 0, done.output
    assert "1 nodes x 1 processes" in done.output
    until(lambda: len(steps_of(run)) == 15 and (run / "tiny.safetensors").exists())
    assert steps_of(run) == list(range(1, 16))
    of_two = stopped - 1
    until(lambda: provenance(run / "tiny.safetensors")["equilibrium_samples"] == 14 + of_two)


def test_several_nodes_without_slurm_are_refused_before_anything_is_written(images, submit):
    configuration(images, steps=1)
    done = submit("", "--nodes", "2")
    assert done.exit_code == 1
    assert "--nodes is 2 and there is no SLURM here" in done.output
    assert not (images / "run").exists()


def test_what_slurm_refuses_is_passed_on(images, submit):
    configuration(images, steps=1)
    path, spool = fake_slurm.install(images / "spool")["PATH"], images / "spool"
    refusal = "#!/bin/sh\necho 'sbatch: error: invalid partition: gqu' >&2\nexit 1\n"
    (spool / "sbatch").write_text(refusal)
    done = submit(path, "--slurm-option", "partition=gqu")
    assert done.exit_code == 1
    assert "SLURM refused the job" in done.output
    assert "invalid partition: gqu" in done.output


def test_options_of_slurm_are_numbers_for_submitit_or_passed_as_they_are():
    given = ("gpus_per_node=a100:2", "mem_gb=64", "name=7", "qos=long")
    assert slurm_parameters(given) == {
        "timeout_min": 1440,
        "mem_gb": 64,
        "name": "7",
        "slurm_additional_parameters": {"gpus_per_node": "a100:2", "qos": "long"},
    }
    with pytest.raises(typer.BadParameter, match="mem_gb must be a whole number"):
        slurm_parameters(["mem_gb=much"])
