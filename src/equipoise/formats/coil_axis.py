"""Which of two axes holds the coils, inferred from the calibration region.

The coils of one slice see one object, weighted by smooth sensitivities. Neighbourhoods in k-space
are therefore nearly linearly dependent across coils (ESPIRiT, Uecker et al. 2014), which those of
different slices are not. Components of equal energy are compared, so that a common factor, as
between repetitions, does not count as dependence.
"""

import warnings
from typing import NamedTuple

import numpy as np
import torch

from equipoise.outcome import BadInputError, InputWarning
from equipoise.physics.sampling.masks import calibration_region

KERNEL, MIN_REGION, MAX_REGION = 5, 12, 32
"""Width of a neighbourhood, and sizes of the calibration region along an axis, in samples."""

RESIDUAL = 0.02
"""Share of the energy that the rank of neighbourhoods leaves out."""

SIGNIFICANT = 0.1
"""Smallest amplitude of a component relative to the largest; less may be noise."""

MAX_COMPONENTS, MAX_STACKS = 4, 4
"""Most components, and most indices of the other axis, that are looked at."""

COILS, CLEAR_COILS, NOISY_COILS, SLICES = 0.45, 0.35, 0.6, 0.75
"""Largest independence of coils, also with little and with much noise, and smallest of slices that
cannot be coils. It was 0.15 to 0.27 and 0.5 to 0.98 in scans and simulations with little noise."""

APART, UNDECIDED = 0.1, 0.03
"""By how much slices are more independent than coils at least, and a difference that may be chance.
The difference was 0.05 to 0.8 in scans and simulations with 12 to 32 calibration lines."""

NOISE = 0.85
"""Share of the full rank from which on the neighbourhoods of one component may be noise."""


class Axis(NamedTuple):
    """The independence of the entries of an axis, and the share of the full rank of one of them."""

    independence: float
    rank: float


def checked_coil_axis(
    kspace: np.ndarray, *, alone: bool, source: str, notes: list[str]
) -> np.ndarray:
    """K-space (slices, coils, y, x), from an array that may hold (coils, slices, y, x).

    Parameters
    ----------
    kspace
        The array, with DC at ``n // 2``.
    alone
        Whether no other array (mask, maps, target) follows the same order.
    source
        The file.
    notes
        Receives a note if the axes change places.

    Raises
    ------
    BadInputError
        If the axes are in the other order but other arrays follow it, or that is not certain.

    Warns
    -----
    InputWarning
        If both axes may hold the coils, or the only one that can does not look like it.
    """
    first, second = independence(kspace)
    shape = kspace.shape
    if first is None or second is None:
        _check_one(first, second, shape, source)
        return kspace
    apart = second.independence - first.independence
    measured = f"{first.independence:.2f} along axis 0, {second.independence:.2f} along axis 1"
    if first.independence > NOISY_COILS or apart < APART:
        if max(first.independence, second.independence) < COILS and apart > -UNDECIDED:
            _warn(
                f"{source}: axes 0 and 1 of {shape} may both hold the coils (independence "
                f"{measured}; coils have at most {COILS}); the order is taken as (slices, coils, "
                f"y, x): {NAME_THEM}"
            )
        return kspace
    found = f"axis 0 of {shape} holds the coils, not axis 1 (independence {measured})"
    if not alone:
        raise BadInputError(
            f"{source}: {found}, but the order must be (slices, coils, y, x): write "
            f"kspace.swapaxes(0, 1), with maps in the same order, or {NAME_THEM}"
        )
    notes.append(f"the axes are taken as (coils, slices, y, x): {found}")
    return kspace.swapaxes(0, 1)


def _check_one(
    first: Axis | None, second: Axis | None, shape: tuple[int, ...], source: str
) -> None:
    """Refuse or warn where one axis holds one image or copies of it, if it is the wrong one."""
    if first is not None and first.independence < CLEAR_COILS:
        if shape[1] > 1:
            raise BadInputError(
                f"{source}: axis 0 of {shape} looks like coils, and axis 1 holds the same image "
                f"{shape[1]} times, but the order must be (slices, coils, y, x): write "
                f"kspace.swapaxes(0, 1) if axis 1 holds slices or repetitions, or {NAME_THEM}"
            )
        _warn(
            f"{source}: axis 0 of {shape} is taken as slices of one coil, but its entries look "
            "like the coils of one slice (independence "
            f"{first.independence:.2f}): if they are, write kspace.swapaxes(0, 1), or {NAME_THEM}"
        )
    if second is None or shape[0] > 1 or second.rank > NOISE:
        return
    if second.independence > SLICES:
        _warn(
            f"{source}: axis 1 of {shape} is taken as the coils, but its entries are as "
            f"independent as slices ({second.independence:.2f}; coils have at most {COILS}): if "
            "they are slices of one coil, write kspace[0][:, None]"
        )


NAME_THEM = (
    'name the axes in an .npz: np.savez("scan.npz", kspace=kspace, axes=["slice", "coil", "y", '
    '"x"]), in the order that they have'
)


def _warn(text: str) -> None:
    warnings.warn(text, InputWarning, stacklevel=6)


def independence(kspace: np.ndarray) -> tuple[Axis | None, Axis | None]:
    """How independent the entries of the first two axes of k-space (a, b, y, x) are.

    For components v_1 ... v_m of equal energy, with H(v) the matrix of all neighbourhoods of v:
    (rank [H(v_1) ... H(v_m)] - r) / ((m - 1) r), where r is the mean rank of H(v_i). It is about
    0.25 for coils and 0.5 to 1 for slices.

    Returns
    -------
    tuple of Axis or None
        The value of each axis; None where fewer than two components are significant, or the
        calibration region is too small.
    """
    region = _region(kspace)
    if region is None:
        return None, None
    stacks = [_components(np.moveaxis(region, axis, 1)) for axis in (0, 1)]
    counts = [int(np.median([len(v) for v in stack])) for stack in stacks]
    # More components are more independent of each other, so both axes get the same number.
    m = min([MAX_COMPONENTS, *(n for n in counts if n > 1)])
    first, second = (
        _mean([_independence(v[:m]) for v in stack if len(v) >= m]) if n > 1 else None
        for stack, n in zip(stacks, counts)
    )
    return first, second


def _region(kspace: np.ndarray) -> np.ndarray | None:
    """The calibration region in double precision; None if it is too small."""
    around = tuple(slice(max(n // 2 - MAX_REGION // 2, 0), n // 2 + MAX_REGION // 2)
                   for n in kspace.shape[2:])  # fmt: skip
    middle = kspace[:, :, around[0], around[1]]
    size = calibration_region(torch.from_numpy(middle.any(axis=(0, 1))))
    if len(size) != 2 or min(size) < MIN_REGION:
        return None
    parts = tuple(
        slice(n // 2 - s // 2, n // 2 - s // 2 + s) for n, s in zip(middle.shape[2:], size)
    )
    region = middle[:, :, parts[0], parts[1]].astype(np.complex128)
    scaled: np.ndarray = region / np.abs(region).max()
    return scaled


def _components(stack: np.ndarray) -> list[np.ndarray]:
    """Significant components (m, y, x) of equal energy along axis 1, of the strongest entries."""
    strongest = np.argsort(-np.square(np.abs(stack)).sum((1, 2, 3)))[:MAX_STACKS]
    found = []
    for entry in stack[strongest]:
        _, sizes, rows = np.linalg.svd(entry.reshape(len(entry), -1), full_matrices=False)
        kept = rows[sizes > SIGNIFICANT * sizes[0]]
        found.append(kept.reshape(-1, *entry.shape[1:]))
    return found


def _independence(components: np.ndarray) -> Axis:
    """The value of :func:`independence` of components (m, y, x)."""
    windows = np.lib.stride_tricks.sliding_window_view(components, (KERNEL, KERNEL), (1, 2))
    columns = windows.reshape(len(components), -1, KERNEL**2)
    alone = float(np.mean([_rank(one) for one in columns]))
    together = _rank(np.concatenate(list(columns), axis=1))
    apart = (together - alone) / ((len(components) - 1) * alone)
    return Axis(apart, alone / KERNEL**2)


def _rank(matrix: np.ndarray) -> float:
    """Number of singular values that hold all but a share of the energy, interpolated."""
    energy = np.linalg.eigvalsh(matrix.conj().T @ matrix)[::-1].clip(0)
    left = 1 - np.cumsum(energy) / energy.sum()
    ranks = np.arange(len(left), 0, -1)
    tiny = np.finfo(float).tiny
    return float(np.interp(np.log(RESIDUAL), np.log(left[::-1].clip(tiny)), ranks))


def _mean(values: list[Axis]) -> Axis:
    apart, rank = np.mean(values, axis=0)
    return Axis(float(apart), float(rank))
