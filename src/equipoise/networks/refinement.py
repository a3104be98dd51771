"""A network that refines the image of a volume, plane by plane."""

from typing import ClassVar

import torch
from torch import Tensor

from equipoise.networks.ridge_planes import (
    NEIGHBOURS,
    planes_of,
    recomputed,
    volumes_of,
    with_neighbours,
)
from equipoise.networks.unet import ResidualUNet, UNetworkConfig
from equipoise.shapes import Image

PLANES = 2 * NEIGHBOURS + 1
"""Planes that the refinement of a plane sees."""


class RefinementConfig(UNetworkConfig):
    """See :class:`Refinement`."""

    INPUTS: ClassVar[int] = 2 * PLANES

    def build(self, seed: int = 0) -> "Refinement":
        """The network, which starts as the identity."""
        return Refinement(self.features, seed)


class Refinement(ResidualUNet):
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

    Config = RefinementConfig

    def forward(self, image: Image, phase: Image) -> Image:  # type: ignore[override]
        """N of volumes with the phases of their planes, some planes at a time."""
        parts = with_neighbours((phase.conj() * image).to(self.dtype.to_complex()))
        found = torch.cat([recomputed(self._of_planes, part) for part in parts], -1)
        return image + phase * found.to(image.dtype)

    def _of_planes(self, wide: Tensor) -> Tensor:
        """V of the planes of a part, which has one more at both ends."""
        count = wide.shape[-1] - 2 * NEIGHBOURS
        near = torch.stack([planes_of(wide[..., k : k + count]) for k in range(PLANES)], 1)
        found = self.correction(torch.cat([near.real, near.imag], 1))
        complex_planes = torch.complex(found[:, 0], found[:, 1])
        return volumes_of(complex_planes, len(wide))
