"""A real T1-weighted head that comes with matplotlib as sample data."""

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SAMPLE = "s1045.ima.gz"
SAMPLE_SHAPE = (256, 256)


def head_slice() -> Tensor:
    """The head, (1, y, x) complex64, with a smooth phase and a 99th percentile of about 1."""
    from matplotlib.cbook import get_sample_data

    path = get_sample_data(SAMPLE, asfileobj=False)
    raw = gzip.decompress(Path(str(path)).read_bytes())
    magnitude = np.frombuffer(raw, "<u2").astype(np.float32)
    magnitude = magnitude.reshape(SAMPLE_SHAPE)
    magnitude /= np.percentile(magnitude, 99)
    y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in SAMPLE_SHAPE], indexing="ij")
    phase = 1.2 * y - 0.8 * x * y + 0.5 * x**2
    return torch.from_numpy((magnitude * np.exp(1j * phase)).astype(np.complex64))[None]
