"""Unrolled networks with shared weights: MoDL and ADMM-Net."""

from typing import Any, Literal

import torch
from pydantic import Field

from equipoise.methods.feed_forward import FeedForward, data_consistency
from equipoise.methods.method import MethodConfig
from equipoise.networks.cnn import CNN, CNNConfig
from equipoise.physics.linop import LinearOperator
from equipoise.shapes import Image, PerSample

ARTEFACT_GAIN = 0.1
"""MoDL and ADMM-Net start with ``N = 0.1 x``, as MOL does with ``H = 0.9 x``."""

MOST_BLOCKS = 1000
"""Most blocks that a file or a configuration may ask for."""


class UnrolledConfig(MethodConfig):
    """See :class:`Unrolled`."""

    network: CNNConfig = CNNConfig()
    iterations: int = Field(10, ge=1, le=MOST_BLOCKS, description="blocks")


class ModlConfig(UnrolledConfig):
    """See :class:`MoDL`."""

    method: Literal["modl"] = "modl"


class AdmmNetConfig(UnrolledConfig):
    """See :class:`ADMMNet`."""

    method: Literal["admm-net"] = "admm-net"


class Unrolled(FeedForward):
    """``iterations`` blocks with the same weights.

    Parameters
    ----------
    network
        N, which predicts the part of an image that is to be removed.
    data_weight
        Module that gives lam from the relative noise level.
    iterations
        Number of blocks.
    """

    network: CNN

    def __init__(self, network: CNN, data_weight: torch.nn.Module, iterations: int = 10):
        super().__init__(network, data_weight)
        self.iterations = iterations

    @classmethod
    def untrained(cls, config: UnrolledConfig, seed: int) -> CNN:
        """N close to 0.1 times the identity."""
        return CNN(**config.network.model_dump(), gain=ARTEFACT_GAIN, seed=seed)

    @classmethod
    def around(cls, network: Any, config: UnrolledConfig) -> "Unrolled":
        """The method of a configuration with a network that was built."""
        return cls(network, config.data_weight.build(), config.iterations)

    @property
    def steps(self) -> int:
        """Number of blocks; each evaluates N once."""
        return self.iterations

    def settings(self) -> dict[str, Any]:
        """The number of blocks."""
        return {"iterations": self.iterations}

    def denoise(self, image: Image) -> Image:
        """``x - N(x)``."""
        return image - self.network(image)


class MoDL(Unrolled):
    """``x <- (I + lam A^H A)^-1 (x - N(x) + lam A^H b)``, N without any constraint.

    Aggarwal, Mani, Jacob, IEEE Trans. Med. Imaging 38:394-405, 2019.
    """

    name = "modl"
    Config = ModlConfig

    def _reconstruct(
        self, operator: LinearOperator, data_term: Image, lam: PerSample, sense: Image
    ) -> Image:
        x = sense
        for _ in range(self.iterations):
            rhs = self.denoise(x) + data_term
            x = data_consistency(operator, rhs, lam, x)
        return x


class ADMMNet(Unrolled):
    """``z = (x - u) - N(x - u)``; ``x = (I + lam A^H A)^-1 (z + u + lam A^H b)``; ``u += z - x``.

    ADMM for ``lam/2 ||A x - b||^2 + R(z)`` subject to ``x = z``, with the proximal map of R
    replaced by a network and u the scaled multiplier of ``z - x``. Yang, Sun, Li, Xu,
    NeurIPS 2016.
    """

    name = "admm-net"
    Config = AdmmNetConfig

    def _reconstruct(
        self, operator: LinearOperator, data_term: Image, lam: PerSample, sense: Image
    ) -> Image:
        x = sense
        u = torch.zeros_like(x)
        for _ in range(self.iterations):
            z = self.denoise(x - u)
            rhs = z + u + data_term
            x = data_consistency(operator, rhs, lam, x)
            u = u + z - x
        return x
