"""Series in time as problems: the frames of a slice with maps from their temporal mean."""

from collections.abc import Sequence

from torch import Tensor

from equipoise.formats.acquisition import Acquisition
from equipoise.formats.header import TIMES, moment
from equipoise.physics.coils.espirit import estimate_csm, normalize_csm
from equipoise.physics.dynamic import DynamicSenseOp, dynamic_noise_level, temporal_mean
from equipoise.physics.problem import Problem
from equipoise.physics.sampling.masks import calibration_region


def series_of(labels: Sequence[dict[str, int]]) -> list[list[int]]:
    """The images of each series: their labels are equal but for those of time.

    Series are in the order of their first image, and images in the order of time.
    """
    groups: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for index, label in enumerate(labels):
        place = tuple(sorted((name, n) for name, n in label.items() if name not in TIMES))
        groups.setdefault(place, []).append(index)
    return [sorted(group, key=lambda i: moment(labels[i])) for group in groups.values()]


def series_problem(
    scan: Acquisition, images: list[int], csm: Tensor | None = None
) -> Problem[DynamicSenseOp]:
    """The series of some images of a stack; ``csm`` are its maps if they were computed before."""
    frames = scan.kspace[images].movedim(0, 1)
    unit = float(frames.abs().max()) or 1.0
    kspace = frames / unit
    mask = scan.mask.expand(len(scan.kspace), -1, -1)[images]
    maps = series_maps(scan, images, kspace, mask) if csm is None else csm
    operator = DynamicSenseOp(maps, mask)
    return Problem(operator, kspace[None], dynamic_noise_level(kspace, mask), unit)


def series_maps(scan: Acquisition, images: list[int], kspace: Tensor, mask: Tensor) -> Tensor:
    """The maps (1, coil, y, x) of a series: those of the scan, or from its calibration lines.

    These are the mean of the frames over time, unless the scan has larger ones of its own.
    """
    if scan.csm is not None:
        return normalize_csm(scan.csm if len(scan.csm) == 1 else scan.csm[images[:1]])
    mean, measured = temporal_mean(kspace, mask)
    lines, block = scan.calibration_lines(images[0])
    if min(calibration_region(block[0])) > min(calibration_region(measured)):
        return estimate_csm(lines / (float(lines.abs().max()) or 1.0), block)
    return estimate_csm(mean[None], measured[None])
