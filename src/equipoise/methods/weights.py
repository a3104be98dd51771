"""Model files: safetensors with the configuration and the provenance in the header, no pickle."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from equipoise.equilibrium.data_weight import DataWeight, FixedWeight
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.equilibrium.method import Method
from equipoise.equilibrium.mol import MOL
from equipoise.equilibrium.network import CNN
from equipoise.formats.write import replacing
from equipoise.methods.registry import saved_method
from equipoise.outcome import BadInputError
from equipoise.robustness.detection import Calibration

FORMAT = "equipoise-1"
SUFFIX = ".safetensors"
DEFAULT_MODEL = "mol-lr-brain-4x"
AUTHORS_SHIFT = 0.1
"""The authors' code solves with 1.001 I at alpha = 0.01: a term 0.1 x in F."""

AUTHORS_M = 0.02
"""``1 - T`` of the authors' released configuration, ``lip_thresh: 0.98``."""


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
        "data_weight": "fixed" if isinstance(model.data_weight, FixedWeight) else "noise",
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
        If there is no such model, or the file is no model.
    """
    path = find_model(name)
    metadata, state = _read(path)
    try:
        configuration = json.loads(metadata["configuration"])
        weight = FixedWeight(1.0) if configuration["data_weight"] == "fixed" else DataWeight()
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


def packaged_models() -> list[str]:
    """Names of the models that come with the package."""
    return _names(_packaged())


def available_models() -> list[str]:
    """Names of the models that come with the package or were installed."""
    return sorted({*packaged_models(), *_names(user_folder())})


def user_folder() -> Path:
    """Where models are installed: ``EQUIPOISE_MODELS``, or the user's data folder."""
    given = os.environ.get("EQUIPOISE_MODELS")
    if given:
        return Path(given)
    from platformdirs import user_data_path

    return user_data_path("equipoise", appauthor=False) / "models"


def _packaged() -> Path:
    return Path(str(resources.files("equipoise"))) / "weights"


def _names(folder: Path) -> list[str]:
    return sorted(path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}"))


def find_model(name: str | Path) -> Path:
    """Path of a model given by name or path.

    Raises
    ------
    BadInputError
        If there is no such model.
    """
    for folder in (_packaged(), user_folder()):
        path = folder / f"{name}{SUFFIX}"
        if path.is_file():
            return path
    if Path(name).is_file():
        return Path(name)
    raise BadInputError(
        f"there is no model {str(name)!r}: it is no file, and there are "
        f"{', '.join(available_models())}"
    )


def install_model(path: Path, name: str | None = None, *, overwrite: bool = False) -> Path:
    """Copy a model file to where it is found by name, on this machine; its checksum is verified.

    Raises
    ------
    BadInputError
        If the file is no model or damaged, or the name is taken.
    """
    path = find_model(path)
    load_model(path)
    verify(path)
    name = name or path.name.removesuffix(SUFFIX)
    target = user_folder() / f"{name}{SUFFIX}"
    if Path(name).name != name or name in packaged_models():
        raise BadInputError(
            f"{name!r} cannot be the name of an installed model: choose another with --name"
        )
    if target.exists() and not overwrite:
        raise BadInputError(f"{target} exists: give another --name, or --overwrite")
    copy_model(path, target)
    return target


def copy_model(source: Path, target: Path) -> None:
    """Copy a model file atomically.

    Raises
    ------
    BadInputError
        If the target cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)
    except OSError as error:
        raise BadInputError(f"{target} cannot be written: {error.strerror}") from error


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
            f"{metadata.get('format')!r} and {FORMAT!r} is needed"
        )
    return metadata, state


def import_authors_checkpoint(path: Path, shift: float = AUTHORS_SHIFT) -> MOL:
    """The checkpoint that the authors of MOL released, as a model of this package.

    Parameters
    ----------
    path
        A zipped torch file with ``state_dict`` holding ``f.dw.net.{i}.conv.{weight,bias}`` and
        ``f.lam``. Nothing in it is executed.
    shift
        0.1 for the model that they trained (their solver adds 0.1 x to F), 0 for the equation of
        the paper.

    Raises
    ------
    BadInputError
        If the file is not such a checkpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = content["state_dict"]
        prefix, layers = "f.dw.net.", 0
        while f"{prefix}{layers}.conv.weight" in state:
            layers += 1
        first = state[f"{prefix}0.conv.weight"]
        network = CNN(features=first.shape[0], layers=layers, kernel_size=first.shape[-1])
        network.load_state_dict(
            {
                f"convolutions.{i}.{part}": state[f"{prefix}{i}.conv.{part}"]
                for i in range(layers)
                for part in ("weight", "bias")
            }
        )
        lam = float(state["f.lam"])
    except Exception as error:  # torch.load raises many kinds for a foreign file
        raise BadInputError(
            f"{path} is not a checkpoint of the released MOL code (a torch zip file with "
            f"state_dict, f.dw.net.*.conv.* and f.lam): {error}"
        ) from error
    options = SolverOptions(max_iter=200)
    return MOL(network, FixedWeight(lam), AUTHORS_M, shift=shift, options=options).eval()
