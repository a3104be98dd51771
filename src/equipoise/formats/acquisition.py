"""One scan, whatever file it came from."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from equipoise.formats.header import Header
from equipoise.outcome import BadInputError


@dataclass
class Acquisition:
    """Multi-coil Cartesian k-space and what is known about it.

    Attributes
    ----------
    kspace
        (slices, coils, y, x) complex64, DC at index ``n // 2``, zero where nothing was measured.
    mask
        (1 or slices, y, x), True where measured.
    csm
        Coil maps (1 or slices, coils, y, x) if the file has them.
    target
        Ground truth (slices, y, x) if the file has one.
    source, layout
        The file, and the name of its format.
    notes
        What the reader assumed or left out.
    header
        Geometry, labels, crop, noise covariance: what the file says beside its samples.
    """

    kspace: Tensor
    mask: Tensor
    csm: Tensor | None
    target: Tensor | None
    source: str
    layout: str
    notes: list[str] = field(default_factory=list)
    header: Header = field(default_factory=Header)

    @property
    def acceleration(self) -> float:
        """Samples of the matrix for each measured one."""
        return self.mask.numel() / max(int(self.mask.sum()), 1)


def make_acquisition(
    kspace: np.ndarray,
    source: str,
    layout: str,
    *,
    mask: np.ndarray | None = None,
    csm: np.ndarray | None = None,
    target: np.ndarray | None = None,
    notes: list[str] | None = None,
    header: Header | None = None,
) -> Acquisition:
    """Check arrays of a file and build the acquisition.

    Samples that are zero in every coil are not measured, whatever a mask says (padding).

    Raises
    ------
    BadInputError
        If k-space is not complex (slices, coils, y, x), holds NaN or Inf, is zero everywhere or
        in a whole slice, or if mask, maps or target do not have its matrix.
    """
    if kspace.ndim != 4 or not np.iscomplexobj(kspace):
        raise BadInputError(
            f"{source}: kspace has shape {kspace.shape} and type {kspace.dtype}; needed is complex "
            "(slices, coils, y, x)"
        )
    if 0 in kspace.shape:
        raise BadInputError(f"{source}: kspace is empty, its shape is {kspace.shape}")
    n_bad = int((~np.isfinite(kspace)).sum())
    if n_bad:
        raise BadInputError(
            f"{source}: {n_bad} of {kspace.size} samples of k-space are NaN or Inf: repair the "
            "file, or set lost samples to zero so that they count as not measured"
        )
    empty = [int(i) for i in np.flatnonzero(~kspace.any(axis=(1, 2, 3)))]
    if empty:
        what = "k-space" if len(empty) == len(kspace) else f"k-space of slices {empty}"
        raise BadInputError(f"{source}: {what} is zero everywhere: there is nothing to reconstruct")
    sampled = np.asarray(kspace.any(axis=1))
    if mask is not None:
        sampled = sampled & as_mask(mask, kspace, source)
        if not sampled.any(axis=(1, 2)).all():
            raise BadInputError(f"{source}: the mask selects only samples that are zero")
    matrix = kspace.shape[2:]
    if csm is not None:
        csm = as_maps(csm, kspace.shape, source)
    if target is not None and target.shape != (len(kspace), *matrix):
        raise BadInputError(
            f"{source}: target has shape {target.shape}, needed is {(len(kspace), *matrix)}"
        )
    if target is not None and not np.issubdtype(target.dtype, np.number):
        raise BadInputError(f"{source}: the target has the type {target.dtype}; needed are numbers")
    if target is not None and not np.isfinite(target).all():
        raise BadInputError(f"{source}: the target holds NaN or Inf: leave it out of the file")
    return Acquisition(
        kspace=_tensor(kspace * sampled[:, None]),
        mask=torch.from_numpy(np.ascontiguousarray(sampled)),
        csm=None if csm is None else _tensor(csm),
        target=None if target is None else _tensor(target),
        source=source,
        layout=layout,
        notes=notes or [],
        header=header or Header(),
    )


def as_mask(mask: np.ndarray, kspace: np.ndarray, source: str) -> np.ndarray:
    """A mask file or dataset as (1 or slices, y, x) bool; (x,) means whole columns.

    Raises
    ------
    BadInputError
        If it does not fit the matrix of the k-space, or selects nothing.
    """
    n_slices, _, y, x = kspace.shape
    if not np.issubdtype(np.asarray(mask).dtype, np.number) and mask.dtype != bool:
        raise BadInputError(f"{source}: the mask has the type {mask.dtype}; needed are numbers")
    if not np.isfinite(mask).all():
        raise BadInputError(f"{source}: the mask holds NaN or Inf; needed are zeros and ones")
    selected = np.asarray(mask) != 0
    if selected.shape == (x,) or selected.shape == (1, x):
        selected = np.broadcast_to(selected.reshape(1, x), (y, x))
    if selected.ndim == 2:
        selected = selected[None]
    if selected.shape not in ((1, y, x), (n_slices, y, x)):
        raise BadInputError(
            f"{source}: the mask has shape {np.shape(mask)}; needed is ({x},), ({y}, {x}) or "
            f"({n_slices}, {y}, {x}) for this k-space"
        )
    if not selected.any(axis=(1, 2)).all():
        raise BadInputError(f"{source}: the sampling mask is empty: nothing was measured")
    return selected


def as_maps(csm: np.ndarray, shape: tuple[int, ...], source: str) -> np.ndarray:
    """Coil maps of a file as (1 or slices, coils, y, x) complex.

    Raises
    ------
    BadInputError
        If they do not fit the k-space, hold NaN or Inf, or are zero everywhere.
    """
    maps = np.asarray(csm)
    if not np.issubdtype(maps.dtype, np.number):
        raise BadInputError(f"{source}: the coil maps have the type {maps.dtype}; needed: complex")
    maps = maps[None] if maps.ndim == 3 else maps
    if maps.shape not in (tuple(shape), (1, *shape[1:])):
        raise BadInputError(
            f"{source}: the coil maps have shape {np.shape(csm)}; this k-space needs "
            f"{tuple(shape[1:])} or {tuple(shape)} (slices, coils, y, x)"
        )
    if not np.isfinite(maps).all():
        raise BadInputError(f"{source}: the coil maps hold NaN or Inf: estimate them again")
    if not maps.any(axis=(1, 2, 3)).all():
        raise BadInputError(
            f"{source}: the coil maps are zero everywhere: estimate them again, or leave them out "
            "so that they are estimated from the calibration region"
        )
    return maps.astype(np.complex64)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.complex64))
