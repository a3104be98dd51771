"""The processes that train one model together: one for each device, on one machine or many.

Every process draws its own samples and solves its own equilibria, which take different numbers of
iterations. They meet after the backward solve only, where gradients are averaged; no solve waits
for another process. Validation is shared out, and the first process writes.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from equipoise.outcome import BadInputError, EquipoiseError

P = ParamSpec("P")
R = TypeVar("R")

PATIENCE = timedelta(minutes=30)
"""Longest time to wait for another process; the slowest solve and validation must fit into it."""


def _meeting(method: Callable[P, R]) -> Callable[P, R]:
    """Make the end of another process, which a collective reports, an error that says so."""

    @wraps(method)
    def meet(*given: P.args, **options: P.kwargs) -> R:
        try:
            return method(*given, **options)
        except RuntimeError as error:
            raise EquipoiseError(
                "another process of this training run ended or does not answer, so this one ends "
                "too: the message of that process says why, the last checkpoint is intact, and "
                f"--resume continues the run ({error})"
            ) from error

    return meet


@dataclass(frozen=True)
class Processes:
    """This process and how many there are.

    Attributes
    ----------
    rank
        The number of this process, from 0.
    count
        The number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes the files and the console."""
        return self.rank == 0

    @_meeting
    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes, in their order; every process gets them."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def any(self, value: bool) -> bool:
        """Whether it is true in one of the processes."""
        return any(self.gathered(value))

    @_meeting
    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their means over the processes, with one collective for all."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.count == 1 or not gradients:
            return
        joint = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(joint)
        joint /= self.count
        means = torch.split(joint, [g.numel() for g in gradients])
        for gradient, mean in zip(gradients, means):
            gradient.copy_(mean.view_as(gradient))

    @_meeting
    def agree(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of the first process."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)


ALONE = Processes()


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started, if it did.

    Parameters
    ----------
    device
        Where this process trains: gradients on a GPU are averaged by NCCL, others by gloo.

    Raises
    ------
    BadInputError
        If the processes do not find each other.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise BadInputError(
            "WORLD_SIZE asks for several processes, and they do not find each other "
            f"({error}): start them with torchrun --nproc-per-node N -m equipoise train ..."
        ) from error
    yield Processes(dist.get_rank(), dist.get_world_size())
    # Not after an error: the others would be waited for, and the end of the process tells them.
    # Together, because a connection that is closed while the other is in use ends in an abort.
    dist.barrier()
    dist.destroy_process_group()


def local_count() -> int:
    """The number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def own_device(name: str) -> str:
    """The name of the device of this process: each process of a machine gets its own GPU.

    Parameters
    ----------
    name
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``, as given for all processes.
    """
    local = os.environ.get("LOCAL_RANK")
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    wants_gpu = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    return f"cuda:{local}" if several and local is not None and wants_gpu else name
