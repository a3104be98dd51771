"""Certificates as files: JSON with its schema, and the maps."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from pydantic import TypeAdapter

from equipoise.certificate.record import Certificate, CertifiedSlice
from equipoise.formats.replacing import replacing, reserve
from equipoise.version import __version__


@dataclass(frozen=True)
class CertificateReport:
    """The object that ``equipoise certify --json`` prints."""

    version: str
    scan: str
    model: str
    slices: list[Certificate]


def certificate_json(certificates: list[Certificate], scan: str, model: str) -> str:
    """A :class:`CertificateReport`; :func:`certificate_schema` describes it."""
    report = CertificateReport(__version__, scan, model, certificates)
    return json.dumps(_finite(asdict(report)), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: they become null."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    # json would write the words NaN and Infinity, which other parsers refuse.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def certificate_schema() -> dict[str, Any]:
    """The JSON schema of a :class:`CertificateReport` (draft 2020-12)."""
    return TypeAdapter(CertificateReport).json_schema(mode="serialization")


def write_maps(path: Path, slices: list[CertifiedSlice]) -> None:
    """Write ``image`` (slices, y, x) and, if computed, ``noise_std``, ``noise_error``, ``attack``.

    ``attack`` is the perturbation of the k-space, (slices, coil, y, x). All are in units of the
    scan.
    """
    arrays = {"image": np.concatenate([s.image.numpy() for s in slices])}
    maps = [s.noise for s in slices if s.noise is not None]
    if maps:
        arrays["noise_std"] = np.stack([m.std.numpy() for m in maps])
        arrays["noise_error"] = np.stack([m.error.numpy() for m in maps])
    attacks = [s.attack.perturbation * s.unit for s in slices if s.attack is not None]
    if attacks:
        arrays["attack"] = np.concatenate([a.numpy() for a in attacks])
    with replacing(path) as temporary:
        reserve(temporary, path, sum(array.nbytes for array in arrays.values()))
        with h5py.File(temporary, "w") as file:
            for name, array in arrays.items():
                file[name] = array
