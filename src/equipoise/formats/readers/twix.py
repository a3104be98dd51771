"""Siemens raw data (twix ``.dat``), read with pymapvbvd (the extra ``[twix]``).

The last measurement of the file is the scan, and earlier ones are adjustments. Noise readouts of
any of them are used for whitening. The data are conjugated, because Siemens' directions assume the
other sign of the Fourier transform.
"""

import struct
import warnings
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from equipoise.formats.acquisition import Acquisition, make_acquisition
from equipoise.formats.header import Geometry, Header
from equipoise.formats.limits import check_size
from equipoise.formats.readers.epi import warn_of_ghosts
from equipoise.formats.readers.readouts import (
    STEP_1,
    STEP_2,
    Readouts,
    Stack,
    assemble,
    place,
    whitening_of,
)
from equipoise.formats.readers.reference import are_separate, calibration_of
from equipoise.formats.readers.stopped import without_stopped
from equipoise.formats.readers.xml_header import Limit, Space, XmlHeader
from equipoise.optional import need
from equipoise.outcome import BadInputError

MAX_MEASUREMENTS = 64
MAX_BUFFERS = 64
SCAN_HEADER, CHANNEL_HEADER = {"VB": 0, "VD": 192}, {"VB": 128, "VD": 32}
MASK_OFFSET, SAMPLES_OFFSET = {"VB": 20, "VD": 40}, {"VB": 28, "VD": 48}
HEADER_BYTES = {"VB": 128, "VD": 184}
END, SYNC = 1, 1 << 5
COUNTERS = {"set": "Set", "phase": "Phs", "repetition": "Rep", "contrast": "Eco", "slice": "Sli"}


def recognizes(path: Path) -> bool:
    """True if measurements with named header buffers begin at the offsets in the file."""
    if not path.is_file() or path.stat().st_size < 256:
        return False
    with path.open("rb") as file:
        return all(_starts_measurement(file, offset) for offset in _offsets(file)[1])


def _offsets(file: IO[bytes]) -> tuple[str, list[int]]:
    """Software line, and the offsets of the measurements: VB has one, VD has a list of them."""
    file.seek(0)
    first, count = struct.unpack("<II", file.read(8))
    if first >= 10000 or not 0 < count <= MAX_MEASUREMENTS:
        return "VB", [0]
    file.seek(16)
    records = file.read(152 * count)
    if len(records) < 152 * count:
        # An offset behind any file: the caller then finds no measurement and refuses the file.
        return "VD", [2**63]
    return "VD", [struct.unpack_from("<Q", records, 152 * i)[0] for i in range(count)]


def _starts_measurement(file: IO[bytes], offset: int) -> bool:
    file.seek(0, 2)
    size = file.tell()
    if offset + 32 > size:
        return False
    file.seek(offset)
    length, count = struct.unpack("<II", file.read(8))
    name = file.read(24).split(b"\0")[0]
    return (
        16 < length <= size - offset
        and 0 < count <= MAX_BUFFERS
        and name.isalnum()
        and name.isascii()
    )


def read(path: Path) -> Acquisition:
    """Read the last measurement of a twix file."""
    module = need("mapvbvd", "twix", "reading Siemens raw data")
    # The library would loop or read beyond the end of a damaged file.
    _check_blocks(path)
    with warnings.catch_warnings():
        # The library warns about things that the notes here say better.
        warnings.simplefilter("ignore")
        found = module.mapVBVD(str(path), quiet=True, removeOS=False, disableReflect=True)
    measurements = found if isinstance(found, list) else [found]
    scan = measurements[-1]
    notes = ["Siemens: conjugated, because its directions assume the other Fourier sign"]
    if "image" not in scan:
        raise BadInputError(f"{path}: the last of {len(measurements)} measurements has no image")
    known = ("hdr", "image", "noise", "refscan")
    ignored = [f"{name} readouts" for name in scan if name not in known]
    if len(measurements) > 1:
        notes.append(f"the last of {len(measurements)} measurements is read")
    xml = _header(scan["hdr"], scan["image"], path)
    images, reference = _split(scan, path)
    whole, left_out = without_stopped(images, notes)
    images = images.take(whole)
    _look_for_ghosts(scan, images, path)
    noise = [(m, m["noise"]) for m in measurements if "noise" in m]
    whitening, covariance = None, None
    if noise:
        # The last noise scan has the receiver settings that are closest to those of the scan.
        measurement, readouts = noise[-1]
        scale = _dwell(measurement["hdr"]) / _dwell(scan["hdr"])
        samples = [s.conj() for s in _samples(readouts, path)]
        whitening, covariance = whitening_of(samples, images.coils, scale, notes)
    # Conjugated like the noise above; otherwise the covariance would not be that of the samples.
    for lines in (images, reference):
        lines.conjugate()
        if whitening is not None:
            lines.whiten(whitening)
    stack = assemble(images, xml, str(path), notes)
    calibration = None
    if reference.samples:
        limits = {STEP_1: _limit(scan["refscan"].Lin, scan["refscan"].centerLin),
                  STEP_2: _limit(scan["refscan"].Par, scan["refscan"].centerPar)}  # fmt: skip
        own = replace(xml, limits=limits)
        calibration = calibration_of(reference, own, stack, xml, str(path), notes)
    header = Header(
        geometry=_geometry(scan["image"].slicePos[whole[stack.first]], xml, stack, notes),
        crop=stack.crop,
        centre=stack.centre,
        labels=stack.labels,
        noise_covariance=covariance,
        whitening=whitening,
        system=xml.system,
        ignored=ignored,
        left_out=left_out,
    )
    return make_acquisition(
        stack.kspace,
        str(path),
        "Siemens twix",
        mask=stack.mask,
        notes=notes,
        header=header,
        calibration=calibration,
        volume=stack.volumetric,
    )


def _look_for_ghosts(scan: Any, images: Readouts, path: Path) -> None:
    """Warn of ghosts if ramps are sampled, or the scan has navigators and both read directions."""
    on_ramps = scan["image"].rampSampTrj is not None
    both_ways = bool(images.reverse.any()) and not bool(images.reverse.all())
    if not on_ramps and not (both_ways and "phasecor" in scan):
        return
    lines, reverse = [], np.zeros(0, bool)
    if "phasecor" in scan:
        lines = _samples(scan["phasecor"], path)
        reverse = np.asarray(scan["phasecor"].IsReflected, bool)
    warn_of_ghosts(lines, reverse, str(path), on_ramps=on_ramps)


def _split(scan: Any, path: Path) -> tuple[Readouts, Readouts]:
    """The readouts of the images, with integrated reference lines, and those of a separate scan."""
    images = _readouts(scan["image"], path)
    if "refscan" not in scan:
        return images, images.take(np.zeros(0, int))
    stored = np.asarray(scan["image"].memPos), np.asarray(scan["refscan"].memPos)
    # A readout with both flags appears in both lists, and must count once.
    both = np.isin(stored[1], stored[0])  # flagged for reference and image
    reference = _readouts(scan["refscan"], path).take(np.flatnonzero(~both))
    lines = images.joined(reference)
    flagged = np.arange(len(lines.samples)) >= len(images.samples)
    mode = scan["hdr"].get("MeasYaps", {}).get(("sPat", "ucRefScanMode"))
    separate = are_separate(lines, flagged, _declared(mode, bool(both.any())))
    return lines.take(np.flatnonzero(~separate)), lines.take(np.flatnonzero(separate))


INTEGRATED, SEPARATE = 2, (4, 8)
"""Values of ``ucRefScanMode``: in place; extra and prescan."""


def _declared(mode: Any, both: bool) -> bool | None:
    """Whether the protocol calls the reference scan separate; None if it does not say."""
    try:
        number = int(float(mode)) if not isinstance(mode, str) else int(mode.split()[0], 0)
    except (TypeError, ValueError, IndexError, OverflowError):
        number = 0
    # A readout that belongs to the image contradicts a separate scan, whatever the protocol says.
    if number in SEPARATE and not both:
        return True
    return False if number == INTEGRATED or both else None


def _check_blocks(path: Path) -> None:
    """Check that each readout lies inside the file and that their chain ends.

    The library follows the same chain without checks, and would loop or read beyond the end.

    Raises
    ------
    BadInputError
        If a readout reaches beyond the end of the file or the chain of readouts stands still.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        version, offsets = _offsets(file)
        for offset in offsets:
            file.seek(offset)
            position = offset + struct.unpack("<I", file.read(4))[0]
            while position is not None:
                if position + HEADER_BYTES[version] > size:
                    raise BadInputError(
                        f"{path} is truncated: a readout should begin at byte {position}, but the "
                        f"file has {size}: copy it again"
                    )
                file.seek(position)
                position = _next(file.read(HEADER_BYTES[version]), version, position, path)


def _next(header: bytes, version: str, position: int, path: Path) -> int | None:
    """The offset of the next readout; None at the end of the measurement."""
    length = struct.unpack_from("<I", header)[0] & 0x1FFFFFF
    (mask,) = struct.unpack_from("<I", header, MASK_OFFSET[version])
    # Some files end with zeros instead of the end mark.
    if length == 0 or mask & END:
        return None
    # Several readouts can share one block of memory, whose length field is then not that of one
    # readout.
    if not mask & SYNC:
        samples, channels = struct.unpack_from("<HH", header, SAMPLES_OFFSET[version])
        length = SCAN_HEADER[version] + (8 * samples + CHANNEL_HEADER[version]) * channels
    # A shorter step would read the same bytes for ever.
    if length < HEADER_BYTES[version]:
        raise BadInputError(f"{path} is damaged: the readout at byte {position} has no length")
    return position + length


def _samples(readouts: Any, path: Path) -> list[np.ndarray]:
    """Readouts in the order of their acquisition, (coil, sample) each."""
    declared = 8 * int((np.asarray(readouts.NCol) * np.asarray(readouts.NCha)).sum())
    check_size(f"{path}: {readouts.dType}", declared, path.stat().st_size)
    with redirect_stderr(StringIO()):  # the library draws a bar, whatever is asked of it
        array = np.asarray(readouts.unsorted())  # (sample, coil, readout)
    return [array[:, :, i].T for i in range(array.shape[2])]


def _readouts(image: Any, path: Path) -> Readouts:
    samples = _samples(image, path)
    cut = np.asarray(image.cutOff, int).reshape(len(samples), 2)
    return Readouts(
        samples=samples,
        centre=np.asarray(image.centerCol, int),
        reverse=np.asarray(image.IsReflected, bool),
        discard=cut,
        lines=np.asarray(image.Lin, int),
        partitions=np.asarray(image.Par, int),
        counters={name: np.asarray(getattr(image, key), int) for name, key in COUNTERS.items()},
    )


def _header(hdr: Any, image: Any, path: Path) -> XmlHeader:
    """Matrix, field of view and centre, in the form of an ISMRMRD header."""
    protocol = hdr.get("MeasYaps", {})
    slice_0 = ("sSliceArray", "asSlice", "0")
    base = int(_number(protocol, ("sKSpace", "lBaseResolution"), 0))
    fov = [_number(protocol, (*slice_0, n), 0) for n in ("dReadoutFOV", "dPhaseFOV", "dThickness")]
    lines = _number(hdr.get("Meas", {}), "iPEFTLen", 0)
    # iPEFTLen counts the lines of the whole matrix, also with partial Fourier and oversampling.
    ny = int(lines or _number(protocol, ("sKSpace", "lPhaseEncodingLines"), 0))
    nz = int(_number(protocol, ("sKSpace", "lPartitions"), 1))
    if base <= 0 or ny <= 0 or max(base, ny, nz) > 2**16:
        raise BadInputError(
            f"{path}: the protocol gives a matrix of {base} x {ny} x {nz}: it is damaged, or from "
            "an unknown software version"
        )
    centre = np.asarray(image.centerCol, int), np.asarray(image.NCol, int)
    full = int(np.max(np.maximum(2 * centre[0], 2 * (centre[1] - centre[0]))))
    # The protocol does not store the oversampling of the readout; the echo's distance from the ends
    # shows it, also for a partial echo.
    oversampling = 2 if full > 1.5 * base else 1
    more = 1 + _number(protocol, ("sKSpace", "dPhaseOversamplingForDialog"), 0)
    slab = 1 + _number(protocol, ("sKSpace", "dSliceOversamplingForDialog"), 0)
    encoded = (oversampling * fov[0], more * fov[1], slab * fov[2])
    return XmlHeader(
        encoded=Space((oversampling * base, ny, nz), encoded),
        recon=Space((base, round(ny / more), round(nz / slab)), (fov[0], fov[1], fov[2])),
        limits={
            STEP_1: _limit(image.Lin, image.centerLin),
            STEP_2: _limit(image.Par, image.centerPar),
        },
        system=_system(hdr),
    )


def _limit(counter: Any, centre: Any) -> Limit:
    return Limit(int(np.min(counter)), int(np.max(counter)), int(np.median(centre)))


def _system(hdr: Any) -> dict[str, str]:
    dicom = hdr.get("Dicom", {})
    names = {
        "systemVendor": "Manufacturer",
        "systemModel": "ManufacturersModelName",
        "institutionName": "InstitutionName",
        "systemFieldStrength_T": "flMagneticFieldStrength",
        "protocolName": "tProtocolName",
    }
    found = {name: str(dicom[key])[:200] for name, key in names.items() if dicom.get(key)}
    return {"systemVendor": "SIEMENS"} | found


def _number(values: Any, key: Any, default: float) -> float:
    """A finite number of the protocol, or the default."""
    try:
        value = float(str(values.get(key, default)).split()[0])
    except (ValueError, IndexError):
        return default
    return value if np.isfinite(value) and value >= 0 else default


def _dwell(hdr: Any) -> float:
    return _number(hdr.get("MeasYaps", {}), ("sRXSPEC", "alDwellTime", "0"), 1) or 1.0


def _geometry(slice_pos: Any, xml: XmlHeader, stack: Stack, notes: list[str]) -> Geometry | None:
    """The geometry, from position and quaternion (w, x, y, z) of each image's first readout."""
    assert xml.encoded is not None
    if min(xml.encoded.fov) <= 0:
        notes.append("the protocol has no field of view: the pixel size is not known")
        return None
    placed = np.asarray(slice_pos, float)
    nx, ny, nz = xml.encoded.matrix
    fx, fy, fz = xml.encoded.fov
    partitions = nz if stack.volumetric else 1
    spacing = (fz / partitions, fy / ny, fx / nx)
    directions = _rotations(placed[:, 3:])
    return place(stack.labels, spacing, directions, placed[:, :3], notes, partitions=partitions)


def _rotations(quaternions: np.ndarray) -> np.ndarray | None:
    """Slice, phase and read direction of each frame, (frame, 3, 3), from (w, x, y, z)."""
    length = np.square(quaternions).sum(-1)
    # Only unit quaternions are rotations; others are fields that were never filled.
    if not np.isfinite(quaternions).all() or np.abs(length - 1).max() >= 0.1:
        return None
    w, x, y, z = quaternions.T
    # Columns of the rotation: phase, read and slice direction.
    phase = (1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y))
    read = (2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x))
    across = (2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y))
    return np.stack([np.stack(axis, -1) for axis in (across, phase, read)], 1)
