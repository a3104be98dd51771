"""Coil maps that do not belong to a scan are refused or warned about, with advice."""

import warnings

from torch import Tensor

from equipoise.formats.acquisition import Acquisition
from equipoise.outcome import BadInputError, InputWarning
from equipoise.physics.coils.espirit import normalize_csm
from equipoise.physics.coils.fit import fitting_order, fitting_turn, misfit

DOUBTFUL, WRONG = 0.12, 0.35
"""Shares of the calibration region that maps leave unexplained beyond its noise
(:func:`equipoise.physics.coils.fit.misfit`), above which they are doubtful or wrong. In simulated
scans correct maps leave less than 0.05, and transposed maps 0.45."""

FAINT = 0.05
"""A slice with less than this share of the largest energy of the scan does not judge maps."""


def check_maps(acquisition: Acquisition, source: str) -> None:
    """Compare the maps of a scan with its calibration region, slice by slice.

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
    energy = acquisition.kspace.abs().square().flatten(1).sum(1)
    worst, worst_slice = 0.0, 0
    for index in range(len(acquisition.kspace)):
        # A slice beside the object holds noise and the tails of its neighbours, which no map fits.
        if energy[index] < FAINT * energy.max():
            continue
        left = misfit(*_slice(acquisition, index))
        if left is not None and left > worst:
            worst, worst_slice = left, index
    if worst <= DOUBTFUL:
        return
    text = (
        f"{source}: the coil maps leave {worst:.0%} of the calibration region of slice "
        f"{worst_slice} unexplained beyond its noise; correct maps leave less than {DOUBTFUL:.0%}: "
        f"{_advice(acquisition, worst_slice)}"
    )
    if worst > WRONG:
        raise BadInputError(text)
    warnings.warn(text, InputWarning, stacklevel=2)


def _slice(acquisition: Acquisition, index: int) -> tuple[Tensor, Tensor, Tensor]:
    assert acquisition.csm is not None
    csm = acquisition.csm if len(acquisition.csm) == 1 else acquisition.csm[index : index + 1]
    return *acquisition.calibration_lines(index), normalize_csm(csm)


def _advice(acquisition: Acquisition, index: int) -> str:
    kspace, mask, csm = _slice(acquisition, index)
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
