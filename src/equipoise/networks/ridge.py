"""The ridge network, whose F is strongly monotone for all weights (19), (22)."""

import copy
import math
from typing import Any, Literal, NamedTuple

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
    synthesised,
    whole_blocks,
)
from equipoise.networks.conditioned import AtScale, ConditionedNetwork, Used, kept
from equipoise.networks.network import Monotonicity, NetworkConfig, Shapes
from equipoise.networks.proved import convolution_norm_upper, one_input_norm_squared
from equipoise.networks.rounding import norms_of_analysis, shrinkage_rounding
from equipoise.networks.shrinkage import Layer, shrunk, start_of_thresholds
from equipoise.settings import checked
from equipoise.shapes import Image, PerSample
from equipoise.vectors import per_sample

HALF = 5
"""Side of the two kernels whose composition has the side ``KERNEL``."""

BELOW = 1 - 1e-6
"""Keeps the norm below its bound although kernels are rounded after they were normalised."""

LARGEST_WIDTH, MOST_CLIPS = 512, 32
"""Largest sizes that a file or a configuration may ask for."""


class RidgeUsed(NamedTuple):
    """What an evaluation uses: kernels between blocks, thresholds and shares, (clip, channel)."""

    blocks: Tensor
    thresholds: Tensor
    shares: Tensor


class RidgeConfig(NetworkConfig):
    """See :class:`Ridge`."""

    m: float = Field(0.01, ge=1e-9, lt=1, description="monotonicity constant of F")
    features: int = Field(32, ge=1, le=LARGEST_WIDTH)
    basis: int = Field(8, ge=1, le=LARGEST_WIDTH, description="kernels in the first factor of U")
    clips: int = Field(2, ge=1, le=MOST_CLIPS, description="terms of the shrinkage")
    channels: Literal[1, 2] = Field(2, description="1 for real images")

    def build(self, seed: int = 0) -> "Ridge":
        """The network with random kernels."""
        return Ridge(**self.model_dump(), seed=seed)

    def shapes(self) -> Shapes:
        """Both factors of the kernels, and thresholds and shares, (clips, features)."""
        clips = (self.clips, self.features)
        return {
            "first": (self.basis, 1, HALF, HALF),
            "second": (self.features, self.basis, HALF, HALF),
            "log_threshold": clips,
            "share": clips,
        }


class Ridge(ConditionedNetwork):
    """``F(x) = m x + U^T s(U x)``, ``H = I - F`` (19), U real convolutions with zero-mean kernels.

    U acts on the real and on the imaginary part, so its coefficients z are complex, and s clips
    their modulus: ``s(z) = z sum_j a_j min(1, tau_j / |z|)``, ``a_j >= 0``, ``sum_j a_j = 1``. s is
    the gradient of a convex function of z, a sum of Huber functions of ``|z|``, with slopes in
    [0, 1]. F is therefore m-strongly monotone for any U, commutes with a change of the phase of the
    image, and is the gradient of a convex regulariser (Goujon, Neumayer, Unser, IEEE Trans. Comput.
    Imaging 2023, for real images). U is normalised to ``||U||^2 <= 2 (1 - m)``, hence
    ``Lip(H) <= 1 - m`` (6). Both hold for every value of the weights.

    :meth:`at` gives H with thresholds at another scale than 1.

    Parameters
    ----------
    m
        Monotonicity constant of F.
    features
        Channels of U.
    basis
        Number of 5 x 5 kernels in the first factor of U. A second factor of 5 x 5 combines them to
        kernels of 9 x 9.
    clips
        Number of terms of s.
    channels
        2 for complex images, 1 for real ones: the imaginary part is then zero.
    seed
        Seed of the kernels.
    """

    symmetric = True
    """J is symmetric: F is the gradient of a convex function."""

    axes = ("y", "x")
    """The axes of an image after the batch."""

    def __init__(
        self,
        m: float = 0.01,
        features: int = 32,
        basis: int = 8,
        clips: int = 2,
        channels: int = 2,
        seed: int = 0,
    ):
        super().__init__()
        shape = {"features": features, "basis": basis, "clips": clips, "channels": channels}
        self.config = checked(RidgeConfig, "ridge", {"m": m, **shape})
        self.m, self.features, self.basis = m, features, basis
        self.clips, self.channels = clips, channels
        generator = torch.Generator().manual_seed(seed)
        first = torch.randn((basis, 1, HALF, HALF), generator=generator) / HALF
        second = torch.randn((features, basis, HALF, HALF), generator=generator)
        self.first = nn.Parameter(first)
        self.second = nn.Parameter(second / (HALF * math.sqrt(basis)))
        self.log_threshold = nn.Parameter(start_of_thresholds(clips, features))
        self.share = nn.Parameter(torch.zeros(clips, features))

    @property
    def reach(self) -> int:
        """Largest distance, in pixels, of the input of an output pixel, through U and U^T."""
        return KERNEL - 1

    def kernels(self) -> list[nn.Parameter]:
        """Both factors of the kernels."""
        return [self.first, self.second]

    def kernel(self) -> Tensor:
        """U as it is used: zero mean, normalised, (features, 1, 9, 9) in double precision."""
        kernel = zero_mean_kernels(self.first.double(), self.second.double())
        return kernel * torch.sqrt(2 * (1 - self.m) / one_input_norm_squared(kernel)) * BELOW

    def used(self) -> RidgeUsed:
        """Kernels, thresholds and shares of an evaluation, differentiable in the weights."""
        kernel = self.kernel()
        # In units of the norm of the kernel, in which white noise has one size in every channel.
        size = kernel.square().sum((1, 2, 3)).sqrt()
        thresholds = self.log_threshold.exp() * size.to(self.dtype)
        shares = torch.softmax(self.share, 0)
        return RidgeUsed(between_blocks(kernel.to(self.dtype)), thresholds, shares)

    def at(
        self,
        threshold: PerSample,
        factors: Tensor | None = None,
        *,
        reference: Image | None = None,
    ) -> "RidgeAt":
        """H with every threshold multiplied by a scale for each sample, (batch,) (22).

        The thresholds of s are in units of the norm of their kernel. The scale is the standard
        deviation, relative to the image, of the white noise that is just removed. ``factors`` are
        further positive factors for every channel and pixel, (batch, features, y, x). s remains
        increasing, so everything that is proved about H holds.
        """
        return RidgeAt(self, threshold, factors, reference)

    def coefficients(self, image: Image, threshold: PerSample) -> Tensor:
        """``|U x|`` in units of its thresholds (their geometric mean), (batch, features, y, x)."""
        used = self.used()
        z = analysed(image, used.blocks, self.channels)
        size = z.square().sum(1).add(torch.finfo(z.dtype).tiny ** 0.5).sqrt().flatten(1, 2)
        planes = F.pixel_shuffle(size, BLOCK)[..., : image.shape[-2], : image.shape[-1]]
        unit = used.thresholds.log().mean(0).exp()[:, None, None]
        return planes / (unit * threshold.to(z.dtype)[:, None, None, None])

    def shrinkage(self, image: Image, scale: Tensor, used: Used) -> list[Layer]:
        """``s(U x)``."""
        blocks, thresholds, shares = used
        return [shrunk(analysed(image, blocks, self.channels), thresholds, shares, scale)]

    def moved(self, image: Image, scale: Tensor, used: Used) -> Image:
        """``H(x) = (1 - m) x - U^T s(U x)``."""
        layers = self.shrinkage(image, scale, used)
        back = synthesised(layers[0].value, image, used[0])
        return kept(image, self.m, self.channels) - back

    def product(self, change: Image, layers: list[Layer], used: Used) -> Image:
        """``(1 - m) d - U^T s'(U x) U d``."""
        moved = layers[0].change(analysed(change, used[0], self.channels))
        return kept(change, self.m, self.channels) - synthesised(moved, change, used[0])

    def lipschitz_upper(self) -> float:
        """Proved bound on Lip(H), from the rounded kernel; infinite for NaN or Inf.

        ``F - m I`` is the gradient of a convex function and ``||U||^2``-Lipschitz, so the
        eigenvalues of the Jacobian of H lie in ``[1 - m - ||U||^2, 1 - m]``.
        """
        with torch.no_grad():
            kernel = self.kernel().to(self.dtype)
        weights = (kernel, self.log_threshold, self.share)
        # NaN would pass every comparison below and look like a valid bound.
        if not all(bool(torch.isfinite(w).all()) for w in weights):
            return math.inf
        above = 1 - self.m
        return max(above, convolution_norm_upper(kernel) ** 2 - above)

    def monotonicity(self) -> Monotonicity:
        """m, by construction (19); nothing for weights that are NaN or Inf, or m outside (0, 1)."""
        upper = self.lipschitz_upper()
        if not 0 < self.m < 1 or math.isinf(upper):
            found = f"m is {self.m}, and the bound of Lip(H) is {upper}: kernels without a norm"
            return self.unproved(found)
        reason = f"F - {self.m:.4g} I = U^T s(U x) with s increasing; Lip(H) <= {upper:.4g}"
        return Monotonicity(self.m, "proved", reason)

    def rounding(self, image: Image) -> PerSample:
        """A proved bound on the rounding of one evaluation, for every threshold scale."""
        with torch.no_grad():
            kernel = self.kernel().to(self.dtype)
        terms = PRODUCTS + 1, PRODUCTS * self.features + 1
        return shrinkage_rounding(norms_of_analysis(kernel), terms, image, self.dtype)


class RidgeAt(AtScale):
    """H of a :class:`Ridge` at one threshold scale for each sample; see :meth:`Ridge.at`."""

    def __init__(
        self,
        ridge: Ridge,
        threshold: PerSample,
        factors: Tensor | None = None,
        reference: Image | None = None,
    ):
        super().__init__(ridge, threshold, reference)
        self.factors = factors

    def with_network(self, network: ConditionedNetwork, threshold: PerSample) -> "RidgeAt":
        """The same factors around another ridge."""
        assert isinstance(network, Ridge)
        return type(self)(network, threshold, self.factors, self.reference)

    def __deepcopy__(self, memo: dict[int, Any]) -> "RidgeAt":
        """An independent copy, from which no gradient flows back to the rule of the thresholds."""
        copied = super().__deepcopy__(memo)
        assert isinstance(copied, RidgeAt)
        copied.factors = None if self.factors is None else self.factors.detach().clone()
        return copied

    def part(self, y: slice, x: slice) -> "RidgeAt":
        """H for a piece of the image, with the factors of its pixels."""
        piece = super().part(y, x)
        assert isinstance(piece, RidgeAt)
        if self.factors is None:
            return piece
        piece = copy.copy(piece)
        piece.factors = self.factors_of(y, x)
        return piece

    def factors_of(self, y: slice, x: slice) -> Tensor:
        """The factors of a piece of the image."""
        assert self.factors is not None
        return self.factors[..., y, x]

    def scale(self, image: Image) -> Tensor:
        """The threshold scale, with the factors of every pixel where there are some."""
        if self.factors is None:
            return self.threshold
        return scale_of_pixels(self.threshold, self.factors.to(self.dtype))


def scale_of_pixels(threshold: PerSample, factors: Tensor) -> Tensor:
    """Scale times factors in the layout of coefficients, (batch, part, feature, 16, ...)."""
    blocks = F.pixel_unshuffle(whole_blocks(factors), BLOCK)
    planes = blocks.reshape(len(blocks), 1, -1, BLOCK**2, *blocks.shape[-2:])
    return per_sample(threshold.to(factors.dtype), planes) * planes


def zero_mean_kernels(first: Tensor, second: Tensor) -> Tensor:
    """Kernels of 9 x 9 with zero mean, each composed of two of 5 x 5, (features, 1, 9, 9).

    Parameters
    ----------
    first
        Kernels of the basis, (basis, 1, 5, 5); their means are removed.
    second
        How they are combined, (features, basis, 5, 5).
    """
    return composed_kernels(first - first.mean((2, 3), keepdim=True), second)


def composed_kernels(first: Tensor, second: Tensor) -> Tensor:
    """Kernels of 9 x 9, each composed of two of 5 x 5, see :func:`zero_mean_kernels`."""
    flipped = second.flip(2, 3)
    return F.conv2d(first.transpose(0, 1), flipped, padding=HALF - 1).transpose(0, 1)
