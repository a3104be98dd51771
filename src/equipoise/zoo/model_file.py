"""Model files: safetensors, without pickle; the header has the configuration and provenance."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from equipoise.formats.replacing import replacing
from equipoise.methods.method import Method, MethodConfig
from equipoise.methods.registry import METHODS, stored_method
from equipoise.methods.usual import Calibration
from equipoise.networks.network import Shapes, monotonicity_of
from equipoise.outcome import BadInputError
from equipoise.zoo.evidence import compute_evidence
from equipoise.zoo.find import DEFAULT_MODEL, find_model
from equipoise.zoo.header import FORMAT, Header, checksum, opened
from equipoise.zoo.own import needs_network, own_body, wanted_shapes
from equipoise.zoo.untrained import untrained_model

PRECISIONS = (torch.float32, torch.float64)


def save_model(path: Path, model: Method, provenance: dict[str, Any]) -> None:
    """Write a model, with its calibration if it has one, atomically.

    Parameters
    ----------
    path
        The file, usually with the suffix ``.safetensors``.
    model
        The model. Its ``config`` is stored in the header, so no setting is lost. For your own
        network the file holds the weights and the name of its class, but no code.
    provenance
        Data, split, seed, metrics, version: anything that JSON can hold.

    Raises
    ------
    BadInputError
        If the folder does not exist, or the weights have a type that cannot be stored.
    """
    # Taken before, because the weights for inference may be a new model without it.
    calibration, model = model.calibration, model.for_inference()
    metadata = {
        "format": FORMAT,
        "configuration": model.config.model_dump_json(),
        "provenance": json.dumps(provenance),
    }
    if model.own is not None:
        metadata["own_network"] = model.own
    if calibration is not None:
        metadata["calibration"] = json.dumps(asdict(calibration))
    state = {k: v.cpu().contiguous() for k, v in model.state_dict().items()}
    # safetensors refuses tensors that share memory, as tied weights of an own network do.
    if model.own is not None:
        state = {k: v.clone() for k, v in state.items()}
    metadata["checksum"] = checksum(metadata, state)
    if not path.parent.is_dir():
        raise BadInputError(f"{path.parent} is not a folder: create it first")
    with replacing(path) as temporary:
        save_file(state, temporary, metadata=metadata)


def verify(name: str | Path) -> str:
    """The checksum of a model file, after a comparison with its content.

    Raises
    ------
    BadInputError
        If the file is damaged, or has no checksum.
    """
    path = find_model(name)
    with opened(path) as (header, file):
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if header.checksum is None:
        raise BadInputError(f"{path} has no checksum: it was written by an older version")
    found = checksum(header.metadata, state)
    if found != header.checksum:
        raise BadInputError(
            f"{path} is damaged: its checksum is {found[:16]}... instead of "
            f"{header.checksum[:16]}...: copy it again"
        )
    return found


def damage(name: str | Path) -> str | None:
    """The problem that :func:`verify` finds; None if there is none."""
    try:
        verify(name)
    except BadInputError as error:
        return str(error)
    return None


def load_model(name: str | Path = DEFAULT_MODEL, *, network: nn.Module | None = None) -> Any:
    """Load a model by its name, the name of its method, or the path of its file.

    The stored weights are compared with those of the configuration before anything is built. The
    evidence for m is computed from the weights.

    Parameters
    ----------
    name
        A name or a path.
    network
        Your own network, if the model has one: a module of the class that was saved. Its weights
        are replaced in place.

    Raises
    ------
    BadInputError
        If there is no such model, the file is not a model, or it is damaged; if ``network`` is
        missing, not needed, or of another class.

    Examples
    --------
    >>> import equipoise as eq
    >>> model = eq.load_model("mol-sn-brain-4x")
    >>> model.m, model.m_evidence
    (0.02, 'proved')
    >>> eq.load_model("tv")
    TV (tv): nothing trained, rtol 0.01, max_iter 200
    """
    untrained = untrained_model(name)
    if untrained is not None:
        if network is not None:
            raise BadInputError(f"{name} has no network: leave network out")
        return untrained.eval()
    path = find_model(name)
    with opened(path) as (header, file):
        stored = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        body = own_body(path, header.own, network)
        # Before any weight is read or allocated: the header may ask for a far larger network than
        # the file holds.
        wanted = wanted_shapes(header.config, body)
        # A file from before a term was known holds no weights of it, and needs none.
        left_out = {key: shape for key, shape in wanted.items() if 0 in shape and key not in stored}
        _check_shapes(path, wanted, {**stored, **left_out}, header.own)
        state = {key: file.get_tensor(key) for key in stored}
    if body is None:
        model = stored_method(header.config)
        model.network.to(_precision(path, state))
    else:
        model = METHODS[header.config.method].around(body, header.config)
    _check_finite(path, state)
    for key, shape in left_out.items():
        state[key] = torch.zeros(shape, dtype=_precision(path, state), device="cpu")
    # Assigned instead of copied, so that an own network gets the precision of each stored weight.
    model.load_state_dict(state, assign=body is not None)
    model.calibration = _calibration(path, header)
    # The bounds of the cache are loaded here, before anything asks for the evidence.
    compute_evidence(model)
    _check_proof(path, model)
    return model.eval()


def model_config(name: str | Path = DEFAULT_MODEL) -> MethodConfig:
    """The configuration of a model, without loading its weights.

    Raises
    ------
    BadInputError
        If there is no such model, or its network is the user's own.
    """
    path = find_model(name)
    with opened(path) as (header, _):
        if header.own is not None:
            raise needs_network(path, header.own)
        return header.config


def provenance(name: str | Path = DEFAULT_MODEL) -> dict[str, Any]:
    """The origin of the weights of a model: data, split, seed, metrics, version."""
    if untrained_model(name) is not None:
        return {}
    with opened(find_model(name)) as (header, _):
        return header.provenance


def _check_shapes(path: Path, wanted: Shapes, stored: Shapes, own: str | None) -> None:
    wrong = [
        f"{key} is {stored.get(key, 'missing')} instead of {wanted.get(key, 'absent')}"
        for key in sorted({*wanted, *stored})
        if wanted.get(key) != stored.get(key)
    ]
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        where, advice = "its configuration", "It was changed after it was written: copy it again"
        if own is not None:
            where, advice = f"this {own}", "Build the network exactly as the one that was saved"
        raise BadInputError(
            f"{path} does not hold the weights of {where}: {wrong[0]}{more}. {advice}"
        )


def _precision(path: Path, state: dict[str, Tensor]) -> torch.dtype:
    """The precision of the network, which all of its weights must have."""
    found = {tensor.dtype for key, tensor in state.items() if key.startswith("network.")}
    if len(found) != 1 or not found <= {*PRECISIONS}:
        kinds = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
        raise BadInputError(f"{path} holds weights of {kinds}: all must be float32, or all float64")
    return found.pop()


def _check_finite(path: Path, state: dict[str, Tensor]) -> None:
    for key, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise BadInputError(f"{path} is damaged: {key} is not finite")


def _check_proof(path: Path, model: Method) -> None:
    """Refuse weights that break what their method promises of all weights."""
    for part in model.passes:
        if part.by_construction and part.m_evidence != "proved":
            found = monotonicity_of(part.network).reason
            raise BadInputError(
                f"{path} is damaged: {part.name} is proved for every value of its weights, and not "
                f"for these: {found}. Get the file again"
            )


def _calibration(path: Path, header: Header) -> Calibration | None:
    text = header.metadata.get("calibration")
    if text is None:
        return None
    try:
        return Calibration.from_json(json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInputError(f"{path} has a calibration of another version: {error}") from error
