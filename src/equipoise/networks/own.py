"""Your own network as H: any module from image to image, wrapped to the protocol of a network."""

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
    "a network maps complex images to complex images of the same shape; wrap a real module with "
    "two channels in equipoise.TwoChannels"
)


class TwoChannels(nn.Module):
    """A real module with two channels as a map of complex images.

    Parameters
    ----------
    module
        A real map from (batch, 2, y, x) to (batch, 2, y, x); the channels are real and imaginary
        part.

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
            If the module returns another shape or a complex tensor.
        """
        channels = as_channels(image)
        found = self.module(channels)
        if found.shape != channels.shape or found.is_complex():
            raise BadInputError(
                f"{name_of(self.module)} returns {tuple(found.shape)} {found.dtype} for "
                f"{tuple(channels.shape)} {channels.dtype}: it must keep the shape and be real"
            )
        return as_image(found)


class OwnNetwork(nn.Module):
    """``H(x) = c N(x)``, N your own module; c is 1 until training scales H down.

    N maps complex images (batch, y, x) to images of the same shape, treats each sample
    independently, and works in the precision of its weights. :class:`TwoChannels` makes such a map
    from a real module. Nothing is proved about N: its m is claimed until a certificate measures it
    at an image. ``MOL(N, ...)`` wraps N in this class.

    Parameters
    ----------
    module
        N. It may implement parts of :class:`~equipoise.networks.network.Network`: ``reach`` allows
        tiles, ``linearised`` makes products with the Jacobian cheaper, and ``lipschitz_upper``,
        ``monotonicity`` and ``rounding`` contribute proofs.
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
        """Real dtype of the weights; double precision for a module without weights."""
        # Integer buffers, such as counters of batches, say nothing about the precision.
        for tensor in (*self.module.parameters(), *self.module.buffers()):
            if tensor.is_complex() or tensor.is_floating_point():
                return tensor.real.dtype
        return torch.float64

    @property
    def reach(self) -> int | None:
        """Largest distance, in pixels, of the input of a pixel; None if the module has no reach."""
        found = getattr(self.module, "reach", None)
        return found if isinstance(found, int) else None

    def forward(self, image: Image) -> Image:
        """``H(x)`` in the precision of the weights, returned in the precision of x.

        Raises
        ------
        BadInputError
            If the module fails, or does not return an image of the same shape.
        """
        seen = image.to(torch.complex128 if self.dtype == torch.float64 else torch.complex64)
        try:
            found = self.module(seen)
        # A RuntimeError too, but not one about the module: callers react to it with tiles.
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
                f"{name_of(self.module)} returns {what} for an image {tuple(image.shape)} "
                f"{seen.dtype}: {ADVICE}"
            )
        return (self.factor.to(found.real.dtype) * found).to(image.dtype)

    def linearised(self, image: Image) -> Callable[[Image], Image]:
        """``d -> J d``, from the module if it has the method, else by automatic differentiation."""
        # Slower, but correct for every differentiable module.
        if not hasattr(self.module, "linearised"):
            return linearised_by_autograd(self, image)
        product = linearised(self.module, image)
        return lambda direction: self.factor.to(direction.real.dtype) * product(direction)

    def lipschitz_upper(self) -> float | None:
        """``c Lip(N)`` if the module proves a ``Lip(N)``, else None."""
        own: Any = getattr(self.module, "lipschitz_upper", None)
        bound = None if own is None else own()
        return None if bound is None else abs(float(self.factor)) * float(bound)

    def monotonicity(self) -> Monotonicity:
        """What the module proves about ``I - N``; this says nothing about ``I - c N``."""
        return monotonicity_of(self.module) if float(self.factor) == 1 else NOTHING_PROVED

    def rounding(self, image: Image) -> PerSample | None:
        """The bound of the module, if it has the method and c is 1."""
        return rounding_of(self.module, image) if float(self.factor) == 1 else None

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Replace H by ``factor H``, which multiplies its Jacobian and every constant too."""
        self.factor.mul_(factor)


def as_network(module: nn.Module) -> nn.Module:
    """A network of this package unchanged, and any other module as an :class:`OwnNetwork`.

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
