"""The device on which the equations are solved: CPU or GPU."""

import copy
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch

from equipoise.outcome import BadInputError

CPU = torch.device("cpu")

NO_DOUBLE = "mps"
"""Apple's backend has no float64, in which the distance bounds are computed."""


def pick_device(name: str) -> torch.device:
    """The device of a name: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    BadInputError
        If there is no such device, or it cannot compute the bounds in double precision.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInputError(f"--device is {name!r}: it must be auto, cpu or cuda:N") from error
    # Refused here, because torch would fail only after maps and data have been prepared.
    if device.type == NO_DOUBLE:
        raise BadInputError(f"--device {name}: it has no float64 for the bounds; use cpu")
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if device.type != "cpu" and (device.index or 0) >= count:
        raise BadInputError(
            f"--device {name}: this machine has {count} CUDA devices that torch {torch.__version__}"
            " can use; use cpu or auto"
        )
    return device


Moved = TypeVar("Moved")


def on_device(value: Moved, device: torch.device) -> Moved:
    """The same with its tensors on a device: a tensor, an operator, or a dataclass of these.

    Other values stay as they are; of a tuple, list or dict the entries are not moved.
    """
    found: Any = value
    if hasattr(found, "to"):
        moved: Moved = found.to(device)
        return moved
    if not is_dataclass(found) or isinstance(found, type):
        return value
    found = copy.copy(found)
    for one in fields(found):
        # Problems are frozen, and their constructors would check again what was checked.
        object.__setattr__(found, one.name, on_device(getattr(found, one.name), device))
    return found


def seconds_since(started: float, device: torch.device) -> float:
    """Seconds since a time of :func:`time.perf_counter`, when the device has done its work."""
    # A card works on after its kernels have been launched.
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def creating_on(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which new tensors are created on the device."""
    # The CPU is the default, and a function mode of torch would slow every operation down.
    return nullcontext() if device.type == "cpu" else device
