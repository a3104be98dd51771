"""Linear operators ``b = A x + n`` and the checks that every one of them must pass."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from equipoise.shapes import Data, Image, Mask, PerSample
from equipoise.vectors import norm, per_sample


class LinearOperator(ABC):
    """A linear map from a batch of complex images to a batch of complex measurements.

    Implement :meth:`forward` and its exact :meth:`adjoint`; check the pair with
    :func:`adjoint_error`. Both must accept complex64 and complex128 and keep the precision.
    """

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, ...]:
        """Shape of the batch of images that the operator acts on."""

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
        """``(shift I + weight A^H A)^-1 rhs`` in closed form; None where there is none."""
        return None

    def support(self) -> Mask | None:
        """Pixels that A can see, (batch or 1, y, x); None if it sees all of them.

        Elsewhere the image is defined to be zero.
        """
        return None

    def intensity_scale(self, data: Data) -> PerSample:
        """A typical image intensity, read off the data: networks see images divided by it.

        Here the 99th percentile of ``|A^H b|``. It scales with the data: ``s(c b) = |c| s(b)``.
        """
        return percentile(self.adjoint(data).abs(), 0.99)


def percentile(magnitude: Tensor, q: float) -> PerSample:
    """The ``q``-quantile of each sample over its non-zero pixels, by sorting.

    A sample that is zero everywhere has percentile 0.
    """
    ordered = magnitude.flatten(1).sort(dim=1).values
    n_zero = (ordered == 0).sum(1)
    n_pixels = ordered.shape[1]
    index = n_zero + ((n_pixels - 1 - n_zero).clamp(min=0) * q).long()
    return ordered.gather(1, index.clamp(max=n_pixels - 1)[:, None])[:, 0]


def adjoint_error(operator: LinearOperator, seed: int = 0, double: bool = True) -> float:
    """Relative violation of ``<A x, y> = <x, A^H y>`` for random x and y.

    ``|<A x, y> - <x, A^H y>| / (||A x|| ||y||)``, the largest of the batch. Below 1e-12 in
    double precision for a correct pair, of the order of 1 for a wrong one.
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
        x = operator.normal(x / per_sample(norm(x), x).clamp(min=torch.finfo().tiny))
    return norm(x).sqrt()
