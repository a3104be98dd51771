"""A residual U-Net, image to image."""

import itertools
from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from equipoise.networks.jacobian import linearised_by_autograd
from equipoise.networks.network import NOTHING_PROVED, Monotonicity, NetworkConfig, Shapes
from equipoise.settings import checked
from equipoise.shapes import Image

POOLINGS = 2
"""Number of poolings, each by a factor of two."""

LARGEST_WIDTH = 128
"""Most channels that a file or a configuration may ask for."""


class UNetworkConfig(NetworkConfig):
    """See :class:`ResidualUNet`."""

    INPUTS: ClassVar[int] = 2
    """Channels that the network sees."""

    features: int = Field(32, ge=1, le=LARGEST_WIDTH, description="channels at full resolution")

    def build(self, seed: int = 0) -> "ResidualUNet":
        """The network, which starts as the identity."""
        return ResidualUNet(self.features, seed)

    def shapes(self) -> Shapes:
        """Kernels and biases, block after block."""
        found: Shapes = {}
        for place, (i, o) in enumerate(self.down()):
            found |= _block_shapes(f"down.{place}", i, o)
        for place, (i, o) in enumerate(self.up()):
            found |= _block_shapes(f"up.{place}", i, o)
        return {**found, "last.weight": (2, self.features, 1, 1), "last.bias": (2,)}

    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.features * 2**level for level in range(POOLINGS + 1)]

    def down(self) -> list[tuple[int, int]]:
        """Channels in and out of each block on the way to the coarsest level."""
        return list(itertools.pairwise([self.INPUTS, *self.widths()]))

    def up(self) -> list[tuple[int, int]]:
        """Channels in and out of each block on the way back."""
        widths = self.widths()
        levels = reversed(range(POOLINGS))
        return [(widths[level + 1] + widths[level], widths[level]) for level in levels]


def _block_shapes(name: str, i: int, o: int) -> Shapes:
    return {
        f"{name}.0.weight": (o, i, 3, 3),
        f"{name}.0.bias": (o,),
        f"{name}.2.weight": (o, o, 3, 3),
        f"{name}.2.bias": (o,),
    }


class ResidualUNet(nn.Module):
    """``x + U(x)``, U with two pooling levels and no normalisation, on any image size.

    Ronneberger, Fischer, Brox, MICCAI 2015. Real and imaginary part are two channels; images are
    padded with zeros to a multiple of four.

    Parameters
    ----------
    features
        Channels at full resolution; each level doubles them.
    seed
        Seed of the weights.
    """

    Config: ClassVar[type[UNetworkConfig]] = UNetworkConfig

    def __init__(self, features: int = 32, seed: int = 0):
        super().__init__()
        self.config = checked(self.Config, "U-Net", {"features": features})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.down = nn.ModuleList(_block(i, o) for i, o in self.config.down())
            self.up = nn.ModuleList(_block(i, o) for i, o in self.config.up())
            self.last = nn.Conv2d(features, 2, 1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def dtype(self) -> torch.dtype:
        """Real dtype of the weights."""
        return self.last.weight.dtype

    @property
    def reach(self) -> None:
        """None: the poolings align blocks of four pixels, so tiles are not exact."""
        return None

    def linearised(self, image: Image) -> Callable[[Image], Image]:
        """``d -> J d`` by two passes of autograd."""
        return linearised_by_autograd(self, image)

    def lipschitz_upper(self) -> None:
        """None: no useful bound is known."""
        return None

    def monotonicity(self) -> Monotonicity:
        """Nothing is proved."""
        return NOTHING_PROVED

    def rounding(self, image: Image) -> None:
        """None: no statement needs it."""
        return None

    def forward(self, image: Image) -> Image:
        """``x + U(x)``."""
        complex_dtype = torch.complex128 if self.dtype == torch.float64 else torch.complex64
        x = torch.view_as_real(image.to(complex_dtype)).permute(0, 3, 1, 2)
        out = (x + self.correction(x)).permute(0, 2, 3, 1).contiguous()
        return torch.view_as_complex(out).to(image.dtype)

    def correction(self, channels: Tensor) -> Tensor:
        """U of channels (batch, channel, y, x): real and imaginary part, (batch, 2, y, x)."""
        y, x = channels.shape[-2:]
        multiple = 2**POOLINGS
        h = F.pad(channels, (0, -x % multiple, 0, -y % multiple))
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            h = block(F.max_pool2d(h, 2) if level else h)
            skips.append(h)
        h = skips.pop()
        for block in self.up:
            h = F.interpolate(h, scale_factor=2.0, mode="bilinear", align_corners=False)
            h = block(torch.cat([h, skips.pop()], 1))
        found: Tensor = self.last(h)
        return found[..., :y, :x]


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels_out, channels_out, 3, padding=1),
        nn.ReLU(),
    )
