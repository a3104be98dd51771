"""From ISMRMRD readouts to a scan, whether they come from a file or from a scanner.

``encodingLimits`` of the header tells which counter is the centre of k-space.
:mod:`equipoise.formats.readers.readouts` puts the readouts on the matrix;
:mod:`equipoise.formats.readers.mrd_trajectory` keeps them at their stored coordinates.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from equipoise.formats.acquisition import (
    Acquisition,
    make_acquisition,
    make_trajectory_acquisition,
)
from equipoise.formats.header import Geometry, Header
from equipoise.formats.readers.epi import warn_of_ghosts
from equipoise.formats.readers.mrd_flags import (
    CALIBRATION,
    CALIBRATION_AND_IMAGING,
    NOISE,
    PHASE_CORRECTION,
    REVERSE,
    belongs,
    declared_separate,
    encodings,
    imaging_encoding,
    is_flag_set,
    only_calibration,
)
from equipoise.formats.readers.mrd_times import frame_time
from equipoise.formats.readers.mrd_trajectory import along_trajectory, is_trajectory
from equipoise.formats.readers.readouts import Readouts, assemble, place, whitening_of
from equipoise.formats.readers.reference import are_separate, calibration_of
from equipoise.formats.readers.stopped import without_stopped
from equipoise.formats.readers.xml_header import Space, XmlHeader, parse
from equipoise.outcome import BadInputError

COUNTERS = ("set", "phase", "repetition", "contrast", "slice")
"""The counters that keep images apart."""


Samples = list[np.ndarray] | np.ndarray


@dataclass
class Records:
    """Headers, samples and coordinates of all readouts.

    Attributes
    ----------
    heads
        The headers, an array of records with the fields of the standard.
    samples
        Of each readout, real and imaginary parts interleaved, coil by coil.
    coordinates
        Of each readout, flat; None if no readout has any.
    encoding
        The number of the encoding of the images.
    """

    heads: np.ndarray
    samples: Samples
    coordinates: Samples | None
    encoding: int = 0

    @property
    def encodings(self) -> np.ndarray:
        """The number of the encoding of each readout."""
        return encodings(self.heads)


def scan_of(
    records: Records,
    content: bytes | str,
    source: str,
    notes: list[str],
    ignored: list[str],
    counters: list[tuple[int, ...]] | None = None,
) -> Acquisition:
    """The scan of readouts and the XML header that belongs to them.

    Parameters
    ----------
    records
        All readouts: those of images, noise, calibration and navigators.
    content
        The XML header.
    source
        Where they come from, for messages.
    notes
        Receives what is assumed and left out.
    ignored
        What else the source holds.
    counters
        Receives the ``COUNTERS`` of each frame; the labels hold only those that vary.

    Raises
    ------
    BadInputError
        If the header cannot be used, or readouts and header contradict each other.
    """
    xml = parse(content, source)
    records.encoding = imaging_encoding(records.heads)
    if records.encoding:
        xml = parse(content, source, records.encoding)
        notes.append(f"the images are those of encoding {records.encoding}")
    return _acquisition(
        source, xml, content, records, notes, ignored, [] if counters is None else counters
    )


def _acquisition(
    source: str,
    xml: XmlHeader,
    content: bytes | str,
    records: Records,
    notes: list[str],
    ignored: list[str],
    counters: list[tuple[int, ...]],
) -> Acquisition:
    heads, samples = records.heads, records.samples
    if xml.encoded is None:
        raise BadInputError(f"{source}: the header has no encodedSpace: the matrix is not known")
    if min(xml.encoded.matrix) < 1:
        raise BadInputError(
            f"{source}: the header gives the encoded matrix {xml.encoded.matrix} (x, y, z); "
            "its numbers must be positive"
        )
    used = belongs(heads, notes)
    chosen = np.flatnonzero(used & (records.encodings == records.encoding))
    # A separate scan can have another contrast, and its lines must not fill the k-space of the
    # images.
    separate = are_separate(
        readouts(heads, samples, chosen), only_calibration(heads)[chosen], declared_separate(xml)
    )
    reference, chosen = chosen[separate], chosen[~separate]
    if not len(chosen):
        raise BadInputError(f"{source}: none of its {len(heads)} readouts belongs to an image")
    _look_for_ghosts(xml, heads, samples, chosen, source)
    lines = readouts(heads, samples, chosen)
    _check_coils(heads[chosen], source)
    whole, left_out = without_stopped(lines, notes)
    lines, chosen = lines.take(whole), chosen[whole]
    whitening, covariance = None, None
    noise = [_matrix(samples[i], heads[i]) for i in np.flatnonzero(is_flag_set(heads["flags"], 19))]
    if noise:
        scale = _dwell_ratio(heads, chosen, xml)
        whitening, covariance = whitening_of(noise, lines.coils, scale, notes)
    if _siemens(xml):
        notes.append("Siemens: conjugated, because its directions assume the other Fourier sign")
    _prepare(lines, xml, whitening)
    header = Header(
        noise_covariance=covariance,
        whitening=whitening,
        system=xml.system,
        study=xml.study,
        ignored=ignored,
        left_out=left_out,
        frame_ms=frame_time(heads[chosen], xml, notes),
    )
    points = _points(heads, records.coordinates, chosen, source)
    # Whitened before gridding, which mixes samples but not coils.
    if is_trajectory(xml, points, source, notes):
        assert points is not None
        arms = along_trajectory(lines, points, xml, source, notes)
        header.labels = arms.labels
        first, volumetric = heads[chosen][arms.first], len(arms.encoding.matrix) == 3
        counters += _counters(first)
        header.geometry = _geometry(arms.space, first, arms.labels, volumetric, notes)
        return make_trajectory_acquisition(
            arms.samples, arms.encoding, source, "ISMRMRD", notes=notes, header=header
        )
    stack = assemble(lines, xml, source, notes)
    header.labels, header.crop, header.centre = stack.labels, stack.crop, stack.centre
    first = heads[chosen][stack.first]
    counters += _counters(first)
    header.geometry = _geometry(xml.encoded, first, stack.labels, stack.volumetric, notes)
    own, reference = _reference(xml, content, records, used, reference, source, notes)
    calibration = None
    if len(reference):
        separate_lines = readouts(heads, samples, reference)
        _prepare(separate_lines, xml, whitening if separate_lines.coils == lines.coils else None)
        calibration = calibration_of(separate_lines, own, stack, xml, source, notes)
    return make_acquisition(
        stack.kspace,
        source,
        "ISMRMRD",
        mask=stack.mask,
        notes=notes,
        header=header,
        calibration=calibration,
        volume=stack.volumetric,
    )


def _counters(first: np.ndarray) -> list[tuple[int, ...]]:
    """The counters of frames, from the first readout of each."""
    return list(zip(*(first["idx"][name].tolist() for name in COUNTERS)))


def _look_for_ghosts(
    xml: XmlHeader, heads: np.ndarray, samples: Samples, chosen: np.ndarray, source: str
) -> None:
    """Warn of ghosts if the header says EPI, or there are navigators and both read directions."""
    reverse = is_flag_set(heads["flags"], REVERSE)
    navigators = np.flatnonzero(is_flag_set(heads["flags"], PHASE_CORRECTION))
    both_ways = len(np.unique(reverse[chosen])) > 1
    if (xml.trajectory or "").lower() == "epi" or (both_ways and len(navigators)):
        lines = [_matrix(samples[i], heads[i]) for i in navigators]
        warn_of_ghosts(lines, reverse[navigators], source)


def _prepare(lines: Readouts, xml: XmlHeader, whitening: np.ndarray | None) -> None:
    if _siemens(xml):
        lines.conjugate()
    if whitening is not None:
        lines.whiten(whitening)


def _reference(
    xml: XmlHeader,
    content: bytes | str,
    records: Records,
    used: np.ndarray,
    separate: np.ndarray,
    source: str,
    notes: list[str],
) -> tuple[XmlHeader, np.ndarray]:
    """The readouts of a separate calibration scan, and the header of their encoding.

    It is the encoding of the images, or another whose readouts are flagged for calibration.
    """
    elsewhere = used & (records.encodings != records.encoding)
    flags = records.heads["flags"]
    flagged = elsewhere & is_flag_set(flags, CALIBRATION, CALIBRATION_AND_IMAGING)
    numbers = np.unique(records.encodings[flagged])
    # With lines in the first encoding, or with several candidates, no encoding is clearly the
    # calibration.
    if len(separate) or len(numbers) != 1:
        own, chosen = xml, separate
    else:
        own, chosen = parse(content, source, int(numbers[0])), np.flatnonzero(flagged)
        elsewhere &= ~flagged
        if own.encoded is None or min(own.encoded.matrix) < 1:
            notes.append("the header does not describe the encoding of the calibration scan")
            own, chosen = xml, separate
    if elsewhere.any():
        notes.append(f"{int(elsewhere.sum())} readouts of a second encoding are left out")
    return own, chosen


def _points(
    heads: np.ndarray, coordinates: Samples | None, chosen: np.ndarray, source: str
) -> list[np.ndarray] | None:
    """The coordinates of the chosen readouts, (sample, dimension) each; None if any lacks them."""
    if coordinates is None:
        return None
    dimensions = heads["trajectory_dimensions"]
    # One coordinate is the position along a straight readout, as of ramp sampling, and does not
    # place it.
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


def _matrix(values: np.ndarray, head: Any) -> np.ndarray:
    """Samples of a readout, (coil, sample)."""
    flat = np.ascontiguousarray(values, np.float32).view(np.complex64)
    return flat.reshape(int(head["active_channels"]), int(head["number_of_samples"]))


def _check_coils(heads: np.ndarray, source: str) -> None:
    coils = np.unique(heads["active_channels"])
    if len(coils) != 1 or coils[0] == 0:
        raise BadInputError(f"{source}: readouts have different numbers of coils: {coils.tolist()}")


def readouts(heads: np.ndarray, samples: Samples, chosen: np.ndarray) -> Readouts:
    """The chosen readouts with the numbers that place them."""
    found = heads[chosen]
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
    # A ratio beyond all receivers is a wrong unit, and would scale the noise by it.
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
    needed = ("position", "slice_dir", "phase_dir", "read_dir")
    # The headers in a file may lack some fields.
    position, *axes = (
        first[n].astype(float) if n in names else np.zeros((len(first), 3)) for n in needed
    )
    spacing = tuple(f / n for f, n in zip(space.fov[::-1], space.matrix[::-1]))
    partitions = space.matrix[2] if volumetric else 1
    return place(labels, spacing, _units(axes), position, notes, partitions=partitions)


UPRIGHT = 0.99
"""Smallest volume that three unit vectors span for their angles to count as right ones, rounded."""


def _units(axes: list[np.ndarray]) -> np.ndarray | None:
    """Vectors (frame, 3) of each axis as unit vectors (frame, axis, 3); None if one is unusable."""
    vectors = np.stack(axes, 1)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    # Rounded unit vectors are normalised; zeros and other placeholders of converters are not
    # directions.
    if not np.isfinite(vectors).all() or length.min() <= 0.5 or length.max() >= 2:
        return None
    units = np.asarray(vectors / length)
    return units if np.abs(np.linalg.det(units)).min() > UPRIGHT else None
