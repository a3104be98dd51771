"""Files out, by suffix; written under a temporary name and renamed when complete."""

import json
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from equipoise.formats.cfl import cfl_bytes
from equipoise.formats.header import Header
from equipoise.formats.replacing import replacing, replacing_set
from equipoise.formats.writers import dicom, mrd_image, nifti
from equipoise.outcome import BadInputError

Content = dict[str, Any]
"""``image`` (slices, y, x), complex or magnitude; if known ``csm``, ``mask``, ``attributes`` and
``header``, a :class:`equipoise.formats.header.Header`."""


def write_image(path: Path, content: Content, *, overwrite: bool = False) -> None:
    """Write a reconstruction in the format of the suffix.

    ``.h5``: ``reconstruction`` (float32 magnitude, the fastMRI layout), ``image`` (complex64),
    ``csm``, ``mask``, attributes. ``.npy``: the complex image. ``.cfl``: the complex image with
    its header. ``.nii.gz`` and ``.nii``: magnitude, with phase and sidecar beside it. ``.dcm``: a
    folder with a DICOM series. ``.mrd``: ISMRMRD images. ``.png``: magnitude, slices side by side.

    Raises
    ------
    BadInputError
        If the file exists and ``overwrite`` is False, the suffix is unknown, or the folder cannot
        be written.
    """
    check_target(path, overwrite=overwrite)
    writer = WRITERS[suffix_of(path)]
    try:
        writer(path, content)
    except OSError as error:
        raise BadInputError(f"{path} cannot be written: {error.strerror or error}") from error


def companions(path: Path) -> list[Path]:
    """The other files that are written beside a target."""
    if suffix_of(path) in (".nii", ".nii.gz"):
        return nifti.companions(path)
    return [path.with_suffix(".hdr")] if suffix_of(path) == ".cfl" else []


def check_target(path: Path, *, overwrite: bool, suffixes: Collection[str] | None = None) -> None:
    """Refuse before the work what could not be written after it."""
    known = WRITERS if suffixes is None else suffixes
    if suffix_of(path) not in known:
        raise BadInputError(
            f"{path}: the suffix says no known format; known are {', '.join(known)}"
        )
    existing = next((p for p in (path, *companions(path)) if p.exists()), None)
    if existing is not None and not overwrite:
        raise BadInputError(f"{existing} exists: give another name with -o, or --overwrite")
    if path.is_dir() and (suffix_of(path) != ".dcm" or _strangers(path)):
        raise BadInputError(f"{path} is a folder with other files: give another name with -o")
    folder = path.parent
    if not folder.is_dir():
        raise BadInputError(f"{folder} is not a folder: create it first, or give another with -o")
    if not os.access(folder, os.W_OK):
        raise BadInputError(f"{folder} cannot be written to: give another folder with -o")


def _strangers(folder: Path) -> bool:
    """Whether a folder holds anything but the files of a DICOM series."""
    return any(p.suffix != ".dcm" or p.is_dir() for p in folder.iterdir())


def suffix_of(path: Path) -> str:
    """``.nii.gz`` as one suffix."""
    return ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix


def _write_hdf5(path: Path, content: Content) -> None:
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file["reconstruction"] = np.abs(content["image"]).astype(np.float32)
        if np.iscomplexobj(content["image"]):
            file["image"] = content["image"].astype(np.complex64)
        for name in ("csm", "mask"):
            if name in content:
                file[name] = content[name]
        file.attrs.update(content.get("attributes", {}))
        if content.get("header") is not None:
            file.attrs["header"] = json.dumps(content["header"].as_json())


def _write_npy(path: Path, content: Content) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, content["image"].astype(np.complex64))


def _write_cfl(path: Path, content: Content) -> None:
    """BART dimensions x, y, then time at 10 for several volumes and slices at 13."""
    image, header = content["image"], content.get("header") or Header()
    volumes = header.volumes(len(image))
    if len({len(indices) for indices in volumes}) > 1:
        volumes = [list(range(len(image)))]
    array = np.stack([image[indices] for indices in volumes]).transpose(3, 2, 0, 1)
    array = array.reshape(*array.shape[:2], *[1] * 8, array.shape[2], 1, 1, array.shape[3])
    text, data = cfl_bytes(array)
    with replacing_set([path, path.with_suffix(".hdr")]) as (temporary, beside):
        beside.write_bytes(text)
        temporary.write_bytes(data)


def _write_png(path: Path, content: Content) -> None:
    from matplotlib.image import imsave

    magnitude = np.abs(content["image"])
    columns = min(len(magnitude), PNG_COLUMNS)
    missing = -len(magnitude) % columns
    magnitude = np.concatenate([magnitude, np.zeros((missing, *magnitude.shape[1:]))])
    rows = [np.concatenate(list(r), 1) for r in np.split(magnitude, len(magnitude) // columns)]
    picture = np.concatenate(rows, 0)
    with replacing(path) as temporary:
        imsave(temporary, picture, cmap="gray", vmin=0, vmax=float(picture.max()), format="png")


PNG_COLUMNS = 8
"""Slices side by side; further ones begin a new row."""


WRITERS: dict[str, Callable[[Path, Content], None]] = {
    ".h5": _write_hdf5,
    ".npy": _write_npy,
    ".cfl": _write_cfl,
    ".nii.gz": nifti.write,
    ".nii": nifti.write,
    ".dcm": dicom.write,
    ".mrd": mrd_image.write,
    ".png": _write_png,
}
