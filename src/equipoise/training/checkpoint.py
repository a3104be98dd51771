"""Training checkpoints: everything that the next step depends on, written atomically."""

from pathlib import Path
from typing import Any

import torch

from equipoise.formats.replacing import replacing
from equipoise.outcome import BadInputError


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write beside the target, flush to disk, rename: a killed run leaves the old file whole."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without unpickling code.

    Raises
    ------
    BadInputError
        If there is no checkpoint, or it is not one.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except FileNotFoundError as error:
        raise BadInputError(f"there is no checkpoint {path} to resume from") from error
    except Exception as error:  # torch raises many kinds for a damaged file
        raise BadInputError(f"{path} is not a checkpoint: {error}") from error
    return state
