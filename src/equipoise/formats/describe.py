"""What a reader understood about a scan: the content of ``equipoise info``."""

from typing import Any

import torch

from equipoise.formats.acquisition import Acquisition
from equipoise.formats.encoding import CartesianEncoding, TrajectoryEncoding
from equipoise.formats.header import TIMES, Geometry
from equipoise.formats.slices import stack_shape, why_not_solved
from equipoise.physics.noise_level import noise_level
from equipoise.physics.sampling.masks import calibration_region


def describe(acquisition: Acquisition) -> dict[str, Any]:
    """Shapes, sampling, noise, centre and orientation of a scan, for JSON.

    ``shape`` is the shape of the samples, ``axes`` are the names of its axes. ``problems`` is the
    number of 2D problems of the scan; if it is 0, ``not_solved`` gives the reason.
    ``centre_by_energy`` is the sample with the largest energy over frames and coils, ``centre`` is
    where the package assumes DC; both are (y, x), or (z, y, x) of a volume. ``noise_level`` is the
    standard deviation of a complex k-space sample, as the median over frames. Entries that a
    trajectory does not have are null, and so is ``trajectory`` for Cartesian scans.
    """
    header, encoding = acquisition.header, acquisition.encoding
    reason, geometry = why_not_solved(acquisition), header.geometry
    matrix = list(encoding.matrix)
    return {
        "file": acquisition.source,
        "format": acquisition.layout,
        "encoding": "Cartesian" if isinstance(encoding, CartesianEncoding) else "trajectory",
        "dimensions": len(matrix),
        "axes": list(acquisition.axes),
        "shape": list(acquisition.samples.shape),
        "images": len(acquisition.samples),
        "coils": acquisition.samples.shape[1],
        "matrix": matrix,
        "image_matrix": list(header.crop or matrix),
        "labels": _ranges(acquisition.labels),
        "frames_in_time": _frames_in_time(acquisition.labels),
        "problems": 0 if reason else stack_shape(acquisition)[0],
        "not_solved": reason,
        **_sampling(acquisition, encoding),
        "trajectory": _along(encoding) if isinstance(encoding, TrajectoryEncoding) else None,
        "whitened": header.whitening is not None,
        "centre_in_file": None if header.centre is None else list(header.centre),
        "pixel_mm": None if geometry is None else [float(v) for v in geometry.spacing],
        "field_of_view_mm": None if geometry is None else _field_of_view(geometry, matrix),
        "plane": geometry.plane if geometry is not None and geometry.oriented else None,
        "coil_maps": acquisition.csm is not None,
        "target": acquisition.target is not None,
        "system": header.system,
        "assumed": acquisition.notes,
        "ignored": header.ignored,
    }


def _field_of_view(geometry: Geometry, matrix: list[int]) -> list[float]:
    return [n * d for n, d in zip(matrix, geometry.spacing[-len(matrix) :])]


def _sampling(
    acquisition: Acquisition, encoding: CartesianEncoding | TrajectoryEncoding
) -> dict[str, Any]:
    """The entries about the samples of a matrix; null for a trajectory."""
    if isinstance(encoding, TrajectoryEncoding):
        names = ("readout", "acceleration", "calibration_region", "masks", "noise_level")
        return dict.fromkeys((*names, "centre", "centre_by_energy"))
    mask, samples = encoding.mask, acquisition.samples
    energy = samples.abs().square().sum((0, 1))
    peak = torch.nonzero(energy == energy.max())[0]
    return {
        "readout": encoding.readout if len(encoding.matrix) > len("yx") else None,
        "acceleration": encoding.acceleration,
        "calibration_region": list(_calibration(acquisition, mask[0])),
        "masks": len(mask) if bool((mask != mask[:1]).any()) else 1,
        "noise_level": float(noise_level(samples, mask).median()),
        "centre": [n // 2 for n in encoding.matrix],
        "centre_by_energy": peak.tolist(),
    }


def _calibration(acquisition: Acquisition, mask: torch.Tensor) -> tuple[int, ...]:
    """What the coil maps of the first frame are estimated from, along each axis."""
    shared = acquisition.calibration
    size = None if shared is None else shared.size(0, tuple(mask.shape))
    return calibration_region(mask) if size is None else size


def _along(encoding: TrajectoryEncoding) -> dict[str, Any]:
    """The entries of a trajectory; the extent is (y, x) in cycles per field of view."""
    frames, readouts, samples, _ = encoding.coordinates.shape
    return {
        "name": encoding.name,
        "readouts": readouts,
        "samples": samples,
        "frames": frames,
        "extent": list(encoding.extent),
        "density": encoding.density is not None,
        "matrix_visited": float(encoding.visited().double().mean()),
    }


def _ranges(labels: list[dict[str, int]]) -> dict[str, int]:
    """The number of different values of each label."""
    names = sorted({name for label in labels for name in label})
    return {name: len({label.get(name) for label in labels}) for name in names}


def _frames_in_time(labels: list[dict[str, int]]) -> int:
    """The number of points in time of a series; 1 without a series."""
    return len({tuple(label.get(name) for name in TIMES) for label in labels})


def plane_of_samples(acquisition: Acquisition) -> torch.Tensor:
    """The sampling pattern of the first frame as a plane.

    For a volume it is the pattern across its readout or, without a fully sampled readout, the share
    of each line along x. For a trajectory it is the points of the matrix that it visits, averaged
    along z in 3D.
    """
    encoding = acquisition.encoding
    if isinstance(encoding, TrajectoryEncoding):
        visited = encoding.visited()
        return visited if visited.ndim == len("yx") else visited.double().mean(0)
    if len(encoding.matrix) == len("yx"):
        return encoding.mask[0]
    return encoding.lines(encoding.readout or "x")[0].double().mean(-1)
