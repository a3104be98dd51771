"""What training draws: measurements of an image, and where they come from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from equipoise.physics.linop import LinearOperator


@dataclass(frozen=True)
class Sample:
    """A, b, the image behind it (batch, y, x), and what the noise of b may read, (batch,)."""

    operator: LinearOperator
    data: Tensor
    target: Tensor
    noise_level: Tensor


class Source(ABC):
    """A distribution of samples; everything random comes from the generator that is given."""

    @abstractmethod
    def sample(self, image: Tensor, rng: np.random.Generator, crop: int | None = None) -> Sample:
        """Draw measurements of an image (y, x), of a random crop of it if asked."""

    @abstractmethod
    def batch(self, samples: Sequence[Any]) -> Sample:
        """Samples of this source, of one image size, as one."""
