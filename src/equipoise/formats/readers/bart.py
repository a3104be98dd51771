"""BART ``.cfl`` with ``.hdr``: complex64, column-major, up to 16 dimensions.

Dimensions 0 to 2 are space, 3 is coils, 13 is slices. Where all three spatial dimensions are
larger than one, the readout (0) is inverse-transformed and becomes the slices.
"""

from pathlib import Path

import numpy as np
import torch

from equipoise.formats.acquisition import Acquisition, make_acquisition
from equipoise.formats.cfl import COIL, N_DIMENSIONS, SLICE, read_cfl
from equipoise.outcome import BadInputError
from equipoise.physics.fourier import kspace_to_image


def read(path: Path) -> Acquisition:
    """Read k-space; coil maps are another cfl, given with ``--csm``."""
    array = read_cfl(path)
    used = [d for d in range(N_DIMENSIONS) if array.shape[d] > 1]
    other = [d for d in used if d not in (0, 1, 2, COIL, SLICE)]
    if other:
        raise BadInputError(
            f"{path}: dimensions {other} of the cfl are larger than one (shape "
            f"{tuple(array.shape)}); known are space (0-2), coils (3) and slices (13): slice them "
            "first, for instance with `bart slice`"
        )
    space = [d for d in (0, 1, 2) if array.shape[d] > 1]
    notes = ["assumed: centred unitary transform (bart fft -u)"]
    # (slice, coil, dim 2, dim 1, dim 0): C order over reversed dimensions is the cfl's byte order.
    volume = array.transpose(SLICE, COIL, 2, 1, 0, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15)
    volume = volume.reshape(volume.shape[:5])
    if len(space) == 3:
        if len(volume) > 1:
            raise BadInputError(f"{path}: several 3D volumes in one file; slice dimension 13 first")
        # (1, coil, z, y, x) -> the readout x becomes the slices of a stack of (z, y) problems.
        moved = torch.from_numpy(np.moveaxis(volume[0], -1, 0).copy())
        kspace = kspace_to_image(moved.movedim(0, -1), 1).movedim(-1, 0).numpy()
        notes.append("3D: inverse transform along the readout, one slice for each of its samples")
    else:
        missing = next(d for d in (2, 0, 1) if array.shape[d] == 1)
        kspace = volume.squeeze(4 - missing)
    return make_acquisition(kspace, str(path), "BART", notes=notes)
