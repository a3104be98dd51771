"""A scan as a stack of 2D problems, or the reason why this is not possible."""

from dataclasses import replace

import numpy as np
from torch import Tensor

from equipoise.formats.acquisition import Acquisition
from equipoise.formats.calibration import Calibration, embedded
from equipoise.formats.encoding import CartesianEncoding, TrajectoryEncoding
from equipoise.formats.header import Geometry, Header, as_vector
from equipoise.formats.limits import check_size
from equipoise.outcome import BadInputError
from equipoise.physics.fourier import kspace_to_image


def why_not_solved(acquisition: Acquisition) -> str | None:
    """Why a scan cannot be reconstructed, and what can be done; None if it can."""
    encoding = acquisition.encoding
    if isinstance(encoding, TrajectoryEncoding):
        _, readouts, samples, _ = encoding.coordinates.shape
        return (
            f"the k-space is not Cartesian (trajectory {encoding.name}, {readouts} readouts of "
            f"{samples} samples): it is read and described, but not reconstructed. Grid it first, "
            "for instance with `bart nufft -i` and `bart fft -u`, and reconstruct the result"
        )
    if len(encoding.matrix) == 3 and encoding.readout is None:
        shares = ", ".join(f"{_share(encoding.lines(a)):.0%} along {a}" for a in encoding.axes)
        return (
            f"3D k-space (z, y, x) = {encoding.matrix} in which no axis is fully sampled (of the "
            f"lines that hold samples, {shares} were measured): models of (y, x) need a readout "
            "that is fully sampled, along which they cut a volume into slices. A model of "
            "(z, y, x), such as mol-guided-volume, solves it whole"
        )
    return None


def _share(lines: Tensor) -> float:
    return float(lines.double().mean(-1)[lines.any(-1)].mean())


def stack_shape(acquisition: Acquisition) -> tuple[int, int, int, int]:
    """The shape (images, coils, y, x) of :func:`as_slices`, without computing it.

    Raises
    ------
    BadInputError
        If the scan cannot be a stack of 2D problems.
    """
    _solvable(acquisition)
    frames, coils, *matrix = acquisition.samples.shape
    if len(matrix) == 3:
        frames *= matrix.pop(_readout_axis(acquisition))
    y, x = matrix
    return frames, coils, y, x


def _solvable(acquisition: Acquisition) -> CartesianEncoding:
    reason = why_not_solved(acquisition)
    if reason is not None or not isinstance(acquisition.encoding, CartesianEncoding):
        raise BadInputError(f"{acquisition.source}: {reason}")
    return acquisition.encoding


def as_slices(acquisition: Acquisition) -> Acquisition:
    """The scan as a stack of 2D problems, the form in which everything is solved.

    A stack of slices and frames is returned unchanged. A volume becomes one 2D problem for each
    sample of the inverse transform along its readout. This is exact: if the mask is constant along
    the readout, ``F_1D^-1 (M F_3D S x) = M F_2D S x`` slice by slice, and ``F_1D`` is unitary.

    Raises
    ------
    BadInputError
        If the k-space is not Cartesian, if it is 3D and no axis is fully sampled, or if the
        transformed volume does not fit into memory.
    """
    encoding = _solvable(acquisition)
    if len(encoding.matrix) == 2:
        return acquisition
    axis = _readout_axis(acquisition)
    size = acquisition.samples.nbytes
    check_size(f"{acquisition.source}: the transform along the readout", size, size)
    lines = encoding.lines(encoding.axes[axis])
    frames, n = len(acquisition.samples), encoding.matrix[axis]
    hybrid = kspace_to_image(acquisition.samples.movedim(2 + axis, -1), 1)
    mask = lines.any(-1).expand(frames, -1, -1).repeat_interleave(n, 0)
    return replace(
        acquisition,
        encoding=CartesianEncoding(mask),
        samples=_stack(hybrid) * mask[:, None],
        csm=None if acquisition.csm is None else cut_along(acquisition.csm, acquisition),
        target=None if acquisition.target is None else cut_along(acquisition.target, acquisition),
        notes=[*acquisition.notes, *_notes(encoding.axes[axis], lines)],
        header=header_along(acquisition.header, axis, encoding.matrix),
        calibration=_cut_calibration(acquisition.calibration, axis, n),
    )


def _cut_calibration(found: Calibration | None, axis: int, n: int) -> Calibration | None:
    """The calibration of the slices of a volume along an axis of ``n`` samples."""
    if found is None:
        return None
    blocks = found.blocks.movedim(2 + axis, -1)
    hybrid = kspace_to_image(embedded(blocks, (*blocks.shape[2:-1], n)), 1)
    of_frame = tuple(
        None if block is None else block * n + i for block in found.of_frame for i in range(n)
    )
    return Calibration(_stack(hybrid), of_frame, from_frames=found.from_frames)


def _stack(array: Tensor) -> Tensor:
    """(frame, ..., n) to (frame n, ...)."""
    return array.movedim(-1, 1).flatten(0, 1).contiguous()


def cut_along(array: Tensor, volume: Acquisition) -> Tensor:
    """Maps or images (1 or frames, ..., z, y, x) of a volume, cut into those of its slices."""
    frames, axis = len(volume.samples), _readout_axis(volume)
    return _stack(array.movedim(axis - 3, -1).expand(frames, *(-1,) * (array.ndim - 1)))


def _readout_axis(volume: Acquisition) -> int:
    encoding = _solvable(volume)
    assert encoding.readout is not None
    return encoding.axes.index(encoding.readout)


def join_slices(array: Tensor, volume: Acquisition) -> Tensor:
    """Images or maps of the slices of a volume, (images, coil, ., .), joined to a volume.

    This is the inverse of :func:`cut_along`; the result is (frame, coil, z, y, x).
    """
    slices = array.reshape(len(volume.samples), -1, *array.shape[1:])
    return slices.movedim(1, 2 + _readout_axis(volume))


def _notes(readout: str, lines: Tensor) -> list[str]:
    across = f"3D: inverse transform along the readout {readout}, one slice for each of its samples"
    measured = lines.flatten(0, -2).any(0)
    if bool(measured.all()):
        return [across]
    return [across, f"the readout holds {int(measured.sum())} of {len(measured)} samples: the "
            "others are taken as zero"]  # fmt: skip


def header_along(header: Header, axis: int, matrix: tuple[int, ...]) -> Header:
    """The header of the slices of volumes (z, y, x) along one of these axes."""
    n, several = matrix[axis], len({label.get("slice") for label in header.labels}) > 1
    labels = [
        {k: v for k, v in label.items() if k != "slice"}
        | ({"slab": label["slice"]} if several else {})
        | {"slice": i}
        for label in header.labels
        for i in range(n)
    ]
    geometry = None if header.geometry is None else _geometry(header.geometry, axis, n)
    crop, centre = _pair(header.crop, axis), _pair(header.centre, axis)
    return replace(header, labels=labels, geometry=geometry, crop=crop, centre=centre)


def _pair(numbers: tuple[int, ...] | None, axis: int) -> tuple[int, int] | None:
    if numbers is None:
        return None
    first, second = (v for i, v in enumerate(numbers) if i != axis)
    return first, second


def _geometry(volume: Geometry, axis: int, n: int) -> Geometry:
    """The geometry of slices across an axis (slice, y, x) of a volume with its centre at n // 2."""
    across, first, second = (axis, *(i for i in range(3) if i != axis))
    offsets = (np.arange(n) - n // 2)[:, None] * volume.spacing[across]
    turned = [
        (d[across], d[first], d[second]) for d in map(volume.directions, range(len(volume.centres)))
    ]
    centres = [
        as_vector(position)
        for centre, plane in zip(volume.centres, turned)
        for position in np.array(centre) + offsets * np.array(plane[0])
    ]
    return Geometry(
        (volume.spacing[across], volume.spacing[first], volume.spacing[second]),
        *turned[0],
        centres,
        volume.oriented,
        [plane for plane in turned for _ in range(n)] if volume.planes else [],
    )
