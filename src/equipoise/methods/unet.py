"""UNET: a residual U-Net on the SENSE image, without data consistency."""

from typing import Any, Literal

from equipoise.methods.feed_forward import FeedForward
from equipoise.methods.method import MethodConfig
from equipoise.networks.unet import ResidualUNet, UNetworkConfig
from equipoise.physics.linop import LinearOperator
from equipoise.shapes import Image, PerSample


class UnetConfig(MethodConfig):
    """See :class:`UNet`."""

    method: Literal["unet"] = "unet"
    network: UNetworkConfig = UNetworkConfig()


class UNet(FeedForward):
    """``x = s + U(s)``, s the regularised SENSE image at the learned lam."""

    name = "unet"
    Config = UnetConfig
    network: ResidualUNet

    @classmethod
    def around(cls, network: Any, config: UnetConfig) -> "UNet":
        """The method of a configuration with a network that was built."""
        return cls(network, config.data_weight.build())

    @property
    def steps(self) -> int:
        """One evaluation."""
        return 1

    def settings(self) -> dict[str, Any]:
        """No further settings."""
        return {}

    def denoise(self, image: Image) -> Image:
        """``x + U(x)``."""
        return self.network(image)

    def _reconstruct(
        self, operator: LinearOperator, data_term: Image, lam: PerSample, sense: Image
    ) -> Image:
        return self.denoise(sense)
