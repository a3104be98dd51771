"""``equipoise train --slurm``: one job on one node or several, one process for each device."""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from equipoise.cli.slurm import of_cluster, queue
from equipoise.cli.terminal import console

LAST = "last.ckpt"


def submit(folder: Path, nodes: int, tasks: int, options: Sequence[str]) -> None:
    """Submit this command line; a job that runs out of time is submitted again and resumes.

    Parameters
    ----------
    folder
        Of the run; logs go into its folder ``slurm``.
    nodes, tasks
        Number of nodes, and of processes on each of them.
    options
        Such as ``partition=gpu``.
    """
    shape = {"nodes": nodes, "tasks_per_node": tasks, "name": folder.name}
    with queue(folder, options, **shape) as executor:
        job = executor.submit(TrainingTask(task_arguments(sys.argv), folder.resolve()))
    where = of_cluster(executor)
    console.print(f"job {job.job_id} submitted ({where}): {nodes} nodes x {tasks} processes")
    console.print(f"logs: {folder / 'slurm'}; the run: {folder}", markup=False)


def task_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of this command line for the processes of the job."""
    kept, skip = [], False
    for argument in arguments[1:]:
        name = argument.split("=")[0]
        if skip or argument == "--slurm":
            skip = False
        elif name in ("--nodes", "--tasks", "--slurm-option"):
            skip = name == argument
        else:
            kept.append(argument)
    return kept


class TrainingTask:
    """What every process of the job does.

    Parameters
    ----------
    arguments
        Of ``equipoise``.
    folder
        Of the run, absolute.
    """

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self.arguments, self.folder = arguments, folder
        self.is_again = False

    def __call__(self) -> None:
        """Join the other processes of the job, and train.

        Raises
        ------
        EquipoiseError
            If the training failed or was stopped.
        """
        import submitit

        from equipoise.outcome import EquipoiseError

        # Sets MASTER_ADDR, RANK, WORLD_SIZE and LOCAL_RANK as torchrun does.
        submitit.helpers.TorchDistributedEnvironment().export(
            set_cuda_visible_devices=False, overwrite=True
        )
        begun = (self.folder / LAST).exists() and "--resume" not in self.arguments
        sys.argv = ["equipoise", *self.arguments, *(["--resume"] if begun else [])]
        try:
            runpy.run_module("equipoise", run_name="__main__")
        except SystemExit as end:
            # SLURM ends the job, and submitit has submitted it again.
            if self.is_again:
                raise
            if end.code:
                raise EquipoiseError(f"the training ended with exit code {end.code}") from end

    def checkpoint(self) -> object:
        """Called when SLURM ends the job before the run: the same again, which resumes."""
        import submitit

        self.is_again = True
        return submitit.helpers.DelayedSubmission(TrainingTask(self.arguments, self.folder))
