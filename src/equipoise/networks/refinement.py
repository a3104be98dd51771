"""Networks that refine the image of a volume, plane by plane."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from equipoise.networks.network import NetworkConfig, Shapes
from equipoise.networks.ridge_planes import (
    NEIGHBOURS,
    planes_of,
    recomputed,
    volumes_of,
    with_neighbours,
)
from equipoise.networks.unet import LARGEST_WIDTH, ResidualUNet, UNetworkConfig
from equipoise.shapes import Image

PLANES = 2 * NEIGHBOURS + 1
"""Planes that the refinement of a plane sees."""

MOST_BLOCKS = 10
"""Most blocks that a file or a configuration may ask for."""


class RefinementConfig(NetworkConfig):
    """See :class:`Refinement`."""

    features: int = Field(32, ge=1, le=LARGEST_WIDTH, description="channels at full resolution")
    blocks: int = Field(
        1, ge=1, le=MOST_BLOCKS, description="networks, with a data consistency between them"
    )
    data_weight: float = Field(
        0.13, gt=0, description="lam of the data consistency, relative to that of the first pass"
    )

    def build(self, seed: int = 0) -> "Refinement":
        """The network, whose blocks start as the identity."""
        return Refinement(self, seed)

    def kinds(self) -> "list[type[RefinementBlock]]":
        """The classes of the blocks."""
        return [RefinementBlock] + [LaterBlock] * (self.blocks - 1)

    def shapes(self) -> Shapes:
        """Those of every block."""
        each = (kind.Config(features=self.features).shapes() for kind in self.kinds())
        return {
            f"blocks.{place}.{name}": shape
            for place, shapes in enumerate(each)
            for name, shape in shapes.items()
        }


class Refinement(nn.Module):
    """Blocks that refine the image of a volume in turn, see :class:`RefinementBlock`.

    What happens between them is not known here: they do not know A.

    Parameters
    ----------
    config
        Their number and width.
    seed
        Seed of the weights.
    """

    def __init__(self, config: RefinementConfig, seed: int = 0):
        super().__init__()
        self.config = config
        kinds = enumerate(config.kinds(), start=seed)
        self.blocks = nn.ModuleList(kind(config.features, place) for place, kind in kinds)


class _BlockConfig(UNetworkConfig):
    """See :class:`RefinementBlock`."""

    INPUTS: ClassVar[int] = 2 * PLANES


class RefinementBlock(ResidualUNet):
    """``N(y)_k = y_k + u_k V(u^*_(k-1) y_(k-1), u^*_k y_k, u^*_(k+1) y_(k+1))`` of volumes.

    y_k are the planes (z, y) of a volume (batch, z, y, x), the first and the last of which are
    repeated, u_k their phases, and V a U-Net with two pooling levels of real and imaginary parts.
    With phases that follow those of y, N commutes with a change of the phase of the image. It is
    for images in units of their intensity scale. No useful Lipschitz constant is known.

    Parameters
    ----------
    features, seed
        See :class:`~equipoise.networks.unet.ResidualUNet`.
    """

    Config: ClassVar[type[UNetworkConfig]] = _BlockConfig

    def forward(  # type: ignore[override]
        self, image: Image, phase: Image, *others: Image
    ) -> Image:
        """N of volumes with the phases of their planes, some planes at a time."""
        images = (phase.conj() * torch.stack([image, *others])).to(self.dtype.to_complex())
        parts = with_neighbours(images)
        found = torch.cat([recomputed(self._of_planes, part) for part in parts], -1)
        return image + phase * found.to(image.dtype)

    def _of_planes(self, wide: Tensor) -> Tensor:
        """V of the planes of a part, which has one more at both ends."""
        count = wide.shape[-1] - 2 * NEIGHBOURS
        image, *others = wide
        near = torch.stack([planes_of(image[..., k : k + count]) for k in range(PLANES)], 1)
        channels = [near.real, near.imag]
        for other in others:
            own = planes_of(other[..., NEIGHBOURS : NEIGHBOURS + count])[:, None]
            channels += [own.real, own.imag]
        found = self.correction(torch.cat(channels, 1))
        complex_planes = torch.complex(found[:, 0], found[:, 1])
        return volumes_of(complex_planes, wide.shape[1])


class _LaterConfig(UNetworkConfig):
    """See :class:`LaterBlock`."""

    INPUTS: ClassVar[int] = 2 * (PLANES + 1)


class LaterBlock(RefinementBlock):
    """A :class:`RefinementBlock` that also sees the plane k of the image of the block before."""

    Config = _LaterConfig
