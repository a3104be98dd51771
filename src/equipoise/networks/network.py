"""The protocol of every network, and the restriction of a network to the pixels that A can see."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from equipoise.networks.jacobian import linearised
from equipoise.settings import Settings
from equipoise.shapes import Image, PerSample


@dataclass(frozen=True)
class Monotonicity:
    """What is proved about the monotonicity of ``F = I - H`` (5), for every image.

    Attributes
    ----------
    value
        The largest m > 0 for which ``Re <F(u) - F(v), u - v> >= m ||u - v||^2`` was proved for all
        u and v; None if there is none.
    evidence
        ``proved``: computed from the weights as they are now. ``none``: nothing is proved. A
        network never reports measurements at some images here.
    reason
        The proof, or why there is none, in one sentence with its numbers.
    """

    value: float | None
    evidence: Literal["proved", "none"]
    reason: str


class Network(Protocol):
    """H, a map of a batch of complex images that treats each sample independently.

    A network may be Lipschitz (its constant gives m), monotone by construction, or neither.
    :meth:`monotonicity` says what is proved about it; a file never does. A plain module without the
    last three methods promises nothing, see :func:`monotonicity_of` and :func:`rounding_of`.
    """

    @property
    def dtype(self) -> torch.dtype:
        """Real dtype of the weights, in which H is evaluated."""

    @property
    def reach(self) -> int | None:
        """Largest distance, in pixels, of the input of an output pixel; None without a limit."""

    @property
    def config(self) -> "NetworkConfig":
        """The settings that the network is built from, without its weights."""

    def __call__(self, image: Image) -> Image:
        """``H(x)``, computed in the precision of the weights, returned in that of x."""

    def linearised(self, image: Image) -> Callable[[Image], Image]:
        """``d -> J d``, J the Jacobian of H at an image in real coordinates."""

    def lipschitz_upper(self) -> float | None:
        """A proved Lipschitz constant of H, from the weights as they are now; None if unknown."""

    def monotonicity(self) -> Monotonicity:
        """What is proved about ``I - H``, from the weights as they are now."""

    def rounding(self, image: Image) -> PerSample | None:
        """A proved a priori bound on ``||fl(H(x)) - H(x)||`` for each sample; None if unknown.

        ``fl(H(x))`` is what :meth:`__call__` returns for this x, in the precision of the weights,
        and ``H(x)`` the value in exact arithmetic. It costs no evaluation of H.
        """


NOTHING_PROVED = Monotonicity(None, "none", "the network has no proved constant of its own")


def monotonicity_of(network: nn.Module) -> Monotonicity:
    """What is proved about ``I - H``; nothing for a module without the method."""
    own: Callable[[], Monotonicity] | None = getattr(network, "monotonicity", None)
    return NOTHING_PROVED if own is None else own()


def rounding_of(network: nn.Module, image: Image) -> PerSample | None:
    """The bound on the rounding of one evaluation; None for a module without the method."""
    own: Callable[[Image], PerSample | None] | None = getattr(network, "rounding", None)
    return None if own is None else own(image)


def lipschitz_upper_of(network: nn.Module) -> float | None:
    """A finite proved Lipschitz constant of H; None for a module without one."""
    own: Callable[[], float | None] | None = getattr(network, "lipschitz_upper", None)
    upper = None if own is None else own()
    return upper if upper is not None and math.isfinite(upper) else None


def lipschitz_monotonicity(upper: float) -> Monotonicity:
    """``m = 1 - Lip(H)`` by Cauchy and Schwarz, if ``Lip(H)`` is below one (5)."""
    if upper < 1:
        return Monotonicity(1 - upper, "proved", f"Lip(H) <= {upper:.4g} < 1")
    return Monotonicity(
        None, "none", f"the proved bound on Lip(H) is {upper:.4g}, and 1 or more proves nothing"
    )


Shapes = dict[str, tuple[int, ...]]


class NetworkConfig(Settings, ABC):
    """The settings of a network. Their limits bound what a model file can ask for."""

    @abstractmethod
    def build(self, seed: int = 0) -> nn.Module:
        """The network with random weights; these settings are its ``config``."""

    @abstractmethod
    def shapes(self) -> Shapes:
        """Names and shapes of the weights in the ``state_dict``, without building the network."""


class OnSupport(nn.Module):
    """``P H P``, with P the projection onto the pixels that the scanner sees.

    In all other pixels nothing is measured and the equilibrium is exactly zero. On images that
    vanish there, ``I - P H P`` has the monotonicity constant of ``I - H``, so every bound holds
    unchanged.
    """

    def __init__(self, network: nn.Module, support: Tensor):
        super().__init__()
        self.network, self.support = network, support

    def forward(self, image: Image) -> Image:
        """``P H(P x)``."""
        return self.support * self.network(self.support * image)

    @property
    def symmetric(self) -> bool:
        """As H: a projection is symmetric."""
        return bool(getattr(self.network, "symmetric", False))

    def linearised(self, image: Image) -> Callable[[Image], Image]:
        """The Jacobian at an image as ``d -> P J P d``."""
        inner = linearised(self.network, self.support * image)
        return lambda direction: self.support * inner(self.support * direction)

    def rounding(self, image: Image) -> PerSample | None:
        """The bound of H at ``P x``; a multiplication by zeros and ones does not round."""
        return rounding_of(self.network, self.support * image)
