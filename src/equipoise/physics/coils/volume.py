"""ESPIRiT maps of a volume, slice by slice along one axis, with a phase that stays smooth."""

import torch
from torch import Tensor

from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import hann_window
from equipoise.physics.coils.espirit import KERNEL, MAX_CALIBRATION, estimate_csm
from equipoise.physics.fourier import kspace_to_image
from equipoise.physics.sampling.masks import calibration_region

SMALLEST = 4
"""Fewest central samples along each axis."""


def volume_csm(kspace: Tensor, mask: Tensor, kernel: int = KERNEL) -> Tensor:
    """Maps (1, coil, z, y, x), with sum of squares 1 on the support and 0 outside.

    The fully sampled centre is transformed along the axis that it fills most, usually the readout,
    and each slice gets the maps of :func:`equipoise.espirit`. An eigenvector has an arbitrary
    phase: here the first principal virtual coil of the *whole volume* is real in every pixel, so
    that the phase is as smooth across slices as within them. Where the centre does not fill the
    axis, a Hann window smooths the slices along it.

    Parameters
    ----------
    kspace
        Multi-coil k-space (1, coil, z, y, x), DC at index ``n // 2``.
    mask
        (1, z, y, x), True where measured.
    kernel
        See :func:`equipoise.espirit`.

    Raises
    ------
    BadInputError
        If the fully sampled centre has fewer than four samples along an axis, or no signal.
    """
    matrix, region = tuple(mask.shape[1:]), calibration_region(mask[0])
    # Of axes that are filled alike the last, which is the readout of most scans.
    axis = max(range(len(matrix)), key=lambda a: (region[a] / matrix[a], a))
    plane = [a for a in range(len(matrix)) if a != axis]
    if min(region[a] for a in plane) < SMALLEST or not region[axis]:
        raise BadInputError(
            f"the fully sampled centre of k-space has {' x '.join(map(str, region))} samples, too "
            f"few to estimate coil maps (at least {SMALLEST} along each axis): give coil maps, in "
            "`recon` with --csm"
        )
    sizes = [min(r, matrix[a] if a == axis else MAX_CALIBRATION) for a, r in enumerate(region)]
    slices = _slices_of_centre(kspace[0], sizes, axis)
    principal = _principal_coil(slices)
    shape = tuple(matrix[a] for a in plane)
    found = kspace.new_empty((1, kspace.shape[1], *matrix))
    for index, one in enumerate(slices):
        found.select(2 + axis, index)[0] = _maps_of(one, shape, principal, kernel)
    if not bool((found != 0).any()):
        raise BadInputError("the centre of k-space is zero: there is no signal to calibrate on")
    return found


def _slices_of_centre(kspace: Tensor, sizes: list[int], axis: int) -> Tensor:
    """The centre of k-space (coil, z, y, x), transformed along an axis: (slice, coil, ., .)."""
    matrix, block = kspace.shape[1:], kspace
    for a, size in enumerate(sizes):
        block = block.narrow(1 + a, matrix[a] // 2 - size // 2, size)
    n, size = matrix[axis], sizes[axis]
    lines = block.movedim(1 + axis, -1)
    if size < n:
        lines = lines * hann_window(torch.Size([size]), (size,), lines.device)
    whole = lines.new_zeros((*lines.shape[:-1], n))
    whole.narrow(-1, n // 2 - size // 2, size).copy_(lines)
    return kspace_to_image(whole, 1).movedim(-1, 0)


def in_phase(csm: Tensor) -> Tensor:
    """Maps (frame, coil, z, y, x) of slices, with the phase that :func:`volume_csm` gives them.

    The first principal virtual coil of each volume is real, so that the phase of slices whose maps
    were estimated one by one is as smooth across them as within them.
    """
    return torch.stack([_turned(maps, _principal_coil(maps.movedim(-1, 0))) for maps in csm])


def _turned(maps: Tensor, principal: Tensor) -> Tensor:
    """Maps (coil, ...) with the phase in which a combination of coils is real."""
    virtual = torch.einsum("c,c...->...", principal.conj().to(maps.dtype), maps)
    return maps * torch.exp(-1j * virtual.angle())


def _principal_coil(slices: Tensor) -> Tensor:
    """The combination of coils, (coil,), that holds most of the energy of the volume."""
    flat = slices.movedim(1, 0).flatten(1).to(torch.complex128)
    flat = flat / flat.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    return torch.linalg.eigh(flat @ flat.mH).eigenvectors[:, -1]


def _maps_of(block: Tensor, shape: tuple[int, ...], principal: Tensor, kernel: int) -> Tensor:
    """Maps (coil, ., .) of a slice from the centre of its k-space."""
    whole = block.new_zeros((len(block), *shape))
    # A slice beside the object holds no signal, and A sees nothing there.
    if not bool((block != 0).any()):
        return whole
    measured = torch.zeros(shape, dtype=torch.bool, device=block.device)
    first, second = (
        slice(n // 2 - size // 2, n // 2 - size // 2 + size)
        for n, size in zip(shape, block.shape[1:])
    )
    whole[:, first, second], measured[first, second] = block, True
    maps = estimate_csm(whole[None], measured[None], kernel)[0]
    if len(maps) == 1:
        return maps
    return _turned(maps, principal)
