"""A network that refines the image of a volume, plane by plane."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from equipoise.networks.ridge_planes import planes_at_once, planes_of, volumes_of
from equipoise.networks.unet import ResidualUNet, UNetworkConfig
from equipoise.shapes import Image

BESIDE = 1
"""Planes along x at each side of a plane that its refinement sees."""

PLANES = 2 * BESIDE + 1


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
        dtype = torch.complex128 if self.dtype == torch.float64 else torch.complex64
        turned = (phase.conj() * image).to(dtype)
        # The first and the last plane stand for their neighbours outside.
        wide = torch.cat([turned[..., :1], turned, turned[..., -1:]], -1)
        some = planes_at_once(image.shape[-3] * image.shape[-2])
        parts = (wide[..., k : k + some + 2 * BESIDE] for k in range(0, image.shape[-1], some))
        found = torch.cat([self._kept(part) for part in parts], -1)
        return image + phase * found.to(image.dtype)

    def _kept(self, wide: Tensor) -> Tensor:
        # The activations of all planes would take more than the solve.
        if torch.is_grad_enabled():
            found: Tensor = checkpoint(self._of_planes, wide, use_reentrant=False)
            return found
        return self._of_planes(wide)

    def _of_planes(self, wide: Tensor) -> Tensor:
        """V of the planes of a part, which has one more at both ends."""
        count = wide.shape[-1] - 2 * BESIDE
        near = torch.stack([planes_of(wide[..., k : k + count]) for k in range(PLANES)], 1)
        found = self.correction(torch.cat([near.real, near.imag], 1))
        complex_planes = torch.complex(found[:, 0], found[:, 1])
        return volumes_of(complex_planes, len(wide))
