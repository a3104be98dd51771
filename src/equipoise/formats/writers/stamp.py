"""The stamp of an image file: the fingerprint of how it was made, and whether it is complete.

The fingerprint is an attribute ``fingerprint`` of HDF5 and MRD files, a private element of DICOM
files and a key of NIfTI's sidecar. Formats without a place for it (``.npy``, ``.cfl``, pictures)
have a small ``NAME.json`` next to them. The SHA-256 of what was written is stored with it, so an
empty or truncated file, or one of another run, is not mistaken for the image.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from equipoise.formats.hdf5 import is_hdf5, load, open_hdf5
from equipoise.formats.writers import dicom
from equipoise.formats.writers.target import companions, sidecar_of, suffix_of
from equipoise.outcome import BadInputError

FINGERPRINT, CHECKSUM, FILES = "fingerprint", "checksum", "files"
ORIENTATIONS = "Orientations"
"""Key of the sidecar of images of several orientations: the file of each."""

HDF5_IMAGES = ("reconstruction", "image", "dataset/image_0/data", "dataset/image_1/data")
"""The datasets of an image file that enter the checksum; maps are large and can be made again."""

CHUNK = 1 << 20


class Stamp(NamedTuple):
    """The fingerprint of how a file was made, and whether the file is intact."""

    fingerprint: str
    whole: bool


def read_stamp(path: Path) -> Stamp | None:
    """The stamp of an image file; None if there is none or it cannot be read."""
    try:
        suffix = suffix_of(path)
        if suffix in (".h5", ".mrd"):
            return _hdf5_stamp(path)
        if suffix == ".dcm":
            found = dicom.stored_fingerprint(path)
            return None if found is None else Stamp(*found)
        return _sidecar_stamp(path)
    # A damaged file says nothing that can be relied on.
    except (BadInputError, OSError, ValueError, TypeError, LookupError, AttributeError):
        return None


def storable(value: Any) -> Any:
    """Text as UTF-8 can hold it: bytes of file names that are no UTF-8 become escapes."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def stamp_hdf5(file: h5py.File, attributes: Mapping[str, Any]) -> None:
    """Write the fingerprint, if there is one, and the checksum of the images of an open file."""
    if FINGERPRINT in attributes:
        file.attrs[FINGERPRINT] = attributes[FINGERPRINT]
        file.attrs[CHECKSUM] = _hdf5_checksum(file, lambda dataset: np.asarray(dataset[()]))


def sidecar(attributes: Mapping[str, Any], written: Mapping[Path, Path]) -> dict[str, Any]:
    """The keys of a JSON sidecar that record how files were made.

    Parameters
    ----------
    attributes
        The attributes of the image.
    written
        The files of the sidecar, each with the temporary path where it is now.
    """
    found = {key: _json(value) for key, value in attributes.items()}
    if isinstance(found.get("slices"), str):
        found["slices"] = json.loads(found["slices"])
    if FINGERPRINT in found:
        found[FILES] = {p.name: _file_checksum(at) for p, at in written.items() if at.exists()}
    return found


def _json(value: Any) -> Any:
    """Replace infinity and NaN by null, because JSON has neither."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _hdf5_stamp(path: Path) -> Stamp | None:
    if not is_hdf5(path):
        return None
    with open_hdf5(path) as file:
        found = file.attrs.get(FINGERPRINT)
        if not isinstance(found, str):
            return None
        return Stamp(found, file.attrs.get(CHECKSUM) == _hdf5_checksum(file, load))


def _hdf5_checksum(file: h5py.File, read: Callable[[h5py.Dataset], np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in HDF5_IMAGES:
        if name in file:
            array = read(file[name])
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _sidecar_stamp(path: Path) -> Stamp | None:
    place = next(p for p in (*companions(path), sidecar_of(path)) if p.suffix == ".json")
    if not place.is_file():
        return None
    content = json.loads(place.read_text())
    found, files = content.get(FINGERPRINT), content.get(FILES)
    if not isinstance(found, str) or not isinstance(files, dict):
        return None
    # Images of several orientations have other names than the target.
    listed = path.name in files or ORIENTATIONS in content
    whole = listed and all(
        _file_checksum(path.with_name(Path(name).name)) == checksum
        for name, checksum in files.items()
    )
    return Stamp(found, whole)


def _file_checksum(path: Path) -> str | None:
    digest = hashlib.sha256()
    if not path.is_file():
        return None
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
