"""Simulated super-resolution: small noisy images from photographs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from equipoise.physics.superres import Blur
from equipoise.training.sources.source import Sample, Source


@dataclass(frozen=True)
class SuperResolution(Blur, Source):
    """``b = D B x + n`` with white real noise.

    Attributes
    ----------
    factor, kernel, border
        See :class:`~equipoise.physics.superres.Blur`.
    noise
        Range of the standard deviation of the noise relative to white, drawn log-uniformly.
    """

    noise: tuple[float, float] = (0.003, 0.03)

    def sample(self, image: Tensor, rng: np.random.Generator, crop: int | None = None) -> Sample:
        """Draw one small image of an image (y, x), or of a random crop of it."""
        shape = [min(crop or n, n) for n in image.shape]
        top, left = (int(rng.integers(n - m + 1)) for n, m in zip(image.shape, shape))
        image = image[top : top + shape[0], left : left + shape[1]]
        image = torch.rot90(image, int(rng.integers(4)))
        image = image.flip(-1) if rng.integers(2) else image
        sigma = float(np.exp(rng.uniform(*np.log(self.noise))))
        return self.acquire(image.real, sigma, rng)

    def acquire(self, image: Tensor, sigma: float, rng: np.random.Generator) -> Sample:
        """The small image of a real image (y, x) with noise of a given standard deviation."""
        target = image[None].to(torch.complex64)
        operator = self.operator(target)
        clean = operator.forward(target)
        noise = torch.from_numpy(rng.standard_normal(clean.shape).astype(np.float32))
        level = torch.tensor([sigma], dtype=torch.float64, device=target.device)
        return Sample(operator, clean + sigma * noise, target, level)

    def batch(self, samples: Sequence[Sample]) -> Sample:
        """Samples of one image size as one batch."""
        target = torch.cat([s.target for s in samples])
        data = torch.cat([s.data for s in samples])
        levels = torch.cat([s.noise_level for s in samples])
        return Sample(self.operator(target), data, target, levels)
