"""Images for training: HDF5 stacks, npy, NIfTI, photographs."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from torch import Tensor

from equipoise.formats.checks import check_range
from equipoise.formats.hdf5 import load, open_hdf5
from equipoise.formats.inputs import check_regular
from equipoise.formats.limits import check_size
from equipoise.formats.photograph import PHOTOGRAPHS, read_photograph
from equipoise.formats.readers.npz import read_arrays
from equipoise.outcome import BadInputError
from equipoise.readable import counted

log = logging.getLogger(__name__)

SUFFIXES = (".h5", ".npy", ".nii", ".nii.gz", *PHOTOGRAPHS)
STACKS = ("magnitude", "image", "reconstruction_rss")


class LabelledImage(NamedTuple):
    """A slice (y, x) and its subject."""

    image: Tensor
    subject: str


def load_images(paths: list[Path]) -> list[Tensor]:
    """Complex slices, each (y, x) complex64 with its largest magnitude 1.

    See :func:`load_labelled`.
    """
    return [found.image for found in load_labelled(paths)]


def load_labelled(paths: list[Path]) -> list[LabelledImage]:
    """Complex slices, each (y, x) complex64 with its largest magnitude 1, and their subjects.

    A path is a file or a folder of files. HDF5 files hold ``real``, ``imag`` and ``scale`` (or
    ``magnitude``, ``image`` or ``reconstruction_rss``) of shape (slices, y, x). NIfTI volumes are
    read slice by slice along their third axis, and volumes of a series one after the other. A
    photograph gives its luminance. Slices that are zero are left out. The subject is the content of
    a dataset ``subject`` (one text, or one for each slice), else the file.

    Raises
    ------
    BadInputError
        If a path does not exist, cannot be read, or nothing is found.
    """
    return read_labelled(paths, None)


def read_labelled(paths: list[Path], skipped: dict[Path, str] | None) -> list[LabelledImage]:
    """The same, where a file of a folder that cannot be used is skipped.

    Parameters
    ----------
    paths
        Files and folders. A file that is named must be readable.
    skipped
        Receives the files that are skipped, and why. With None no file is skipped.

    Raises
    ------
    BadInputError
        If a path does not exist, cannot be read, or nothing is found.
    """
    return usable(paths, skipped, _labelled)


def usable(
    paths: Sequence[Path],
    skipped: dict[Path, str] | None,
    content: Callable[[Path], list[LabelledImage]],
) -> list[LabelledImage]:
    """What files and folders hold, see :func:`read_labelled`; ``content`` reads one file."""
    found: list[LabelledImage] = []
    bad: dict[Path, str] = {}
    for path in paths:
        for file in image_files(Path(path)):
            found += _content(file, None if skipped is None or file == path else bad, content)
    if not found:
        first = next(iter(bad.values()), None)
        why = f": none of {counted(len(bad), 'file')} can be used; {first}" if first else ""
        raise BadInputError(f"no image found in {', '.join(map(str, paths))}{why}")
    if skipped is not None:
        skipped.update(bad)
    return found


def _content(
    file: Path,
    skipped: dict[Path, str] | None,
    content: Callable[[Path], list[LabelledImage]],
) -> list[LabelledImage]:
    try:
        return content(file)
    # One bad file must not end a run on a thousand others.
    except BadInputError as error:
        if skipped is None:
            raise
        skipped[file] = str(error)
        log.warning("skipped %s: %s", counted(len(skipped), "file"), error)
    return []


def _labelled(file: Path) -> list[LabelledImage]:
    """The slices of a file that are not zero."""
    slices, stack = [], read_stack(file)
    for image, subject in zip(stack, _subjects(file, len(stack))):
        tensor = torch.from_numpy(np.require(image, np.complex64, ["C", "W"]))
        # A slice of zeros has no scale, and nothing to learn.
        if float(tensor.abs().max()) > 0:
            slices.append(LabelledImage(tensor / tensor.abs().max(), subject))
    return slices


def image_files(path: Path) -> list[Path]:
    """The file, or the image files of a folder."""
    if path.is_dir():
        return sorted(f for f in path.iterdir() if f.name.lower().endswith(SUFFIXES))
    check_regular(path)
    return [path]


def read_stack(path: Path) -> np.ndarray:
    """The images of a file, (slices, y, x), checked."""
    check_regular(path)
    try:
        stack = _read(path)
    except BadInputError:
        raise
    except UNREADABLE as error:
        raise BadInputError(f"{path} cannot be read as images: {error}") from error
    # numpy does not count bool as a number, but such images are valid.
    numbers = np.issubdtype(stack.dtype, np.number) or stack.dtype == bool
    if stack.ndim != 3 or 0 in stack.shape or not numbers:
        raise BadInputError(
            f"{path} holds an array of shape {stack.shape} and type {stack.dtype}; expected "
            "numbers (slices, y, x)"
        )
    if not np.isfinite(stack).all():
        raise BadInputError(f"{path} holds NaN or Inf: repair it or leave it out")
    check_range(stack, f"{path}: values of the images")
    return stack


UNREADABLE = (OSError, ValueError, TypeError, LookupError, EOFError, RuntimeError)
"""Exceptions that libraries raise for damaged files."""


def _read(path: Path) -> np.ndarray:
    name = path.name.lower()
    if name.endswith(".npy"):
        array = read_arrays(path, ("image",))[0]["image"]
        return array[None] if array.ndim == 2 else array
    if name.endswith(PHOTOGRAPHS):
        return read_photograph(path).luminance[None]
    return _read_nifti(path) if name.endswith((".nii", ".nii.gz")) else _read_hdf5(path)


def _read_nifti(path: Path) -> np.ndarray:
    """Read (x, y, slice), or with time as fourth axis; a single slice may lack the third."""
    import nibabel

    file: Any = nibabel.load(path)
    shape, kind = file.shape, file.get_data_dtype()
    declared = math.prod(shape) * kind.itemsize
    # A compressed header can declare any size.
    check_size(f"{path} {shape}", declared, path.stat().st_size)
    if kind.names is not None or not 2 <= len(shape) <= 4:
        raise BadInputError(
            f"{path} has shape {shape} and type {kind}; expected numbers (x, y, slice) or "
            "(x, y, slice, time): a colour map or a field of vectors cannot be used for training"
        )
    array = np.asarray(file.dataobj)
    # In Fortran order the slices of one volume follow each other.
    array = array.reshape(*shape[:2], -1, order="F")
    return np.moveaxis(array, -1, 0)


def _subjects(path: Path, count: int) -> list[str]:
    """The subject of each slice, from the dataset ``subject``, else the file itself."""
    # Other formats have no place for a subject.
    if not path.name.endswith(".h5"):
        return [str(path)] * count
    with open_hdf5(path) as file:
        found = file.get("subject")
        if found is None:
            return [str(path)] * count
        given = np.atleast_1d(load(found))
    if given.shape not in ((1,), (count,)):
        raise BadInputError(f"{path} names {given.size} subjects for {count} slices")
    names = [n.decode(errors="replace") if isinstance(n, bytes) else str(n) for n in given]
    return names if len(names) == count else names * count


def _read_hdf5(path: Path) -> np.ndarray:
    with open_hdf5(path) as file:
        if "real" in file and "imag" in file:
            return _from_parts(file, path)
        for name in STACKS:
            if name in file:
                return load(file[name])
        known = ", ".join(("real and imag", *STACKS))
        raise BadInputError(
            f"{path} holds no images ({known}); it has {sorted(file)}: reconstruct k-space first"
        )


def _from_parts(file: h5py.File, path: Path) -> np.ndarray:
    real, imag = load(file["real"]), load(file["imag"])
    scale = load(file["scale"]) if "scale" in file else np.ones(len(real))
    if real.shape != imag.shape or real.ndim != 3 or scale.shape != real.shape[:1]:
        raise BadInputError(
            f"{path}: real {real.shape}, imag {imag.shape} and scale {scale.shape} do not fit; "
            "expected (slices, y, x) twice and (slices,)"
        )
    image: np.ndarray = (real + 1j * imag) * scale[:, None, None]
    return image
