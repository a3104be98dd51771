"""From a scan to the problems that are solved: one for each image, series or volume."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from equipoise.formats.acquisition import Acquisition, of_frame
from equipoise.formats.encoding import CartesianEncoding
from equipoise.formats.header import TIMES, Header
from equipoise.formats.slices import as_slices
from equipoise.methods.method import PLANE, SERIES, VOLUME
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.espirit import estimate_csm, normalize_csm
from equipoise.physics.fourier import kspace_to_image
from equipoise.physics.noise_level import noise_level
from equipoise.physics.problem import Problem
from equipoise.recon import series, volumes


@dataclass(frozen=True, repr=False)
class ScanProblem(Problem[SenseOp]):
    """The problem of one image, series or volume of a scan.

    Attributes
    ----------
    index
        Its position among the problems of the scan, from 0.
    label
        The labels of the scan for it: slice, phase, repetition, contrast, ...; may be empty.
    images
        The positions of its images in the stack of images that a reconstruction returns.
    """

    index: int = 0
    label: dict[str, int] = field(default_factory=dict)
    images: tuple[int, ...] = ()


def problems(acquisition: Acquisition, axes: tuple[str, ...] = PLANE) -> Iterator[ScanProblem]:
    """The problems to be solved for images of some axes, in the order of the scan.

    For (y, x), each slice and each frame of a series is a problem, and a volume gives one for each
    sample of its readout (:func:`equipoise.formats.as_slices`). For (time, y, x), the frames of a
    slice are one problem, and for (z, y, x) a volume is. A problem is made when the iterator
    reaches it; its coil maps are estimated then, if the scan has none.

    Raises
    ------
    BadInputError
        If the scan cannot be solved: a trajectory, a volume that was not fully sampled along any
        axis for (y, x) and (time, y, x), or slices for (z, y, x).
    """
    scan = arranged_for(acquisition, axes)
    return (problem_at(scan, index, axes) for index in range(count_of(scan, axes)))


def arranged_for(acquisition: Acquisition, axes: tuple[str, ...]) -> Acquisition:
    """The scan in the form in which problems of some axes are made: slices, or whole volumes.

    Raises
    ------
    BadInputError
        See :func:`problems`.
    """
    return volumes.checked(acquisition) if axes == VOLUME else as_slices(acquisition)


def measured_together(scan: Acquisition) -> tuple[str, ...]:
    """The axes of a model for all frames of a series, or for a volume with the readout x.

    They are (y, x) for slices and for what no such model solves.
    """
    encoding = scan.encoding
    if isinstance(encoding, CartesianEncoding) and encoding.axes == VOLUME:
        return VOLUME if encoding.readout == "x" else PLANE
    return SERIES if any(len(images) > 1 for images in series.series_of(scan.labels)) else PLANE


def count_of(scan: Acquisition, axes: tuple[str, ...] = PLANE) -> int:
    """The number of problems of a scan of :func:`arranged_for`."""
    return len(series.series_of(scan.labels)) if axes == SERIES else len(scan.samples)


def image_header(scan: Acquisition, axes: tuple[str, ...] = PLANE) -> Header:
    """The header of the stack of images of a scan of :func:`arranged_for`."""
    return volumes.image_header(scan) if axes == VOLUME else scan.header


def problem_at(
    scan: Acquisition, index: int, axes: tuple[str, ...] = PLANE, csm: Tensor | None = None
) -> ScanProblem:
    """One problem of a scan of :func:`arranged_for`; ``csm`` are its maps if they are known."""
    found: Problem[Any]
    if axes == SERIES:
        images = series.series_of(scan.labels)[index]
        found, label = series.series_problem(scan, images, csm), scan.labels[images[0]]
        label = {name: n for name, n in label.items() if name not in TIMES}
    elif axes == VOLUME:
        depth = scan.samples.shape[2]
        images = list(range(index * depth, (index + 1) * depth))
        found, label = volumes.volume_problem(scan, index, csm), scan.labels[index]
    else:
        return slice_problem(scan, index, csm)
    parts = (found.operator, found.data, found.noise_level, found.unit)
    return ScanProblem(*parts, index=index, label=label, images=tuple(images))


def slice_problem(acquisition: Acquisition, index: int, csm: Tensor | None = None) -> ScanProblem:
    """One slice of a stack, with its noise level and its coil maps, see :func:`slice_maps`.

    ``csm`` are the maps of the slice if they were computed before.
    """
    kspace = acquisition.kspace[index : index + 1]
    # Raw data come at any scale; the unit keeps single precision away from its limits.
    unit = float(kspace.abs().max()) or 1.0
    kspace, mask = kspace / unit, of_frame(acquisition.mask, index)
    csm = slice_maps(acquisition, index) if csm is None else csm
    label = acquisition.labels[index] if index < len(acquisition.labels) else {}
    operator, level = SenseOp(csm, mask), noise_level(kspace, mask)
    return ScanProblem(operator, kspace, level, unit, index=index, label=label, images=(index,))


def slice_maps(acquisition: Acquisition, index: int) -> Tensor:
    """The coil maps (1, coil, y, x) of a slice: those of the scan, or estimated if it has none."""
    if acquisition.csm is not None:
        return normalize_csm(of_frame(acquisition.csm, index))
    shared = shared_maps(acquisition, index)
    return estimate_csm(*_lines(acquisition, index)) if shared is None else shared


def shared_maps(acquisition: Acquisition, index: int) -> Tensor | None:
    """The maps of the series of a frame, estimated once; None if its own lines are enough."""
    found = acquisition.calibration
    block = None if found is None else found.of_frame[index]
    if found is None or block is None or not found.from_frames:
        return None
    if block not in found.maps:
        lines, measured = _lines(acquisition, index)
        mean = lines.movedim(0, 1)
        found.maps[block] = series.maps_of_frames(mean, measured, acquisition.source)
    return found.maps[block]


def _lines(acquisition: Acquisition, index: int) -> tuple[Tensor, Tensor]:
    """The calibration lines of a slice, with their largest magnitude 1, and their mask."""
    lines, measured = acquisition.calibration_lines(index)
    # A separate calibration scan has its own scale, which maps do not depend on.
    return lines / (float(lines.abs().max()) or 1.0), measured


def target_of(
    acquisition: Acquisition, full: Acquisition | None, csm: Tensor, index: int, unit: float
) -> Tensor | None:
    """The target of a slice, (1, y, x), divided by its unit; None if there is none."""
    if full is not None:
        coil_images = kspace_to_image(full.kspace[index : index + 1] / unit)
        return (csm.conj() * coil_images).sum(1)
    if acquisition.target is not None:
        return acquisition.target[index : index + 1] / unit
    return None


def target_at(
    scan: Acquisition, full: Acquisition | None, problem: ScanProblem, axes: tuple[str, ...] = PLANE
) -> Tensor | None:
    """The target of a problem in the shape of its image, divided by its unit; None without one."""
    csm, unit = problem.operator.csm, problem.unit
    if axes == SERIES:
        images = list(problem.images)
        if full is not None:
            coils = kspace_to_image(full.kspace[images] / unit)
            return (csm[:, :, 0].conj() * coils).sum(1)[None]
        return None if scan.target is None else scan.target[images][None] / unit
    if axes == VOLUME and full is not None:
        one = slice(problem.index, problem.index + 1)
        return (csm.conj() * kspace_to_image(full.samples[one] / unit, len(VOLUME))).sum(1)
    return target_of(scan, full, csm, problem.index, unit)
