"""UNET: a residual U-Net on the SENSE image, the method without data consistency."""

from typing import Any

from equipoise.methods.feed_forward import FeedForward
from equipoise.networks.unet import ResidualUNet
from equipoise.physics.linop import LinearOperator
from equipoise.shapes import Image, PerSample


class UNet(FeedForward):
    """``x = s + U(s)``, s the regularised SENSE image at the learned lam."""

    name = "unet"
    network: ResidualUNet

    @property
    def steps(self) -> int:
        """One evaluation."""
        return 1

    def settings(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def denoise(self, image: Image) -> Image:
        """``x + U(x)``."""
        return self.network(image)

    def _reconstruct(
        self, operator: LinearOperator, data_term: Image, lam: PerSample, sense: Image
    ) -> Image:
        return self.denoise(sense)
