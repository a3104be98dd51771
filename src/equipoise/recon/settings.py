"""The settings that determine an image together with the scan, and the fingerprint of an image."""

import functools
import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from equipoise.formats.inputs import check_regular
from equipoise.formats.writers.target import input_files
from equipoise.methods.method import Method
from equipoise.methods.prediction import LamSetting, checked_lam
from equipoise.outcome import BadInputError
from equipoise.version import __version__
from equipoise.zoo.find import DEFAULT_MODEL

BLOCKS, BLOCK = 16, 1 << 16
"""A scan is recognised by this number of blocks of this number of bytes, spread over the file."""

CHUNK = 1 << 20
"""Bytes that are read at a time."""


@dataclass(frozen=True)
class ReconSettings:
    """How scans are reconstructed, the same for one scan and for many.

    Attributes
    ----------
    model
        Name or file of the model.
    lam
        With ``rule``, lam and the scale of the thresholds follow the noise of the scan. With
        ``auto``, those that predict best are chosen for every slice. A number is the data weight
        itself. None is the default of the model.
    rtol
        Bound on ``||x - x*|| / ||x||`` that ends the iteration; None uses that of the model.
    acceleration, seed
        Undersample a fully sampled scan retrospectively with a mask of this seed.
    csm, mask
        Files of coil maps and of a sampling mask.

    Raises
    ------
    BadInputError
        If a number is not positive, lam is another word, or mask and acceleration are both given.
    """

    model: str = DEFAULT_MODEL
    lam: LamSetting | None = None
    rtol: float | None = None
    acceleration: float | None = None
    seed: int = 0
    csm: Path | str | None = None
    mask: Path | str | None = None

    def __post_init__(self) -> None:
        if self.lam is not None:
            object.__setattr__(self, "lam", checked_lam(self.lam))
        for name, most in (("rtol", 1), ("acceleration", math.inf)):
            value = getattr(self, name)
            if value is not None and not 0 < value < most:
                limit = "positive and finite" if most == math.inf else f"between 0 and {most}"
                raise BadInputError(f"{name} is {value}: it must be {limit}")
        if self.mask is not None and self.acceleration is not None:
            raise BadInputError("mask and acceleration exclude each other: leave out one of them")
        # Texts are accepted too, and stored as paths, so that equal settings are equal.
        for name in ("csm", "mask"):
            given = getattr(self, name)
            object.__setattr__(self, name, None if given is None else Path(given))

    def files(self) -> list[Path]:
        """The files that are read besides the scan: maps, mask, and a model given as a file."""
        model = self.model if Path(self.model).is_file() else None
        return [Path(p) for p in (self.csm, self.mask, model) if p is not None]


def fingerprint(settings: ReconSettings, model: Method, scan: Path) -> str:
    """A text that is equal for images from the same scan, model and settings.

    It is the SHA-256 of the version of the package, the weights and settings of the model (not its
    name or file), every option, the content of maps and mask, and the identity of the scan: size,
    time, and blocks of its content.
    """
    parts: dict[str, Any] = asdict(settings) | {
        "version": __version__,
        "model": model_checksum(model),
        "csm": _checksum(settings.csm),
        "mask": _checksum(settings.mask),
        "scan": scan_identity(scan),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def model_checksum(model: Method) -> str:
    """SHA-256 of everything that a model computes with: settings, calibration and weights."""
    calibration = None if model.calibration is None else asdict(model.calibration)
    model = model.for_inference()
    parts = [model.name, _configuration(model), asdict(model.options), calibration]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _configuration(model: Method) -> Any:
    """All settings; only those of the method if a part of it is the user's own."""
    try:
        return model.config.model_dump()
    except BadInputError:
        return [model.settings(), repr(model.network)]


def scan_identity(scan: Path) -> list[list[Any]]:
    """Size, time and sampled content of the files of a scan, at the cost of 1 MB for each file.

    Another scan under the same name differs in one of them. None is enough alone: archives give all
    files the same time, and a protocol gives all scans the same size.
    """
    found = []
    for path in sorted(input_files(scan).values()):
        check_regular(path)
        size = path.stat().st_size
        digest = hashlib.sha256()
        with path.open("rb") as file:
            for number in range(BLOCKS):
                file.seek(max(size - BLOCK, 0) * number // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
        found.append([size, path.stat().st_mtime_ns, digest.hexdigest()])
    return found


def _checksum(path: Path | str | None) -> list[str]:
    """Checksums of all bytes of a file of maps or of a mask, and of the header beside it."""
    files = sorted(input_files(path).values())
    for file in files:
        check_regular(file)
    return [_content(f, f.stat().st_size, f.stat().st_mtime_ns) for f in files]


@functools.lru_cache
def _content(path: Path, size: int, changed: int) -> str:
    """SHA-256 of a file, computed once as long as its size and time do not change."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
