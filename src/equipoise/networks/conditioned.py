"""Networks whose thresholds follow the noise of a scan: ``F_s(x) = s F(x / s)`` (22).

For positively homogeneous layers with thresholds, F_s is F with every threshold multiplied by s.
F_s is monotone with the same m, and H_s has the Lipschitz constant of H.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.networks.network import Monotonicity, NetworkConfig
from equipoise.networks.shrinkage import Layer
from equipoise.shapes import Image, PerSample
from equipoise.vectors import norm

Used = tuple[Tensor, ...]
"""What an evaluation uses: normalised kernels, thresholds and shares."""


class ConditionedNetwork(nn.Module, ABC):
    """H with shrinkage by learned thresholds, which can be scaled.

    Attributes
    ----------
    m
        Monotonicity constant of ``F = I - H``.
    channels
        2 for complex images, 1 for real ones: the imaginary part is then zero.
    log_threshold, share
        Logarithms of the thresholds, and shares of the shrinkage; their last axes are (clip,
        feature).
    """

    m: float
    channels: int
    config: NetworkConfig
    log_threshold: nn.Parameter
    share: nn.Parameter

    @abstractmethod
    def used(self) -> Used:
        """What an evaluation uses, differentiable in the weights."""

    @abstractmethod
    def moved(self, image: Image, scale: Tensor, used: Used) -> Image:
        """``H(x)`` at a threshold scale.

        The scale is one number for each sample, or broadcasts to the coefficients.
        """

    @abstractmethod
    def shrinkage(self, image: Image, scale: Tensor, used: Used) -> list[Layer]:
        """The shrinkage of every layer."""

    @abstractmethod
    def product(self, change: Image, layers: list[Layer], used: Used) -> Image:
        """The Jacobian of H times a change of the image."""

    @abstractmethod
    def lipschitz_upper(self) -> float:
        """Proved bound on Lip(H), from the kernels that are used; infinite for NaN or Inf."""

    @abstractmethod
    def rounding(self, image: Image) -> PerSample:
        """A proved bound on the rounding of one evaluation, for every threshold scale."""

    @abstractmethod
    def monotonicity(self) -> Monotonicity:
        """m, by construction; nothing if a hypothesis fails, with the value that was found."""

    @abstractmethod
    def kernels(self) -> list[nn.Parameter]:
        """The trained kernels."""

    @property
    def dtype(self) -> torch.dtype:
        """Real dtype of the weights."""
        return self.log_threshold.dtype

    def at(self, threshold: PerSample, *, reference: Image | None = None) -> "AtScale":
        """H with every threshold multiplied by a scale for each sample, (batch,) (22)."""
        return AtScale(self, threshold, reference)

    def forward(self, image: Image) -> Image:
        """``H(x)`` at the threshold scale 1."""
        return self._at_one(image)(image)

    def linearised(self, image: Image) -> Callable[[Image], Image]:
        """The Jacobian at an image as ``d -> J d``, at the threshold scale 1."""
        return self._at_one(image).linearised(image)

    def _at_one(self, image: Image) -> "AtScale":
        return self.at(torch.ones(len(image), dtype=self.dtype, device=image.device))

    def finite(self) -> bool:
        """Whether no weight is NaN or Inf."""
        return all(bool(torch.isfinite(w).all()) for w in self.parameters())

    def unproved(self, reason: str) -> Monotonicity:
        """The statement that nothing is proved, with the reason."""
        return Monotonicity(None, "none", reason)


class AtScale(nn.Module):
    """H of a :class:`ConditionedNetwork` at one threshold scale for each sample.

    With a reference y it is ``H(x) + m y``, so that ``F(x) = m (x - y) + ...``: F pulls to y, not
    to zero. F differs by a constant, so m and every bound hold as before.

    Parameters
    ----------
    network, threshold
        See :meth:`ConditionedNetwork.at`.
    reference
        y, in the units of the network; zero if not given.
    """

    def __init__(
        self, network: ConditionedNetwork, threshold: PerSample, reference: Image | None = None
    ):
        super().__init__()
        self.network, self.threshold, self.reference = network, threshold, reference
        with torch.no_grad():
            self._fixed = network.used()

    def __deepcopy__(self, memo: dict[int, Any]) -> "AtScale":
        """An independent copy, from which no gradient flows back to the rule of the thresholds."""
        threshold = self.threshold.detach().clone()
        copied = self.with_network(copy.deepcopy(self.network, memo), threshold)
        copied.reference = None if self.reference is None else self.reference.detach().clone()
        return copied

    def with_network(self, network: ConditionedNetwork, threshold: PerSample) -> "AtScale":
        """The same around another network."""
        return AtScale(network, threshold, self.reference)

    def part(self, y: slice, x: slice) -> "AtScale":
        """H for a piece of the image."""
        # Without a reference H is the same everywhere, and a copy would only cost time.
        if self.reference is None:
            return self
        # Not built again, because what is used would be normalised once for every tile, and in
        # double precision would be another function, see :meth:`double`.
        piece = copy.copy(self)
        piece.reference = self.reference[..., y, x]
        return piece

    def double(self) -> "AtScale":
        """The same function in double precision, with kernels and thresholds as they are."""
        # Not built again from the weights: in double precision they would be rounded differently.
        exact = self.with_network(self.network.double(), self.threshold)
        exact._fixed = tuple(tensor.double() for tensor in self._fixed)
        return exact

    @property
    def symmetric(self) -> bool:
        """As H."""
        return bool(getattr(self.network, "symmetric", False))

    @property
    def dtype(self) -> torch.dtype:
        """Real dtype of the weights."""
        return self.network.dtype

    @property
    def channels(self) -> int:
        """The channels of the network."""
        return self.network.channels

    @property
    def reach(self) -> Any:
        """The reach of the network."""
        return self.network.reach

    @property
    def grid(self) -> int:
        """The grid of the network, at whose multiples a tile may begin."""
        return getattr(self.network, "grid", 1)

    @property
    def config(self) -> NetworkConfig:
        """The configuration of the network."""
        return self.network.config

    def lipschitz_upper(self) -> float:
        """The bound of the network, which does not depend on the thresholds."""
        return self.network.lipschitz_upper()

    def monotonicity(self) -> Monotonicity:
        """The statement of the network, which does not depend on the thresholds."""
        return self.network.monotonicity()

    def rounding(self, image: Image) -> PerSample:
        """The bound of the network, and that of the product ``m y`` and of the sum."""
        found = self.network.rounding(image)
        if self.reference is None:
            return found
        unit = torch.finfo(self.dtype).eps / 2
        pull = self.network.m * norm(self.reference)
        size = self.lipschitz_upper() * norm(image) + pull
        return found * (1 + unit) + 2 * unit * (size + pull)

    def scale(self, image: Image) -> Tensor:
        """The factor of the thresholds: one number for each sample, or of every coefficient."""
        return self.threshold

    def forward(self, image: Image) -> Image:
        """``H(x)``, computed in the precision of the weights, returned in the precision of x."""
        found = self.moved(image)
        if self.reference is None:
            return found
        return found + self.network.m * self.reference.to(image.dtype)

    def moved(self, image: Image) -> Image:
        """``H(x)`` that pulls to zero."""
        return self.network.moved(image, self.scale(image), self._used())

    def linearised(self, image: Image) -> Callable[[Image], Image]:
        """The Jacobian at an image as ``d -> J d``; a product costs one evaluation."""
        with torch.no_grad():
            layers = self.network.shrinkage(image, self.scale(image), self._fixed)
        return lambda change: self.network.product(change, layers, self._used())

    def _used(self) -> Used:
        """Fixed during a solve, but built again when the weights may need a gradient."""
        return self.network.used() if torch.is_grad_enabled() else self._fixed


def kept(image: Image, m: float, channels: int) -> Image:
    """``(1 - m) x``; for real images, of the real part only."""
    return (1 - m) * (image.real + 0j if channels == 1 else image)


def limited(kernel: Tensor, norm: Tensor, limit: float) -> Tensor:
    """The kernel, scaled down to a norm of ``limit`` if ``norm`` is larger."""
    return kernel * (limit / norm.clamp(min=limit))


def largest_norm_between_layers(layers: int, delta: float) -> float:
    """``(1 - delta) / cos(pi / (L + 1))``, the largest norm of W_k for which (20) proves m."""
    return (1 - delta) / math.cos(math.pi / (layers + 1))
