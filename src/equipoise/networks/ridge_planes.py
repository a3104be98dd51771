"""The ridge for the planes (z, y) of a volume, one for each position along its readout x (19)."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from equipoise.networks.ridge import Ridge, RidgeAt, RidgeConfig, scale_of_pixels
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

    def at(
        self,
        threshold: PerSample,
        factors: Tensor | None = None,
        *,
        reference: Image | None = None,
    ) -> "PlanarAt":
        """As of a ridge, with factors (batch, x, features, z, y)."""
        return PlanarAt(self, threshold, factors, reference)

    def coefficients(self, image: Image, threshold: PerSample) -> Tensor:
        """As of a ridge, plane by plane: (batch x, features, z, y)."""
        each = threshold.repeat_interleave(image.shape[-1])
        return super().coefficients(planes_of(image), each)


class PlanarAt(RidgeAt):
    """H of a :class:`PlanarRidge` at one threshold scale for each volume."""

    def factors_of(self, y: slice, x: slice) -> Tensor:
        """The factors of a piece of the volume, with all of z."""
        assert self.factors is not None
        return self.factors[:, x, ..., y]

    def moved(self, image: Image) -> Image:
        """``H(x)``, some planes at a time, so that memory does not grow with their number.

        For a gradient of an image larger than ``KEPT`` these planes are evaluated again.
        """
        parts = self._parts(image, torch.is_grad_enabled())
        if len(parts) == 1:
            return volumes_of(super().moved(planes_of(image)), len(image))

        def of_a_part(x: slice) -> Tensor:
            part, piece = self.part(slice(None), x), image[..., x]
            return recomputed(part.moved, piece)

        return torch.cat([of_a_part(x) for x in parts], -1)

    def linearised(self, image: Image) -> Callable[[Image], Image]:
        """The Jacobian at an image as ``d -> J d``; a product costs one evaluation.

        Of an image larger than ``KEPT`` the planes are evaluated again for every product.
        """
        parts = self._parts(image, True)
        if len(parts) == 1:
            product = super().linearised(planes_of(image))
            return lambda change: volumes_of(product(planes_of(change)), len(change))

        def of_a_part(x: slice, change: Tensor) -> Tensor:
            return self.part(slice(None), x).linearised(image[..., x])(change[..., x])

        return lambda change: torch.cat([of_a_part(x, change) for x in parts], -1)

    def _parts(self, image: Image, keep: bool) -> list[slice]:
        """The planes of an image, some at a time; all of them to keep what a small one needs."""
        whole = keep and image.numel() <= KEPT
        some = image.shape[-1] if whole else planes_at_once(image.shape[-3] * image.shape[-2])
        return [slice(k, k + some) for k in range(0, image.shape[-1], some)]

    def scale(self, image: Image) -> Tensor:
        """The threshold scale of planes (batch x, z, y), with the factors where there are some."""
        if self.factors is None:
            return self.threshold.repeat_interleave(len(image) // len(self.threshold))
        batch = len(image) // self.factors.shape[1]
        factors = self.factors.expand(batch, *self.factors.shape[1:]).flatten(0, 1)
        each = self.threshold.expand(batch).repeat_interleave(self.factors.shape[1])
        return scale_of_pixels(each, factors.to(self.dtype))


AT_ONCE = 2**15
"""Voxels whose coefficients are in memory at once, at least those of a plane."""

KEPT = 2**16
"""Voxels up to which all coefficients are kept for derivatives, 80 bytes for each feature."""


def planes_at_once(pixels: int) -> int:
    """How many planes of some pixels each are evaluated together."""
    return max(AT_ONCE // pixels, 1)


NEIGHBOURS = 1
"""Planes at each side that :func:`with_neighbours` adds."""


def with_neighbours(volume: Tensor) -> list[Tensor]:
    """Some planes along x of volumes (..., x) at a time, with a further one at both ends.

    The first and the last plane of the volume stand for their neighbours outside.
    """
    wide = torch.cat([volume[..., :1], volume, volume[..., -1:]], -1)
    some, x = planes_at_once(volume.shape[-3] * volume.shape[-2]), volume.shape[-1]
    return [wide[..., k : k + some + 2 * NEIGHBOURS] for k in range(0, x, some)]


def recomputed(function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    """A function of some planes, which is evaluated again for a gradient.

    The activations of all planes would take more memory than the solve.
    """
    if torch.is_grad_enabled():
        found: Tensor = checkpoint(function, *arguments, use_reentrant=False)
        return found
    return function(*arguments)


def planes_of(volumes: Tensor) -> Tensor:
    """The planes (z, y) of volumes (batch, z, y, x) as images (batch x, z, y)."""
    return volumes.movedim(-1, 1).flatten(0, 1)


def volumes_of(planes: Tensor, batch: int) -> Tensor:
    """The volumes of :func:`planes_of`."""
    return planes.reshape(batch, -1, *planes.shape[1:]).movedim(1, -1)
