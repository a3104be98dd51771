"""The layered network: ridges, each with input from the one before; F strongly monotone (20)."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from equipoise.networks.blocks import (
    BLOCK,
    KERNEL,
    PRODUCTS,
    analysed,
    between_blocks,
    inside_blocks,
    synthesised,
)
from equipoise.networks.conditioned import (
    ConditionedNetwork,
    Used,
    kept,
    largest_norm_between_layers,
    limited,
)
from equipoise.networks.network import Monotonicity, NetworkConfig, Shapes
from equipoise.networks.proved import (
    convolution_norm,
    convolution_norm_upper,
    one_input_norm_squared,
)
from equipoise.networks.ridge import BELOW, HALF, LARGEST_WIDTH, MOST_CLIPS, zero_mean_kernels
from equipoise.networks.rounding import layered_rounding
from equipoise.networks.shrinkage import Layer, shrunk, start_of_thresholds
from equipoise.settings import checked
from equipoise.shapes import Image, PerSample

BETWEEN = 3
"""Side of the kernels between layers."""

MOST_LAYERS = 16


class LayeredConfig(NetworkConfig):
    """See :class:`Layered`."""

    m: float = Field(0.01, ge=1e-9, lt=1, description="monotonicity constant of F")
    features: int = Field(24, ge=1, le=LARGEST_WIDTH, description="channels of every layer")
    layers: int = Field(2, ge=2, le=MOST_LAYERS)
    delta: float = Field(
        0.5, gt=0, lt=1, description="margin that the kernels between layers leave"
    )
    basis: int = Field(8, ge=1, le=LARGEST_WIDTH, description="kernels in the first factor of U")
    clips: int = Field(2, ge=1, le=MOST_CLIPS, description="terms of the shrinkage")
    channels: Literal[1, 2] = Field(2, description="1 for real images")

    def build(self, seed: int = 0) -> "Layered":
        """The network with random kernels."""
        return Layered(**self.model_dump(), seed=seed)

    def shapes(self) -> Shapes:
        """Both factors of the kernels of U, those of W, and thresholds and shares of all layers."""
        total = self.layers * self.features
        clips = (self.clips, total)
        return {
            "first": (self.basis, 1, HALF, HALF),
            "second": (total, self.basis, HALF, HALF),
            "between": (self.layers - 1, self.features, self.features, BETWEEN, BETWEEN),
            "log_threshold": clips,
            "share": clips,
        }


class Layered(ConditionedNetwork):
    """``F(x) = m x + sum_k U_k^T z_k`` with ``z_k = s_k(W_k z_(k-1) + U_k x)``, ``H = I - F`` (20).

    U_k are real convolutions of 9 x 9 with zero mean that act on the real and on the imaginary
    part. W_k are convolutions of 3 x 3 between layers, and s_k is the shrinkage of
    :mod:`~equipoise.networks.shrinkage`. With ``||W_k|| <= (1 - delta) / cos(pi / (L + 1))``,
    ``<s(u) - s(v), u - v> >= ||s(u) - s(v)||^2`` and G the sum::

        <G(x) - G(y), x - y> >= delta ||z(x) - z(y)||^2 >= (delta / ||U||^2) ||G(x) - G(y)||^2

    so F is m-strongly monotone for every U, although G is not a gradient, and
    ``||U||^2 <= 2 delta (1 - m)`` gives ``Lip(H) <= 1 - m``. The kernels that an evaluation uses
    are within both limits for every value of the weights. With W = 0 it is a
    :class:`~equipoise.networks.ridge.Ridge`.

    Parameters
    ----------
    m
        Monotonicity constant of F.
    features, layers
        Channels of a layer, and number of layers.
    delta
        Between 0 and 1. A small delta allows large kernels between layers and small kernels of U.
    basis
        Number of 5 x 5 kernels in the first factor of U. A second factor of 5 x 5 combines them to
        kernels of 9 x 9.
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
        features: int = 24,
        layers: int = 2,
        delta: float = 0.5,
        basis: int = 8,
        clips: int = 2,
        channels: int = 2,
        seed: int = 0,
    ):
        super().__init__()
        shape = {"features": features, "layers": layers, "delta": delta, "basis": basis}
        content = {"m": m, **shape, "clips": clips, "channels": channels}
        self.config = checked(LayeredConfig, "layered network", content)
        self.m, self.features, self.layers, self.channels = m, features, layers, channels
        self.delta = delta
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn((basis, 1, HALF, HALF), generator=generator) / HALF)
        second = torch.randn((layers * features, basis, HALF, HALF), generator=generator)
        self.second = nn.Parameter(second / (HALF * math.sqrt(basis)))
        shape_between = (layers - 1, features, features, BETWEEN, BETWEEN)
        between = torch.randn(shape_between, generator=generator)
        self.between = nn.Parameter(between * (START / math.sqrt(features)))
        self.log_threshold = nn.Parameter(start_of_thresholds(clips, layers * features))
        self.share = nn.Parameter(torch.zeros(clips, layers * features))

    @property
    def reach(self) -> int:
        """Largest distance, in pixels, of the input of an output pixel, through U, W and U^T."""
        return KERNEL - 1 + (self.layers - 1) * (BETWEEN // 2)

    @property
    def limit(self) -> float:
        """The largest norm of the kernels between layers."""
        return largest_norm_between_layers(self.layers, self.delta) * BELOW

    def kernels(self) -> list[nn.Parameter]:
        """The factors of the kernels of U, and the kernels between layers."""
        return [self.first, self.second, self.between]

    def analysis(self) -> Tensor:
        """All U_k as they are used, (layers features, 1, 9, 9) in double precision."""
        kernel = zero_mean_kernels(self.first.double(), self.second.double())
        allowed = 2 * self.delta * (1 - self.m) * BELOW**2
        return kernel * torch.sqrt(allowed / one_input_norm_squared(kernel))

    def used(self) -> Used:
        """Kernels of U between blocks, kernels between layers, thresholds and shares."""
        kernel = self.analysis()
        size = kernel.square().sum((1, 2, 3)).sqrt()
        between = torch.stack(
            [limited(w, convolution_norm(w), self.limit) for w in self.between.double()]
        )
        thresholds = self.log_threshold.exp() * size.to(self.dtype)
        shares = torch.softmax(self.share, 0)
        return (
            between_blocks(kernel.to(self.dtype)),
            between.to(self.dtype),
            thresholds,
            shares,
        )

    def shrinkage(self, image: Image, scale: Tensor, used: Used) -> list[Layer]:
        """``z_k = s(W_k z_(k-1) + U_k x)`` of every layer."""
        blocks, between, thresholds, shares = used
        layers: list[Layer] = []
        for k, v in enumerate(self._of_layers(analysed(image, blocks, self.channels))):
            if k:
                v = v + self._passed(layers[-1].value, between[k - 1], image)
            own = slice(k * self.features, (k + 1) * self.features)
            layers.append(shrunk(v, thresholds[:, own], shares[:, own], scale))
        return layers

    def moved(self, image: Image, scale: Tensor, used: Used) -> Image:
        """``H(x) = (1 - m) x - U^T z``."""
        layers = self.shrinkage(image, scale, used)
        z = torch.cat([layer.value for layer in layers], 2)
        return kept(image, self.m, self.channels) - synthesised(z, image, used[0])

    def product(self, change: Image, layers: list[Layer], used: Used) -> Image:
        """``(1 - m) d - U^T dz``."""
        blocks, between, *_ = used
        moved: list[Tensor] = []
        for k, v in enumerate(self._of_layers(analysed(change, blocks, self.channels))):
            if k:
                v = v + self._passed(moved[-1], between[k - 1], change)
            moved.append(layers[k].change(v))
        back = synthesised(torch.cat(moved, 2), change, blocks)
        return kept(change, self.m, self.channels) - back

    def _of_layers(self, z: Tensor) -> list[Tensor]:
        return list(torch.split(z, self.features, 2))

    def _passed(self, z: Tensor, kernel: Tensor, image: Image) -> Tensor:
        """``W z`` from blocks to blocks, zero outside the image."""
        planes = F.pixel_shuffle(z.reshape(len(z) * self.channels, -1, *z.shape[-2:]), BLOCK)
        passed = F.pixel_unshuffle(F.conv2d(planes, kernel, padding=BETWEEN // 2), BLOCK)
        inside = inside_blocks(image, z)
        passed = passed.reshape(z.shape)
        # The convolution spreads coefficients into the padding, from where the next layer would
        # return them.
        return passed if inside is None else passed * inside

    def _norms(self) -> tuple[float, float]:
        """Proved bounds on ``||U||`` and on the largest ``||W_k||``, for the rounded kernels."""
        with torch.no_grad():
            kernel, between = self.analysis().to(self.dtype), self.used()[1]
        if not all(bool(torch.isfinite(k).all()) for k in (kernel, between)):
            return math.inf, math.inf
        return convolution_norm_upper(kernel), max(convolution_norm_upper(w) for w in between)

    def _left(self, between: float) -> float:
        """The delta that is proved for a largest norm of the kernels between layers."""
        return 1 - between * math.cos(math.pi / (self.layers + 1))

    def lipschitz_upper(self) -> float:
        """``max(1 - m, q - (1 - m))`` with ``q = ||U||^2 / delta``, as G is 1/q-cocoercive."""
        if not self.finite():
            return math.inf
        norm, between = self._norms()
        left, above = self._left(between), 1 - self.m
        return max(above, norm**2 / left - above) if left > 0 else math.inf

    def monotonicity(self) -> Monotonicity:
        """m, by construction (20), if the norms of the kernels between layers are small enough."""
        if not (0 < self.m < 1 and self.finite()):
            return self.unproved(f"m is {self.m}, or a weight is NaN or Inf")
        norm, between = self._norms()
        if not (math.isfinite(norm) and self._left(between) > 0):
            allowed = largest_norm_between_layers(self.layers, 0)
            return self.unproved(
                f"a kernel between layers has the norm {between:.4g}, and U {norm:.4g}: "
                f"{allowed:.4g} is the limit of {self.layers} layers"
            )
        return Monotonicity(
            self.m,
            "proved",
            f"F - {self.m:.4g} I = sum_k U_k^T z_k, kernels between layers of norm <= "
            f"{between:.4g}; Lip(H) <= {self.lipschitz_upper():.4g}",
        )

    def rounding(self, image: Image) -> PerSample:
        """A proved bound on the rounding of one evaluation, for every threshold scale."""
        with torch.no_grad():
            kernel, between = self.analysis().to(self.dtype), self.used()[1]
        terms = PRODUCTS + 1, PRODUCTS * len(kernel) + 1
        return layered_rounding(kernel, list(between), terms, image, self.dtype)


START = 0.1
"""Size of the kernels between layers at the start, relative to He's; H is then nearly that of a
ridge."""
