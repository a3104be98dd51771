"""BART ``.cfl`` with ``.hdr``: complex64, column-major, up to 16 dimensions.

Dimensions 0 to 2 are space, 3 is coils, 13 is slices. Where all three spatial dimensions are
larger than one, the readout (0) is inverse-transformed and becomes the slices.
"""

import math
from pathlib import Path

import numpy as np
import torch

from equipoise.formats.acquisition import Acquisition, make_acquisition
from equipoise.formats.limits import check_size
from equipoise.outcome import BadInputError
from equipoise.physics.fourier import kspace_to_image

N_DIMENSIONS = 16
COIL, SLICE = 3, 13


def recognizes(path: Path) -> bool:
    """True for a ``.cfl`` or ``.hdr``, or their common stem, whose header says ``# Dimensions``."""
    header = _beside(path, ".hdr")
    if not header.is_file():
        return False
    with header.open("rb") as file:
        beginning = file.read(4096)
    return beginning.lstrip().startswith(b"# Dimensions")


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


def read_cfl(path: Path) -> np.ndarray:
    """The array of a cfl in BART's order of dimensions, always 16 of them.

    Raises
    ------
    BadInputError
        If header or data are missing, or the data are shorter or longer than the header says.
    """
    header, content = _beside(path, ".hdr"), _beside(path, ".cfl")
    try:
        lines = header.read_text().splitlines()
        dimensions = [int(n) for n in lines[lines.index("# Dimensions") + 1].split()]
        stored = content.stat().st_size
    except (OSError, ValueError, IndexError) as error:
        raise BadInputError(f"{content} and its header cannot be read: {error}") from error
    dimensions += [1] * (N_DIMENSIONS - len(dimensions))
    if len(dimensions) > N_DIMENSIONS or min(dimensions) < 1:
        raise BadInputError(
            f"{header} gives the dimensions {tuple(dimensions)}; needed are at most "
            f"{N_DIMENSIONS} positive ones"
        )
    if stored != math.prod(dimensions) * np.dtype(np.complex64).itemsize:
        raise BadInputError(
            f"{content} holds {stored / 8:g} numbers, its header says {math.prod(dimensions)} "
            f"{tuple(dimensions)}: the file is truncated or the header belongs to another"
        )
    check_size(str(content), stored, stored)
    data = np.fromfile(content, dtype=np.complex64)
    return data.reshape(dimensions, order="F")


def cfl_bytes(array: np.ndarray) -> tuple[bytes, bytes]:
    """Header and data of an array in BART's order of dimensions."""
    dimensions = " ".join(str(n) for n in (*array.shape, *[1] * (N_DIMENSIONS - array.ndim)))
    data = np.asarray(array, np.complex64).tobytes(order="F")
    return f"# Dimensions\n{dimensions}\n".encode(), data


def _beside(path: Path, suffix: str) -> Path:
    """The header or the data of a pair that is named by either or by its common stem."""
    stem = path.with_suffix("") if path.suffix in (".cfl", ".hdr") else path
    return stem.with_name(stem.name + suffix)
