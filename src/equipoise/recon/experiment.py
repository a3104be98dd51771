"""The scan to reconstruct: as read, with maps and masks from other files, or undersampled."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from equipoise.formats import as_slices, read
from equipoise.formats.acquisition import Acquisition
from equipoise.formats.arrays import read_array
from equipoise.formats.checks import as_maps, as_mask
from equipoise.formats.slices import cut_along
from equipoise.outcome import BadInputError
from equipoise.physics.sampling.masks import make_mask
from equipoise.recon.coil_maps import transformed
from equipoise.recon.maps_check import check_maps

FULLY_SAMPLED = 0.7
"""A scan with at least this share of its matrix measured can be undersampled retrospectively."""

CALIBRATION = 24
"""Side of the calibration region of a drawn mask."""


class Experiment(NamedTuple):
    """A scan to reconstruct, and the fully sampled scan from which it was drawn, if any."""

    acquisition: Acquisition
    full: Acquisition | None


def load_experiment(
    scan: Path,
    *,
    csm: Path | None = None,
    mask: Path | None = None,
    acceleration: float | None = None,
    seed: int = 0,
) -> Experiment:
    """Read a scan, with coil maps and a mask from other files, or undersample it retrospectively.

    A volume becomes the stack of slices along its readout. Masks belong to the slices; maps belong
    to the slices or to the volume.

    Raises
    ------
    BadInputError
        If a file cannot be used or holds data that cannot be solved (see
        :func:`equipoise.formats.slices.why_not_solved`), if the scan is already undersampled and an
        acceleration is given, or if the coil maps do not belong to the scan.

    Warns
    -----
    InputWarning
        If the coil maps may not belong to the scan.
    """
    scanned = read(scan)
    original = as_slices(scanned)
    if csm is not None:
        original = _with_maps(original, scanned, csm)
    check_maps(original, str(csm or scan))
    kspace = original.kspace.numpy()
    full = original if is_fully_sampled(original) else None
    if acceleration is not None:
        return Experiment(undersample(original, acceleration, seed), full)
    if mask is not None:
        given = original.header.of_kept(read_array(mask, "mask"), MASK_AXES)
        drawn = torch.from_numpy(np.array(as_mask(given, kspace, str(mask))))
        return Experiment(apply_mask(original, drawn), full)
    return Experiment(original, None)


MASK_AXES, MAP_AXES = 3, 4
"""Axes of masks and of maps that have one for each frame."""


def _with_maps(slices: Acquisition, scanned: Acquisition, csm: Path) -> Acquisition:
    """The slices with the maps of a file, in the channels of these maps."""
    found = slices.header.of_kept(read_array(csm, "csm"), MAP_AXES)
    combined = transformed(slices, csm)
    if combined is not None:
        maps = as_maps(found, tuple(combined.kspace.shape), str(csm))
        return replace(combined, csm=torch.from_numpy(maps))
    # Maps of other programs are those of the volume; maps of this package those of its slices.
    of_slices = found.shape[-3:] == slices.kspace.shape[1:]
    if scanned is not slices and not of_slices:
        of_volume = as_maps(found, tuple(scanned.samples.shape), str(csm))
        maps = cut_along(torch.from_numpy(of_volume), scanned).numpy()
    else:
        maps = as_maps(found, tuple(slices.kspace.shape), str(csm))
    return replace(slices, csm=torch.from_numpy(slices.header.whitened(maps)))


def undersample(
    acquisition: Acquisition, acceleration: float, seed: int, kind: str = "variable-density-2d"
) -> Acquisition:
    """Keep the samples of a drawn mask; the fully sampled scan becomes the target.

    Raises
    ------
    BadInputError
        If the scan is already undersampled, or no sample would be left.

    Examples
    --------
    >>> import numpy as np
    >>> import equipoise as eq
    >>> full = eq.Acquisition.from_arrays(np.full((2, 32, 32), 1 + 1j))
    >>> round(eq.undersample(full, 4.0, seed=0).acceleration, 2)
    4.0
    """
    if not is_fully_sampled(acquisition):
        raise BadInputError(
            f"{acquisition.source} is already undersampled ({acquisition.acceleration:.2f}-fold): "
            "leave out --acceleration to reconstruct it as it is"
        )
    y, x = acquisition.kspace.shape[2:]
    half_of_the_samples = int((y * x / acceleration / 2) ** 0.5)
    calibration = min(CALIBRATION, half_of_the_samples)
    drawn_at = acceleration
    for _ in range(5):
        mask = make_mask(kind, (y, x), drawn_at, calibration, seed) & acquisition.mask
        if not bool(mask.any()):
            raise BadInputError(
                f"an acceleration of {acceleration:g} leaves no sample of {y} x {x}: lower it"
            )
        excess = mask.numel() / float(mask.sum()) / acceleration
        if abs(excess - 1) < 0.01 or drawn_at / excess < 1:
            break
        # Part of the matrix was not measured, so more of the rest must be drawn.
        drawn_at /= excess
    return apply_mask(acquisition, mask)


def apply_mask(acquisition: Acquisition, mask: Tensor) -> Acquisition:
    """Keep the samples of a mask (1 or slices, y, x).

    The image combined from all samples of a fully sampled scan becomes the target, once the coil
    maps are known.

    Raises
    ------
    BadInputError
        If the mask selects no measured sample.
    """
    sampled = mask & acquisition.mask
    if not bool(sampled.flatten(1).any(1).all()):
        raise BadInputError(f"{acquisition.source}: the mask selects no sample that was measured")
    return acquisition.with_kspace(acquisition.kspace * sampled[:, None], sampled)


def is_fully_sampled(acquisition: Acquisition) -> bool:
    """Whether enough of the matrix was measured for a retrospective experiment."""
    return float(acquisition.mask.double().mean()) >= FULLY_SAMPLED
