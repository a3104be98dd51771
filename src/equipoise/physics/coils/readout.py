"""A volume cut along its fully sampled readout."""

from torch import Tensor

from equipoise.outcome import BadInputError
from equipoise.physics.fourier import kspace_to_image


def slices_along_readout(kspace: Tensor) -> Tensor:
    """``F_x^H`` of k-space (coil, z, y, x): k-space of every slice, (x, coil, z, y).

    The transform is orthonormal, so that white noise keeps its standard deviation.
    """
    return kspace_to_image(kspace, 1).movedim(-1, 0)


def plane_of(mask: Tensor) -> Tensor:
    """The mask (z, y) of every slice of a mask (z, y, x).

    Raises
    ------
    BadInputError
        If whole lines along x were not measured, so that the slices are not separate problems.
    """
    if not bool((mask == mask[..., :1]).all()):
        raise BadInputError(
            "the mask varies along x, the readout of a volume: a volume is cut into slices only "
            "along a fully sampled axis, so move that axis last, or solve the volume whole"
        )
    return mask[..., 0]
