"""The composed network: non-expansive layers one after the other, F strongly monotone (21)."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from equipoise.networks.conditioned import (
    ConditionedNetwork,
    Used,
    limited,
)
from equipoise.networks.network import Monotonicity, NetworkConfig, Shapes
from equipoise.networks.proved import convolution_norm, convolution_norm_upper
from equipoise.networks.ridge import BELOW, LARGEST_WIDTH, MOST_CLIPS
from equipoise.networks.rounding import composed_rounding
from equipoise.networks.shrinkage import Layer, shrunk, start_of_thresholds
from equipoise.settings import checked
from equipoise.shapes import Image, PerSample

DILATIONS = (1, 2)
"""Dilations of successive layers, in turn; they extend the reach at no cost."""

SIDE = 3
"""Side of every kernel."""

BLOCK = 2
"""Side of the blocks into which pixels are gathered: twice the reach at a quarter of the cost."""

PHASES = BLOCK**2

MOST_LAYERS = 32


class ComposedConfig(NetworkConfig):
    """See :class:`Composed`."""

    m: float = Field(0.01, ge=1e-9, lt=1, description="monotonicity constant of F")
    width: int = Field(8, ge=PHASES, le=LARGEST_WIDTH, description="channels between layers")
    features: int = Field(32, ge=1, le=LARGEST_WIDTH, description="channels inside a layer")
    layers: int = Field(6, ge=1, le=MOST_LAYERS)
    clips: int = Field(2, ge=1, le=MOST_CLIPS, description="terms of the shrinkage")
    channels: Literal[1, 2] = Field(2, description="1 for real images")

    def build(self, seed: int = 0) -> "Composed":
        """The network with random kernels."""
        return Composed(**self.model_dump(), seed=seed)

    def shapes(self) -> Shapes:
        """Kernels, thresholds and shares of all layers."""
        clips = (self.layers, self.clips, self.features)
        kernels = (self.layers, self.features, self.width, SIDE, SIDE)
        return {"weight": kernels, "log_threshold": clips, "share": clips}


class Composed(ConditionedNetwork):
    """``H = (1 - m) P^T L_K ... L_1 P`` with ``L_k(h) = h - W_k^T s_k(W_k h)`` (21).

    P gathers the pixels of blocks of 2 x 2 in the first four of ``width`` channels and sets the
    others to zero, so it is an isometry. W_k is a real convolution that acts on the real and on the
    imaginary part. s_k is the shrinkage of :mod:`~equipoise.networks.shrinkage`, the gradient of a
    convex function with slopes in [0, 1]. With ``||W_k||^2 <= 2`` every L_k is non-expansive, so
    ``Lip(H) <= 1 - m`` and ``I - H`` is m-strongly monotone, for every value of the weights. The
    L_k are convex potential layers (Meunier et al., ICML 2022).

    Parameters
    ----------
    m
        Monotonicity constant of F.
    width, features
        Channels between layers, and inside a layer.
    layers
        K, the number of layers.
    clips
        Number of terms of s.
    channels
        2 for complex images, 1 for real ones.
    seed
        Seed of the kernels.
    """

    def __init__(
        self,
        m: float = 0.01,
        width: int = 8,
        features: int = 32,
        layers: int = 6,
        clips: int = 2,
        channels: int = 2,
        seed: int = 0,
    ):
        super().__init__()
        shape = {"width": width, "features": features, "layers": layers}
        content = {"m": m, **shape, "clips": clips, "channels": channels}
        self.config = checked(ComposedConfig, "composed network", content)
        self.m, self.width, self.layers, self.channels = m, width, layers, channels
        generator = torch.Generator().manual_seed(seed)
        shape_of_all = (layers, features, width, SIDE, SIDE)
        weight = torch.randn(shape_of_all, generator=generator) / (SIDE * math.sqrt(width))
        self.weight = nn.Parameter(weight)
        start = start_of_thresholds(clips, features)
        self.log_threshold = nn.Parameter(start.repeat(layers, 1, 1))
        self.share = nn.Parameter(torch.zeros(layers, clips, features))

    @property
    def reach(self) -> int:
        """Largest distance, in pixels, of the input of an output pixel, through every W and W^T."""
        blocks = sum(2 * (SIDE // 2) * self._dilation(k) for k in range(self.layers))
        return BLOCK * blocks + BLOCK - 1

    @property
    def grid(self) -> int:
        """Side of the blocks; a tile must begin at a multiple of it."""
        return BLOCK

    @staticmethod
    def _dilation(layer: int) -> int:
        return DILATIONS[layer % len(DILATIONS)]

    def kernels(self) -> list[nn.Parameter]:
        """The kernels of all layers."""
        return [self.weight]

    def used(self) -> Used:
        """Kernels, thresholds and shares of all layers; constant images give no coefficients."""
        weight = self.weight.double()
        of_image, others = torch.split(weight, [PHASES, self.width - PHASES], 2)
        # The mean over channels too: the four phases of a block hold one image.
        weight = torch.cat([of_image - of_image.mean((2, 3, 4), keepdim=True), others], 2)
        limit = math.sqrt(2) * BELOW
        # In double precision, so that the rounding to single precision stays within BELOW.
        kernels = torch.stack([limited(w, convolution_norm(w), limit) for w in weight])
        size = kernels.square().sum((2, 3, 4)).sqrt().to(self.dtype)
        thresholds = self.log_threshold.exp() * size[:, None]
        return kernels.to(self.dtype), thresholds, torch.softmax(self.share, 1)

    def moved(self, image: Image, scale: Tensor, used: Used) -> Image:
        """``H(x)``."""
        return self._evaluated(image, scale, used)[0]

    def shrinkage(self, image: Image, scale: Tensor, used: Used) -> list[Layer]:
        """The shrinkage of every layer."""
        return self._evaluated(image, scale, used)[1]

    def _evaluated(self, image: Image, scale: Tensor, used: Used) -> tuple[Image, list[Layer]]:
        kernels, thresholds, shares = used
        h = self._lifted(image)
        found: list[Layer] = []
        for k, kernel in enumerate(kernels):
            v = self._wide(h, kernel, k)
            found.append(shrunk(v, thresholds[k], shares[k], scale))
            h = h - self._back(found[-1].value, kernel, k)
        return self._image(h, image), found

    def product(self, change: Image, layers: list[Layer], used: Used) -> Image:
        """``J d``, layer by layer."""
        h = self._lifted(change)
        for k, kernel in enumerate(used[0]):
            h = h - self._back(layers[k].change(self._wide(h, kernel, k)), kernel, k)
        return self._image(h, change)

    def _lifted(self, image: Image) -> Tensor:
        """``P x``, (batch part, width, y, x)."""
        complex_dtype = torch.complex128 if self.dtype == torch.float64 else torch.complex64
        parts = torch.view_as_real(image.to(complex_dtype))[..., : self.channels].to(self.dtype)
        planes = parts.permute(0, 3, 1, 2).flatten(0, 1)[:, None]
        y, x = (-n % BLOCK for n in image.shape[-2:])
        blocks = F.pixel_unshuffle(F.pad(planes, (0, x, 0, y)), BLOCK)
        return F.pad(blocks, (0, 0, 0, 0, 0, self.width - PHASES))

    def _image(self, h: Tensor, image: Image) -> Image:
        """``(1 - m) P^T h`` in the shape and precision of an image."""
        height, width = image.shape[-2:]
        planes = F.pixel_shuffle(h[:, :PHASES], BLOCK)[:, 0, :height, :width]
        parts = planes.reshape(len(image), self.channels, height, width).permute(0, 2, 3, 1)
        if self.channels == 1:
            parts = torch.cat([parts, torch.zeros_like(parts)], -1)
        return (1 - self.m) * torch.view_as_complex(parts.contiguous()).to(image.dtype)

    def _wide(self, h: Tensor, kernel: Tensor, layer: int) -> Tensor:
        """``W h``, (batch, part, feature, y, x)."""
        d = self._dilation(layer)
        z = F.conv2d(h, kernel, padding=d * (SIDE // 2), dilation=d)
        return z.reshape(-1, self.channels, *z.shape[1:])

    def _back(self, z: Tensor, kernel: Tensor, layer: int) -> Tensor:
        """``W^T z``, (batch part, width, y, x)."""
        d = self._dilation(layer)
        flat = z.flatten(0, 1)
        return F.conv_transpose2d(flat, kernel, padding=d * (SIDE // 2), dilation=d)

    def _norms(self) -> list[float]:
        """Proved bounds on ``||W_k||`` for the rounded kernels; dilation does not change a norm."""
        with torch.no_grad():
            kernels = self.used()[0]
        if not bool(torch.isfinite(kernels).all()):
            return [math.inf]
        return [convolution_norm_upper(w) for w in kernels]

    def lipschitz_upper(self) -> float:
        """``(1 - m) prod_k max(1, ||W_k||^2 - 1)``, because L_k is the gradient of a function."""
        if not self.finite():
            return math.inf
        return (1 - self.m) * math.prod(max(1.0, norm**2 - 1) for norm in self._norms())

    def monotonicity(self) -> Monotonicity:
        """m, by construction (21), if every layer is non-expansive."""
        if not (0 < self.m < 1 and self.finite()):
            return self.unproved(f"m is {self.m}, or a weight is NaN or Inf")
        largest, upper = max(self._norms()), self.lipschitz_upper()
        # The kernels are limited when they are used, so only rounding can exceed the limit.
        if largest**2 > 2:
            return self.unproved(
                f"a kernel has the squared norm {largest**2:.4g}, and 2 is the limit of a layer "
                "that does not expand"
            )
        return Monotonicity(
            self.m, "proved", f"every ||W||^2 <= {largest**2:.4g} <= 2, so Lip(H) <= {upper:.4g}"
        )

    def rounding(self, image: Image) -> PerSample:
        """A proved bound on the rounding of one evaluation, for every threshold scale."""
        with torch.no_grad():
            kernels = self.used()[0]
        return composed_rounding(list(kernels), image, self.dtype)
