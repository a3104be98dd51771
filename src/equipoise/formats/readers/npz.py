"""numpy ``.npz``: ``kspace`` (slices, coils, y, x) or (coils, y, x), optional mask, csm, target.

With ``axes`` the arrays have their axes in any order, see
:mod:`equipoise.formats.readers.named_axes`. ``header`` holds labels and geometry as JSON in files
that this package wrote, ``calibration`` and ``calibration_of`` the lines of a separate calibration
scan. A ``.npy`` file holds only the k-space.
"""

import math
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.formats.acquisition import Acquisition, make_acquisition
from equipoise.formats.arrange import arranged
from equipoise.formats.calibration import NAMES, TAKEN, stored_calibration
from equipoise.formats.header import Header, stored_header
from equipoise.formats.limits import check_size
from equipoise.formats.readers import named_axes
from equipoise.outcome import BadInputError

NPY = b"\x93NUMPY"
KNOWN = ("kspace", "mask", "csm", "target", "header", *NAMES, TAKEN, *named_axes.NAMES)


def recognizes(path: Path) -> bool:
    """True for a zip archive with npy members, or an npy file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        beginning = file.read(len(NPY))
    if beginning == NPY:
        return True
    # Checked before zipfile, which also accepts archives behind any other content.
    if beginning[:2] != b"PK":
        return False
    if not zipfile.is_zipfile(path):
        raise BadInputError(f"{path} begins as an npz file but is damaged or truncated")
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(".npy") for name in archive.namelist())


def read(path: Path) -> Acquisition:
    """Read an npz or npy file; nothing in it is unpickled."""
    arrays, others = read_arrays(path, KNOWN)
    if "kspace" not in arrays:
        raise BadInputError(f"{path} has no array 'kspace'; it has {sorted({*arrays, *others})}")
    if "axes" in arrays:
        return _named(arrays, others, path)
    kspace = arrays["kspace"]
    kspace = kspace[None] if kspace.ndim == 3 else kspace
    target = arrays.get("target")
    if target is not None and target.ndim == 2:
        target = target[None]
    notes: list[str] = []
    # Mask or maps in the same file would have to be shifted with the k-space.
    alone = set(arrays) == {"kspace"}
    header = Header()
    # Files of this package have a header and the order of axes that it describes.
    if "header" not in arrays:
        kspace = arranged(kspace, alone=alone, source=str(path), notes=notes)
    else:
        header = stored_header(str(arrays["header"]), len(kspace), str(path))
    header.ignored = others
    header.frame_ms = named_axes.frame_ms(arrays, str(path)) or header.frame_ms
    return make_acquisition(
        kspace,
        str(path),
        "npz",
        mask=arrays.get("mask"),
        csm=arrays.get("csm"),
        target=target,
        notes=notes,
        header=header,
        calibration=stored_calibration(arrays, kspace.shape, str(path)),
    )


def _named(arrays: dict[str, np.ndarray], ignored: list[str], path: Path) -> Acquisition:
    found = named_axes.arranged(arrays, str(path))
    time = named_axes.frame_ms(arrays, str(path))
    return make_acquisition(
        found.kspace,
        str(path),
        "npz",
        mask=found.others.get("mask"),
        csm=found.others.get("csm"),
        target=found.others.get("target"),
        header=Header(labels=found.labels, ignored=ignored, frame_ms=time),
        volume=found.volume,
    )


def read_arrays(path: Path, names: tuple[str, ...]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of an npz with the given names, and the names of all other arrays.

    The array of an npy file gets the first name.

    Raises
    ------
    BadInputError
        If the file is damaged, or declares more than it holds.
    """
    try:
        with path.open("rb") as file:
            # An npy file is recognised by its content, because np.save adds no suffix to an open
            # file.
            if file.read(len(NPY)) == NPY:
                file.seek(0)
                return {names[0]: _load(file, path.stat().st_size, path.stat().st_size, path)}, []
        with zipfile.ZipFile(path) as archive:
            members = {i.filename.removesuffix(".npy"): i for i in archive.infolist()}
            arrays = {}
            for name in [n for n in names if n in members]:
                info = members[name]
                with archive.open(info) as member:
                    arrays[name] = _load(member, info.file_size, info.compress_size, path)
            return arrays, sorted(set(members) - set(arrays))
    except BadInputError:
        raise
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise BadInputError(f"{path} cannot be read as npy or npz: {error}") from error


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type of an npy file, after a check of the length of its header."""
    version = np.lib.format.read_magic(file)
    known = {
        (1, 0): (2, np.lib.format.read_array_header_1_0),
        (2, 0): (4, np.lib.format.read_array_header_2_0),
    }
    if version not in known:
        raise ValueError(f"npy version {version} is not known")
    width, read_header = known[version]
    length = file.read(width)
    size = int.from_bytes(length, "little")
    # The parser's time and memory grow with the header, whatever the data hold.
    if size > MAX_HEADER:
        raise ValueError(
            f"its header declares {size} bytes for itself; at most {MAX_HEADER} are read"
        )
    found: tuple[tuple[int, ...], bool, np.dtype[Any]]
    found = read_header(BytesIO(length + file.read(size)))
    return found


MAX_HEADER = 10_000
"""Most bytes of the header of an npy file. numpy has the same limit, but checks it after
reading."""


def _load(file: Any, length: int, stored: int, path: Path) -> np.ndarray:
    """An array, after a check of its header against the length of the data."""
    shape, fortran, dtype = _header(file)
    declared = math.prod(shape) * dtype.itemsize
    # Objects would be unpickled, which runs code of the file.
    if dtype.hasobject or min(shape, default=1) < 0 or declared > length:
        raise ValueError(
            f"its header declares {shape} of {dtype}, {declared} bytes; the file has {length}"
        )
    check_size(str(path), declared, min(stored, path.stat().st_size))
    # frombuffer, not load: numpy would allocate what the header declares before it reads.
    flat = np.frombuffer(file.read(declared), dtype)
    return flat.reshape(shape, order="F" if fortran else "C")
