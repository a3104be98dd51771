"""Series in time as problems: the frames of a slice with maps from their temporal mean."""

import warnings
from collections.abc import Sequence

from torch import Tensor

from equipoise.formats.acquisition import Acquisition, of_frame
from equipoise.formats.header import TIMES, moment
from equipoise.outcome import InputWarning
from equipoise.physics.coils.espirit import estimate_csm, normalize_csm
from equipoise.physics.coils.wide import unmapped_border
from equipoise.physics.dynamic import (
    DynamicSenseOp,
    dynamic_csm,
    dynamic_noise_level,
    temporal_mean,
)
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
    frames, mask = frames_of(scan, images)
    unit = float(frames.abs().max()) or 1.0
    kspace = frames / unit
    _warn_of_slices(scan, images, kspace, mask)
    maps = series_maps(scan, images, kspace, mask) if csm is None else csm
    operator = DynamicSenseOp(maps, mask)
    return Problem(operator, kspace[None], dynamic_noise_level(kspace, mask), unit)


def frames_of(scan: Acquisition, images: list[int]) -> tuple[Tensor, Tensor]:
    """K-space (coil, time, y, x) and mask (time, y, x) of some images of a stack."""
    masks = scan.mask.expand(len(scan.kspace), -1, -1)
    return scan.kspace[images].movedim(0, 1), masks[images]


def smallest_likeness(kspace: Tensor, mask: Tensor) -> float:
    """``min |<k_s, k_t>| / (||k_s|| ||k_t||)`` of two frames, about DC; 1 where nothing tells.

    Parameters
    ----------
    kspace, mask
        (coil, time, y, x) and (time, y, x). Samples that every frame holds are compared.
    """
    y, x = (slice(max(n // 2 - CENTRE, 0), n // 2 + CENTRE) for n in mask.shape[1:])
    held = mask.all(0)[y, x]
    frames = kspace[..., y, x][..., held].movedim(1, 0).flatten(1)
    size = frames.abs().square().sum(1).sqrt()
    frames = frames[size > 0] / size[size > 0, None]
    if len(frames) < 2 or int(held.sum()) < FEWEST:
        return 1.0
    return float((frames @ frames.mH).abs().min())


CENTRE, FEWEST = 8, 16
"""Half of the side of the compared centre of k-space, and fewest samples that tell anything."""

ALIKE = 0.8
"""Frames of five cines and perfusions had a likeness of at least 0.97, and the least alike slices,
12 mm apart, of six volumes one of at most 0.7."""


def _warn_of_slices(scan: Acquisition, images: list[int], kspace: Tensor, mask: Tensor) -> None:
    """Warn of a series whose frames show different things."""
    found = smallest_likeness(kspace, mask)
    if found < ALIKE:
        warnings.warn(
            f"{scan.source}: two of its {len(images)} frames have a likeness of only {found:.2f} "
            f"about the centre of k-space (frames of one slice: above {ALIKE:g}): if they are "
            "slices and not points in time, choose a model of (y, x)",
            InputWarning,
            stacklevel=2,
        )


def series_maps(scan: Acquisition, images: list[int], kspace: Tensor, mask: Tensor) -> Tensor:
    """The maps (1, coil, y, x) of a series: those of the scan, or from its calibration lines.

    These are the mean of the frames over time, unless the scan has larger ones of its own.
    """
    if scan.csm is not None:
        return normalize_csm(of_frame(scan.csm, images[0]))
    lines, block = scan.calibration_lines(images[0])
    if min(calibration_region(block[0])) > min(calibration_region(mask.any(0))):
        return estimate_csm(lines / (float(lines.abs().max()) or 1.0), block)
    return maps_of_frames(kspace, mask, scan.source)


def maps_of_frames(kspace: Tensor, mask: Tensor, source: str) -> Tensor:
    """The maps (1, coil, y, x) of frames (coil, time, y, x), from their mean over time.

    Warns
    -----
    InputWarning
        If tissue reaches a border about which the frames hold too few samples to map it.
    """
    mean, measured = temporal_mean(kspace, mask)
    found = unmapped_border(mean, measured)
    if found is not None:
        axis, held, needed = found
        warnings.warn(
            f"{source}: coil maps rest on {held} fully sampled lines about DC along "
            f"{'yx'[axis]}, all that the frames of a slice hold together, and need {needed} where "
            "tissue reaches the border of the image, as it seems to: aliases can remain, which no "
            "bound counts. Give maps with --csm, or measure other lines about DC in every frame",
            InputWarning,
            stacklevel=2,
        )
    return dynamic_csm(mean[:, None], measured[None])
