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
    """Write ``image`` and, if computed, ``noise_std``, ``noise_error`` and ``attack`` as HDF5.

    Images are (slices, y, x); of series and volumes they have the axis time or z after the first,
    or are one dataset each, ``image/0``, ``image/1``, ..., where their lengths differ. ``attack``
    is the perturbation of the k-space, (slices, coil, y, x). Each dataset names its axes in the
    attribute ``axes``. All are in units of the scan.
    """
    space = slices[0].certificate.axes or [""] * (slices[0].image.ndim - 1)
    found: dict[str, list[np.ndarray]] = {"image": [s.image[0].numpy() for s in slices]}
    maps = [s.noise for s in slices if s.noise is not None]
    if maps:
        found["noise_std"] = [m.std.numpy() for m in maps]
        found["noise_error"] = [m.error.numpy() for m in maps]
    attacks = [s.attack.perturbation * s.unit for s in slices if s.attack is not None]
    if attacks:
        found["attack"] = [a[0].numpy() for a in attacks]
    axes = {name: ["coil", *space] if name == "attack" else space for name in found}
    with replacing(path) as temporary:
        size = sum(one.nbytes for arrays in found.values() for one in arrays)
        reserve(temporary, path, size)
        with h5py.File(temporary, "w") as file:
            for name, arrays in found.items():
                _write(file, name, arrays, axes[name])


def _write(file: h5py.File, name: str, arrays: list[np.ndarray], axes: list[str]) -> None:
    """Arrays of one shape as one dataset, others as a group of datasets."""
    if len({one.shape for one in arrays}) == 1:
        file[name] = np.stack(arrays)
        file[name].attrs["axes"] = ["image", *axes]
        return
    for index, one in enumerate(arrays):
        file[f"{name}/{index}"] = one
        file[f"{name}/{index}"].attrs["axes"] = axes
