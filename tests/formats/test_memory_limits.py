"""The memory that is free: of the machine, of a control group, and under ``ulimit -v``."""

import pytest

from equipoise.formats import limits
from equipoise.formats.limits import available_memory

GIB = 2**30


@pytest.fixture
def system(tmp_path):
    """A machine with 16 GiB free; a function writes the files of control groups."""
    processes, groups = tmp_path / "proc", tmp_path / "cgroup"
    (processes / "self").mkdir(parents=True)
    groups.mkdir()
    (processes / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {16 * 2**20} kB\n")
    (processes / "self/cgroup").write_text("0::/job/step\n")

    def write(folder, **content):
        (groups / folder).mkdir(parents=True, exist_ok=True)
        for name, text in content.items():
            (groups / folder / name.replace("_", ".", 1)).write_text(str(text))

    return processes, groups, write


def test_without_limits_it_is_that_of_the_machine(system):
    processes, groups, write = system
    assert available_memory(processes, groups) == 16 * GIB
    write("job/step", memory_max="max\n", memory_current=GIB)
    assert available_memory(processes, groups) == 16 * GIB


def test_a_control_group_grants_what_it_does_not_use_and_unused_files_do_not_count(system):
    processes, groups, write = system
    write("job/step", memory_max=f"{4 * GIB}\n", memory_current=f"{3 * GIB}\n")
    assert available_memory(processes, groups) == GIB
    write("job/step", memory_stat=f"anon 5\ninactive_file {GIB}\n")
    assert available_memory(processes, groups) == 2 * GIB


def test_the_strictest_group_above_counts(system):
    processes, groups, write = system
    write("job/step", memory_max=8 * GIB, memory_current=0)
    write("job", memory_max=3 * GIB, memory_current=GIB)
    assert available_memory(processes, groups) == 2 * GIB


def test_a_group_of_version_1_is_read_too(system):
    processes, groups, write = system
    (processes / "self/cgroup").write_text("4:cpu,cpuacct:/\n7:memory:/slurm\n")
    write("memory/slurm", memory_limit_in_bytes=2 * GIB, memory_usage_in_bytes=GIB)
    assert available_memory(processes, groups) == GIB
    write("memory/slurm", memory_limit_in_bytes=2**63 - 4096)
    assert available_memory(processes, groups) == 16 * GIB


def test_ulimit_leaves_what_the_process_does_not_map(system, monkeypatch):
    resource = pytest.importorskip("resource")
    processes, groups, _ = system
    (processes / "self/status").write_text(f"VmSize: {2 * 2**20} kB\n")
    monkeypatch.setattr(resource, "getrlimit", lambda what: (5 * GIB, 5 * GIB))
    assert available_memory(processes, groups) == 3 * GIB


def test_what_cannot_be_read_limits_nothing(tmp_path):
    found = available_memory(tmp_path / "no", tmp_path / "none")
    assert found is None or found > 0
    assert limits.available_memory() is None or limits.available_memory() > 0
