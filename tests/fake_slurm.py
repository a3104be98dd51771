"""A SLURM of one machine: ``sbatch`` runs the script that it is given, and ``srun`` its tasks.

Both are commands on PATH, so the program that submits, the script that it writes, and what runs in
the job are those of a real cluster. ``scontrol requeue JOB`` runs a job again when it has ended.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

QUIET = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)


def install(spool: Path) -> dict[str, str]:
    """Write the commands into a new folder; the environment that finds them."""
    spool.mkdir()
    for name in ("sbatch", "srun", "scontrol"):
        words = [sys.executable, "-S", str(Path(__file__).resolve()), name, str(spool)]
        (spool / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        (spool / name).chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SUBMITIT"))}
    return {**kept, "PATH": f"{spool}:{os.environ['PATH']}"}


def finished(spool: Path, count: int, seconds: float = 300.0) -> list[int]:
    """The exit codes of the first jobs, when so many have ended."""
    end = time.monotonic() + seconds
    while len(done := sorted(spool.glob("*.done"))) < count:
        assert time.monotonic() < end, list(spool.iterdir())
        time.sleep(0.1)
    return [int(path.read_text()) for path in done]


def sbatch(spool: Path, script: str) -> None:
    """Start a script, once for each task of an array, and print the number of the job."""
    text, job = Path(script).read_text(), os.getpid()
    found = re.findall(r"^#SBATCH --([\w-]+)=(.+)$", text, re.MULTILINE)
    options = {name: shlex.split(value)[0] for name, value in found}
    # The file belongs to the client, which moves it.
    (spool / f"{job}.sh").write_text(text)
    nodes, tasks = (int(options.get(name, 1)) for name in ("nodes", "ntasks-per-node"))
    given = {"NTASKS": nodes * tasks, "JOB_NUM_NODES": nodes, "JOB_NODELIST": "localhost"}
    first, last = options.get("array", "0-0").split("%")[0].split("-")
    for task in range(int(first), int(last) + 1):
        own: dict[str, object] = {"JOB_ID": job + task}
        if "array" in options:
            own |= {"ARRAY_JOB_ID": job, "ARRAY_TASK_ID": task}
        variables = {f"SLURM_{name}": str(value) for name, value in {**given, **own}.items()}
        started = subprocess.Popen(
            [sys.executable, "-S", __file__, "run", spool, f"{job}.sh", str(job + task)],
            env={**os.environ, **variables},
            start_new_session=True,
            **QUIET,
        )
        # Of the process group, for a test that ends the job.
        (spool / "pid").write_text(str(started.pid))
    print(f"Submitted batch job {job}")


def run(spool: Path, script: str, job: str) -> None:
    """Run a script to its end, and again after a request."""
    again = spool / f"{job}.again"
    code = subprocess.call(["bash", spool / script])
    while again.exists():
        again.unlink()
        code = subprocess.call(["bash", spool / script])
    partial = spool / f"{job}.code"
    partial.write_text(str(code))
    partial.rename(spool / f"{job}.done")


def srun(spool: Path, *arguments: str) -> None:
    """Start the tasks of a job, each with its number and its own output."""
    given, files, tasks = list(arguments), {}, []
    while given[0].startswith("--"):
        name = given.pop(0)
        if name in ("--output", "--error"):
            files[name] = given.pop(0)
    for rank in range(int(os.environ["SLURM_NTASKS"])):
        own = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0"}
        out, err = (Path(named(files[name], rank)) for name in ("--output", "--error"))
        with out.open("a") as stdout, err.open("a") as stderr:
            task = subprocess.Popen(given, env={**os.environ, **own}, stdout=stdout, stderr=stderr)
        tasks.append(task)
    sys.exit(max(abs(task.wait()) for task in tasks))


def named(pattern: str, rank: int) -> str:
    """The name of a file of a task."""
    known = {"%j": "JOB_ID", "%A": "ARRAY_JOB_ID", "%a": "ARRAY_TASK_ID"}
    for place, variable in known.items():
        pattern = pattern.replace(place, os.environ.get(f"SLURM_{variable}", ""))
    return pattern.replace("%t", str(rank))


def scontrol(spool: Path, action: str, job: str) -> None:
    """Ask for a job to be run again."""
    assert action == "requeue"
    (spool / f"{job}.again").touch()


if __name__ == "__main__":
    command, spool, *rest = sys.argv[1:]
    {"sbatch": sbatch, "srun": srun, "scontrol": scontrol, "run": run}[command](Path(spool), *rest)
