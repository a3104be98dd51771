"""What every network has in common, and its restriction to what A can see."""

from collections.abc import Callable

from torch import Tensor, nn

from equipoise.networks.jacobian import linearised
from equipoise.shapes import Image


class OnSupport(nn.Module):
    """``P H P``, P the projection onto the pixels that the scanner sees.

    Elsewhere nothing is measured and the equilibrium is exactly zero. On the images that vanish
    there, ``I - P H P`` has the monotonicity constant of ``I - H``, so every bound holds as it is.
    """

    def __init__(self, network: nn.Module, support: Tensor):
        super().__init__()
        self.network, self.support = network, support

    def forward(self, image: Image) -> Image:
        """``P H(P x)``."""
        return self.support * self.network(self.support * image)

    def linearised(self, image: Image) -> Callable[[Image], Image]:
        """The Jacobian at an image as ``d -> P J P d``."""
        inner = linearised(self.network, self.support * image)
        return lambda direction: self.support * inner(self.support * direction)
