"""An 8-coil scan simulated from a real head, without a download."""

from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from equipoise.formats import read
from equipoise.formats.replacing import replacing
from equipoise.formats.sample_head import SAMPLE_SHAPE, head_slice
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.sampling.masks import make_mask

N_COILS, NOISE, SEED = 8, 0.02, 0
ACCELERATION, CALIBRATION = 4.0, 24


def simulate_scan(path: Path) -> None:
    """Write an 8-coil 4-fold undersampled scan of the head with noise, in the fastMRI layout.

    The file holds ``kspace`` (1, coil, y, x), ``mask`` (y, x) and, for comparison, ``target``
    (1, y, x).
    """
    image = head_slice()
    csm = biot_savart_maps(SAMPLE_SHAPE, N_COILS, SEED)
    mask = make_mask("variable-density-2d", SAMPLE_SHAPE, ACCELERATION, CALIBRATION, SEED)
    operator = SenseOp(csm, mask)
    noise = torch.randn(csm.shape, dtype=csm.dtype, generator=_generator()).to(csm.device) * NOISE
    kspace = operator.forward(image) + mask[:, None] * noise
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file["kspace"], file["target"] = kspace.numpy(), image.numpy()
        file["mask"] = mask[0].numpy()
        file.attrs["acquisition"] = "simulated from matplotlib sample data s1045.ima.gz"


def zero_filled(path: Path, csm: Tensor) -> np.ndarray:
    """``A^H b`` of the first slice of a scan, (y, x)."""
    acquisition = read(path)
    image = SenseOp(csm[:1], acquisition.mask[:1]).adjoint(acquisition.kspace[:1])[0]
    return np.asarray(image.numpy())


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)
