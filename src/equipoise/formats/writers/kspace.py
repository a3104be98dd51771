"""Writing k-space, for other software and for reading back: HDF5, npz, BART cfl."""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from equipoise.formats.acquisition import Acquisition
from equipoise.formats.calibration import as_arrays
from equipoise.formats.cfl import LABELS, cfl_bytes, of_frames
from equipoise.formats.encoding import TrajectoryEncoding
from equipoise.formats.replacing import replacing, replacing_set, reserve
from equipoise.formats.slices import as_slices
from equipoise.formats.writers.target import suffix_of
from equipoise.outcome import BadInputError


def write_kspace(path: Path, acquisition: Acquisition) -> list[str]:
    """Write k-space in the layout of the suffix, with everything that belongs to it.

    ``.h5`` is the fastMRI layout with mask, maps, target and the lines that calibrate frames
    (``calibration``, ``calibration_of``, ``calibration_from_frames``), and with geometry and labels
    as an attribute; ``.npz`` holds the same. In both a volume becomes its stack of slices. For a
    trajectory they hold ``kspace``, ``traj``, ``dcf`` and ``matrix``. ``.cfl`` holds only k-space,
    with volumes as they are and frames along the dimensions of their labels; a trajectory is
    written next to it as ``NAME_traj.cfl``.

    Returns
    -------
    The notes of the scan.

    Raises
    ------
    BadInputError
        If the suffix is unknown, the layout cannot hold the scan, or the file cannot be written.
    """
    writer = KSPACE_WRITERS.get(suffix_of(path))
    if writer is None:
        raise BadInputError(
            f"{path}: the suffix must be one of {', '.join(KSPACE_WRITERS)} to write k-space"
        )
    along = isinstance(acquisition.encoding, TrajectoryEncoding)
    if not along and suffix_of(path) != ".cfl":
        acquisition = as_slices(acquisition)
    try:
        writer(path, acquisition)
    except OSError as error:
        raise BadInputError(f"{path} cannot be written: {error.strerror or error}") from error
    found = acquisition.calibration
    # What was taken from frames is found again in them.
    left_out = found is not None and not found.from_frames and suffix_of(path) == ".cfl"
    return acquisition.notes + ["the separate calibration lines are not written to .cfl"] * left_out


def trajectory_beside(path: Path, acquisition: Acquisition) -> Path | None:
    """The cfl of the trajectory that is written next to k-space; None if there is none."""
    along = isinstance(acquisition.encoding, TrajectoryEncoding)
    return path.with_name(f"{path.stem}_traj.cfl") if along and suffix_of(path) == ".cfl" else None


def _arrays(acquisition: Acquisition) -> dict[str, np.ndarray]:
    encoding = acquisition.encoding
    if isinstance(encoding, TrajectoryEncoding):
        found = {"traj": encoding.coordinates, "dcf": encoding.density}
    else:
        found = {"mask": encoding.mask, "csm": acquisition.csm, "target": acquisition.target}
        if acquisition.calibration is not None:
            found |= as_arrays(acquisition.calibration)
    found |= {"kspace": acquisition.samples}
    return {name: array.numpy() for name, array in found.items() if array is not None}


def _attributes(acquisition: Acquisition) -> Mapping[str, Any]:
    found: dict[str, Any] = {"header": json.dumps(acquisition.header.as_json())}
    if isinstance(acquisition.encoding, TrajectoryEncoding):
        found["matrix"] = np.array(acquisition.encoding.matrix)
    return found


def _write_hdf5(path: Path, acquisition: Acquisition) -> None:
    arrays = _arrays(acquisition)
    with replacing(path) as temporary:
        reserve(temporary, path, sum(array.nbytes for array in arrays.values()))
        with h5py.File(temporary, "w") as file:
            for name, array in arrays.items():
                file[name] = array
            file.attrs.update(_attributes(acquisition))


def _write_npz(path: Path, acquisition: Acquisition) -> None:
    content = {**_arrays(acquisition), **_attributes(acquisition)}
    # np.savez of numpy 1 leaves the archive open on a full disk, and stores ``allow_pickle``.
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, value in content.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(value), allow_pickle=False)


def _write_cfl(path: Path, acquisition: Acquisition) -> None:
    samples, encoding = acquisition.samples.numpy(), acquisition.encoding
    grid = _grid(acquisition.labels, path)
    files = {}
    if isinstance(encoding, TrajectoryEncoding):
        # BART's first dimension is that of the coordinates, and there are always three of them.
        samples = samples[..., None]
        points = encoding.coordinates.numpy()
        points = np.pad(points, ((0, 0), (0, 0), (0, 0), (0, 3 - points.shape[-1])))
        frames = grid if len(points) > 1 else np.zeros_like(grid[:1])
        beside = path.with_name(f"{path.stem}_traj.cfl")
        files = _cfl(beside, points[:, None], frames)
    files = _cfl(path, samples, grid) | files
    with replacing_set(list(files)) as temporaries:
        for temporary, content in zip(temporaries, files.values()):
            temporary.write_bytes(content)


def _cfl(path: Path, frames: np.ndarray, grid: np.ndarray) -> dict[Path, bytes]:
    """Data and header of frames (frame, coil, [z,] y, x)."""
    frames = frames if frames.ndim == len(("frame", "coil", "z", "y", "x")) else frames[:, :, None]
    text, data = cfl_bytes(of_frames(frames, grid))
    return {path: data, path.with_suffix(".hdr"): text}


def _grid(labels: list[dict[str, int]], path: Path) -> np.ndarray:
    """The position of each frame along the dimensions of ``LABELS``, (frame, dimension).

    Raises
    ------
    BadInputError
        If the frames do not fill a block of these dimensions.
    """
    names = [*LABELS.values()]
    renamed = [{AS_BART.get(n, n): v for n, v in label.items()} for label in labels]
    strange = sorted({n for label in renamed for n in label} - set(names))
    values = np.array([[label.get(n, 0) for n in names] for label in renamed])
    index = np.stack([np.unique(v, return_inverse=True)[1].ravel() for v in values.T], 1)
    if (
        strange
        or len(np.unique(index, axis=0)) < len(index)
        or (len(index) != np.prod(index.max(0) + 1))
    ):
        raise BadInputError(
            f"{path}: the {len(labels)} frames do not form a block of {', '.join(names)}"
            f"{' (they have ' + ', '.join(strange) + ')' if strange else ''}, as the dimensions of "
            "a cfl require: write .h5, which keeps their labels"
        )
    return index


AS_BART = {"repetition": "time"}
"""Labels that have another name in BART."""


KSPACE_WRITERS: dict[str, Callable[[Path, Acquisition], None]] = {
    ".h5": _write_hdf5,
    ".npz": _write_npz,
    ".cfl": _write_cfl,
}
