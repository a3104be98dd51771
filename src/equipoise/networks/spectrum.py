"""The Fourier transform along time, without what does not move."""

import math

import torch
from torch import Tensor

from equipoise.shapes import Image


def frequencies(image: Image) -> Tensor:
    """The unitary Fourier transform of n frames without the frequency zero, (n, n)."""
    n = image.shape[1]
    frame = torch.arange(n, device=image.device)
    # The product is reduced as an integer, so that large angles lose no digits.
    angle = (-2 * math.pi / n) * (frame[:, None] * frame % n).double()
    found = torch.polar(torch.full_like(angle, n**-0.5), angle)
    return (found * (frame > 0)[:, None]).to(image.dtype)


def harmonics(image: Image) -> Tensor:
    """The absolute frequency of each row of :func:`frequencies`, in cycles of a series, (n,)."""
    frame = torch.arange(image.shape[1], device=image.device)
    return torch.minimum(frame, image.shape[1] - frame)
