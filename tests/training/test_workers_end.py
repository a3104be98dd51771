"""A training that is killed leaves no process that waits for its samples to be taken."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLED = """
import os, pathlib, signal, time
from equipoise.training.feed import Feed

feed = Feed(lambda key: bytes(10**6), workers=2)
batches = feed._started((step, 0) for step in range(100))
next(batches)
own = os.getpid()
print(pathlib.Path(f"/proc/{own}/task/{own}/children").read_text(), flush=True)
# Until the pipe of the samples is full.
time.sleep(0.5)
os.kill(own, signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the processes are listed in /proc")
def test_workers_end_with_a_training_that_is_killed(tmp_path):
    # A file, because the end of a pipe comes with the end of the workers.
    with (tmp_path / "workers").open("w") as stdout:
        subprocess.run([sys.executable, "-c", KILLED], stdout=stdout, check=False)
    workers = (tmp_path / "workers").read_text().split()
    assert len(workers) == 2
    end = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < end
        time.sleep(0.05)
