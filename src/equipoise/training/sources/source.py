"""Samples for training, what a loss and a judgement of them are, and the interface of sources."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from equipoise.arguments import Array, Number, as_batch, as_numbers
from equipoise.metrics import psnr
from equipoise.outcome import BadInputError
from equipoise.physics.linop import LinearOperator
from equipoise.vectors import per_sample

AnySample = TypeVar("AnySample", bound="Measured")


class Measured(ABC):
    """What a training step solves and is judged by.

    Attributes
    ----------
    operator, data, noise_level
        A, b and the estimated noise level of b, (batch,).
    scale
        The intensity scale, (batch,), if it is not that of ``data``.
    """

    operator: LinearOperator
    data: Tensor
    noise_level: Tensor
    scale: Tensor | None = None

    @abstractmethod
    def error(self, image: Tensor, scale: Tensor) -> Tensor:
        """Mean squared error of each image (batch, y, x) at intensity scale 1, (batch,)."""

    @abstractmethod
    def quality(self, image: Tensor) -> dict[str, float]:
        """The quality of images by the name of its measure, in dB: a mean over the batch."""

    def to(self: AnySample, device: torch.device) -> AnySample:
        """The same sample on another device."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor | LinearOperator):
                object.__setattr__(moved, name, value.to(device))
        return moved

    def __repr__(self) -> str:
        """The operator and the size of the batch."""
        return f"{type(self).__name__} of {len(self.data)}: {self.operator!r}"


@dataclass(frozen=True, init=False, repr=False)
class Sample(Measured):
    """A, b, the true image (batch, y, x), and the estimated noise level of b, (batch,).

    Numpy and torch are accepted, as are data and target without the batch axis and a single number
    for the noise level.

    Raises
    ------
    BadInputError
        If data or target do not have the shapes of A.
    """

    operator: LinearOperator
    data: Tensor
    target: Tensor
    noise_level: Tensor

    # Written out because its types differ from those of the fields: arrays come in, tensors stay.
    def __init__(self, operator: LinearOperator, data: Array, target: Array, noise_level: Number):
        given = operator.given_data(data).value
        shape = (len(given), *operator.image_shape[1:])
        values = {
            "operator": operator,
            "data": given,
            "target": as_batch(target, shape, "the target").value,
            "noise_level": as_numbers(noise_level, len(given), "noise_level"),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def error(self, image: Tensor, scale: Tensor) -> Tensor:
        """``mean |x - target|^2`` at intensity scale 1."""
        units = per_sample(scale, image).to(image.real.dtype)
        return ((image - self.target) / units).abs().square().flatten(1).mean(1)

    def quality(self, image: Tensor) -> dict[str, float]:
        """The PSNR."""
        return {"psnr": float(psnr(image, self.target).mean())}


class Source(ABC):
    """A distribution of samples; all random numbers come from the given generator."""

    @abstractmethod
    def sample(self, image: Tensor, rng: np.random.Generator, crop: int | None = None) -> Sample:
        """Draw measurements of an image (y, x), or of a random crop of it."""

    def batch(self, samples: Sequence[Any]) -> Sample:
        """Samples of this source, of one image size, as one batch.

        Raises
        ------
        BadInputError
            If there are several samples and the source does not override this method.
        """
        if len(samples) != 1:
            raise BadInputError(
                f"{type(self).__name__} has no method batch(samples), so it cannot combine "
                f"{len(samples)} samples: write one, or train with batch: 1"
            )
        return samples[0]
