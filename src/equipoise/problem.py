"""One linear inverse problem: what is reconstructed, certified and reported."""

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from equipoise.physics.linop import LinearOperator, norm
from equipoise.physics.sense import SenseOp
from equipoise.shapes import Data, Image, Mask, PerSample

TINY = torch.finfo(torch.float64).tiny


Operator = TypeVar("Operator", bound=LinearOperator)


@dataclass(frozen=True)
class Problem(Generic[Operator]):
    """``b = A x + n`` of one image.

    A slice of a scan (:func:`equipoise.slice_problem`), or whatever your own A measures.

    Attributes
    ----------
    operator
        A.
    data
        b, (1, ...), divided by ``unit``. Exact zeros are samples that were not measured.
    noise_level
        Standard deviation of the noise in ``data``, ``E|n|^2 = sigma^2``, (1,).
    unit
        What the data were divided by so that everything is of order one; the images of a
        certificate are multiplied by it.
    """

    operator: Operator
    data: Data
    noise_level: PerSample
    unit: float = 1.0

    @property
    def measured(self) -> Mask:
        """Where the data hold a measurement, broadcastable to them."""
        if isinstance(self.operator, SenseOp):
            return self.operator.mask[:, None]
        return self.data != 0

    @property
    def sample_count(self) -> int:
        """Numbers that were measured, over all coils; where all coils are zero nothing was."""
        if isinstance(self.operator, SenseOp):
            seen = self.operator.mask & (self.data != 0).any(1)
            return int(seen.sum()) * self.data.shape[1]
        return int(self.measured.sum())

    def noise_to(self, image: Image) -> float:
        """``||n|| / ||x||``, the expected norm of the noise over that of an image."""
        size = float(norm(image).clamp(min=TINY))
        return float(self.noise_level[0]) * self.sample_count**0.5 / size
