"""The ridge for the planes (z, y) of a volume, one for each position along its readout x (19)."""

import copy
from typing import ClassVar

import torch
from torch import Tensor

from equipoise.networks.blocks import analysed, synthesised
from equipoise.networks.conditioned import ConditionedNetwork, Used, kept
from equipoise.networks.ridge import Ridge, RidgeAt, RidgeConfig, scale_of_pixels
from equipoise.networks.shrinkage import Layer, shrunk
from equipoise.shapes import Image, PerSample


class PlanarRidgeConfig(RidgeConfig):
    """See :class:`PlanarRidge`."""

    axis: ClassVar[str] = "z"
    """The axis before y and x."""

    def build(self, seed: int = 0) -> "PlanarRidge":
        """The network with random kernels."""
        return PlanarRidge(**self.model_dump(), seed=seed)


class PlanarRidge(Ridge):
    """``F(x) = m x + U^T s(U x)`` for volumes (batch, z, y, x), U in every plane (z, y).

    A volume whose lines along x are fully measured falls into these planes, in which its
    undersampling is. U of a volume has the norm of U of a plane, so everything that is proved of
    :class:`Ridge` holds.
    """

    axes = ("z", "y", "x")  # type: ignore[assignment]

    def at(self, threshold: PerSample, factors: Tensor | None = None) -> "PlanarAt":
        """As of a ridge, with factors (batch, x, features, z, y)."""
        return PlanarAt(self, threshold, factors)

    def coefficients(self, image: Image, threshold: PerSample) -> Tensor:
        """As of a ridge, plane by plane: (batch x, features, z, y)."""
        each = threshold.repeat_interleave(image.shape[-1])
        return super().coefficients(planes_of(image), each)

    def shrinkage(self, image: Image, scale: Tensor, used: Used) -> list[Layer]:
        """``s(U x)``."""
        blocks, thresholds, shares = used
        z = analysed(planes_of(image), blocks, self.channels)
        return [shrunk(z, thresholds, shares, scale)]

    def moved(self, image: Image, scale: Tensor, used: Used) -> Image:
        """``H(x) = (1 - m) x - U^T s(U x)``."""
        return self._moved(image, self.shrinkage(image, scale, used)[0].value, used)

    def product(self, change: Image, layers: list[Layer], used: Used) -> Image:
        """``(1 - m) d - U^T s'(U x) U d``."""
        moved = layers[0].change(analysed(planes_of(change), used[0], self.channels))
        return self._moved(change, moved, used)

    def _moved(self, image: Image, values: Tensor, used: Used) -> Image:
        """``(1 - m) x - U^T v``."""
        planes = synthesised(values, planes_of(image), used[0])
        back = planes.reshape(len(image), -1, *planes.shape[1:]).movedim(1, -1)
        return kept(image, self.m, self.channels) - back


class PlanarAt(RidgeAt):
    """H of a :class:`PlanarRidge` at one threshold scale for each volume."""

    def with_network(self, network: ConditionedNetwork, threshold: PerSample) -> "PlanarAt":
        """The same factors around another ridge."""
        assert isinstance(network, PlanarRidge)
        return PlanarAt(network, threshold, self.factors)

    def part(self, y: slice, x: slice) -> "PlanarAt":
        """H for a piece of the volume, with all of z."""
        if self.factors is None:
            return self
        piece = copy.copy(self)
        piece.factors = self.factors[:, x, ..., y]
        return piece

    def forward(self, image: Image) -> Image:
        """``H(x)``; without a gradient some planes at a time, so that memory does not grow."""
        some = planes_at_once(image.shape[-3] * image.shape[-2])
        if torch.is_grad_enabled() or some >= image.shape[-1]:
            return super().forward(image)
        all_y = slice(None)
        parts = [slice(k, k + some) for k in range(0, image.shape[-1], some)]
        return torch.cat([self.part(all_y, x)(image[..., x]) for x in parts], -1)

    def scale(self, image: Image) -> Tensor:
        """The threshold scale of every plane, with the factors where there are some."""
        each = self.threshold.expand(len(image)).repeat_interleave(image.shape[-1])
        if self.factors is None:
            return each
        factors = self.factors.expand(len(image), *self.factors.shape[1:]).flatten(0, 1)
        return scale_of_pixels(each, factors.to(self.dtype))


AT_ONCE = 2**15
"""Voxels whose coefficients are in memory at once, at least those of a plane."""


def planes_at_once(pixels: int) -> int:
    """How many planes of some pixels each are evaluated together."""
    return max(AT_ONCE // pixels, 1)


def planes_of(volumes: Tensor) -> Tensor:
    """The planes (z, y) of volumes (batch, z, y, x) as images (batch x, z, y)."""
    return volumes.movedim(-1, 1).flatten(0, 1)
