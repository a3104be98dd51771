"""Coil maps that do not belong to a scan are refused or warned about, with advice."""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.formats.acquisition import Acquisition
from equipoise.outcome import BadInputError, InputWarning
from equipoise.physics.coils.fit import fitting_order, fitting_turn, misfit
from equipoise.recon.problems import slice_maps

DOUBTFUL, WRONG = 0.12, 0.35
"""Shares of the calibration region that maps leave unexplained beyond its noise
(:func:`equipoise.physics.coils.fit.misfit`), above which they are doubtful or wrong. In simulated
scans correct maps leave less than 0.05, and transposed maps 0.45."""

FAINT = 0.05
"""A slice with less than this share of the largest energy of the scan does not judge maps."""


def check_maps(acquisition: Acquisition, source: str) -> None:
    """Compare the maps of a scan with its calibration region, slice by slice.

    The region of a series that has none in any frame is that of its mean over time: in seven of
    them, 8- and 12-fold, right maps left 0.03 to 0.05 of it, two exchanged coils 0.31 or more.

    Raises
    ------
    BadInputError
        If the maps leave more than ``WRONG`` of a slice unexplained.

    Warns
    -----
    InputWarning
        If they leave more than ``DOUBTFUL`` of a slice unexplained.
    """
    # One coil has no relative sensitivity that a calibration region could contradict.
    if acquisition.csm is None or acquisition.kspace.shape[1] == 1:
        return
    worst = max(_judges(acquisition), key=lambda judge: judge.left, default=None)
    if worst is None or worst.left <= DOUBTFUL:
        return
    text = (
        f"{source}: the coil maps leave {worst.left:.0%} of the calibration region of {worst.name} "
        f"unexplained beyond its noise; correct maps leave less than {DOUBTFUL:.0%}: "
        f"{_advice(*worst.centre)}"
    )
    if worst.left > WRONG:
        raise BadInputError(text)
    warnings.warn(text, InputWarning, stacklevel=2)


Centre = tuple[Tensor, Tensor, Tensor]
"""K-space, mask and maps of one image, the arguments of
:func:`~equipoise.physics.coils.fit.misfit`."""


class _Judge(NamedTuple):
    """What judges maps, and the share of it that they leave unexplained."""

    name: str
    centre: Centre
    left: float


def _judges(scan: Acquisition) -> Iterator[_Judge]:
    """Every slice that can judge maps."""
    energy = scan.kspace.abs().square().flatten(1).sum(1)
    # A slice beside the object holds noise and the tails of its neighbours, which no map fits.
    for index in torch.nonzero(energy >= FAINT * energy.max()).flatten().tolist():
        centre = *scan.calibration_lines(index), slice_maps(scan, index)
        left = misfit(*centre)
        if left is not None:
            yield _Judge(f"slice {index}", centre, left)


def _advice(kspace: Tensor, mask: Tensor, csm: Tensor) -> str:
    # The order of the coils first, because its advice is the most specific.
    order = fitting_order(kspace, mask, csm)
    if order is not None:
        left = misfit(kspace, mask, csm[:, order])
        if left is not None and left < DOUBTFUL:
            numbers = ", ".join(map(str, order))
            return f"they fit in the coil order {numbers}; reorder them accordingly"
    turned = fitting_turn(kspace, mask, csm, DOUBTFUL)
    if turned is not None:
        return f"they fit when they are {turned}; change the file accordingly"
    return (
        "they belong to another scan or other channels; make maps of this scan with "
        "`equipoise maps`"
    )
