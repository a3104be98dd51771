"""The threads of a solve: few for small data, never more than this process may use."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from equipoise.methods.prediction import Choice
from equipoise.methods.solving import solve_slice
from equipoise.outcome import BadInputError
from equipoise.physics.problem import Problem
from equipoise.threads import (
    BEFORE_TORCH,
    SMALL,
    prepare_torch,
    threads_for,
    usable_processors,
)
from problems import model_of, sense_problem


def small_problem():
    operator, data = sense_problem(batch=1)
    return Problem(operator, data, torch.zeros(1).double())


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_small_data_get_one_thread_and_the_number_comes_back(monkeypatch):
    monkeypatch.setattr("equipoise.threads.usable_processors", lambda: 8)
    with threads_for(SMALL):
        assert torch.get_num_threads() == 2
    with threads_for(SMALL - 1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_the_number_of_threads_comes_back_after_an_error():
    with pytest.raises(BadInputError, match="lam"):
        solve_slice(small_problem(), model_of(), Choice({"lam": -1.0}, "given", "a test"))
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_large_data_get_no_more_threads_than_processors(monkeypatch):
    monkeypatch.setattr("equipoise.threads.usable_processors", lambda: 1)
    with threads_for(10 * SMALL):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_a_small_problem_is_solved_by_one_thread():
    model, seen = model_of(), []
    model.network.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    solve_slice(small_problem(), model, None, None)
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "nonsense"}, 64),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({}, 64),
    ],
)
def test_the_quota_of_a_container_counts(files, count, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_processors({}, tmp_path) == count


def test_affinity_and_the_share_of_a_slurm_job_count(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert usable_processors({}, tmp_path) == 12
    assert usable_processors({"SLURM_CPUS_PER_TASK": "4"}, tmp_path) == 4
    assert usable_processors({"SLURM_CPUS_PER_TASK": ""}, tmp_path) == 12


def test_openmp_sleeps_while_it_waits():
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment["OMP_DISPLAY_ENV"] = "true"
    command = [sys.executable, "-c", "import equipoise, torch"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    if "OMP_WAIT_POLICY" not in result.stderr:
        pytest.skip("this build of torch has no OpenMP that shows its settings")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in result.stderr


@pytest.mark.parametrize("name", BEFORE_TORCH)
@pytest.mark.parametrize(("loaded", "given"), [(False, None), (False, "mine"), (True, None)])
def test_variables_are_set_before_torch_is_loaded_unless_given(loaded, given, name, monkeypatch):
    monkeypatch.delenv(name, raising=False)
    if given:
        monkeypatch.setenv(name, given)
    modules = {"torch": torch} if loaded else {}
    monkeypatch.setattr("equipoise.threads.sys", SimpleNamespace(modules=modules))
    prepare_torch()
    assert os.environ.get(name) == (given or (None if loaded else BEFORE_TORCH[name]))


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are those of Linux")
def test_torch_asks_for_huge_pages():
    """Of 64 MB that are touched, in a process that does not get them without asking."""
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not Path("/proc/self/smaps_rollup").exists() or "[madvise]" not in enabled.read_text():
        pytest.skip("this system gives huge pages always or never")
    code = (
        "import equipoise, torch; held = torch.ones(2**24);"
        "print(open('/proc/self/smaps_rollup').read())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    huge = next(line for line in result.stdout.splitlines() if line.startswith("AnonHugePages"))
    assert int(huge.split()[1]) >= 2048
