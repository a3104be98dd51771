"""One linear inverse problem: what is reconstructed, certified and reported."""

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from equipoise.physics.cartesian import SenseOp
from equipoise.physics.linop import LinearOperator
from equipoise.shapes import Data, Image, Mask, PerSample
from equipoise.vectors import norm

TINY = torch.finfo(torch.float64).tiny

ROUNDING = 1e-5
"""Imaginary part that a transform in single precision leaves in real data, relative to them."""


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
        b, (1, ...), divided by ``unit``.
    noise_level
        Standard deviation of the noise in ``data``, ``E|n|^2 = sigma^2``, (1,).
    unit
        What the data were divided by so that everything is of order one; the images of a
        certificate are multiplied by it.
    mask
        Where ``data`` hold a measurement, broadcastable to them: the mask of a :class:`SenseOp`,
        everywhere for any other A, if not given.
    """

    operator: Operator
    data: Data
    noise_level: PerSample
    unit: float = 1.0
    mask: Mask | None = None

    @property
    def measured(self) -> Mask:
        """Where the data hold a measurement, broadcastable to them."""
        if self.mask is not None:
            return self.mask
        if isinstance(self.operator, SenseOp):
            return self.operator.mask[:, None]
        return torch.ones_like(self.data, dtype=torch.bool)

    @property
    def real(self) -> bool:
        """Whether the data have no imaginary part, up to rounding."""
        if not self.data.is_complex():
            return True
        return float(self.data.imag.norm()) <= ROUNDING * float(self.data.norm())

    @property
    def sample_count(self) -> int:
        """Numbers that were measured, over all coils; where all coils are zero nothing was."""
        measured = self.measured.expand(self.data.shape)
        if isinstance(self.operator, SenseOp):
            measured = measured & (self.data != 0).any(1, keepdim=True)
        return int(measured.sum())

    def noise_to(self, image: Image) -> float:
        """``||n|| / ||x||``, the expected norm of the noise over that of an image."""
        size = float(norm(image).clamp(min=TINY))
        return float(self.noise_level[0]) * self.sample_count**0.5 / size
