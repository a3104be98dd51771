"""Writing images by suffix; files are written under a temporary name and renamed when complete."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from equipoise.formats.cfl import cfl_bytes
from equipoise.formats.header import Header
from equipoise.formats.replacing import replacing, replacing_set, reserve
from equipoise.formats.writers import dicom, film, mrd_image, nifti
from equipoise.formats.writers.stamp import FINGERPRINT, sidecar, stamp_hdf5, storable
from equipoise.formats.writers.target import NIFTI, Inputs, check_target, sidecar_of, suffix_of
from equipoise.outcome import BadInputError

Content = dict[str, Any]
"""``image`` (slices, y, x), complex or magnitude, and, if known, ``csm``, ``mask``, ``attributes``
and ``header`` (a :class:`equipoise.formats.header.Header`)."""


def write_image(path: Path, content: Content, *, overwrite: bool = False) -> None:
    """Write a reconstruction in the format of the suffix.

    ``.h5``: ``reconstruction`` (float32 magnitude, the fastMRI layout), ``image`` (complex64),
    ``csm``, ``mask``, attributes. ``.npy``: the complex image. ``.cfl``: the complex image with
    its header. ``.nii.gz`` and ``.nii``: magnitude, with phase and sidecar as further files, for
    each orientation.
    ``.dcm``: a folder with a DICOM series. ``.mrd``: ISMRMRD images. ``.png``: magnitude, slices
    side by side. ``.gif`` and ``.mp4``: magnitude over time, or slice by slice.

    Raises
    ------
    BadInputError
        If the file exists and ``overwrite`` is False, the suffix is unknown, or the folder cannot
        be written.
    """
    check_target(path, overwrite=overwrite)
    check_further(path, content.get("header") or Header(), overwrite=overwrite)
    attributes = {name: storable(v) for name, v in content.get("attributes", {}).items()}
    content = content | {"attributes": attributes}
    writer = WRITERS[suffix_of(path)]
    try:
        writer(path, content)
    except OSError as error:
        raise BadInputError(f"{path} cannot be written: {error.strerror or error}") from error


def check_further(
    path: Path, header: Header, *, overwrite: bool, inputs: Inputs | None = None
) -> None:
    """Refuse to overwrite files that follow from what is in a scan, before it is reconstructed.

    These are the files of the orientations of a localizer as NIfTI.

    Raises
    ------
    BadInputError
        If such a file exists and must not be replaced, or is read.
    """
    if suffix_of(path) in NIFTI:
        nifti.check_orientations(path, header, overwrite=overwrite, inputs=inputs)


def written_files(path: Path, header: Header) -> list[Path]:
    """The images that are written for a target, without their companions."""
    return nifti.written_files(path, header) if suffix_of(path) in NIFTI else [path]


def _write_hdf5(path: Path, content: Content) -> None:
    with replacing(path) as temporary, _new_hdf5(temporary, path, content) as file:
        file["reconstruction"] = np.abs(content["image"]).astype(np.float32)
        if np.iscomplexobj(content["image"]):
            file["image"] = content["image"].astype(np.complex64)
        for name in ("csm", "mask"):
            if name in content:
                file[name] = content[name]
        file.attrs.update(content.get("attributes", {}))
        stamp_hdf5(file, content.get("attributes", {}))
        if content.get("header") is not None:
            file.attrs["header"] = json.dumps(content["header"].as_json())


def _new_hdf5(temporary: Path, path: Path, content: Content) -> h5py.File:
    image = np.asarray(content["image"])
    others = sum(np.asarray(content[n]).nbytes for n in ("csm", "mask") if n in content)
    reserve(temporary, path, 2 * image.nbytes + others)
    return h5py.File(temporary, "w")


def _write_npy(path: Path, content: Content) -> None:
    with replacing_set([path, sidecar_of(path)]) as (temporary, beside):
        image = content["image"].astype(np.complex64)
        # numpy does not tell why a write failed.
        reserve(temporary, path, image.nbytes)
        with temporary.open("wb") as file:
            np.save(file, image)
        _write_sidecar(beside, content, {path: temporary})


def _write_cfl(path: Path, content: Content) -> None:
    """Write BART dimensions: x, y, time at 10 for several volumes, and slices at 13."""
    image = content["image"]
    volumes = (content.get("header") or Header()).volumes(len(image))
    if len({len(indices) for indices in volumes}) > 1:
        volumes = [list(range(len(image)))]
    array = np.stack([image[indices] for indices in volumes]).transpose(3, 2, 0, 1)
    array = array.reshape(*array.shape[:2], *[1] * 8, array.shape[2], 1, 1, array.shape[3])
    text, data = cfl_bytes(array)
    header = path.with_suffix(".hdr")
    with replacing_set([path, header, sidecar_of(path)]) as (temporary, dimensions, beside):
        dimensions.write_bytes(text)
        temporary.write_bytes(data)
        _write_sidecar(beside, content, {path: temporary, header: dimensions})


def _write_png(path: Path, content: Content) -> None:
    from matplotlib.image import imsave

    magnitude = np.abs(content["image"])
    columns = min(len(magnitude), PNG_COLUMNS)
    missing = -len(magnitude) % columns
    magnitude = np.concatenate([magnitude, np.zeros((missing, *magnitude.shape[1:]))])
    rows = [np.concatenate(list(r), 1) for r in np.split(magnitude, len(magnitude) // columns)]
    picture = np.concatenate(rows, 0)
    with replacing_set([path, sidecar_of(path)]) as (temporary, beside):
        imsave(temporary, picture, cmap="gray", vmin=0, vmax=float(picture.max()), format="png")
        _write_sidecar(beside, content, {path: temporary})


def _write_film(path: Path, content: Content) -> None:
    write = {".gif": film.write_gif, ".mp4": film.write_mp4}[suffix_of(path)]
    with replacing_set([path, sidecar_of(path)]) as (temporary, beside):
        write(temporary, np.asarray(content["image"]), content.get("header") or Header())
        _write_sidecar(beside, content, {path: temporary})


def _write_sidecar(place: Path, content: Content, written: dict[Path, Path]) -> None:
    """Record how the image was made, for formats without a place for it."""
    attributes = content.get("attributes", {})
    if FINGERPRINT in attributes:
        place.write_text(json.dumps(sidecar(attributes, written), indent=1, allow_nan=False))


PNG_COLUMNS = 8
"""Slices in a row of a PNG; further slices begin a new row."""


WRITERS: dict[str, Callable[[Path, Content], None]] = {
    ".h5": _write_hdf5,
    ".npy": _write_npy,
    ".cfl": _write_cfl,
    ".nii.gz": nifti.write,
    ".nii": nifti.write,
    ".dcm": dicom.write,
    ".mrd": mrd_image.write,
    ".png": _write_png,
    ".gif": _write_film,
    ".mp4": _write_film,
}
