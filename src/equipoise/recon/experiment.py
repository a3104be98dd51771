"""The scan to reconstruct: as read, with maps and masks from other files, or undersampled."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from equipoise.formats import as_slices, read
from equipoise.formats.acquisition import STACK, Acquisition
from equipoise.formats.arrays import read_array
from equipoise.formats.calibration import shared_calibration
from equipoise.formats.checks import as_maps, as_mask
from equipoise.formats.encoding import CartesianEncoding
from equipoise.formats.hdf5 import dataset_names
from equipoise.formats.slices import cut_along, join_slices, stack_shape, why_not_solved
from equipoise.methods.method import PLANE, SERIES, VOLUME
from equipoise.outcome import BadInputError
from equipoise.physics.coils.volume import in_phase
from equipoise.physics.sampling.dynamic import kt_mask
from equipoise.physics.sampling.masks import make_mask
from equipoise.recon.coil_maps import transformed
from equipoise.recon.maps_check import check_maps
from equipoise.recon.problems import arranged_for, measured_together
from equipoise.recon.series import series_of

FULLY_SAMPLED = 0.7
"""A scan with at least this share of its matrix measured can be undersampled retrospectively."""

CALIBRATION = 24
"""Side of the calibration region of a drawn mask."""


class Experiment(NamedTuple):
    """A scan to reconstruct, and the fully sampled scan from which it was drawn, if any.

    ``together`` are the axes of a model that solves together what the scan measured together.
    """

    acquisition: Acquisition
    full: Acquisition | None
    together: tuple[str, ...] = PLANE


def load_experiment(
    scan: Path,
    *,
    csm: Path | None = None,
    mask: Path | None = None,
    acceleration: float | None = None,
    seed: int = 0,
    axes: tuple[str, ...] = PLANE,
) -> Experiment:
    """Read a scan, with coil maps and a mask from other files, or undersample it retrospectively.

    A volume stays one for a model with the ``axes`` (z, y, x), and becomes the stack of slices
    along its readout for any other. Masks belong to what is solved; maps belong to the slices or to
    the volume. For (time, y, x) each frame of a series is undersampled with a mask of its own.

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
    original = arranged_for(scanned, axes)
    if csm is not None:
        original = _with_maps(original, scanned, csm)
    # Maps are compared slice by slice, into which a volume without a readout cannot be cut.
    if original.csm is not None and why_not_solved(original) is None:
        check_maps(as_slices(original), str(csm or scan))
    kspace = original.samples.numpy()
    full = original if is_fully_sampled(original) else None
    together = measured_together(scanned)
    if acceleration is not None:
        return Experiment(_undersampled(original, acceleration, seed, axes), full, together)
    if mask is not None:
        given = original.header.of_kept(read_array(mask, "mask"), kspace.ndim - 1)
        drawn = torch.from_numpy(np.array(as_mask(given, kspace, str(mask))))
        return Experiment(apply_mask(original, drawn), full, together)
    return Experiment(original, None, together)


def _with_maps(slices: Acquisition, scanned: Acquisition, csm: Path) -> Acquisition:
    """The slices or volumes with the maps of a file, in the channels of these maps."""
    found = slices.header.of_kept(read_array(csm, "csm"), slices.samples.ndim)
    combined = transformed(slices, csm)
    shape = tuple((slices if combined is None else combined).samples.shape)
    if scanned.samples.ndim > len(STACK) == found.ndim:
        found = _of_volume(found, scanned, csm, whole=scanned is slices)
    if combined is not None:
        return replace(combined, csm=torch.from_numpy(as_maps(found, shape, str(csm))))
    # Maps of other programs are those of the volume; maps of this package those of its slices.
    of_slices = found.shape[1 - len(shape) :] == shape[1:]
    if scanned is not slices and not of_slices:
        of_volume = as_maps(found, tuple(scanned.samples.shape), str(csm))
        maps = cut_along(torch.from_numpy(of_volume), scanned).numpy()
    else:
        maps = as_maps(found, shape, str(csm))
    return replace(slices, csm=torch.from_numpy(slices.header.whitened(maps)))


def _of_volume(maps: np.ndarray, scan: Acquisition, source: Path, *, whole: bool) -> np.ndarray:
    """Maps (images, coil, ., .) of the slices of a volume as its maps (frame, coil, z, y, x).

    Slices lie along z in a file of a volume that was reconstructed, and along the readout in one of
    ``equipoise maps``; the latter are joined for a volume that is solved ``whole``. Others are left
    as they are.
    """
    frames, _, z, y, x = scan.samples.shape
    own = len(maps), *maps.shape[2:]
    along_z, along_readout = own == (frames * z, y, x), False
    if why_not_solved(scan) is None:
        n, _, *matrix = stack_shape(scan)
        along_readout = own == (n, *matrix)
    names = dataset_names(source)
    if along_z and (not along_readout or (names and "eigenvalue" not in names)):
        return maps.reshape(frames, z, *maps.shape[1:]).swapaxes(1, 2)
    if not along_readout or not whole:
        return maps
    return in_phase(join_slices(torch.from_numpy(np.require(maps, None, "W")), scan)).numpy()


def _undersampled(
    original: Acquisition, acceleration: float, seed: int, axes: tuple[str, ...]
) -> Acquisition:
    """The scan with drawn masks: of slices, of every frame of a series, or across a readout."""
    if axes == VOLUME:
        return undersample_volumes(original, acceleration, seed)
    if axes == SERIES:
        return undersample_series(original, acceleration, seed)
    return undersample(original, acceleration, seed)


def undersample_series(acquisition: Acquisition, acceleration: float, seed: int) -> Acquisition:
    """Keep the columns of :func:`equipoise.kt_mask`, which differ from frame to frame.

    Raises
    ------
    BadInputError
        As :func:`undersample`.
    """
    _check_full(acquisition)
    mask = torch.zeros_like(acquisition.mask.expand(len(acquisition.kspace), -1, -1))
    matrix = acquisition.kspace.shape[2:]
    for images in series_of(acquisition.labels):
        mask[images] = kt_mask((len(images), *matrix), acceleration, seed=seed)[0]
    return apply_mask(acquisition, mask)


def undersample_volumes(acquisition: Acquisition, acceleration: float, seed: int) -> Acquisition:
    """Keep the samples of a mask drawn across the readout, the same along it.

    Raises
    ------
    BadInputError
        As :func:`undersample`, or if no axis was fully sampled.
    """
    encoding = acquisition.encoding
    assert isinstance(encoding, CartesianEncoding)
    if encoding.readout is None:
        raise BadInputError(
            f"{acquisition.source}: no axis was fully sampled, so that there is no readout across "
            "which to undersample: leave out --acceleration"
        )
    _check_full(acquisition)
    axis = encoding.axes.index(encoding.readout)
    y, x = (n for a, n in enumerate(encoding.matrix) if a != axis)
    calibration = min(CALIBRATION, int((y * x / acceleration / 2) ** 0.5))
    drawn = make_mask("variable-density-2d", (y, x), acceleration, calibration, seed)
    return apply_mask(acquisition, drawn.unsqueeze(1 + axis).expand(1, *encoding.matrix))


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
    _check_full(acquisition)
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


def _check_full(acquisition: Acquisition) -> None:
    if not is_fully_sampled(acquisition):
        raise BadInputError(
            f"{acquisition.source} is already undersampled ({acquisition.acceleration:.2f}-fold): "
            "leave out --acceleration to reconstruct it as it is"
        )


def apply_mask(acquisition: Acquisition, mask: Tensor) -> Acquisition:
    """Keep the samples of a mask (1 or frames, matrix).

    The image combined from all samples of a fully sampled scan becomes the target, once the coil
    maps are known.

    Raises
    ------
    BadInputError
        If the mask selects no measured sample.
    """
    assert isinstance(acquisition.encoding, CartesianEncoding)
    sampled = mask & acquisition.encoding.mask
    if not bool(sampled.flatten(1).any(1).all()):
        raise BadInputError(f"{acquisition.source}: the mask selects no sample that was measured")
    found = acquisition.with_kspace(acquisition.samples * sampled[:, None], sampled)
    if found.calibration is not None and not found.calibration.from_frames:
        return found
    # Of what the mask leaves, because lines of all frames would not have been measured.
    return replace(found, calibration=shared_calibration(found.samples, sampled, found.labels))


def is_fully_sampled(acquisition: Acquisition) -> bool:
    """Whether enough of the matrix was measured for a retrospective experiment."""
    assert isinstance(acquisition.encoding, CartesianEncoding)
    return 1 / acquisition.encoding.acceleration >= FULLY_SAMPLED
