"""From a scan to the problems that are solved, one for each image."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from equipoise.formats.acquisition import Acquisition
from equipoise.formats.slices import as_slices
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.espirit import estimate_csm, normalize_csm
from equipoise.physics.fourier import kspace_to_image
from equipoise.physics.noise_level import noise_level
from equipoise.physics.problem import Problem


@dataclass(frozen=True, repr=False)
class ScanProblem(Problem[SenseOp]):
    """The problem of one image of a scan.

    Attributes
    ----------
    index
        Its position among the images of the scan, from 0.
    label
        The labels of the scan for it: slice, phase, repetition, contrast, ...; may be empty.
    """

    index: int = 0
    label: dict[str, int] = field(default_factory=dict)


def problems(acquisition: Acquisition) -> Iterator[ScanProblem]:
    """The problems to be solved, one for each image, in the order of the images of the scan.

    Each slice and each frame of a series is a 2D problem. A volume gives one problem for each
    sample of its readout (:func:`equipoise.formats.as_slices`). A problem is made when the iterator
    reaches it; its coil maps are estimated then, if the scan has none.

    Raises
    ------
    BadInputError
        If the scan cannot be solved: a trajectory, or a volume that was not fully sampled along
        any axis.
    """
    slices = as_slices(acquisition)
    return (slice_problem(slices, index) for index in range(len(slices.kspace)))


def slice_problem(acquisition: Acquisition, index: int, csm: Tensor | None = None) -> ScanProblem:
    """One slice of a stack, with its noise level and its coil maps, see :func:`slice_maps`.

    ``csm`` are the maps of the slice if they were computed before.
    """
    kspace = acquisition.kspace[index : index + 1]
    # Raw data come at any scale; the unit keeps single precision away from its limits.
    unit = float(kspace.abs().max()) or 1.0
    kspace, mask = kspace / unit, _of_slice(acquisition.mask, index)
    csm = slice_maps(acquisition, index) if csm is None else csm
    label = acquisition.labels[index] if index < len(acquisition.labels) else {}
    operator = SenseOp(csm, mask)
    return ScanProblem(operator, kspace, noise_level(kspace, mask), unit, index=index, label=label)


def slice_maps(acquisition: Acquisition, index: int) -> Tensor:
    """The coil maps (1, coil, y, x) of a slice: those of the scan, or estimated if it has none."""
    if acquisition.csm is not None:
        return normalize_csm(_of_slice(acquisition.csm, index))
    lines, measured = acquisition.calibration_lines(index)
    # A separate calibration scan has its own scale, which maps do not depend on.
    return estimate_csm(lines / (float(lines.abs().max()) or 1.0), measured)


def _of_slice(array: Tensor, index: int) -> Tensor:
    return array if len(array) == 1 else array[index : index + 1]


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
