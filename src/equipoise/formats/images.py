"""Images of a file: the stored ones, or those of its k-space without a model."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from equipoise.formats.acquisition import Acquisition
from equipoise.formats.hdf5 import dataset_names, open_hdf5, read_complex
from equipoise.formats.header import cut, stored_header
from equipoise.formats.readers.registry import read
from equipoise.formats.slices import as_slices
from equipoise.outcome import BadInputError
from equipoise.physics.fourier import kspace_to_image

IMAGES = ("image", "reconstruction")
"""Datasets of an HDF5 file of images; the complex one comes first."""


def read_images(path: Path) -> dict[str, Any]:
    """The content of a file, for :func:`equipoise.formats.writers.write.write_image`.

    An HDF5 file of images (of this package, or a fastMRI submission) gives its images. A scan gives
    the images of its samples, with zeros where nothing was measured; they are combined with the
    coil maps of the file, else by the root sum of squares over the coils.

    Raises
    ------
    BadInputError
        If the file holds neither.
    """
    names = dataset_names(path)
    # A scan may carry a reference reconstruction, but its k-space is what was measured.
    if "kspace" not in names and any(name in names for name in IMAGES):
        return _stored_images(path)
    acquisition = as_slices(read(path))
    image, how = combine(acquisition)
    return {
        "image": cut(image, acquisition.header.crop),
        "mask": acquisition.mask.numpy(),
        "header": acquisition.header,
        "attributes": {"scan": str(path), "combined": how},
        "notes": [*acquisition.notes, f"coils combined: {how}"],
    }


def combine(acquisition: Acquisition) -> tuple[np.ndarray, str]:
    """Images (slices, y, x) of the measured samples, and how the coils were combined, in words."""
    # Squares of raw data may overflow single precision, which holds them divided by their maximum.
    unit = float(acquisition.kspace.abs().max())
    coils = kspace_to_image(acquisition.kspace / unit)
    if acquisition.csm is not None:
        image, how = (acquisition.csm.conj() * coils).sum(1), "coil maps"
    elif coils.shape[1] == 1:
        image, how = coils[:, 0], "single coil"
    else:
        image, how = coils.abs().square().sum(1).sqrt(), "root sum of squares"
    image = image * unit
    if not bool(torch.isfinite(image.abs()).all()):
        raise BadInputError(
            f"{acquisition.source}: samples of k-space reach {unit:.3g}, so its images exceed the "
            "range of single precision: divide the k-space by that number"
        )
    return image.numpy(), how


def _stored_images(path: Path) -> dict[str, Any]:
    with open_hdf5(path) as file:
        name = next(n for n in IMAGES if n in file)
        image = read_complex(file[name])
        attributes = {k: v for k, v in file.attrs.items() if isinstance(v, str | float | int)}
        others = {n: read_complex(file[n]) for n in ("csm", "mask") if n in file}
    if image.ndim != 3 or 0 in image.shape or not np.issubdtype(image.dtype, np.number):
        raise BadInputError(
            f"{path}: {name} has shape {image.shape} and type {image.dtype}; expected numbers "
            "(slices, y, x)"
        )
    if not np.isfinite(image).all():
        raise BadInputError(f"{path}: {name} holds NaN or Inf")
    attributes.pop("slices", None)
    header = stored_header(attributes.pop("header", None), len(image), str(path))
    return {"image": image, "header": header, "attributes": attributes, "notes": [], **others}
