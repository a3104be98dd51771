"""Files out, by suffix; written under a temporary name and renamed when complete."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from equipoise.formats.bart import cfl_bytes
from equipoise.outcome import BadInputError

Content = dict[str, Any]
"""``image`` (slices, y, x) complex64, ``csm``, ``mask``, and ``attributes``."""


def write_image(path: Path, content: Content, *, overwrite: bool = False) -> None:
    """Write a reconstruction in the format of the suffix.

    ``.h5``: ``reconstruction`` (float32 magnitude, the fastMRI layout), ``image`` (complex64),
    ``csm``, ``mask``, attributes. ``.npy``: the complex image. ``.cfl``: the complex image with
    its header. ``.nii.gz`` and ``.nii``: magnitude, with axes x, y, slice and unit voxels.
    ``.png``: magnitude, slices side by side.

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


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse before the work what could not be written after it."""
    if suffix_of(path) not in WRITERS:
        raise BadInputError(
            f"{path}: the suffix says no known format; known are {', '.join(WRITERS)}"
        )
    pair = [path.with_suffix(".hdr")] if suffix_of(path) == ".cfl" else []
    if not overwrite and any(p.exists() for p in (path, *pair)):
        raise BadInputError(f"{path} exists: give another name with -o, or --overwrite")
    folder = path.parent
    if not folder.is_dir():
        raise BadInputError(f"{folder} is not a folder: create it first, or give another with -o")
    if not os.access(folder, os.W_OK):
        raise BadInputError(f"{folder} cannot be written to: give another folder with -o")


def make_folder(folder: Path) -> None:
    """Create a folder for results, with its parents.

    Raises
    ------
    BadInputError
        If a file stands in the way, or it may not be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"{folder} cannot be made a folder: {error.strerror}") from error


def suffix_of(path: Path) -> str:
    """``.nii.gz`` as one suffix."""
    return ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside the target that takes its place when the block ends well."""
    temporary = path.with_name(f".{os.getpid()}.tmp.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_hdf5(path: Path, content: Content) -> None:
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file["reconstruction"] = np.abs(content["image"]).astype(np.float32)
        file["image"] = content["image"].astype(np.complex64)
        file["csm"] = content["csm"]
        file["mask"] = content["mask"]
        file.attrs.update(content["attributes"])


def _write_npy(path: Path, content: Content) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, content["image"].astype(np.complex64))


def _write_cfl(path: Path, content: Content) -> None:
    # (slices, y, x) -> BART dimensions (x, y, ..., slice at 13)
    image = content["image"].transpose(2, 1, 0)
    array = image.reshape(*image.shape[:2], *[1] * 11, image.shape[2])
    header, data = cfl_bytes(array)
    with replacing(path.with_suffix(".hdr")) as temporary:
        temporary.write_bytes(header)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _write_nifti(path: Path, content: Content) -> None:
    import nibabel

    magnitude = np.abs(content["image"]).astype(np.float32).transpose(2, 1, 0)
    volume = nibabel.Nifti1Image(magnitude, np.eye(4))  # type: ignore[no-untyped-call]
    with replacing(path) as temporary:
        nibabel.save(volume, temporary)


def _write_png(path: Path, content: Content) -> None:
    from matplotlib.image import imsave

    magnitude = np.abs(content["image"])
    row = np.concatenate(list(magnitude), axis=1)
    with replacing(path) as temporary:
        imsave(temporary, row, cmap="gray", vmin=0, vmax=float(row.max()), format="png")


WRITERS: dict[str, Callable[[Path, Content], None]] = {
    ".h5": _write_hdf5,
    ".npy": _write_npy,
    ".cfl": _write_cfl,
    ".nii.gz": _write_nifti,
    ".nii": _write_nifti,
    ".png": _write_png,
}
