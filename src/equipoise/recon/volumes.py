"""Volumes as problems that are solved whole, for models of (z, y, x)."""

import torch
from torch import Tensor

from equipoise.formats.acquisition import Acquisition, of_frame
from equipoise.formats.encoding import CartesianEncoding
from equipoise.formats.header import Header
from equipoise.formats.slices import header_along
from equipoise.methods.method import VOLUME
from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.espirit import normalize_csm
from equipoise.physics.coils.volume import volume_csm
from equipoise.physics.noise_level import noise_level
from equipoise.physics.problem import Problem

Z = 0
"""Position of z among the axes of a volume; its images are (y, x)."""


def checked(scan: Acquisition) -> Acquisition:
    """A Cartesian scan of volumes.

    Raises
    ------
    BadInputError
        If it is a trajectory, or a stack of slices that were measured one by one.
    """
    encoding = scan.encoding
    if not isinstance(encoding, CartesianEncoding):
        raise BadInputError(
            f"{scan.source}: the k-space is not Cartesian (trajectory {encoding.name}): grid it "
            "first, for instance with `bart nufft -i` and `bart fft -u`"
        )
    if encoding.axes != VOLUME:
        raise BadInputError(
            f"{scan.source}: its k-space has the axes {scan.axes}: slices or frames that were "
            "measured one by one, and the model is for volumes (z, y, x): choose a model of "
            "(y, x), or of (time, y, x) for frames"
        )
    return scan


def image_header(scan: Acquisition) -> Header:
    """The header of the images (y, x) of all volumes, one after the other."""
    assert isinstance(scan.encoding, CartesianEncoding)
    return header_along(scan.header, Z, scan.encoding.matrix)


def volume_problem(scan: Acquisition, index: int, csm: Tensor | None = None) -> Problem[SenseOp]:
    """One volume of a scan; ``csm`` are its maps if they were computed before."""
    assert isinstance(scan.encoding, CartesianEncoding)
    samples, mask = scan.samples[index : index + 1], scan.encoding.mask
    # The real parts, because the moduli would be a further copy of the samples.
    unit = float(torch.view_as_real(samples).abs().max()) or 1.0
    kspace, mask = samples / unit, of_frame(mask, index)
    maps = volume_maps(scan, index, kspace, mask) if csm is None else csm
    return Problem(SenseOp(maps, mask), kspace, noise_level(kspace, mask), unit)


def volume_maps(scan: Acquisition, index: int, kspace: Tensor, mask: Tensor) -> Tensor:
    """The maps (1, coil, z, y, x) of a volume: those of the scan, or from its calibration lines."""
    if scan.csm is not None:
        return normalize_csm(of_frame(scan.csm, index))
    lines = None
    if scan.calibration is not None:
        lines = scan.calibration.lines(index, tuple(mask.shape[1:]))
    if lines is None:
        return volume_csm(kspace, mask)
    found, measured = lines
    return volume_csm(found / (float(found.abs().max()) or 1.0), measured)
