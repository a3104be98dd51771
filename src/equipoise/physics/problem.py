"""One linear inverse problem: what is reconstructed, certified and reported."""

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from equipoise.arguments import Array, Number, as_numbers, as_tensor
from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.linop import LinearOperator
from equipoise.readable import size
from equipoise.shapes import Data, Image, Mask, PerSample
from equipoise.vectors import norm

TINY = torch.finfo(torch.float64).tiny

ROUNDING = 1e-5
"""Relative imaginary part that a transform in single precision leaves in real data."""


Operator = TypeVar("Operator", bound=LinearOperator)


@dataclass(frozen=True, init=False, repr=False)
class Problem(Generic[Operator]):
    """``b = A x + n`` of one image.

    It is a slice of a scan (:func:`equipoise.slice_problem`) or a measurement with your own A.
    Numpy and torch are accepted, as are data without the batch axis and a single number for the
    noise level.

    Attributes
    ----------
    operator
        A, of batch 1.
    data
        b, (1, ...), divided by ``unit``.
    noise_level
        Standard deviation of the noise in ``data``, ``E|n|^2 = sigma^2``, (1,).
    unit
        The number that the data were divided by to make everything of order one. The images of a
        certificate are multiplied by it.
    mask
        Where ``data`` hold a measurement, broadcastable to them. If not given, it is the mask of a
        :class:`SenseOp`, and everywhere for any other A.

    Raises
    ------
    BadInputError
        If there is more than one image, the data do not have the shape that A measures, or the
        mask does not broadcast to them.
    """

    operator: Operator
    data: Data
    noise_level: PerSample
    unit: float = 1.0
    mask: Mask | None = None

    # Written out because its types differ from those of the fields: arrays come in, tensors stay.
    def __init__(
        self,
        operator: Operator,
        data: Array,
        noise_level: Number,
        unit: float = 1.0,
        mask: Array | None = None,
    ):
        given = operator.given_data(data).value
        if len(given) != 1:
            raise BadInputError(
                f"the array of data has a batch of {len(given)}: a problem has one image"
            )
        level = as_numbers(noise_level, 1, "noise_level").to(given.device)
        where = None if mask is None else _where_measured(mask, given)
        values = {"operator": operator, "data": given, "noise_level": level, "unit": unit}
        for name, value in {**values, "mask": where}.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        """The operator and the measurements."""
        level = float(self.noise_level[0])
        return (
            f"{type(self).__name__}: {self.operator!r}\n"
            f"  data {size(self.data)}, noise level {level:.3g}, unit {self.unit:.3g}"
        )

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
        """Number of measured samples over all coils, without those that are zero in every coil."""
        measured = self.measured.expand(self.data.shape)
        # Vendors pad k-space with exact zeros inside the mask; noise never gives them in every
        # coil.
        if isinstance(self.operator, SenseOp):
            measured = measured & (self.data != 0).any(1, keepdim=True)
        return int(measured.sum())

    def noise_to(self, image: Image) -> float:
        """``||n|| / ||x||``, the expected norm of the noise divided by the norm of an image."""
        size = float(norm(image).clamp(min=TINY))
        return float(self.noise_level[0]) * self.sample_count**0.5 / size


def _where_measured(mask: Array, data: torch.Tensor) -> torch.Tensor:
    """A mask of the data as bool, with the batch axis."""
    mask = as_tensor(mask, "the mask")
    selected = mask if mask.dtype == torch.bool else mask != 0
    selected = selected[None] if selected.ndim == data.ndim - 1 else selected
    try:
        selected.expand(data.shape)
    except RuntimeError as error:
        raise BadInputError(
            f"the mask has the shape {tuple(mask.shape)} and the data {tuple(data.shape)}: it must "
            "broadcast to them"
        ) from error
    return selected
