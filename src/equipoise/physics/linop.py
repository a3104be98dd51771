"""Linear operators ``b = A x + n`` and the checks that every one of them must pass."""

import copy
from abc import ABC, abstractmethod
from functools import cached_property
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from equipoise.arguments import Array, Given, as_batch
from equipoise.shapes import Data, Image, Mask, PerSample
from equipoise.vectors import inner, norm, per_sample

Operator = TypeVar("Operator", bound="LinearOperator")


class NormBound(NamedTuple):
    """What is known about the norm of A, and on which evidence.

    Attributes
    ----------
    value
        a with ``||A x|| <= a ||x||`` for every x, (batch,).
    proved
        Whether it was computed from the arrays that A is made of, and the adjoint is exact. What a
        user says about a pair of functions is only a claim.
    rounding
        e such that in double precision ``A^H A x`` is computed with an error of at most
        ``e a^2 ||x||``, and ``A^H b`` with one of at most ``e a ||b||``; 0 if nothing is known.
    """

    value: PerSample
    proved: bool
    rounding: float = 0.0


class LinearOperator(ABC):
    """A linear map from a batch of complex images to a batch of complex measurements.

    Implement :meth:`forward` and its exact :meth:`adjoint`, and check the pair with
    :func:`adjoint_error`. Both must accept complex64 and complex128 and keep the precision. They
    receive batches of complex tensors; ``A(x)`` and ``A.H(b)`` are the same maps for any array of
    a user.
    """

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, ...]:
        """Shape of the batch of images that the operator acts on."""

    @cached_property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of the batch of measurements, from ``A 0`` unless a subclass overrides it."""
        zero = torch.zeros(self.image_shape, dtype=torch.complex64)
        return tuple(self.forward(zero).shape)

    @property
    def data_axes(self) -> tuple[str, ...]:
        """Names of the axes of a measurement after the batch, for messages; () if unknown."""
        return ()

    @property
    def image_axes(self) -> tuple[str, ...]:
        """Names of the axes of an image after the batch; () if unknown."""
        return ()

    def __repr__(self) -> str:
        """The kind of operator and the shape of its images."""
        return f"{type(self).__name__} on images {self.image_shape}"

    def __call__(self, image: Array) -> Tensor:
        """``A x`` of numpy arrays or tensors, with or without the batch axis.

        Raises
        ------
        BadInputError
            If the image does not have the shape that the operator needs.
        """
        given = as_batch(image, self.image_shape, "the image")
        return given.like(self.forward(given.value))

    @property
    def H(self) -> "LinearOperator":
        """``A^H`` as an operator: ``A.H(b)``."""
        return _Adjoint(self)

    def to(self: Operator, device: torch.device) -> Operator:
        """The same operator with its arrays on another device."""
        moved = self._without_cache()
        for name, value in vars(moved).items():
            if isinstance(value, Tensor):
                setattr(moved, name, value.to(device))
        return moved

    def _without_cache(self: Operator) -> Operator:
        """A copy that computes its cached properties again when they are needed."""
        found = copy.copy(self)
        for name in [*vars(self)]:
            if isinstance(getattr(type(self), name, None), cached_property):
                delattr(found, name)
        return found

    def given_data(self, data: Array) -> Given:
        """The measurements of a user as a batch of complex tensors.

        Raises
        ------
        BadInputError
            If they do not have the shape that the operator measures.
        """
        if isinstance(data, Tensor):
            # `data_shape` may have to compute A 0, which must happen on the device of the operator.
            with data.device:
                return as_batch(data, self.data_shape, "the array of data", self.data_axes)
        return as_batch(data, self.data_shape, "the array of data", self.data_axes)

    @abstractmethod
    def forward(self, image: Image) -> Data:
        """``A x``."""

    @abstractmethod
    def adjoint(self, data: Data) -> Image:
        """``A^H b``."""

    def normal(self, image: Image) -> Image:
        """``A^H A x``."""
        return self.adjoint(self.forward(image))

    def regularized_inverse(self, rhs: Image, weight: PerSample, shift: PerSample) -> Image | None:
        """``(shift I + weight A^H A)^-1 rhs`` in closed form; None if there is none."""
        return None

    def planes(self: Operator, x: slice) -> Operator | None:
        """An operator with the part of ``A^H A`` in some positions along the last axis.

        None if ``A^H A`` mixes positions, or nothing is known of that.
        """
        return None

    def norm_bound(self) -> NormBound | None:
        """A bound on ``||A||``; if it is None, no statement that needs one is made.

        A subclass that returns one with ``proved=True`` also vouches for its adjoint.
        """
        return None

    def support(self) -> Mask | None:
        """Pixels that A can see, (batch or 1, y, x); None if it sees all of them.

        Elsewhere the image is defined to be zero.
        """
        return None

    def acceleration(self) -> PerSample | None:
        """Unknowns divided by measurements of one channel, (batch,); None if it has no meaning."""
        return None

    @torch.no_grad()
    def encoding(self, device: torch.device | None = None) -> PerSample:
        """``e = (tr A^H A)^2 / (n tr (A^H A)^2)``: the encoded share of n unknowns, (batch,).

        It is 1 if ``A^H A`` is a multiple of the identity, and 1 / R for one coil and R-fold
        Cartesian sampling; coils that separate aliases raise it. It does not depend on the scale of
        A, and is 1 if A is zero. Both traces are estimated with one random image where A sees it,
        the same for every sample and call: relatively, that is within about ``(e n)^(-1/2)``.
        """
        generator = torch.Generator().manual_seed(0)
        batch, *shape = self.image_shape
        parts = (torch.randn(shape, generator=generator) for _ in range(2))
        image, support = torch.complex(*parts).to(device).expand(batch, *shape), self.support()
        image = image if support is None else image * support
        seen = self.normal(image)
        size = norm(seen)
        return torch.where(size > 0, (inner(image, seen) / (norm(image) * size)).square(), 1.0)

    def intensity_scale(self, data: Data) -> PerSample:
        """A typical image intensity, estimated from the data; networks see images divided by it.

        It is the 99th percentile of ``|A^H b|`` and scales with the data: ``s(c b) = |c| s(b)``.
        """
        return percentile(self.adjoint(data).abs(), 0.99)


class _Adjoint(LinearOperator):
    """``A^H`` of an operator, with A as its adjoint."""

    def __init__(self, operator: LinearOperator):
        self._operator = operator

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of the measurements of the operator."""
        return self._operator.data_shape

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of the images of the operator."""
        return self._operator.image_shape

    def __call__(self, image: Array) -> Tensor:
        """``A^H b``."""
        given = self._operator.given_data(image)
        return given.like(self.forward(given.value))

    def __repr__(self) -> str:
        """Names the operator whose adjoint this is."""
        return f"adjoint of {self._operator!r}"

    @property
    def H(self) -> LinearOperator:
        """The operator itself."""
        return self._operator

    def norm_bound(self) -> NormBound | None:
        """``||A^H|| = ||A||``."""
        return self._operator.norm_bound()

    def forward(self, image: Image) -> Data:
        """``A^H b``."""
        return self._operator.adjoint(image)

    def adjoint(self, data: Data) -> Image:
        """``A x``."""
        return self._operator.forward(data)


def percentile(magnitude: Tensor, q: float) -> PerSample:
    """The ``q``-quantile of each sample over its non-zero pixels, by sorting.

    A sample that is zero everywhere has percentile 0.
    """
    # Zeros are the background outside the coil maps; their share must not move the quantile.
    # torch.quantile refuses more than 2^24 elements.
    ordered = magnitude.flatten(1).sort(dim=1).values
    n_zero = (ordered == 0).sum(1)
    n_pixels = ordered.shape[1]
    index = n_zero + ((n_pixels - 1 - n_zero).clamp(min=0) * q).long()
    return ordered.gather(1, index.clamp(max=n_pixels - 1)[:, None])[:, 0]


def adjoint_error(operator: LinearOperator, seed: int = 0, double: bool = True) -> float:
    """Relative violation of ``<A x, y> = <x, A^H y>`` for random x and y.

    The value is ``|<A x, y> - <x, A^H y>| / (||A x|| ||y||)``, the largest of the batch. It is
    below 1e-12 in double precision for a correct pair, and of the order of 1 for a wrong one.
    """
    dtype = torch.complex128 if double else torch.complex64
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(operator.image_shape, dtype=dtype, generator=generator)
    forward = operator.forward(x)
    y = torch.randn(forward.shape, dtype=dtype, generator=generator)
    left = (forward.conj() * y).flatten(1).sum(1)
    right = (x.conj() * operator.adjoint(y)).flatten(1).sum(1)
    return float(((left - right).abs() / (norm(forward) * norm(y))).max())


def operator_norm(operator: LinearOperator, iterations: int = 30, seed: int = 0) -> PerSample:
    """``||A||`` by power iteration on ``A^H A``: a measured lower estimate, for each sample."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(operator.image_shape, dtype=torch.complex64, generator=generator)
    for _ in range(iterations):
        # The clamp keeps the operator zero at zero instead of nan.
        x = operator.normal(x / per_sample(norm(x), x).clamp(min=torch.finfo().tiny))
    return norm(x).sqrt()
