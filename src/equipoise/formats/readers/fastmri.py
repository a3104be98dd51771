"""fastMRI HDF5: ``kspace`` (slices, coils, y, x) complex, optional ``mask``; M4Raw is the same.

The readout is y here (the first axis of each matrix), the phase encoding is x. ``ismrmrd_header``
gives the field of view, the matrix to which images are cut, and the columns that are padding:
according to the encoding limits, columns from ``n // 2 - centre`` on were measured, as many as
there are encoding steps. Its XML is often not a valid ISMRMRD header (M4Raw) and is read leniently.

``csm`` (slices, coils, y, x) and ``target`` (slices, y, x) are read if they are present, so files
that the package wrote can be read back. Single-coil files (slices, y, x) become one coil.
"""

from pathlib import Path

import h5py
import numpy as np

from equipoise.formats.acquisition import Acquisition, make_acquisition
from equipoise.formats.arrange import arranged
from equipoise.formats.calibration import NAMES, TAKEN, stored_calibration
from equipoise.formats.hdf5 import is_hdf5, load, names_of, open_hdf5, read_complex
from equipoise.formats.header import Geometry, Header, stored_header
from equipoise.formats.readers.slice_reader import SliceReader
from equipoise.formats.readers.xml_header import XmlHeader, parse
from equipoise.outcome import BadInputError

BESIDE = ("mask", "csm", "target", *NAMES, TAKEN)
USED = {"kspace", "ismrmrd_header", *BESIDE}
RECONSTRUCTIONS = ("reconstruction_rss", "reconstruction_esc")


def recognizes(path: Path) -> bool:
    """True for every HDF5 file, because this is the last HDF5 reader and names what is missing."""
    return is_hdf5(path)


def count_slices(path: Path) -> int | None:
    """How many slices can be read one by one; None if the file must be read as a whole.

    Axes and centre of a file without a header follow from all of its slices, and so do the frames
    of a series and the blocks of a separate calibration.
    """
    with open_hdf5(path) as file:
        found = file.get("kspace")
        described = "ismrmrd_header" in file or "header" in file.attrs
        if not isinstance(found, h5py.Dataset) or found.ndim != STACK_AXES or not described:
            return None
        return None if any(name in file for name in NAMES) else int(found.shape[0])


STACK_AXES = 4
"""Axes of a stack of slices (slice, coil, y, x)."""

OF_SLICES = {"mask": 3, "csm": 4, "target": 3}
"""Axes of arrays that have one entry for each slice."""


def read(path: Path) -> Acquisition:
    """Read a fastMRI file."""
    found = _read(path, None)
    assert found is not None
    return found


def read_slice(path: Path, index: int) -> Acquisition | None:
    """Read one of the slices of :func:`count_slices`; None if it holds no sample."""
    return _read(path, index)


def _read(path: Path, only: int | None) -> Acquisition | None:
    notes: list[str] = []
    with open_hdf5(path) as file:
        if "kspace" not in file:
            raise BadInputError(
                f"{path} has no dataset 'kspace'; it has {names_of(file)}. Known HDF5 layouts are "
                "fastMRI and Calgary-Campinas (kspace), MoDL (tstOrg, tstCsm, tstMask), CMRxRecon "
                "(kspace_full, kspace_sub04, ...) and ISMRMRD (a group with xml and data)"
            )
        kspace = read_complex(file["kspace"], only)
        # A stack without any sample is refused later, but a slice without them is left out of it.
        if only is not None and not kspace.any():
            return None
        optional = {
            name: read_complex(file[name], _row(file, name, only))
            for name in BESIDE
            if name in file
        }
        xml = _xml(file, str(path), notes)
        own = file.attrs.get("header")
        stored = [file[n].shape[-2:] for n in RECONSTRUCTIONS if _is_stack(file.get(n))]
        ignored = sorted(set(names_of(file)) - USED) + [
            f"attribute {name}" for name in names_of(file.attrs) if name != "header"
        ]
    if kspace.ndim == 3:
        kspace = kspace[:, None]
        notes.append("single-coil file: treated as one coil")
    # A header defines axes and centre; without one the data must tell them.
    if xml is None and own is None and kspace.ndim == 4:
        alone = not optional and not stored
        kspace = arranged(kspace, alone=alone, source=str(path), notes=notes)
    labels = [{"slice": i} for i in range(len(kspace))]
    if kspace.ndim == 5:
        kspace, labels = _series(kspace, xml, str(path))
    header = Header()
    # The header of a whole stack does not describe a single slice of it.
    if only is None:
        header = stored_header(own, len(kspace) if kspace.ndim == 4 else 0, str(path))
    header.ignored = ignored
    if kspace.ndim == 4 and xml is not None:
        header = _header(xml, kspace.shape, labels, notes)
        header.ignored = ignored
        optional |= _without_padding(xml, kspace, optional.get("mask"), notes)
    # The reconstruction in the file is the reference of every comparison, so its matrix wins over
    # the header's.
    if stored and kspace.ndim == 4 and tuple(stored[0]) != kspace.shape[2:]:
        header.crop = _no_larger(stored[0], kspace.shape)
        notes.append(f"images are cut to {_text(header.crop)}, like the reconstruction in the file")
    return make_acquisition(
        kspace,
        str(path),
        "fastMRI",
        mask=optional.get("mask"),
        csm=optional.get("csm"),
        target=optional.get("target"),
        notes=notes,
        header=header,
        calibration=stored_calibration(optional, kspace.shape, str(path)),
    )


def _row(file: h5py.File, name: str, only: int | None) -> int | None:
    """The row of an array beside k-space that belongs to a slice; None if it is for all slices."""
    found = file[name]
    per_slice = (
        isinstance(found, h5py.Dataset)
        and found.ndim == OF_SLICES.get(name)
        and found.shape[0] == file["kspace"].shape[0]
    )
    return only if per_slice else None


BY_SLICE = SliceReader(count_slices, read_slice)

SERIES = ("average", "repetition", "phase", "contrast", "set")
"""Counters of the header that the first of five axes can stand for."""


def _series(
    kspace: np.ndarray, xml: XmlHeader | None, source: str
) -> tuple[np.ndarray, list[dict[str, int]]]:
    """Convert (series, slice, coil, y, x) to (frame, coil, y, x), with the labels of the frames.

    Raises
    ------
    BadInputError
        If the header does not tell what the series is.
    """
    n, n_slices = kspace.shape[:2]
    limits = {} if xml is None else xml.limits
    names = [c for c in SERIES if c in limits and n > 1 and limits[c].maximum + 1 == n]
    # A wrong guess would call averages contrasts, or the reverse; nothing downstream could notice.
    if len(names) != 1:
        raise BadInputError(
            f"{source}: kspace has the shape {kspace.shape}, five axes: the first may be averages, "
            f"repetitions or contrasts, and no encoding limit of the header tells ({n} values of "
            f"{' or '.join(names) or 'none'}). Write each into a file of its own, (slices, coils, "
            "y, x), for instance kspace[0]; averages may also be averaged first, kspace.mean(0)"
        )
    labels = [{names[0]: i, "slice": s} for i in range(n) for s in range(n_slices)]
    return kspace.reshape(-1, *kspace.shape[2:]), labels


def _is_stack(found: object) -> bool:
    return isinstance(found, h5py.Dataset) and found.ndim == 3 and min(found.shape) > 0


def _xml(file: h5py.File, source: str, notes: list[str]) -> XmlHeader | None:
    """The header, or None with a note, because k-space can be reconstructed without it."""
    found = file.get("ismrmrd_header")
    if not isinstance(found, h5py.Dataset) or found.shape not in ((), (1,)):
        return None
    content = load(found).flat[0]
    try:
        if not isinstance(content, bytes | str):
            raise BadInputError(f"ismrmrd_header is {type(content).__name__}, not text")
        return parse(content, source)
    except BadInputError as error:
        notes.append(f"the header is ignored: {error}")
        return None


def _header(
    xml: XmlHeader, shape: tuple[int, ...], labels: list[dict[str, int]], notes: list[str]
) -> Header:
    header = Header(system=xml.system, labels=labels)
    if xml.recon is not None:
        wanted = xml.recon.matrix[:2]
        if min(wanted) > 0 and wanted != shape[2:]:
            header.crop = _no_larger(wanted, shape)
            notes.append(f"images are cut to {_text(header.crop)}, the reconstructed matrix")
    if xml.encoded is not None and min(xml.encoded.fov) > 0:
        # The pixel size of an image of the whole k-space, which is cropped but not interpolated.
        y, x = xml.encoded.fov[0] / shape[2], xml.encoded.fov[1] / shape[3]
        slices = [label["slice"] for label in labels]
        n_slices = max(slices) + 1
        thickness = (xml.recon or xml.encoded).fov[2] or xml.encoded.fov[2]
        header.geometry = Geometry(
            spacing=(thickness, y, x),
            centres=[(0.0, 0.0, thickness * (i - n_slices // 2)) for i in slices],
            oriented=False,
        )
        notes.append(
            "orientation and slice distance are not in the file: touching axial slices are assumed"
        )
    return header


def _no_larger(wanted: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int]:
    """The matrix to cut to; files that are narrower than the matrix they name keep their width."""
    return min(int(wanted[0]), shape[2]), min(int(wanted[1]), shape[3])


def _text(matrix: tuple[int, int]) -> str:
    return f"{matrix[0]} x {matrix[1]}"


def _without_padding(
    xml: XmlHeader, kspace: np.ndarray, mask: np.ndarray | None, notes: list[str]
) -> dict[str, np.ndarray]:
    """The mask of the columns that were measured according to the encoding limits, if they tell."""
    limit = xml.limits.get("kspace_encoding_step_1")
    width = kspace.shape[3]
    # Limits that contradict the k-space describe another matrix.
    if limit is None or not 0 <= limit.center <= limit.maximum < width:
        return {}
    left = max(width // 2 - limit.center, 0)
    right = min(width // 2 - limit.center + limit.maximum + 1, width)
    columns = np.zeros(width, bool)
    columns[left:right] = True
    # A mask of another width is refused later, with a message about the mask.
    if columns.all() or (mask is not None and mask.shape[-1:] != (width,)):
        return {}
    power = np.square(np.abs(kspace)).sum((0, 1, 2), dtype=float)
    if power[~columns].sum() > MAX_PADDING_POWER * power.sum():
        notes.append(
            f"the header calls columns outside {left}:{right} padding, but they hold signal"
        )
        return {}
    notes.append(f"columns outside {left}:{right} are padding, not samples")
    return {"mask": columns if mask is None else np.asarray(mask != 0) & columns}


MAX_PADDING_POWER = 0.01
"""If columns that a header calls padding hold more than this share of the energy, the header is
wrong."""
