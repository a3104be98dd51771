"""The activation of proved networks: it shrinks the modulus of complex coefficients.

``s(z) = z sum_j a_j min(1, tau_j / |z|)`` with ``a_j >= 0`` and ``sum_j a_j = 1`` is the gradient
of a convex function, a sum of Huber functions of ``|z|``, and 1-Lipschitz. Hence
``<s(u) - s(v), u - v> >= ||s(u) - s(v)||^2`` (Baillon and Haddad 1977).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.vectors import per_sample


class Slopes(NamedTuple):
    """``s(|z|) / |z|``, and the part of it that is missing from the slope along z."""

    weight: Tensor
    drop: Tensor


def inverse_modulus(z: Tensor) -> Tensor:
    """``1 / |z|`` over real and imaginary part; large but finite where z is 0.

    The number added under the root keeps s increasing, its slopes in [0, 1], and its powers finite.
    """
    return torch.rsqrt(z.square().sum(1, keepdim=True) + torch.finfo(z.dtype).tiny ** 0.5)


def slopes(z: Tensor, thresholds: Tensor, shares: Tensor, scale: Tensor | None = None) -> Slopes:
    """The slopes of s at coefficients (batch, part, feature, ...).

    Parameters
    ----------
    z
        Coefficients.
    thresholds, shares
        ``tau_j`` and ``a_j``, (clip, feature).
    scale
        Factor of the thresholds that broadcasts to z.
    """
    inverse = inverse_modulus(z)
    inverse = inverse if scale is None else inverse * scale
    shape = (-1, *(1,) * (z.ndim - 3))
    weight = drop = torch.zeros(())
    for threshold, share in zip(thresholds, shares):
        a, ratio = share.reshape(shape), threshold.reshape(shape) * inverse
        weight = weight + a * ratio.clamp(max=1)
        # Below the threshold the term is the identity, so nothing is missing along z.
        drop = drop + a * torch.where(ratio < 1, ratio, 0)
    return Slopes(weight, drop)


class Layer(ABC):
    """Coefficients that were shrunk, as a network uses them."""

    @property
    @abstractmethod
    def value(self) -> Tensor:
        """The shrunk coefficients."""

    @abstractmethod
    def change(self, v: Tensor) -> Tensor:
        """The derivative of the shrinkage times a change of the coefficients."""


@dataclass(frozen=True)
class Shrunk(Layer):
    """s at coefficients z. What is not asked for is not computed."""

    z: Tensor
    slopes: Slopes

    @cached_property
    def value(self) -> Tensor:
        """``s(z)``."""
        return self.z * self.slopes.weight

    @cached_property
    def direction(self) -> Tensor:
        """``z / |z|``, of which products with the derivative are made."""
        return self.z * inverse_modulus(self.z)

    def change(self, v: Tensor) -> Tensor:
        """``s'(z) v``. Along z the slope is that of s; across z it is ``s(|z|) / |z|``."""
        along = (self.direction * v).sum(1, keepdim=True) * self.slopes.drop
        # In place, because these tensors are the largest of an evaluation.
        return (v * self.slopes.weight).addcmul_(self.direction, along, value=-1)


def shrunk(z: Tensor, thresholds: Tensor, shares: Tensor, scale: Tensor) -> Shrunk:
    """s at coefficients, with thresholds multiplied by a scale.

    The scale is one number for each sample, (batch,), or broadcasts to the coefficients.
    """
    factor = scale.to(z.dtype)
    found = slopes(z, thresholds, shares, factor if scale.ndim > 1 else per_sample(factor, z))
    return Shrunk(z, found)


def start_of_thresholds(clips: int, features: int) -> Tensor:
    """Logarithms of thresholds, (clips, features), spread around 1."""
    spread = torch.linspace(-SPREAD, SPREAD, clips) if clips > 1 else torch.zeros(1)
    return spread[:, None].repeat(1, features)


SPREAD = 1.2
"""Logarithm of the largest threshold of a channel at the start; the smallest has its negative."""
