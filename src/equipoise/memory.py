"""How much memory a reconstruction takes, before and after."""

import sys

from equipoise.equilibrium.method import Method
from equipoise.formats.acquisition import Acquisition
from equipoise.formats.limits import available_memory, size_text
from equipoise.outcome import BadInputError

COMPLEX = 8
"""Bytes of a complex64 number."""

ESPIRIT_COPIES = 3
"""Arrays (y, x, coil, coil) that are alive while coil maps are estimated."""

SOLVER_IMAGES = 40
"""Images that the solver keeps: Anderson's history, conjugate gradients, the iterates."""


def estimate(acquisition: Acquisition, model: Method) -> int:
    """Bytes that the reconstruction of a scan adds to those of the scan itself.

    The maps and images of all slices are kept until they are written; beside them one slice at a
    time is calibrated, and solved with a network of some number of features a pixel.
    """
    slices, coils, y, x = acquisition.kspace.shape
    pixels = y * x
    kept = COMPLEX * slices * pixels * (coils + 3)
    calibration = 0 if acquisition.csm is not None else ESPIRIT_COPIES * COMPLEX * coils**2 * pixels
    features = max((p.shape[0] for p in model.parameters() if p.ndim == 4), default=1)
    solve = pixels * (COMPLEX * (SOLVER_IMAGES + 6 * coils) + 4 * 4 * features)
    return kept + max(calibration, solve)


def check_memory(acquisition: Acquisition, model: Method) -> None:
    """Refuse before the work what would not fit.

    Raises
    ------
    BadInputError
        If the estimate is more than the machine has free.
    """
    needed, free = estimate(acquisition, model), available_memory()
    if free is not None and needed > free:
        slices, coils, y, x = acquisition.kspace.shape
        raise BadInputError(
            f"{acquisition.source}: {slices} slices of {y} x {x} with {coils} coils need about "
            f"{size_text(needed)} of memory, {size_text(free)} are free: give coil maps with "
            "--csm, split the file by slices, or use a machine with more memory"
        )


def peak_memory() -> int:
    """The most bytes that this process has had resident; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
