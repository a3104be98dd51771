"""ISMRMRD (MRD version 1) HDF5: a group with ``xml`` and ``data``, one record for each readout.

All readouts are read at once, because one by one takes 37 times as long. Each has a header with
flags (numbered from 1), counters and the index of its centre sample. ``encodingLimits`` tells which
counter is the centre of k-space. :mod:`equipoise.formats.readers.readouts` puts the readouts on the
matrix; :mod:`equipoise.formats.readers.mrd_trajectory` keeps them at their stored coordinates.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from equipoise.formats.acquisition import (
    Acquisition,
    make_acquisition,
    make_trajectory_acquisition,
)
from equipoise.formats.hdf5 import check_filters, dataset_names, load, open_hdf5
from equipoise.formats.header import Geometry, Header
from equipoise.formats.limits import check_size
from equipoise.formats.readers.mrd_epi import warn_of_ghosts
from equipoise.formats.readers.mrd_trajectory import along_trajectory, is_trajectory
from equipoise.formats.readers.readouts import Readouts, Stack, assemble, place, whitening_of
from equipoise.formats.readers.xml_header import Space, XmlHeader, parse
from equipoise.formats.slices import as_slices, join_slices
from equipoise.outcome import BadInputError

NOISE, CALIBRATION, CALIBRATION_AND_IMAGING, REVERSE = 19, 20, 21, 22
"""Numbers of flags in the ISMRMRD standard."""

NOT_IMAGES = {
    23: "navigator",
    24: "phase correction",
    26: "HP feedback",
    27: "dummy",
    28: "real-time feedback",
    29: "surface coil correction",
    30: "phase stabilization reference",
    31: "phase stabilization",
}
SEPARATE = ("separate", "external")
COUNTERS = ("set", "phase", "repetition", "contrast", "slice")
NEEDED = ("flags", "number_of_samples", "active_channels", "center_sample", "idx")


def recognizes(path: Path) -> bool:
    """True for an HDF5 file with a group that has ``data`` records with a ``head``."""
    if not dataset_names(path):
        return False
    with open_hdf5(path) as file:
        return next(_groups(file), None) is not None


def _groups(file: h5py.File) -> Iterator[str]:
    for name, group in file.items():
        data = group.get("data") if isinstance(group, h5py.Group) else None
        fields = data.dtype.names if isinstance(data, h5py.Dataset) else None
        if fields and "head" in fields and "data" in fields:
            yield str(name)


def read(path: Path) -> Acquisition:
    """Read the first measurement of the file."""
    source = str(path)
    with open_hdf5(path) as file:
        first, *others = _groups(file)
        group = file[first]
        if not isinstance(group.get("xml"), h5py.Dataset) or group["xml"].size != 1:
            raise BadInputError(f"{path}: the group {first!r} has no XML header")
        content = load(group["xml"]).flat[0]
        xml = parse(content, source)
        heads, samples, coordinates = _records(group["data"], path)
        ignored = [f"{first}/{name}" for name in sorted(set(group) - {"xml", "data"})]
    notes = [f"only the measurement {first!r} is read, not {others}"] if others else []
    return _acquisition(source, xml, heads, samples, coordinates, notes, ignored + others)


def _records(data: h5py.Dataset, path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Headers, samples and coordinates of all readouts, after a check of the declared sizes."""
    fields = data.dtype["head"].names or ()
    missing = [name for name in NEEDED if name not in fields]
    if missing or data.ndim != 1 or not len(data):
        raise BadInputError(
            f"{path}: {data.name} has shape {data.shape}; its headers lack {missing or 'nothing'}; "
            "expected a list of at least one readout with ISMRMRD headers"
        )
    check_filters(data, f"{path}: {data.name}")
    stored = path.stat().st_size
    check_size(f"{path}: {data.name}", data.shape[0] * data.dtype.itemsize, stored)
    heads = data.fields("head")[()]
    declared = heads["number_of_samples"].astype(np.int64) * heads["active_channels"]
    check_size(f"{path}: {data.name}", 8 * int(declared.sum()), stored)
    samples = data.fields("data")[()]
    for i, values in enumerate(samples):
        if np.size(values) != 2 * declared[i]:
            raise BadInputError(
                f"{path}: readout {i} holds {np.size(values)} numbers, but its header says "
                f"{2 * int(declared[i])} (real and imaginary parts): the file is damaged"
            )
    return heads, samples, _coordinates(data, heads)


def _coordinates(data: h5py.Dataset, heads: np.ndarray) -> np.ndarray | None:
    """The stored coordinates of each readout, flat; None if there are none."""
    names = {*(data.dtype.names or ()), *(heads.dtype.names or ())}
    if not {"traj", "trajectory_dimensions"} <= names or not heads["trajectory_dimensions"].any():
        return None
    declared = heads["number_of_samples"].astype(np.int64) * heads["trajectory_dimensions"]
    size = Path(data.file.filename).stat().st_size
    check_size(f"{data.file.filename}: {data.name}", 4 * int(declared.sum()), size)
    return np.asarray(data.fields("traj")[()])


def is_flag_set(flags: np.ndarray, *numbers: int) -> np.ndarray:
    """Whether any of the flags, numbered from 1, is set."""
    bits = np.uint64(sum(1 << (number - 1) for number in numbers))
    return np.asarray((flags.astype(np.uint64) & bits) != 0)


def _acquisition(
    source: str,
    xml: XmlHeader,
    heads: np.ndarray,
    samples: np.ndarray,
    coordinates: np.ndarray | None,
    notes: list[str],
    ignored: list[str],
) -> Acquisition:
    if xml.encoded is None:
        raise BadInputError(f"{source}: the header has no encodedSpace: the matrix is not known")
    if min(xml.encoded.matrix) < 1:
        raise BadInputError(
            f"{source}: the header gives the encoded matrix {xml.encoded.matrix} (x, y, z); "
            "its numbers must be positive"
        )
    chosen, calibration = _choose(xml, heads, source, notes)
    warn_of_ghosts(xml, heads, samples, chosen, source)
    noise = [_matrix(samples[i], heads[i]) for i in np.flatnonzero(is_flag_set(heads["flags"], 19))]
    lines = readouts(heads, samples, chosen, source)
    whitening, covariance = None, None
    if noise:
        scale = _dwell_ratio(heads, chosen, xml)
        whitening, covariance = whitening_of(noise, lines.coils, scale, notes)
    if _siemens(xml):
        notes.append("Siemens: conjugated, because its directions assume the other Fourier sign")
        lines.conjugate()
    if whitening is not None:
        lines.whiten(whitening)
    header = Header(
        noise_covariance=covariance, whitening=whitening, system=xml.system, ignored=ignored
    )
    points = _points(heads, coordinates, chosen, source)
    if is_trajectory(xml, points, source, notes):
        assert points is not None
        arms = along_trajectory(lines, points, xml, source, notes)
        header.labels = arms.labels
        first, volumetric = heads[chosen][arms.first], len(arms.encoding.matrix) == 3
        header.geometry = _geometry(arms.space, first, arms.labels, volumetric, notes)
        return make_trajectory_acquisition(
            arms.samples, arms.encoding, source, "ISMRMRD", notes=notes, header=header
        )
    stack = assemble(lines, xml, source, notes)
    header.labels, header.crop, header.centre = stack.labels, stack.crop, stack.centre
    first = heads[chosen][stack.first]
    header.geometry = _geometry(xml.encoded, first, stack.labels, stack.volumetric, notes)
    csm = _maps(heads, samples, calibration, xml, stack, whitening, source, notes)
    return make_acquisition(
        stack.kspace,
        source,
        "ISMRMRD",
        mask=stack.mask,
        csm=csm,
        notes=notes,
        header=header,
        volume=stack.volumetric,
    )


def _points(
    heads: np.ndarray, coordinates: np.ndarray | None, chosen: np.ndarray, source: str
) -> list[np.ndarray] | None:
    """The coordinates of the chosen readouts, (sample, dimension) each; None if any lacks them."""
    if coordinates is None:
        return None
    dimensions = heads["trajectory_dimensions"]
    if not np.isin(dimensions[chosen], (2, 3)).all():
        return None
    for i in chosen:
        needed = int(heads["number_of_samples"][i]) * int(dimensions[i])
        if np.size(coordinates[i]) != needed:
            raise BadInputError(
                f"{source}: readout {i} holds {np.size(coordinates[i])} coordinates, but its "
                f"header says {needed}: the file is damaged"
            )
    return [np.asarray(coordinates[i], float).reshape(-1, dimensions[i]) for i in chosen]


def _siemens(xml: XmlHeader) -> bool:
    return "siemens" in xml.system.get("systemVendor", "").lower()


def _choose(
    xml: XmlHeader, heads: np.ndarray, source: str, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the readouts of the images, and of a separate calibration scan."""
    flags = heads["flags"]
    used = ~is_flag_set(flags, NOISE, *NOT_IMAGES)
    for number, name in NOT_IMAGES.items():
        count = int((is_flag_set(flags, number) & ~is_flag_set(flags, NOISE)).sum())
        if count:
            notes.append(f"{count} {name} readouts are left out")
    if "encoding_space_ref" in (heads.dtype.names or ()):
        elsewhere = used & (heads["encoding_space_ref"] != 0)
        used &= ~elsewhere
        if elsewhere.any():
            notes.append(f"{int(elsewhere.sum())} readouts of a second encoding are left out")
    only_calibration = is_flag_set(flags, CALIBRATION) & ~is_flag_set(
        flags, CALIBRATION_AND_IMAGING
    )
    calibration = np.zeros(0, int)
    # Calibration lines of an embedded scan are samples of the image; separate ones are not.
    if xml.calibration_mode in SEPARATE:
        calibration = np.flatnonzero(used & only_calibration)
        used &= ~only_calibration
    chosen = np.flatnonzero(used)
    if not len(chosen):
        raise BadInputError(f"{source}: none of its {len(heads)} readouts belongs to an image")
    return chosen, calibration


def _matrix(values: np.ndarray, head: Any) -> np.ndarray:
    """Samples of a readout, (coil, sample)."""
    flat = np.ascontiguousarray(values, np.float32).view(np.complex64)
    return flat.reshape(int(head["active_channels"]), int(head["number_of_samples"]))


def readouts(heads: np.ndarray, samples: np.ndarray, chosen: np.ndarray, source: str) -> Readouts:
    """The chosen readouts with their counters, centres and directions."""
    found = heads[chosen]
    coils = np.unique(found["active_channels"])
    if len(coils) != 1 or coils[0] == 0:
        raise BadInputError(f"{source}: readouts have different numbers of coils: {coils.tolist()}")
    names = found.dtype.names or ()
    zeros = np.zeros(len(found), int)
    before, after = (
        found[n].astype(int) if n in names else zeros for n in ("discard_pre", "discard_post")
    )
    return Readouts(
        samples=[_matrix(samples[i], heads[i]) for i in chosen],
        centre=found["center_sample"].astype(int),
        reverse=is_flag_set(found["flags"], REVERSE),
        discard=np.stack([before, after], 1),
        lines=found["idx"]["kspace_encode_step_1"].astype(int),
        partitions=found["idx"]["kspace_encode_step_2"].astype(int),
        counters={name: found["idx"][name].astype(int) for name in COUNTERS},
    )


def _dwell_ratio(heads: np.ndarray, chosen: np.ndarray, xml: XmlHeader) -> float:
    """Noise variance of the images divided by that of the noise scan, by their bandwidths.

    A noise scan with dwell time t sees ``bandwidth / t`` of the noise, while a readout of the
    images sees all of its ``1 / t``. ``relativeReceiverNoiseBandwidth`` is the share that passes
    the receiver.
    """
    if "sample_time_us" not in (heads.dtype.names or ()):
        return 1.0
    noise = heads["sample_time_us"][is_flag_set(heads["flags"], NOISE)]
    times = float(np.median(noise)), float(np.median(heads["sample_time_us"][chosen]))
    # Converters often write 0 or nonsense; without usable numbers equal bandwidths are assumed.
    ratio = times[0] / times[1] if min(times) > 0 else 1.0
    bandwidth = xml.noise_bandwidth or 1.0
    bandwidth = bandwidth if BANDWIDTHS[0] <= bandwidth <= BANDWIDTHS[1] else 1.0
    return ratio / bandwidth if 1e-3 < ratio < 1e3 else 1.0


BANDWIDTHS = (0.1, 2.0)
"""Plausible relative noise bandwidths of a receiver; Siemens converters write 0.79."""


def _geometry(
    space: Space,
    first: np.ndarray,
    labels: list[dict[str, int]],
    volumetric: bool,
    notes: list[str],
) -> Geometry | None:
    """The geometry of the frames, from the first readout of each."""
    if min(space.fov) <= 0:
        notes.append("the header has no field of view: the pixel size is not known")
        return None
    names = first.dtype.names or ()
    needed = ("position", "read_dir", "phase_dir", "slice_dir")
    vectors = {n: first[n].astype(float) if n in names else np.zeros((1, 3)) for n in needed}
    axes = [_unit(vectors[n][0]) for n in ("slice_dir", "phase_dir", "read_dir")]
    oriented = all(a is not None for a in axes) and all(
        np.isfinite(v).all() for v in vectors.values()
    )
    if not oriented:
        notes.append("orientation is not in the file: axial slices are assumed")
        axes = [np.eye(3)[2 - i] for i in range(3)]
    directions = [tuple(float(v) for v in np.asarray(a)) for a in axes]
    spacing = tuple(f / n for f, n in zip(space.fov[::-1], space.matrix[::-1]))
    partitions = space.matrix[2] if volumetric else 1
    return place(
        labels, spacing, directions, vectors["position"], oriented, notes, partitions=partitions
    )


def _unit(vector: np.ndarray) -> np.ndarray | None:
    length = float(np.linalg.norm(vector))
    return vector / length if 0.5 < length < 2 else None


def _maps(
    heads: np.ndarray,
    samples: np.ndarray,
    calibration: np.ndarray,
    xml: XmlHeader,
    stack: Stack,
    whitening: np.ndarray | None,
    source: str,
    notes: list[str],
) -> np.ndarray | None:
    """Coil maps of a separate calibration scan, whose readouts are not samples of the image."""
    if not len(calibration):
        return None
    lines = readouts(heads, samples, calibration, source)
    if _siemens(xml):
        lines.conjugate()
    if whitening is not None:
        lines.whiten(whitening)
    reference = assemble(lines, xml, source, [])
    if reference.kspace.shape[2:] != stack.kspace.shape[2:]:
        return None
    csm = _estimated(reference, source)
    slices = [label["slice"] for label in reference.labels]
    if not all(label["slice"] in slices for label in stack.labels):
        notes.append("the separate calibration scan covers other slices and is ignored")
        return None
    notes.append(f"coil maps are from {len(calibration)} readouts of a separate calibration scan")
    return np.asarray(csm[[slices.index(label["slice"]) for label in stack.labels]])


def _estimated(reference: Stack, source: str) -> np.ndarray:
    """Coil maps of each frame of a calibration scan; for volumes, slice by slice."""
    from equipoise.physics.coils.espirit import estimate_csm

    if not reference.volumetric:
        return estimate_csm(*reference.tensors()).numpy()
    volume = make_acquisition(reference.kspace, source, "ISMRMRD", mask=reference.mask, volume=True)
    slices = as_slices(volume)
    return join_slices(estimate_csm(slices.kspace, slices.mask), volume).numpy()
