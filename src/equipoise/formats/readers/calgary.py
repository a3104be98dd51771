"""Calgary-Campinas HDF5: ``kspace`` (slices, y, x, 2 coils), real and imaginary interleaved.

The readout is already inverse-transformed, DC lies in the corner, and the transform is numpy's
unnormalised one without a shift, ``image = ifft2(kspace)``. The reader converts it to the centred
orthonormal convention. Columns that were filled with zeros (the last 15 % of kz) are not sampled.
"""

from pathlib import Path

import h5py
import numpy as np
import torch

from equipoise.formats.acquisition import Acquisition, make_acquisition
from equipoise.formats.hdf5 import dataset_names, load, open_hdf5
from equipoise.physics.fourier import image_to_kspace

MAX_COILS = 64
"""Most interleaved coils; a longer last axis is one of the matrix."""


def recognizes(path: Path) -> bool:
    """True for an HDF5 file whose ``kspace`` is real, 4D, with a short even last axis."""
    if "kspace" not in dataset_names(path):
        return False
    with open_hdf5(path) as file:
        kspace = file["kspace"]
        return (
            isinstance(kspace, h5py.Dataset)
            and kspace.ndim == 4
            and np.issubdtype(kspace.dtype, np.floating)
            and kspace.shape[-1] % 2 == 0
            # A matrix axis is longer than interleaved coils, which tells this layout from (slices,
            # coils, y, x).
            and kspace.shape[-1] <= min(2 * MAX_COILS, *kspace.shape[1:3])
        )


def read(path: Path) -> Acquisition:
    """Read a Calgary-Campinas file."""
    with open_hdf5(path) as file:
        interleaved = load(file["kspace"])
    corner = np.moveaxis(interleaved[..., ::2] + 1j * interleaved[..., 1::2], -1, 1)
    # The mask from the stored zeros, because the two transforms below would fill them with
    # rounding.
    sampled = np.fft.fftshift(corner.any(axis=1), axes=(-2, -1))
    images = torch.fft.ifft2(torch.from_numpy(corner.astype(np.complex64)))
    kspace = image_to_kspace(images).numpy()
    notes = ["hybrid x-ky-kz data: each slice along the readout is a 2D problem"]
    return make_acquisition(kspace, str(path), "Calgary-Campinas", mask=sampled, notes=notes)
