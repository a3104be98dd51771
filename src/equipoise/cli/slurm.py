"""Jobs in the queue of SLURM, submitted by submitit."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

NUMBERS = ("timeout_min", "cpus_per_task", "mem_gb")
"""Numbers that submitit has its own names for."""

A_DAY = 24 * 60
"""Time limit of a job in minutes, unless ``timeout_min`` is given."""


@contextmanager
def queue(folder: Path, options: Sequence[str], **parameters: Any) -> Iterator[Any]:
    """The executor of submitit: SLURM, or processes of this machine where there is no SLURM.

    Parameters
    ----------
    folder
        Of the run; scripts and logs go into its folder ``slurm``.
    options
        Such as ``partition=gpu``.
    parameters
        Those of submitit.

    Raises
    ------
    EquipoiseError
        If several nodes are requested and there is no SLURM, or SLURM refuses the job.
    """
    from equipoise.optional import need
    from equipoise.outcome import EquipoiseError

    submitit = need("submitit", "slurm", "--slurm")
    given = slurm_parameters(options)
    nodes = parameters.get("nodes", 1)
    if nodes > 1 and submitit.AutoExecutor.which() != "slurm":
        raise EquipoiseError(
            f"--nodes is {nodes} and there is no SLURM here (no srun): submit the job from a "
            "machine of the cluster, or use one node"
        )
    executor = submitit.AutoExecutor(folder=folder / "slurm")
    executor.update_parameters(**parameters | given)
    try:
        yield executor
    except submitit.core.utils.FailedJobError as error:
        said = " ".join(str(error).split())
        raise EquipoiseError(f"SLURM refused the job: {said}; see --slurm-option") from error


def of_cluster(executor: Any) -> str:
    """Where the jobs of an executor run, in words."""
    return "SLURM" if executor.cluster == "slurm" else "local processes, as there is no SLURM"


def slurm_parameters(given: Sequence[str]) -> dict[str, Any]:
    """Options such as ``partition=gpu``, under the names of submitit.

    Raises
    ------
    typer.BadParameter
        If an option is not NAME=VALUE, or a number is needed and not given.
    """
    parameters: dict[str, Any] = {"timeout_min": A_DAY}
    others: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise typer.BadParameter(f"--slurm-option is {text!r}: it must be NAME=VALUE")
        whole = value.isascii() and value.isdigit()
        if name in NUMBERS and not whole:
            raise typer.BadParameter(f"--slurm-option is {text!r}: {name} must be a whole number")
        # Such as gpus_per_node=a100:2, which SLURM knows and submitit does not.
        known = name in NUMBERS or name == "name" or (name == "gpus_per_node" and whole)
        (parameters if known else others)[name] = int(value) if whole and name != "name" else value
    return {**parameters, "slurm_additional_parameters": others} if others else parameters
