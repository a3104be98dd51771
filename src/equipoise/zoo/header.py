"""The header of a model file: format, configuration, provenance, checksum."""

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from equipoise.methods.method import MethodConfig
from equipoise.methods.registry import AnyMethodConfig
from equipoise.outcome import BadInputError
from equipoise.settings import Settings, checked
from equipoise.zoo.upgrade import upgraded

FORMAT = "equipoise-2"
"""The format that is written."""

OLD_FORMAT = "equipoise-1"
"""The format that is read too, see :func:`equipoise.zoo.upgrade.upgraded`."""


class _Content(Settings):
    configuration: AnyMethodConfig


@dataclass(frozen=True)
class Header:
    """What a model file says about itself, without the weights.

    Attributes
    ----------
    config
        The configuration of the model.
    provenance
        The origin of the weights.
    checksum
        The checksum that was written; None in the oldest files.
    metadata
        The stored texts.
    """

    config: MethodConfig
    provenance: dict[str, Any]
    checksum: str | None
    metadata: dict[str, str]

    @property
    def own(self) -> str | None:
        """The class of the user's own network; ``config.network`` is then meaningless."""
        return self.metadata.get("own_network")


def checksum(metadata: dict[str, str], state: dict[str, Tensor]) -> str:
    """SHA-256 of everything that a model file holds: weights, configuration, provenance.

    It reveals damage, not forgery, because somebody who changes a file can also update it.
    """
    digest = hashlib.sha256()
    for key, text in sorted(metadata.items()):
        if key != "checksum":
            digest.update(f"{key}={text}\n".encode())
    for key, tensor in sorted(state.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def opened(path: Path) -> Iterator[tuple[Header, Any]]:
    """The header of a model file, and the open file from which weights can be read.

    Raises
    ------
    BadInputError
        If the file is not a model, or has another version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield _header(path, file), file
    except (SafetensorError, OSError) as error:
        raise BadInputError(
            f"{path} is not a model file ({error}): convert checkpoints of other software with "
            "`equipoise import-model`"
        ) from error


def _header(path: Path, file: Any) -> Header:
    metadata = file.metadata() or {}
    version = metadata.get("format")
    # Checked before the header is parsed, whose fields depend on the version.
    if version not in (FORMAT, OLD_FORMAT):
        raise BadInputError(
            f"{path} is a safetensors file but not a model of this package: its format is "
            f"{version!r}; the known formats are {FORMAT!r} and {OLD_FORMAT!r}"
        )
    try:
        content = json.loads(metadata["configuration"])
        if version == OLD_FORMAT:
            content = upgraded(content, _fixed_lam(file))
        provenance = dict(json.loads(metadata.get("provenance", "{}")))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise BadInputError(
            f"{path} is not a model of this version: its header cannot be read: {error!r}"
        ) from error
    what = f"{path} is not a model of this version"
    config = checked(_Content, what, {"configuration": content}).configuration
    return Header(config, provenance, metadata.get("checksum"), metadata)


def _fixed_lam(file: Any) -> float | None:
    """The fixed data weight of an older file, which is not in its header."""
    key = "data_weight.log_lam"
    if key not in file.keys() or file.get_slice(key).get_shape():  # noqa: SIM118
        return None
    return math.exp(min(float(file.get_tensor(key)), math.log(torch.finfo(torch.float64).max) - 1))
