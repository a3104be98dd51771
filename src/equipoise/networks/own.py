"""Your own network as H: any module from image to image, with what is asked of a network."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.networks.jacobian import linearised, linearised_by_autograd
from equipoise.networks.network import (
    NOTHING_PROVED,
    Monotonicity,
    NetworkConfig,
    monotonicity_of,
    rounding_of,
)
from equipoise.outcome import BadInputError
from equipoise.shapes import Image, PerSample
from equipoise.vectors import as_channels, as_image

ADVICE = (
    "a network maps complex images to complex images of the same shape, and a real module of two "
    "channels comes in through equipoise.TwoChannels"
)


class TwoChannels(nn.Module):
    """A real module of two channels as a map of complex images.

    Parameters
    ----------
    module
        (batch, 2, y, x) to (batch, 2, y, x), real; the channels are real and imaginary part.

    Examples
    --------
    >>> import torch
    >>> import equipoise as eq
    >>> network = eq.TwoChannels(torch.nn.Conv2d(2, 2, 3, padding=1))
    >>> network(torch.zeros(1, 16, 16, dtype=torch.complex64)).dtype
    torch.complex64
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, image: Image) -> Image:
        """The module of real and imaginary part.

        Raises
        ------
        BadInputError
            If the module gives another shape.
        """
        channels = as_channels(image)
        found = self.module(channels)
        if found.shape != channels.shape or found.is_complex():
            raise BadInputError(
                f"{name_of(self.module)} gives {tuple(found.shape)} {found.dtype} for "
                f"{tuple(channels.shape)} {channels.dtype}: it must keep the shape and be real"
            )
        return as_image(found)


class OwnNetwork(nn.Module):
    """``H(x) = c N(x)``, N a module of your own; c is 1 until training scales H down.

    N maps complex images (batch, y, x) to images of the same shape, each sample by itself, in the
    precision of its weights; :class:`TwoChannels` makes such a map of a real module. Nothing is
    proved of N: an m is claimed until a certificate measures it at an image. ``MOL(N, ...)`` wraps
    N in this class.

    Parameters
    ----------
    module
        N. What it has of :class:`~equipoise.networks.network.Network` is used: with ``reach`` it
        can be evaluated in tiles, with ``linearised`` products with its Jacobian cost less, and
        with ``lipschitz_upper``, ``monotonicity`` and ``rounding`` it brings proofs of its own.
    """

    factor: Tensor

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        self.register_buffer("factor", torch.ones(()))

    def __repr__(self) -> str:
        """The class of the module, in one line."""
        return f"OwnNetwork({name_of(self.module)})"

    @property
    def dtype(self) -> torch.dtype:
        """Real dtype of the weights; that of a module without weights is double precision."""
        for tensor in (*self.module.parameters(), *self.module.buffers()):
            if tensor.is_complex() or tensor.is_floating_point():
                return tensor.real.dtype
        return torch.float64

    @property
    def reach(self) -> int | None:
        """How many pixels away the input of a pixel can lie; None: the module does not say."""
        found = getattr(self.module, "reach", None)
        return found if isinstance(found, int) else None

    def forward(self, image: Image) -> Image:
        """``H(x)`` in the precision of the weights, returned in the precision of x.

        Raises
        ------
        BadInputError
            If the module fails, or does not give an image of the same shape.
        """
        seen = image.to(torch.complex128 if self.dtype == torch.float64 else torch.complex64)
        try:
            found = self.module(seen)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise BadInputError(
                f"{name_of(self.module)} cannot be evaluated at an image {tuple(seen.shape)} "
                f"{seen.dtype} ({error}): {ADVICE}"
            ) from error
        if not isinstance(found, Tensor) or not found.is_complex() or found.shape != image.shape:
            what = f"{tuple(found.shape)} {found.dtype}" if isinstance(found, Tensor) else found
            raise BadInputError(
                f"{name_of(self.module)} gives {what} for an image {tuple(image.shape)} "
                f"{seen.dtype}: {ADVICE}"
            )
        return (self.factor.to(found.real.dtype) * found).to(image.dtype)

    def linearised(self, image: Image) -> Callable[[Image], Image]:
        """``d -> J d``: that of the module where it brings one, else by automatic derivatives."""
        if not hasattr(self.module, "linearised"):
            return linearised_by_autograd(self, image)
        product = linearised(self.module, image)
        return lambda direction: self.factor.to(direction.real.dtype) * product(direction)

    def lipschitz_upper(self) -> float | None:
        """``c Lip(N)`` where the module brings a proved ``Lip(N)``, else None: not available."""
        own: Any = getattr(self.module, "lipschitz_upper", None)
        bound = None if own is None else own()
        return None if bound is None else abs(float(self.factor)) * float(bound)

    def monotonicity(self) -> Monotonicity:
        """What the module proves of ``I - N``, which says nothing of ``I - c N``."""
        return monotonicity_of(self.module) if float(self.factor) == 1 else NOTHING_PROVED

    def rounding(self, image: Image) -> PerSample | None:
        """That of the module, where it says and c is 1."""
        return rounding_of(self.module, image) if float(self.factor) == 1 else None

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Replace H by ``factor H``, and so its Jacobian and every constant of it."""
        self.factor.mul_(factor)


def as_network(module: nn.Module) -> nn.Module:
    """A network of this package as it is, and any other module as an :class:`OwnNetwork`.

    Raises
    ------
    BadInputError
        If it is not a module.
    """
    if not isinstance(module, nn.Module):
        raise BadInputError(
            f"the network is a {type(module).__name__}: it must be a torch.nn.Module, from complex "
            "images to complex images"
        )
    ours = isinstance(getattr(module, "config", None), NetworkConfig)
    return module if ours or isinstance(module, OwnNetwork) else OwnNetwork(module)


def name_of(module: nn.Module) -> str:
    """The class of a module, such as ``MyNet`` or ``TwoChannels(MyNet)``."""
    name = type(module).__qualname__
    return f"{name}({name_of(module.module)})" if isinstance(module, TwoChannels) else name
