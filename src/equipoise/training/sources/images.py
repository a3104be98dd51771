"""Images to learn from: HDF5 stacks, npy, NIfTI, photographs."""

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
from torch import Tensor

from equipoise.formats.photograph import PHOTOGRAPHS, read_photograph
from equipoise.outcome import BadInputError

SUFFIXES = (".h5", ".npy", ".nii", ".nii.gz", *PHOTOGRAPHS)


class LabelledImage(NamedTuple):
    """A slice (y, x) and the subject that it is of."""

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
    ``magnitude``, ``image`` or ``reconstruction_rss``), shape (slices, y, x); NIfTI volumes are
    read slice by slice along their last axis; of a photograph the luminance is taken. Slices that
    are zero are left out. The subject is that of a dataset ``subject`` (one text, or one for each
    slice), else the file.

    Raises
    ------
    BadInputError
        If a path does not exist, cannot be read, or nothing is found.
    """
    slices: list[LabelledImage] = []
    for path in paths:
        for file in image_files(Path(path)):
            try:
                stack = _read(file)
                subjects = _subjects(file, len(stack))
            except (OSError, KeyError, ValueError) as error:
                raise BadInputError(f"{file} cannot be read as images: {error}") from error
            for image, subject in zip(stack, subjects):
                tensor = torch.from_numpy(np.ascontiguousarray(image, np.complex64))
                if not bool(torch.isfinite(tensor.abs()).all()):
                    raise BadInputError(f"{file} holds NaN or Inf: repair it or leave it out")
                if float(tensor.abs().max()) > 0:
                    slices.append(LabelledImage(tensor / tensor.abs().max(), subject))
    if not slices:
        raise BadInputError(f"no image found in {', '.join(map(str, paths))}")
    return slices


def image_files(path: Path) -> list[Path]:
    """The file, or the image files of a folder."""
    if path.is_dir():
        return sorted(f for f in path.iterdir() if f.name.lower().endswith(SUFFIXES))
    if not path.exists():
        raise BadInputError(f"{path} does not exist")
    return [path]


def _read(path: Path) -> np.ndarray:
    """A stack (slices, y, x)."""
    if path.name.endswith(".h5"):
        return _read_hdf5(path)
    if path.name.endswith(".npy"):
        array = np.load(path, allow_pickle=False)
        return array if array.ndim == 3 else array[None]
    if path.name.lower().endswith(PHOTOGRAPHS):
        return read_photograph(path).luminance[None]
    import nibabel

    return np.moveaxis(np.atleast_3d(np.asarray(nibabel.load(path).dataobj)), -1, 0)  # type: ignore[attr-defined]


def _subjects(path: Path, count: int) -> list[str]:
    """The subject of each slice: the dataset of that name, else the file itself."""
    if path.name.endswith(".h5"):
        with h5py.File(path) as file:
            if "subject" in file:
                given = np.atleast_1d(file["subject"].asstr()[()])
                if given.shape not in ((1,), (count,)):
                    raise ValueError(f"{given.size} subjects for {count} slices")
                return [str(name) for name in np.broadcast_to(given, (count,))]
    return [str(path)] * count


def _read_hdf5(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        if "real" in file and "imag" in file:
            scale = file["scale"][:] if "scale" in file else np.ones(len(file["real"]))
            image: np.ndarray = (file["real"][:] + 1j * file["imag"][:]) * scale[:, None, None]
            return image
        for name in ("magnitude", "image", "reconstruction_rss"):
            if name in file:
                return np.asarray(file[name][:])
        raise KeyError(f"none of real/imag, magnitude, image, reconstruction_rss; has {list(file)}")
