"""What training draws: measurements of an image, and where they come from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from equipoise.arguments import Array, Number, as_batch, as_numbers
from equipoise.outcome import BadInputError
from equipoise.physics.linop import LinearOperator


@dataclass(frozen=True, init=False, repr=False)
class Sample:
    """A, b, the image behind it (batch, y, x), and what the noise of b may read, (batch,).

    Numpy and torch are accepted, data and target without the batch axis, and one number for the
    noise level.

    Raises
    ------
    BadInputError
        If data or target do not have the shapes of A.
    """

    operator: LinearOperator
    data: Tensor
    target: Tensor
    noise_level: Tensor

    # Written out for its types: a user's array comes in, and the attributes are tensors.
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

    def __repr__(self) -> str:
        """A, and the size of its batch."""
        return f"{type(self).__name__} of {len(self.data)}: {self.operator!r}"


class Source(ABC):
    """A distribution of samples; everything random comes from the generator that is given."""

    @abstractmethod
    def sample(self, image: Tensor, rng: np.random.Generator, crop: int | None = None) -> Sample:
        """Draw measurements of an image (y, x), of a random crop of it if asked."""

    def batch(self, samples: Sequence[Any]) -> Sample:
        """Samples of this source, of one image size, as one.

        Raises
        ------
        BadInputError
            If there are several, and the source does not say how they become one.
        """
        if len(samples) != 1:
            raise BadInputError(
                f"{type(self).__name__} has no method batch(samples), so it cannot make one of "
                f"{len(samples)} samples: write one, or train with batch: 1"
            )
        return samples[0]
