"""Readouts of a scan of any format, for a client to send."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from equipoise.formats.acquisition import Acquisition
from equipoise.formats.calibration import Calibration, embedded
from equipoise.formats.encoding import CartesianEncoding
from equipoise.formats.readers.mrd_flags import CALIBRATION
from equipoise.formats.readers.mrd_scan import COUNTERS
from equipoise.formats.slices import why_not_solved
from equipoise.optional import need
from equipoise.outcome import BadInputError
from equipoise.scanner.arrivals import LAST_IN_REPETITION, LAST_IN_SLICE
from equipoise.scanner.messages import head_type

Readout = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Header, samples and coordinates."""

NO_POINTS = np.zeros(0, np.float32)

LARGEST = 2**16 - 1


@dataclass
class Sent:
    """A scan for the wire.

    ``crop`` is the matrix (y, x) to which the client cuts the images; None if the server does.
    ``study`` is that of the header, which the images that come back do not have.
    """

    header: bytes
    readouts: Iterator[Readout]
    crop: tuple[int, ...] | None = None
    study: dict[str, str] = field(default_factory=dict)


def readouts_of(acquisition: Acquisition) -> Sent:
    """The header and readouts of a Cartesian scan; lines without samples are not sent.

    Raises
    ------
    BadInputError
        If it is not Cartesian, or too large for the counters of the protocol.
    """
    encoding = acquisition.encoding
    if not isinstance(encoding, CartesianEncoding):
        raise BadInputError(f"{acquisition.source}: {why_not_solved(acquisition)}")
    if max(acquisition.samples.shape) > LARGEST:
        raise BadInputError(
            f"{acquisition.source}: samples {tuple(acquisition.samples.shape)} exceed the counters "
            f"of the protocol, which end at {LARGEST}"
        )
    separate = acquisition.calibration
    if separate is not None and None in separate.of_frame:
        # The server finds the lines of other frames itself.
        separate = None
    header = _header(acquisition, separate is not None)
    crop = acquisition.header.crop if len(encoding.matrix) == 2 else None
    return Sent(header, _readouts(acquisition, separate), crop, acquisition.header.study)


def _counters(acquisition: Acquisition) -> list[dict[str, int]]:
    """The counters of each frame; labels that the protocol does not have become repetitions."""
    labels = acquisition.labels
    if all(set(label) <= set(COUNTERS) for label in labels):
        return labels
    others = [tuple(v for n, v in sorted(label.items()) if n != "slice") for label in labels]
    known = sorted(set(others))
    return [
        {"slice": label.get("slice", 0), "repetition": known.index(other)}
        for label, other in zip(labels, others)
    ]


def _readouts(acquisition: Acquisition, separate: Calibration | None) -> Iterator[Readout]:
    counters = _counters(acquisition)
    matrix = acquisition.samples.shape[2:]
    if separate is not None:
        sent = set()
        for frame, block in enumerate(separate.of_frame):
            if block not in sent:
                sent.add(block)
                found = embedded(separate.blocks[block], tuple(matrix))
                head = _head(acquisition, frame, counters[frame])
                head["flags"] = 1 << (CALIBRATION - 1)
                yield from _lines(found.numpy(), head)
    last = 1 << (LAST_IN_SLICE - 1 if len(matrix) == 2 else LAST_IN_REPETITION - 1)
    for frame, samples in enumerate(acquisition.samples.numpy()):
        head = _head(acquisition, frame, counters[frame])
        lines = list(_lines(samples, head))
        # The server reconstructs the frame when this one has arrived.
        lines[-1][0]["flags"] |= last
        yield from lines


def _lines(samples: np.ndarray, head: np.ndarray) -> Iterator[Readout]:
    """The lines of k-space (coil, [z,] y, x) that hold a sample."""
    volume = samples if samples.ndim == 4 else samples[:, None]
    for z, y in np.argwhere(volume.any(axis=(0, 3))):
        one = head.copy()
        one["idx"]["kspace_encode_step_1"], one["idx"]["kspace_encode_step_2"] = y, z
        yield one, np.ascontiguousarray(volume[:, z, y]).view(np.float32), NO_POINTS


def _head(acquisition: Acquisition, frame: int, counters: dict[str, int]) -> np.ndarray:
    coils, n = acquisition.samples.shape[1], acquisition.samples.shape[-1]
    head = np.zeros(1, head_type())
    head["version"], head["number_of_samples"], head["center_sample"] = 1, n, n // 2
    head["active_channels"] = head["available_channels"] = coils
    for name, value in counters.items():
        head["idx"][name] = value
    geometry = acquisition.header.geometry
    if geometry is not None:
        head["position"] = geometry.centres[frame]
        if geometry.oriented:
            names = ("slice_dir", "phase_dir", "read_dir")
            for name, axis in zip(names, geometry.directions(frame)):
                head[name] = axis
    return head


def _header(acquisition: Acquisition, separate: bool) -> bytes:
    xsd = need("ismrmrd.xsd", "mrd", "sending a scan")
    matrix = (1, *acquisition.samples.shape[2:])[-3:]
    geometry = acquisition.header.geometry
    spacing = (0.0, 0.0, 0.0) if geometry is None else geometry.spacing
    encoded = _space(xsd, matrix, spacing)
    crop = acquisition.header.crop
    # A volume is cut by the server; the readout of a slice cannot be cut there without loss.
    kept = crop if crop is not None and len(crop) == 3 else matrix
    centre = {
        "kspace_encoding_step_1": (matrix[1] - 1, matrix[1] // 2),
        "kspace_encoding_step_2": (matrix[0] - 1, matrix[0] // 2),
    }
    limits = {n: xsd.limitType(minimum=0, maximum=m, center=c) for n, (m, c) in centre.items()}
    encoding = xsd.encodingType(
        encodedSpace=encoded,
        reconSpace=_space(xsd, kept, spacing),
        encodingLimits=xsd.encodingLimitsType(**limits),
        trajectory=xsd.trajectoryType("cartesian"),
    )
    if separate:
        encoding.parallelImaging = xsd.parallelImagingType(
            accelerationFactor=xsd.accelerationFactorType(
                kspace_encoding_step_1=1, kspace_encoding_step_2=1
            ),
            calibrationMode=xsd.calibrationModeType("separate"),
        )
    header = xsd.ismrmrdHeader(
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=0),
        encoding=[encoding],
    )
    return str(xsd.ToXML(header)).encode()


def _space(xsd: Any, matrix: tuple[int, ...], spacing: tuple[float, ...]) -> Any:
    (z, y, x), (dz, dy, dx) = matrix, spacing
    return xsd.encodingSpaceType(
        matrixSize=xsd.matrixSizeType(x=x, y=y, z=z),
        fieldOfView_mm=xsd.fieldOfViewMm(x=x * dx, y=y * dy, z=z * dz),
    )
