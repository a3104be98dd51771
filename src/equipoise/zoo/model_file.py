"""Model files: safetensors with the configuration and the provenance in the header, no pickle."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from equipoise.formats.replacing import replacing
from equipoise.methods.data_weight import DataWeight, FixedWeight, ScanRule
from equipoise.methods.method import Method
from equipoise.methods.mol import MOL
from equipoise.methods.registry import saved_method
from equipoise.methods.usual import Calibration
from equipoise.outcome import BadInputError
from equipoise.zoo.find import DEFAULT_MODEL, find_model

FORMAT = "equipoise-1"


DATA_WEIGHTS: dict[str, Callable[[], nn.Module]] = {
    "fixed": lambda: FixedWeight(1.0),
    "noise": DataWeight,
    "scan": lambda: ScanRule(1.0, rising=False),
}
"""Data weights by the word in a file, before their numbers are filled in."""


def _weight_kind(weight: nn.Module) -> str:
    kinds = {FixedWeight: "fixed", ScanRule: "scan"}
    return kinds.get(type(weight), "noise")


def save_model(path: Path, model: Method, provenance: dict[str, Any]) -> None:
    """Write the model, with its calibration if it has one, atomically.

    Parameters
    ----------
    path
        Target, usually ``.safetensors``.
    model
        The model.
    provenance
        Data, split, seed, metrics, version: anything that JSON can hold.
    """
    calibration, model = model.calibration, model.for_inference()
    network: Any = model.network
    configuration = {
        "method": model.name,
        "network": network.configuration(),
        "data_weight": _weight_kind(model.data_weight),
        "settings": model.settings(),
    }
    metadata = {
        "format": FORMAT,
        "configuration": json.dumps(configuration),
        "provenance": json.dumps(provenance),
    }
    if calibration is not None:
        metadata["calibration"] = json.dumps(asdict(calibration))
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    metadata["checksum"] = checksum(metadata, state)
    if not path.parent.is_dir():
        raise BadInputError(f"{path.parent} is not a folder: create it first")
    with replacing(path) as temporary:
        save_file(state, temporary, metadata=metadata)


def checksum(metadata: dict[str, str], state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over everything that a model file holds: weights, configuration, provenance.

    It shows damage, not forgery: whoever changes a file on purpose can renew it.
    """
    digest = hashlib.sha256()
    for key, text in sorted(metadata.items()):
        if key != "checksum":
            digest.update(f"{key}={text}\n".encode())
    for key, tensor in sorted(state.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def verify(name: str | Path) -> str:
    """The checksum of a model that is as it was written.

    Raises
    ------
    BadInputError
        If the file is damaged, or has no checksum.
    """
    path = find_model(name)
    metadata, state = _read(path)
    written = metadata.get("checksum")
    if written is None:
        raise BadInputError(f"{path} has no checksum: it was written by an older version")
    found = checksum(metadata, state)
    if found != written:
        raise BadInputError(
            f"{path} is damaged: its checksum is {found[:16]}..., written was {written[:16]}...: "
            "copy it again"
        )
    return found


def damage(name: str | Path) -> str | None:
    """What :func:`verify` finds wrong, None if nothing."""
    try:
        verify(name)
    except BadInputError as error:
        return str(error)
    return None


def load_model(name: str | Path = DEFAULT_MODEL) -> Any:
    """A model that comes with the package, by name, or a model file, by path.

    Raises
    ------
    BadInputError
        If there is no such model, or the file is not a model.
    """
    path = find_model(name)
    metadata, state = _read(path)
    try:
        configuration = json.loads(metadata["configuration"])
        weight = DATA_WEIGHTS[configuration["data_weight"]]()
        settings = configuration.get("settings")
        if settings is None:  # files of the first format hold MOL-LR only
            settings = {key: configuration[key] for key in ("m", "m_evidence", "shift")}
        kind = configuration.get("method", MOL.name)
        model = saved_method(kind, configuration["network"], weight, settings)
        model.load_state_dict(state)
        if "calibration" in metadata:
            model.calibration = Calibration(**json.loads(metadata["calibration"]))
    except (KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise BadInputError(f"{path} is not a model of this version: {error}") from error
    return model.eval()


def provenance(name: str | Path = DEFAULT_MODEL) -> dict[str, Any]:
    """Where the weights come from: data, split, seed, metrics, version."""
    metadata, _ = _read(find_model(name))
    return json.loads(metadata.get("provenance", "{}"))


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BadInputError(
            f"{path} is not a model file ({error}); checkpoints of other software are brought in "
            "with `equipoise import-model`"
        ) from error
    if metadata.get("format") != FORMAT:
        raise BadInputError(
            f"{path} is a safetensors file but not a model of this package: its format is "
            f"{metadata.get('format')!r} and must be {FORMAT!r}"
        )
    return metadata, state
