"""Arrays of BART: ``.cfl`` with ``.hdr``, complex64, column-major, up to 16 dimensions."""

import math
from pathlib import Path

import numpy as np

from equipoise.formats.limits import check_size
from equipoise.outcome import BadInputError

N_DIMENSIONS = 16
COIL, SLICE = 3, 13
LABELS = {15: "set", 14: "average", 5: "contrast", 11: "phase", 10: "time", SLICE: "slice"}
"""The dimensions of a series, in the order in which their frames become a stack."""


def recognizes(path: Path) -> bool:
    """True for a ``.cfl`` or ``.hdr``, or their stem, if the header begins ``# Dimensions``."""
    header = _beside(path, ".hdr")
    if not header.is_file():
        return False
    with header.open("rb") as file:
        beginning = file.read(4096)
    return beginning.lstrip().startswith(b"# Dimensions")


def read_cfl(path: Path) -> np.ndarray:
    """The array of a cfl in BART's order of dimensions, always with 16 dimensions.

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
            f"{header} gives the dimensions {tuple(dimensions)}; expected at most "
            f"{N_DIMENSIONS} positive numbers"
        )
    # The header is text beside the data, so the two are easily mixed up.
    if stored != math.prod(dimensions) * np.dtype(np.complex64).itemsize:
        raise BadInputError(
            f"{content} holds {stored / 8:g} numbers, but its header says {math.prod(dimensions)} "
            f"{tuple(dimensions)}: the file is truncated, or the header belongs to another file"
        )
    check_size(str(content), stored, stored)
    data = np.fromfile(content, dtype=np.complex64)
    return data.reshape(dimensions, order="F")


def frames_of(array: np.ndarray) -> np.ndarray:
    """(frame, coil, dim 2, dim 1, dim 0) of an array of :func:`read_cfl`; slices vary fastest."""
    rest = [d for d in range(N_DIMENSIONS) if d not in (0, 1, 2, COIL, *LABELS)]
    moved = array.transpose(*LABELS, COIL, 2, 1, 0, *rest)
    sizes = [array.shape[d] for d in (COIL, 2, 1, 0)]
    return moved.reshape(-1, *sizes)


def of_frames(frames: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The inverse of :func:`frames_of`; ``index`` (frame, dimension of LABELS) places frames."""
    sizes = index.max(0) + 1
    block = np.zeros((*sizes, *frames.shape[1:]), np.complex64)
    block[tuple(index.T)] = frames
    axes = [*LABELS, COIL, 2, 1, 0]
    ordered = block.transpose([axes.index(d) for d in sorted(axes)])
    shape = [1] * N_DIMENSIONS
    for dimension, size in zip(sorted(axes), ordered.shape):
        shape[dimension] = size
    return ordered.reshape(shape)


def cfl_bytes(array: np.ndarray) -> tuple[bytes, bytes]:
    """Header and data of an array in BART's order of dimensions."""
    dimensions = " ".join(str(n) for n in (*array.shape, *[1] * (N_DIMENSIONS - array.ndim)))
    data = np.asarray(array, np.complex64).tobytes(order="F")
    return f"# Dimensions\n{dimensions}\n".encode(), data


def _beside(path: Path, suffix: str) -> Path:
    """The header or the data of a pair, given either file or their common stem."""
    stem = path.with_suffix("") if path.suffix in (".cfl", ".hdr") else path
    return stem.with_name(stem.name + suffix)
