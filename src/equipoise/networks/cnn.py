"""The network H: convolutions of real and imaginary part."""

import copy
import itertools
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from equipoise.networks.direct import convolved
from equipoise.networks.network import (
    Monotonicity,
    NetworkConfig,
    Shapes,
    lipschitz_monotonicity,
)
from equipoise.networks.proved import lipschitz_upper
from equipoise.networks.rounding import chain_rounding, layer_rounding
from equipoise.settings import checked
from equipoise.shapes import Image, PerSample

AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)

LARGEST_WIDTH, LARGEST_DEPTH, LARGEST_KERNEL = 512, 32, 15
"""Largest sizes that a file or a configuration may ask for."""


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise ValueError(f"{size} is even, and an even kernel changes the size of the image")
    return size


class CNNConfig(NetworkConfig):
    """See :class:`CNN`."""

    features: int = Field(64, ge=4, le=LARGEST_WIDTH)
    layers: int = Field(5, ge=2, le=LARGEST_DEPTH)
    kernel_size: Annotated[int, AfterValidator(_odd)] = Field(3, ge=1, le=LARGEST_KERNEL)
    channels: Literal[1, 2] = Field(2, description="1 for real images")

    def build(self, seed: int = 0) -> "CNN":
        """The network, which starts close to 0.9 or ``skip`` times the identity."""
        return CNN(**self.model_dump(), seed=seed)

    def shapes(self) -> Shapes:
        """Kernels, (out, in, k, k), and biases, (out,)."""
        found: Shapes = {}
        widths = [self.channels] + [self.features] * (self.layers - 1) + [self.channels]
        for layer, (i, o) in enumerate(itertools.pairwise(widths)):
            found[f"convolutions.{layer}.weight"] = (o, i, self.kernel_size, self.kernel_size)
            found[f"convolutions.{layer}.bias"] = (o,)
        return found


class SkipCNNConfig(CNNConfig):
    """A CNN with a skip of the image around its convolutions."""

    skip: float = Field(0.0, ge=0, lt=1, description="s in H(x) = s x - N(x); with 0, H is the CNN")


class CNN(nn.Module):
    """``H``: convolutions with ReLU between them, no normalisation.

    Without ``skip`` it is the network of the paper, which has no residual connection. With ``skip``
    it is ``H(x) = skip x - N(x)``, N the convolutions, whose first kernels are kept at zero mean. A
    constant c that is added to the image then changes ``F = I - H`` by only ``(1 - skip) c``, which
    H otherwise has to learn. Trained without it, H attenuated real images by 5 to 20 % and darkened
    what lam did not hold.

    H acts on real and imaginary part as two channels, on each sample independently, and on images
    of any size. The memory layout is channels-last, which is that of a complex tensor, so nothing
    is copied. With one channel H acts on the real part and its imaginary part is zero, so the
    equilibrium of real data is real.

    Parameters
    ----------
    features, layers, kernel_size
        Width, number of convolutions, and their (odd) size. The paper uses 64, 5 and 3.
    channels
        2 for complex images, 1 for real ones.
    skip
        Weight of the image itself; 0 for the network of the paper.
    gain
        H starts as ``gain`` times the identity, for which a ReLU network carries ``+x`` and ``-x``
        in two channels each. 0 keeps the usual random start. With ``skip`` H starts close to
        ``skip x``.
    seed
        Seed of the random part of the weights.

    Raises
    ------
    BadInputError
        If the settings do not fit a :class:`CNNConfig`.
    """

    config: CNNConfig

    def __init__(
        self,
        features: int = 64,
        layers: int = 5,
        kernel_size: int = 3,
        gain: float = 0.9,
        seed: int = 0,
        channels: int = 2,
        skip: float = 0.0,
    ):
        super().__init__()
        shape = {"features": features, "layers": layers, "kernel_size": kernel_size}
        self._configure({**shape, "channels": channels, "skip": skip})
        self.features, self.layers, self.kernel_size = features, layers, kernel_size
        self.channels = channels
        widths = [channels] + [features] * (layers - 1) + [channels]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(i, o, kernel_size, padding=kernel_size // 2)
            for i, o in itertools.pairwise(widths)
        )
        self._start(gain, torch.Generator().manual_seed(seed))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _configure(self, content: dict[str, Any]) -> None:
        # MOL-SN and the unrolled methods have no skip, so their configurations lack the key.
        kind = SkipCNNConfig if content["skip"] else CNNConfig
        known = {key: value for key, value in content.items() if key in kind.model_fields}
        self.config = checked(kind, "CNN", known)

    @property
    def skip(self) -> float:
        """Weight of the image itself."""
        return getattr(self.config, "skip", 0.0)

    def __repr__(self) -> str:
        """Its configuration, in one line."""
        settings = ", ".join(f"{key}={value!r}" for key, value in self.config.model_dump().items())
        return f"{type(self).__name__}({settings})"

    @property
    def dtype(self) -> torch.dtype:
        """Real dtype of the weights."""
        return self.convolutions[0].weight.dtype  # type: ignore[return-value]

    @property
    def reach(self) -> int:
        """Largest distance, in pixels along each axis, of the input that an output depends on."""
        return self.layers * (self.kernel_size // 2)

    def forward(self, image: Image) -> Image:
        """``H(x)`` in the precision of the weights, returned in the precision of x."""
        h = self._channels_of(image)
        for layer in range(self.layers - 1):
            h = torch.relu_(self._convolve(layer, h))
        return self._image_of(self._convolve(self.layers - 1, h), image)

    def linearised(self, image: Image) -> Callable[[Image], Image]:
        """The Jacobian at an image as ``d -> J d``; a product costs as much as one evaluation.

        The derivative of a ReLU is 0 or 1, and these masks are stored. The product can be
        differentiated with respect to the weights and d.
        """
        active = []
        with torch.no_grad():
            h = self._channels_of(image)
            for layer in range(self.layers - 1):
                h = torch.relu_(self._convolve(layer, h))
                # Masks need less memory than activations.
                active.append(h > 0)

        def product(direction: Image) -> Image:
            h = self._channels_of(direction)
            for layer, mask in enumerate(active):
                h = self._convolve(layer, h, offset=False) * mask
            return self._image_of(self._convolve(self.layers - 1, h, offset=False), direction)

        return product

    def lipschitz_upper(self) -> float:
        """Proved Lipschitz constant: the product of the norms of the used kernels (13)."""
        return lipschitz_upper(self._used_kernels(), skip=self.skip)

    def monotonicity(self) -> Monotonicity:
        """``1 - lipschitz_upper``, if that is positive."""
        return lipschitz_monotonicity(self.lipschitz_upper())

    def rounding(self, image: Image) -> PerSample:
        """A priori bound on ``||fl(H(x)) - H(x)||``, see :func:`chain_rounding`."""
        biases: list[Any] = [c.bias for c in self.convolutions]
        layers = [layer_rounding(k, b) for k, b in zip(self._used_kernels(), biases, strict=True)]
        return chain_rounding(layers, image, self.dtype, self.skip)

    @torch.no_grad()
    def _used_kernels(self) -> list[Tensor]:
        return [self.used_kernel(layer).detach() for layer in range(self.layers)]

    def _channels_of(self, image: Image) -> Tensor:
        """(batch, channels, y, x), in the precision of the weights."""
        complex_dtype = torch.complex128 if self.dtype == torch.float64 else torch.complex64
        parts = torch.view_as_real(image.to(complex_dtype))[..., : self.channels]
        return parts.permute(0, 3, 1, 2).to(self.dtype)

    def _image_of(self, h: Tensor, image: Image) -> Image:
        """The result of the convolutions as an image, with the skip from ``image``."""
        # A complex view needs the two channels next to each other.
        h = h.permute(0, 2, 3, 1).contiguous()
        # dtype.to_real() would be shorter; torch 2.3 frees the dtype that it returns.
        real_dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        h = h.to(real_dtype)
        if self.channels == 1:
            h = torch.cat([h, torch.zeros_like(h)], -1)
        convolved = torch.view_as_complex(h).to(image.dtype)
        if not self.skip:
            return convolved
        kept = image.real + 0j if self.channels == 1 else image
        return self.skip * kept - convolved

    def _convolve(self, layer: int, h: Tensor, *, offset: bool = True) -> Tensor:
        bias: Any = self.convolutions[layer].bias if offset else None
        kernel = self.used_kernel(layer)
        # The bound of rounding needs plain sums; `convolved` has no gradient, which training needs.
        if h.dtype == torch.float64 and not torch.is_grad_enabled():
            return convolved(h, kernel, bias)
        return F.conv2d(h, kernel, bias, padding=self.kernel_size // 2)

    def used_kernel(self, layer: int) -> Tensor:
        """The kernel that an evaluation convolves with."""
        return self.kernels()[layer]

    def kernels(self) -> list[Tensor]:
        """The kernels of the convolutions, (out, in, k, k) each."""
        return [c.weight for c in self.convolutions]  # type: ignore[misc]

    @torch.no_grad()
    def centre_kernels(self) -> None:
        """With ``skip``, subtract the mean of each first kernel; called after a training step."""
        if self.skip:
            first = self.kernels()[0]
            # Zero mean, so that N does not see a constant and the skip alone passes it on.
            first.sub_(first.mean((2, 3), keepdim=True))

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Replace H by ``factor H``, which multiplies its Jacobian and every constant too."""
        last: Any = self.convolutions[-1]
        last.weight.mul_(factor)
        last.bias.mul_(factor)
        self._configure({**self.config.model_dump(), "skip": self.skip * factor})

    @torch.no_grad()
    def _start(self, gain: float, generator: torch.Generator) -> None:
        # The skip already carries the identity.
        gain = 0.0 if self.skip else gain
        for convolution in self.convolutions:
            weight: Tensor = convolution.weight  # type: ignore[assignment]
            fan_in = weight[0].numel()
            scale = math.sqrt(2 / fan_in) * (RANDOM_FRACTION if gain else 1.0)
            weight.copy_(torch.randn(weight.shape, generator=generator).to(weight) * scale)
            convolution.bias.zero_()  # type: ignore[operator]
        if gain:
            self._carry_identity(gain)
        if self.skip:
            # Small at the start, so that H is near skip x and the constraint holds before training
            # begins.
            self.kernels()[-1].mul_(LAST_FRACTION)
            self.centre_kernels()

    def _carry_identity(self, gain: float) -> None:
        """Channels 0 to 3 hold ``+re, -re, +im, -im`` from layer to layer; 0 and 1 if real."""
        centre = self.kernel_size // 2
        first, *middle, last = self.kernels()
        carried = 2 * self.channels
        last[:, :carried] = 0
        for channel in range(carried):
            part, sign = channel // 2, 1 - 2 * (channel % 2)
            first[channel] = 0
            first[channel, part, centre, centre] = sign
            for weight in middle:
                weight[channel] = 0
                weight[channel, channel, centre, centre] = 1
            last[part, channel, centre, centre] = gain * sign
        last[:, carried:] *= LAST_FRACTION


def in_bfloat16(network: CNN) -> CNN:
    """A copy with weights in bfloat16: 0.6 % error, twice the speed on a device that has it."""
    return copy.deepcopy(network).requires_grad_(False).to(torch.bfloat16)


def in_double(network: AnyNetwork) -> AnyNetwork:
    """The same function in double precision: a copy, or the network itself if it is double."""
    if getattr(network, "dtype", None) == torch.float64:
        return network
    return copy.deepcopy(network).requires_grad_(False).double()


RANDOM_FRACTION = 0.5
"""Scale of the random channels relative to He's, next to channels that carry the identity."""

LAST_FRACTION = 0.1
"""Further scale of the random channels where they enter the image, so that H starts near the
requested multiple of the identity."""
