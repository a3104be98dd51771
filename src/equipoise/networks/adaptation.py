"""Factors of the thresholds for every pixel of an image, predicted from a first image (23)."""

import itertools
import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from equipoise.networks.network import NetworkConfig, Shapes
from equipoise.networks.proved import convolution_norm, convolution_norm_upper
from equipoise.settings import checked
from equipoise.shapes import PerSample

LARGEST_WIDTH = 512
"""Most channels that a file or a configuration may ask for."""

LARGEST_LIMIT = 100.0
"""Largest limit that can be asked for: what it proves is then vacuous."""


class Units(NamedTuple):
    """What turns the coefficients of an image into those of a network, and factors into thresholds.

    Attributes
    ----------
    coefficient
        Thresholds of the first pass at the scale 1, (features,): coefficients are in units of them.
    threshold
        Thresholds of the second pass at the scale 1, which the factors multiply, (features,).
    ratio
        Scale of the thresholds of the second pass over that of the first.
    """

    coefficient: Tensor
    threshold: Tensor
    ratio: PerSample


class AdaptationConfig(NetworkConfig):
    """See :class:`Adaptation` and, with ``limit``, :class:`LimitedAdaptation`."""

    features: int = Field(32, ge=1, le=LARGEST_WIDTH, description="channels of the ridge")
    hidden: int = Field(32, ge=1, le=LARGEST_WIDTH, description="channels of the hidden layers")
    limit: float | None = Field(
        None,
        gt=0,
        le=LARGEST_LIMIT,
        description="Lipschitz constant of the thresholds, proved for all weights; none if null",
    )

    def build(self, seed: int = 0) -> "FactorNetwork":
        """The network, whose factors are 1 before any training."""
        kind = Adaptation if self.limit is None else LimitedAdaptation
        return kind(self, seed)

    def sides(self) -> list[int]:
        """Sides of the kernels of the convolutions before the last one, which has 1 x 1."""
        return [3, 3, 3] if self.limit is None else [3]

    def shapes(self) -> Shapes:
        """Kernels and offsets of the convolutions."""
        found: Shapes = {
            "last": (self.features, self.hidden, 1, 1),
            "last_offset": (self.features,),
        }
        widths = [self.features, *(self.hidden for _ in self.sides())]
        for place, (before, after) in enumerate(itertools.pairwise(widths)):
            side = self.sides()[place]
            found[f"weights.{place}"] = (after, before, side, side)
            found[f"offsets.{place}"] = (after,)
        return found


class FactorNetwork(nn.Module, ABC):
    """Positive factors of the thresholds of a ridge, for every channel and pixel.

    They are read off the coefficients c of a first image, in units of its thresholds, and depend
    neither on its scale nor on its phase. For any fixed factors all proofs of the ridge hold as
    before.

    Parameters
    ----------
    config
        Its sizes.
    seed
        Seed of the weights.
    """

    def __init__(self, config: AdaptationConfig, seed: int = 0):
        super().__init__()
        self.config = checked(AdaptationConfig, "adaptation", config.model_dump())
        generator = torch.Generator().manual_seed(seed)
        self.weights, self.offsets = nn.ParameterList(), nn.ParameterList()
        for place in range(len(config.sides())):
            shape = config.shapes()[f"weights.{place}"]
            kernel = torch.randn(shape, generator=generator)
            self.weights.append(nn.Parameter(kernel * math.sqrt(2 / math.prod(shape[1:]))))
            self.offsets.append(nn.Parameter(torch.zeros(shape[0])))
        self.last = nn.Parameter(torch.zeros(config.features, config.hidden, 1, 1))
        self.last_offset = nn.Parameter(torch.zeros(config.features))

    @abstractmethod
    def forward(self, coefficients: Tensor, units: Units) -> Tensor:
        """Factors from coefficients, both (batch, features, y, x); 1 before any training."""

    @abstractmethod
    def lipschitz_upper(self, units: Units) -> float:
        """Proved Lipschitz constant of the map from the coefficients to the thresholds.

        Both in the units of the images, not of each other.
        """

    def kernels(self, units: Units) -> list[Tensor]:
        """The kernels of all convolutions between units of images, in double precision."""
        first, *others = (weight.double() for weight in self.weights)
        last = units.threshold.double()[:, None, None, None] * self.last.double()
        return [first / units.coefficient.double()[:, None, None], *others, last]

    def _product(self, units: Units) -> float:
        """The product of the norms of the convolutions."""
        norms = math.prod(convolution_norm_upper(kernel) for kernel in self.kernels(units))
        return norms * float(units.ratio.max())


class Adaptation(FactorNetwork):
    """Factors ``exp(5 tanh(N(log(1 + c)) / 5))``, as sharp as training makes them.

    N has three convolutions of 3 x 3 with ReLU, the second one dilated, and one of 1 x 1. The
    factors lie between ``exp(-5)`` and ``exp(5)``. Their Lipschitz constant is proved as a product
    of norms, which is so large for trained weights that it promises nothing.
    """

    def forward(self, coefficients: Tensor, units: Units) -> Tensor:
        """See :class:`FactorNetwork`."""
        # Coefficients span orders of magnitude between noise and edges.
        h = torch.log1p(coefficients)
        for weight, offset, dilation in zip(self.weights, self.offsets, DILATIONS):
            h = F.relu(F.conv2d(h, weight, offset, padding=dilation, dilation=dilation))
        logarithm = F.conv2d(h, self.last, self.last_offset)
        return torch.exp(LARGEST * torch.tanh(logarithm / LARGEST))

    def lipschitz_upper(self, units: Units) -> float:
        """The product of those of log(1 + c) and ReLU, 1, of the convolutions, dilated or not, and
        of ``exp(5 tanh(t / 5))``."""
        return STEEPEST * self._product(units)


class LimitedAdaptation(FactorNetwork):
    """Factors whose thresholds have a Lipschitz constant of at most ``limit``, for all weights.

    They are ``f + softplus(o + g V relu(W c + w))``, with W of 3 x 3, V of 1 x 1, the smallest
    factor f = 0.02, a softplus with slopes in [0, 1], and g the number, at most 1, that brings the
    product of the norms of W and V between units of images down to the limit. So a change of the
    first image by e moves all thresholds by at most ``limit ||U|| e`` in all.
    """

    def forward(self, coefficients: Tensor, units: Units) -> Tensor:
        """See :class:`FactorNetwork`."""
        weight, offset = self.weights[0], self.offsets[0]
        h = F.relu(F.conv2d(coefficients, weight, offset, padding=weight.shape[-1] // 2))
        gain = self._gain(units).to(h)[:, None, None, None]
        steps = gain * F.conv2d(h, self.last) + self.last_offset[:, None, None]
        return SMALLEST + F.softplus(START + steps, beta=SHARPNESS)

    def lipschitz_upper(self, units: Units) -> float:
        """The limit, or the product of the norms if that is smaller."""
        assert self.config.limit is not None
        return min(self._product(units), self.config.limit)

    def _gain(self, units: Units) -> PerSample:
        """g of every sample, differentiable in W and V."""
        assert self.config.limit is not None
        first, last = map(convolution_norm, self.kernels(units))
        norms = first * last * units.ratio.double()
        limit = self.config.limit * BELOW
        return limit / norms.clamp(min=limit)


DILATIONS = (1, 2, 1)
"""Dilations of the convolutions of 3 x 3."""

LARGEST = 5.0
"""Logarithm of the largest factor."""

_AT = (math.sqrt(1 + LARGEST**2) - 1) / LARGEST
STEEPEST = math.exp(LARGEST * _AT) * (1 - _AT**2) * (1 + 1e-12)
"""Largest slope of ``exp(5 tanh(t / 5))``, rounded up: where ``h = tanh(t / 5)`` is the root of
``5 (1 - h^2) = 2 h``."""

SMALLEST, SHARPNESS = 0.02, 4.0
"""Smallest factor of a limited adaptation, and ``1 / width`` of the bend of its softplus."""

START = math.log(math.expm1((1 - SMALLEST) * SHARPNESS)) / SHARPNESS
"""Where the factor is 1."""

BELOW = 1 - 1e-6
"""Keeps the constant below its limit although g is rounded."""
