"""A batch of images in real coordinates: inner product, norm, two channels; what does not move."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from equipoise.shapes import PerSample


def inner(a: Tensor, b: Tensor) -> PerSample:
    """Real inner product ``Re <a, b>`` of each sample, in the precision of a, as float64."""
    # Conjugation is lazy in torch, and view_as_real refuses a tensor that is only marked as
    # conjugate.
    real_a, real_b = (torch.view_as_real(v.resolve_conj()).flatten(1) for v in (a, b))
    found = [torch.linalg.vecdot(*parts).double() for parts in pieces(real_a, real_b)]
    return found[0] if len(found) == 1 else torch.stack(found).sum(0)


def pieces(*arrays: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Flat samples, (batch, n) each, a piece of all of them at a time."""
    # A product or a copy in double precision would take several times the memory of a volume.
    yield from zip(*(torch.split(array, PIECE // len(arrays), dim=1) for array in arrays))


PIECE = 2**19
"""Numbers of a sample that are combined at a time, those of all arrays together."""


def norm(a: Tensor) -> PerSample:
    """Euclidean norm of each sample."""
    return inner(a, a).sqrt()


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Shape (batch,) values so that they broadcast over the samples of ``like``."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def chosen(samples: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """One array for some samples, (batch,), and the other for the rest."""
    # A single sample needs no copy, and a volume has no room for one.
    if len(samples) == 1:
        return one if bool(samples) else other
    return torch.where(per_sample(samples, one), one, other)


def times(factor: Tensor, direction: Tensor) -> Tensor:
    """A number for each sample times an image, in the precision of the image."""
    return per_sample(factor, direction).to(direction.real.dtype) * direction


def combined(weights: Tensor, vectors: Sequence[Tensor]) -> Tensor:
    """``sum_j w_j v_j`` of real numbers and images."""
    total = torch.zeros_like(vectors[0])
    # One after the other: a stack would hold all vectors of a volume twice.
    for weight, vector in zip(weights, vectors, strict=True):
        total.add_(weight.to(vector.real.dtype) * vector)
    return total


def unit(direction: Tensor) -> Tensor:
    """The direction of norm 1; zero for zero."""
    # The inverse must be finite in single precision, or zero times it is not zero.
    return times(1 / norm(direction).clamp(min=torch.finfo(torch.float32).tiny), direction)


def as_channels(image: Tensor) -> Tensor:
    """(batch, ...) complex to (batch, 2, ...) real: real and imaginary part."""
    return torch.view_as_real(image.resolve_conj()).movedim(-1, 1).contiguous()


def as_image(channels: Tensor) -> Tensor:
    """(batch, 2, ...) real to (batch, ...) complex."""
    return torch.view_as_complex(channels.movedim(1, -1).contiguous())


def still_of(series: Tensor) -> Tensor:
    """``E^H x = n^(-1/2) sum_t x``, what does not move in n frames, (batch, y, x)."""
    return series.sum(1) / math.sqrt(series.shape[1])


def repeated(image: Tensor, frames: int) -> Tensor:
    """``E s``, an image in all n frames, divided by ``n^(1/2)``, (batch, time, y, x)."""
    return (image / math.sqrt(frames))[:, None].expand(-1, frames, -1, -1)
