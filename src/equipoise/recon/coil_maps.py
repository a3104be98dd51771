"""Coil maps of a scan as a file, for ``equipoise maps``."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from equipoise.formats.acquisition import Acquisition
from equipoise.formats.cfl import cfl_bytes
from equipoise.formats.hdf5 import is_hdf5, load, open_hdf5
from equipoise.formats.replacing import replacing, replacing_set, reserve
from equipoise.formats.slices import as_slices
from equipoise.formats.writers.target import Inputs, check_target
from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp, hann_window
from equipoise.physics.coils.channels import combine, compression, noise_whitening
from equipoise.physics.coils.espirit import KERNEL, MAX_CALIBRATION, espirit, unexplained
from equipoise.physics.fourier import kspace_to_image
from equipoise.physics.linop import operator_norm
from equipoise.physics.sampling.masks import calibration_region
from equipoise.recon.problems import shared_maps

SUFFIXES = (".h5", ".npy", ".cfl")
NORM_TOLERANCE = 1e-4
"""A measured norm may exceed 1 by this much, because of rounding."""


@dataclass
class SliceMaps:
    """What is known about the maps of one slice; the names are those of the JSON output.

    ``unexplained`` is the null-space projection error on the low-resolution coil images,
    ``operator_norm`` is ``||A||`` by power iteration, ``eigenvalue`` is the median in the support.
    """

    index: int
    calibration: tuple[int, ...]
    support: float
    eigenvalue: float
    unexplained: float
    operator_norm: float


@dataclass
class CoilMapResult:
    """Maps (slices, coils, y, x), eigenvalue (slices, y, x), and the matrix of the channels."""

    csm: Tensor
    eigenvalue: Tensor
    transform: Tensor
    slices: list[SliceMaps]

    def as_json(self, scan: str) -> dict[str, Any]:
        """The object that ``equipoise maps --json`` prints."""
        return {
            "scan": scan,
            "coils": self.transform.shape[1],
            "virtual_coils": self.transform.shape[0],
            "slices": [asdict(s) for s in self.slices],
        }


def calibrate_maps(
    acquisition: Acquisition,
    *,
    virtual: int | None = None,
    whiten: bool = False,
    crop: float | None = None,
    kernel: int = KERNEL,
) -> CoilMapResult:
    """ESPIRiT maps of every slice of a scan.

    Parameters
    ----------
    acquisition
        The scan.
    virtual
        Compress the channels to this many virtual coils.
    whiten
        Whiten the channels with the noise at the edge of k-space. A file with a noise scan was
        already whitened when it was read.
    crop
        Eigenvalue above which a pixel is in the support; chosen for each slice if not given.
    kernel
        Width of the kernel in samples.

    Raises
    ------
    BadInputError
        If the scan has no usable calibration region, no pixel is in the support, or the measured
        ``||A||`` is above 1.
    """
    acquisition = as_slices(acquisition)
    n_coils, device = acquisition.kspace.shape[1], acquisition.kspace.device
    transform = torch.eye(n_coils, dtype=torch.complex128, device=device)
    if whiten:
        transform = noise_whitening(acquisition.kspace, acquisition.mask)
    if virtual is not None:
        frames = [acquisition.calibration_lines(i) for i in range(len(acquisition.kspace))]
        kspace, mask = (torch.cat(parts) for parts in zip(*frames))
        transform = compression(combine(transform, kspace), mask, virtual) @ transform
    # Without either the matrix is the identity, and a product would only round the samples.
    if whiten or virtual is not None:
        acquisition = acquisition.in_channels(transform)
    maps, eigenvalues, rows = [], [], []
    for i in range(len(acquisition.kspace)):
        lines, sampled = acquisition.calibration_lines(i)
        found = espirit(lines, sampled, kernel, crop)
        # Frames of a series share those of a reconstruction, unless others are asked for.
        shared = shared_maps(acquisition, i) if crop is None and kernel == KERNEL else None
        csm = found.csm if shared is None else shared
        row = _examine(i, lines, sampled, csm, found.eigenvalue)
        maps.append(csm)
        eigenvalues.append(found.eigenvalue)
        rows.append(row)
    return CoilMapResult(torch.cat(maps), torch.cat(eigenvalues), transform, rows)


def _examine(
    index: int, kspace: Tensor, mask: Tensor, csm: Tensor, eigenvalue: Tensor
) -> SliceMaps:
    region = [min(n, MAX_CALIBRATION) for n in calibration_region(mask[0])]
    inside = (csm[0] != 0).any(0)
    if not bool(inside.any()):
        raise BadInputError(
            f"slice {index}: no pixel has an eigenvalue above the crop; the largest is "
            f"{float(eigenvalue.max()):.3f}: lower --crop"
        )
    window = hann_window(mask.shape[1:], tuple(region), mask.device)
    # Measured although unit sum of squares implies it, because every bound relies on it.
    size = float(operator_norm(SenseOp(csm, mask)).max())
    if size > 1 + NORM_TOLERANCE:
        raise BadInputError(
            f"slice {index}: ||A|| is {size:.4f} by power iteration and must be at most 1: use "
            "another --crop or --kernel"
        )
    return SliceMaps(
        index=index,
        calibration=tuple(region),
        support=float(inside.double().mean()),
        eigenvalue=float(eigenvalue[0][inside].median()),
        unexplained=float(unexplained(kspace_to_image(kspace * window * mask[:, None]), csm)),
        operator_norm=size,
    )


def check_maps_target(
    path: Path, *, changed: bool, overwrite: bool, inputs: Inputs | None = None
) -> None:
    """Check that :func:`save_maps` will be able to write.

    Raises
    ------
    BadInputError
        If the format is unknown or cannot hold the matrix of the channels, or the file exists or is
        one of ``inputs``, the files that are read.
    """
    check_target(path, overwrite=overwrite, suffixes=SUFFIXES, inputs=inputs)
    if changed and path.suffix != ".h5":
        raise BadInputError(
            f"{path} cannot hold the matrix of the channels that --whiten and --coils need: use .h5"
        )


def save_maps(path: Path, result: CoilMapResult) -> None:
    """Write HDF5 with ``csm``, ``eigenvalue`` and ``transform``, or the maps as npy or cfl."""
    if path.suffix == ".cfl":
        # BART order: x, y, z, coil, maps, ..., with slices along dimension 13.
        maps = result.csm.numpy().transpose(3, 2, 1, 0)[:, :, None]
        text, data = cfl_bytes(maps.reshape(*maps.shape[:4], *[1] * 9, maps.shape[4]))
        with replacing_set([path, path.with_suffix(".hdr")]) as (temporary, beside):
            beside.write_bytes(text)
            temporary.write_bytes(data)
        return
    with replacing(path) as temporary:
        if path.suffix == ".npy":
            reserve(temporary, path, result.csm.nbytes)
            with temporary.open("wb") as file:
                np.save(file, result.csm.numpy())
            return
        reserve(temporary, path, result.csm.nbytes + result.eigenvalue.nbytes)
        with h5py.File(temporary, "w") as file:
            file["csm"] = result.csm.numpy()
            file["eigenvalue"] = result.eigenvalue.numpy()
            file["transform"] = result.transform.numpy()


def transformed(acquisition: Acquisition, maps: Path) -> Acquisition | None:
    """The scan in the virtual channels of a file of :func:`save_maps`.

    It is None if the file has no ``transform``; its maps then belong to the channels of the
    scanner.

    Raises
    ------
    BadInputError
        If the transform is not a complex matrix, or the scan has another number of channels.
    """
    # npy and cfl files hold maps only.
    if not is_hdf5(maps):
        return None
    with open_hdf5(maps) as file:
        if "transform" not in file:
            return None
        found = load(file["transform"])
    if found.ndim != 2 or not np.issubdtype(found.dtype, np.complexfloating):
        raise BadInputError(
            f"{maps}: transform has shape {found.shape} and type {found.dtype}; expected "
            "a complex matrix (virtual coils, coils)"
        )
    matrix = torch.from_numpy(found)
    n_coils = acquisition.samples.shape[1]
    if matrix.shape[1] != n_coils:
        raise BadInputError(
            f"{maps} was made for {matrix.shape[1]} channels, the scan has {n_coils}: run "
            "`equipoise maps` on this scan"
        )
    return acquisition.in_channels(matrix)
