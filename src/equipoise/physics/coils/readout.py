"""A volume cut along its fully sampled readout."""

import torch
from torch import Tensor

from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.fourier import image_to_kspace, kspace_to_image
from equipoise.physics.problem import Problem


def slices_along_readout(kspace: Tensor) -> Tensor:
    """``F_x^H`` of k-space (coil, z, y, x): k-space of every slice, (x, coil, z, y).

    The transform is orthonormal, so that white noise keeps its standard deviation.
    """
    return kspace_to_image(kspace, 1).movedim(-1, 0)


def lines_are_whole(mask: Tensor) -> bool:
    """Whether every line along x of a mask (z, y, x) was measured as a whole, or not at all."""
    return bool((mask == mask[..., :1]).all())


def plane_of(mask: Tensor) -> Tensor:
    """The mask (z, y) of every slice of a mask (z, y, x).

    Raises
    ------
    BadInputError
        If whole lines along x were not measured, so that the slices are not separate problems.
    """
    if not lines_are_whole(mask):
        raise BadInputError(
            "the mask varies along x, the readout of a volume: a volume is cut into slices only "
            "along a fully sampled axis, so move that axis last, or solve the volume whole"
        )
    return mask[..., 0]


def slab_of(problem: Problem[SenseOp], planes: int) -> Problem[SenseOp]:
    """The central planes along x of what the coils of a volume see, or all if it has fewer.

    Raises
    ------
    BadInputError
        If whole lines along x were not measured.
    """
    csm, mask = problem.operator.csm, problem.operator.mask
    plane_of(mask[0])
    # Coil by coil, because the transform of all would be a further copy of the data.
    seen = torch.stack([(maps != 0).any(0).any(0) for maps in csm[0]]).any(0).nonzero()
    middle = int(seen.double().mean()) if len(seen) else csm.shape[-1] // 2
    first = min(max(middle - planes // 2, 0), max(csm.shape[-1] - planes, 0))
    cut = slice(first, first + planes)
    coils = [image_to_kspace(kspace_to_image(k, 1)[..., cut], 1) for k in problem.data[0]]
    operator = SenseOp(csm[..., cut], mask[..., cut])
    return Problem(operator, torch.stack(coils)[None], problem.noise_level, problem.unit)
