"""numpy ``.npz``: ``kspace`` (slices, coils, y, x) or (coils, y, x), optional mask, csm, target."""

import zipfile
from pathlib import Path

import numpy as np

from equipoise.formats.acquisition import Acquisition, make_acquisition
from equipoise.outcome import BadInputError


def recognizes(path: Path) -> bool:
    """True for a zip archive with npy members."""
    if not path.is_file() or path.read_bytes()[:2] != b"PK":
        return False
    if not zipfile.is_zipfile(path):
        raise BadInputError(f"{path} begins as an npz file but is damaged or truncated")
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(".npy") for name in archive.namelist())


def read(path: Path) -> Acquisition:
    """Read an npz file; nothing in it is unpickled."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BadInputError(f"{path} cannot be read as npz: {error}") from error
    if "kspace" not in arrays:
        raise BadInputError(f"{path} has no array 'kspace'; it has {sorted(arrays)}")
    kspace = arrays["kspace"]
    kspace = kspace[None] if kspace.ndim == 3 else kspace
    target = arrays.get("target")
    if target is not None and target.ndim == 2:
        target = target[None]
    return make_acquisition(
        kspace, str(path), "npz", mask=arrays.get("mask"), csm=arrays.get("csm"), target=target
    )
