"""Where the equations are solved: the processor, or a graphics card."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from equipoise.outcome import BadInputError

NO_DOUBLE = "mps"
"""Apple's backend has no float64, in which the distance bounds are computed."""


def pick_device(name: str) -> torch.device:
    """``auto`` (a CUDA card if there is one), ``cpu``, ``cuda`` or ``cuda:N``, ``mps``.

    Raises
    ------
    BadInputError
        If there is no such device here, or it cannot compute the bounds.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInputError(f"--device is {name!r}: it must be auto, cpu, cuda:N or mps") from error
    if device.type == NO_DOUBLE:
        raise BadInputError(f"--device {name}: it has no float64 for the bounds; use cpu")
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if device.type != "cpu" and (device.index or 0) >= count:
        raise BadInputError(
            f"--device {name}: this machine has {count} CUDA devices that torch {torch.__version__}"
            " can use; use cpu or auto"
        )
    return device


def creating_on(device: torch.device) -> AbstractContextManager[Any]:
    """New tensors go to the device; on the processor they do so anyway, without a function mode."""
    return nullcontext() if device.type == "cpu" else device
