"""Training checkpoints: everything on which the next step depends, written atomically."""

from pathlib import Path
from typing import Any

import torch

from equipoise.formats.replacing import replacing
from equipoise.outcome import BadInputError


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write to a temporary file, flush, and rename, so a killed run leaves the old file intact."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without unpickling code.

    Raises
    ------
    BadInputError
        If there is no file, or it is not a checkpoint.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BadInputError(f"there is no checkpoint {path} to resume from") from error
    # torch raises exceptions of many types for a damaged file.
    except Exception as error:
        raise BadInputError(f"{path} is not a checkpoint: {error}") from error
    return state
