"""Readouts of ISMRMRD files that store their coordinates in k-space: spokes, spiral arms.

The standard does not define the unit of the coordinates. Coordinates within -0.5 to 0.5 are taken
as cycles per sample, as in Gadgetron, and others as cycles per field of view. A third coordinate of
2D data is the density, also as in Gadgetron.
"""

from dataclasses import dataclass

import numpy as np
import torch

from equipoise.formats.encoding import PER_SAMPLE, TrajectoryEncoding, in_cycles
from equipoise.formats.readers.readouts import Readouts, labels_of
from equipoise.formats.readers.xml_header import Space, XmlHeader
from equipoise.outcome import BadInputError

CARTESIAN = ("cartesian", "epi")

ON_A_LINE = 0.01
"""Share of the extent of k-space by which a Cartesian readout may leave its line."""


def is_trajectory(
    xml: XmlHeader, coordinates: list[np.ndarray] | None, source: str, notes: list[str]
) -> bool:
    """Whether the readouts lie along a trajectory, by the header or by their coordinates.

    Raises
    ------
    BadInputError
        If the header names a trajectory but the readouts store no coordinates.
    """
    named = xml.trajectory is not None and xml.trajectory.lower() not in CARTESIAN
    if coordinates is None:
        if named:
            raise BadInputError(
                f"{source}: the trajectory is {xml.trajectory}, but the readouts store no "
                "coordinates. Only Cartesian scans are reconstructed, and other scans can be "
                "described only with coordinates: store the coordinates with the readouts"
            )
        return False
    if named or _on_lines([c[:, :2] for c in coordinates]):
        return named
    notes.append(
        f"the header says {xml.trajectory or 'nothing about the trajectory'}, but the stored "
        "coordinates lie off the lines of a matrix: the coordinates are used"
    )
    return True


def _on_lines(coordinates: list[np.ndarray]) -> bool:
    """Whether all readouts run along one axis, so that their coordinates are those of a matrix.

    Coordinates that are not numbers do not count.
    """
    # Some converters leave the coordinates of Cartesian scans unset.
    if not all(np.isfinite(c).all() for c in coordinates):
        return True
    ranges = np.array([np.ptp(c, axis=0) for c in coordinates])
    extent = max(float(np.abs(c).max()) for c in coordinates)
    along = int(ranges.sum(0).argmax())
    return bool((np.delete(ranges, along, 1) <= ON_A_LINE * extent).all())


@dataclass
class Arms:
    """Samples (frame, coil, readout, sample) along a trajectory, and the labels of the frames."""

    samples: np.ndarray
    encoding: TrajectoryEncoding
    labels: list[dict[str, int]]
    first: list[int]
    space: Space


def along_trajectory(
    lines: Readouts, coordinates: list[np.ndarray], xml: XmlHeader, source: str, notes: list[str]
) -> Arms:
    """Readouts of equal length as an array, with their coordinates.

    Raises
    ------
    BadInputError
        If readouts differ in length or in the number of coordinates.
    """
    shapes = {(s.shape[1], c.shape[1]) for s, c in zip(lines.samples, coordinates)}
    if len(shapes) > 1:
        raise BadInputError(
            f"{source}: its readouts have different numbers of samples and coordinates, "
            f"{sorted(shapes)}: split the file by these numbers"
        )
    samples, points = np.stack(lines.samples), np.stack(coordinates)
    begin, end = lines.discard.max(0)
    kept = slice(begin, points.shape[1] - end)
    samples, points = samples[..., kept], points[:, kept]
    space = xml.recon if xml.recon is not None and min(xml.recon.matrix[:2]) > 0 else xml.encoded
    assert space is not None
    nx, ny, nz = (max(n, 1) for n in space.matrix)
    points, density = _split(points, lines.partitions, nz, notes)
    matrix = (nz, ny, nx)[-points.shape[-1] :]
    points, note = in_cycles(points, matrix)
    notes.append(note)
    frames, labels, first = _frames(lines, notes)
    encoding = TrajectoryEncoding(
        _shared(points[frames]), matrix, xml.trajectory or "not named",
        None if density is None else _shared(density[frames]),
    )  # fmt: skip
    return Arms(samples[frames].swapaxes(1, 2), encoding, labels, first, space)


def _split(
    points: np.ndarray, partitions: np.ndarray, nz: int, notes: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Coordinates in the dimensions of the image, and the density if it is the third number."""
    if points.shape[-1] == 3 and nz == 1:
        third = points[..., 2]
        if third.any():
            notes.append("2D data with three coordinates: the third is taken as the density")
        return points[..., :2], third if third.any() else None
    # The header gives the third direction only by the counter of the partitions.
    if points.shape[-1] == 2 and partitions.any():
        notes.append(
            "a stack of 2D trajectories: the partition counter, about its middle, is the "
            "coordinate along z"
        )
        third = np.broadcast_to((partitions - nz // 2)[:, None, None], (*points.shape[:2], 1))
        # In the unit of the other coordinates, which is still that of the file.
        scale = nz if np.abs(points).max() <= PER_SAMPLE else 1
        return np.concatenate([points, third / scale], -1), None
    return points, None


def _frames(
    lines: Readouts, notes: list[str]
) -> tuple[np.ndarray, list[dict[str, int]], list[int]]:
    """Indices of the readouts of each frame, (frame, readout); incomplete frames are left out."""
    keys = np.stack(list(lines.counters.values()), 1)
    images, index = np.unique(keys, axis=0, return_inverse=True)
    members = [np.flatnonzero(index.ravel() == i) for i in range(len(images))]
    counts = np.array([len(m) for m in members])
    # An array needs frames of one length; incomplete frames are at the end of a scan that was
    # stopped.
    usual = int(np.bincount(counts).argmax())
    labels = labels_of(images, list(lines.counters))
    notes += [
        f"{labels[i]} has {counts[i]} readouts, others {usual}: it is left out"
        for i in np.flatnonzero(counts != usual)
    ]
    kept = np.flatnonzero(counts == usual)
    frames = np.stack([members[i] for i in kept])
    return frames, [labels[i] for i in kept], frames[:, 0].tolist()


def _shared(frames: np.ndarray) -> torch.Tensor:
    """The array of all frames, or of the first if all are equal."""
    same = bool((frames == frames[:1]).all())
    return torch.from_numpy(np.ascontiguousarray(frames[:1] if same else frames, np.float32))
