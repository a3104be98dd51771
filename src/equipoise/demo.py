"""A real head, an 8-coil scan simulated from it, and its reconstruction: no file, no network.

The image is a T1-weighted slice that comes with matplotlib as sample data.
"""

import gzip
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from equipoise.formats import read
from equipoise.formats.write import replacing
from equipoise.physics.coils import biot_savart_maps
from equipoise.physics.sampling import make_mask
from equipoise.physics.sense import SenseOp

SAMPLE = "s1045.ima.gz"
SAMPLE_SHAPE = (256, 256)
N_COILS, NOISE, SEED = 8, 0.02, 0
ACCELERATION, CALIBRATION = 4.0, 24


def head_slice() -> Tensor:
    """The head, (1, y, x) complex64 with a smooth phase, 99th percentile about 1."""
    from matplotlib.cbook import get_sample_data

    path = get_sample_data(SAMPLE, asfileobj=False)
    raw = gzip.decompress(Path(str(path)).read_bytes())
    magnitude = np.frombuffer(raw, "<u2").astype(np.float32)
    magnitude = magnitude.reshape(SAMPLE_SHAPE)
    magnitude /= np.percentile(magnitude, 99)
    y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in SAMPLE_SHAPE], indexing="ij")
    phase = 1.2 * y - 0.8 * x * y + 0.5 * x**2
    return torch.from_numpy((magnitude * np.exp(1j * phase)).astype(np.complex64))[None]


def simulate_scan(path: Path) -> None:
    """An 8-coil 4-fold undersampled scan of the head with noise, in the fastMRI layout.

    ``kspace`` (1, coil, y, x), ``mask`` (y, x) and, for comparison, ``target`` (1, y, x).
    """
    image = head_slice()
    csm = biot_savart_maps(SAMPLE_SHAPE, N_COILS, SEED)
    mask = make_mask("variable-density-2d", SAMPLE_SHAPE, ACCELERATION, CALIBRATION, SEED)
    operator = SenseOp(csm, mask)
    noise = torch.randn(csm.shape, dtype=torch.complex64, generator=_generator()) * NOISE
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
