"""Writing ISMRMRD images: ``image_0`` the magnitude, ``image_1`` the complex images if they are."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from equipoise.formats.header import Geometry, Header
from equipoise.formats.replacing import replacing, reserve
from equipoise.formats.writers.stamp import stamp_hdf5
from equipoise.optional import need

MAGNITUDE, COMPLEX = 1, 5
"""``ISMRMRD_IMTYPE`` of the two series."""

HEADER = 2**12
"""Bytes of an image beside its pixels, at most."""

COUNTERS = ("slice", "contrast", "phase", "repetition", "set")


def write(path: Path, content: dict[str, Any]) -> None:
    """Write every image with its position, directions, field of view and counters."""
    ismrmrd = need("ismrmrd", "mrd", "writing ISMRMRD images")
    image, header = np.asarray(content["image"]), content.get("header") or Header()
    series = {"image_0": (MAGNITUDE, np.abs(image).astype(np.float32))}
    if np.iscomplexobj(image):
        series["image_1"] = (COMPLEX, image.astype(np.complex64))
    history = {"DataRole": "Image", "ImageProcessingHistory": ["EQUIPOISE"]}
    attributes = content.get("attributes", {})
    history |= {k: str(attributes[k]) for k in ("model", "outcome") if k in attributes}
    size = sum(images.nbytes for _, images in series.values()) + HEADER * 2 * len(image)
    with replacing(path) as temporary:
        reserve(temporary, path, size)
        temporary.unlink()
        with ismrmrd.Dataset(str(temporary), mode="w") as dataset:
            for number, (name, (kind, images)) in enumerate(series.items()):
                for index, pixels in enumerate(images):
                    made = ismrmrd.Image.from_array(pixels[None, None], transpose=False)
                    made.image_type, made.image_series_index = kind, number
                    made.image_index = index + 1
                    made.attribute_string = ismrmrd.Meta(history).serialize()
                    _place(made, header, index, pixels.shape)
                    dataset.append_image(name, made)
        with h5py.File(temporary, "r+") as file:
            stamp_hdf5(file, attributes)


def _place(made: Any, header: Header, index: int, shape: tuple[int, ...]) -> None:
    labels = header.labels[index] if index < len(header.labels) else {"slice": index}
    for name in COUNTERS:
        setattr(made, name, labels.get(name, 0))
    geometry: Geometry | None = header.geometry
    if geometry is None:
        return
    fov = (shape[1] * geometry.spacing[2], shape[0] * geometry.spacing[1], geometry.spacing[0])
    made.field_of_view[:] = fov
    made.position[:] = geometry.centres[index]
    if geometry.oriented:
        made.slice_dir[:], made.phase_dir[:], made.read_dir[:] = geometry.directions(index)
