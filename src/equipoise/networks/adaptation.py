"""Factors of the thresholds for every pixel of an image, predicted from a first image (23)."""

import itertools
import math

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from equipoise.networks.network import NetworkConfig, Shapes
from equipoise.networks.proved import convolution_norm_upper
from equipoise.settings import checked

LARGEST_WIDTH = 512
"""Most channels that a file or a configuration may ask for."""


class AdaptationConfig(NetworkConfig):
    """See :class:`Adaptation`."""

    features: int = Field(32, ge=1, le=LARGEST_WIDTH, description="channels of the ridge")
    hidden: int = Field(32, ge=1, le=LARGEST_WIDTH)

    def build(self, seed: int = 0) -> "Adaptation":
        """The network, whose factors are 1 before any training."""
        return Adaptation(self.features, self.hidden, seed)

    def shapes(self) -> Shapes:
        """Kernels and offsets of the convolutions."""
        found: Shapes = {
            "last": (self.features, self.hidden, 1, 1),
            "last_offset": (self.features,),
        }
        widths = [self.features, self.hidden, self.hidden, self.hidden]
        for place, (before, after) in enumerate(itertools.pairwise(widths)):
            found[f"weights.{place}"] = (after, before, 3, 3)
            found[f"offsets.{place}"] = (after,)
        return found


class Adaptation(nn.Module):
    """Positive factors of the thresholds of a ridge, for every channel and pixel.

    The factors are ``exp(5 tanh(N(log(1 + c)) / 5))``, with c the coefficients of a first image in
    units of its thresholds. N has three convolutions of 3 x 3 with ReLU, the second one dilated,
    and one of 1 x 1. The factors lie between ``exp(-5)`` and ``exp(5)``. For any fixed factors all
    proofs of the ridge hold as before. The factors do not depend on scale or phase of the image.

    Parameters
    ----------
    features
        Channels of the ridge.
    hidden
        Channels of the hidden layers.
    seed
        Seed of the weights.
    """

    def __init__(self, features: int = 32, hidden: int = 32, seed: int = 0):
        super().__init__()
        self.config = checked(
            AdaptationConfig, "adaptation", {"features": features, "hidden": hidden}
        )
        self.features, self.hidden = features, hidden
        generator = torch.Generator().manual_seed(seed)
        widths = [features, hidden, hidden, hidden]
        self.weights, self.offsets = nn.ParameterList(), nn.ParameterList()
        for before, after in itertools.pairwise(widths):
            kernel = torch.randn((after, before, 3, 3), generator=generator)
            self.weights.append(nn.Parameter(kernel * math.sqrt(2 / (9 * before))))
            self.offsets.append(nn.Parameter(torch.zeros(after)))
        self.last = nn.Parameter(torch.zeros(features, hidden, 1, 1))
        self.last_offset = nn.Parameter(torch.zeros(features))

    @property
    def reach(self) -> int:
        """Largest distance, in pixels, of the coefficients that a factor depends on."""
        return sum(DILATIONS)

    def forward(self, coefficients: Tensor) -> Tensor:
        """Factors from coefficients, both (batch, features, y, x); 1 before any training."""
        # Coefficients span orders of magnitude between noise and edges.
        h = torch.log1p(coefficients)
        for weight, offset, dilation in zip(self.weights, self.offsets, DILATIONS):
            h = F.relu(F.conv2d(h, weight, offset, padding=dilation, dilation=dilation))
        logarithm = F.conv2d(h, self.last, self.last_offset)
        return torch.exp(LARGEST * torch.tanh(logarithm / LARGEST))

    def lipschitz_upper(self, sizes: Tensor) -> float:
        """Proved Lipschitz constant of ``c -> sizes * factors(c)``, a size for each channel.

        The product of those of log(1 + c) and ReLU, 1, of the convolutions, dilated or not, and of
        ``exp(5 tanh(t / 5))``.
        """
        last = sizes[:, None, None, None].to(self.last) * self.last
        return STEEPEST * math.prod(convolution_norm_upper(w) for w in (*self.weights, last))


DILATIONS = (1, 2, 1)
"""Dilations of the convolutions of 3 x 3."""

LARGEST = 5.0
"""Logarithm of the largest factor."""

_AT = (math.sqrt(1 + LARGEST**2) - 1) / LARGEST
STEEPEST = math.exp(LARGEST * _AT) * (1 - _AT**2) * (1 + 1e-12)
"""Largest slope of ``exp(5 tanh(t / 5))``, rounded up: where ``h = tanh(t / 5)`` is the root of
``5 (1 - h^2) = 2 h``."""
