"""The Jacobian J of a network at one image, as products, and the constants that follow (12).

All coordinates are real: an image of n complex pixels is a vector of 2n real numbers.
"""

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.shapes import Image, PerSample
from equipoise.vectors import inner, norm, times, unit


class Jacobian:
    """``J`` of a network at an image; a product costs about one evaluation of the network.

    Parameters
    ----------
    network
        A map from image to image, or from a stack of images to one, that treats each sample
        independently. If it has no method ``linearised``, as
        :class:`~equipoise.networks.cnn.CNN` has, a product with J costs about five evaluations;
        ``cost`` says how many a product by its own method costs, if not one. ``transposed`` makes
        products with ``J^T`` in the same way, where it has one.
    image
        The image or stack at which the derivative is taken, (batch, ...).

    Attributes
    ----------
    evaluations
        The cost so far in evaluations of the network at one image.
    symmetric
        Whether ``J^T = J`` is known of the network, so that products with J stand for both.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], image: Tensor):
        self._network, self._at = network, image.detach()
        self.evaluations = 0
        self.symmetric = bool(getattr(network, "symmetric", False))
        own = getattr(network, "linearised", None) is not None
        self._cost: int = getattr(network, "cost", 1) if own else BY_AUTOGRAD

    def forward(self, direction: Tensor, create_graph: bool = False) -> Tensor:
        """``J d`` in the precision of d; with ``create_graph``, weights get gradients."""
        self.evaluations += len(direction) * self._cost
        with torch.set_grad_enabled(create_graph):
            return self._forward(direction.to(self._at.dtype)).to(direction.dtype)

    def transposed(self, direction: Tensor) -> Tensor:
        """``J^T d``, in the precision of d."""
        if self.symmetric:
            return self.forward(direction)
        own = getattr(self._network, "transposed", None)
        if own is not None:
            self.evaluations += len(direction) * self._cost
            product: Tensor = own(self._at, direction.to(self._at.dtype))
            return product.to(direction.dtype)
        self.evaluations += len(direction)
        point, image = self._graph
        (product,) = torch.autograd.grad(image, point, direction.to(image.dtype), retain_graph=True)
        return product.to(direction.dtype)

    @cached_property
    def _forward(self) -> Callable[[Tensor], Tensor]:
        self.evaluations += len(self._at) * self._cost
        return linearised(self._network, self._at)

    @cached_property
    def _graph(self) -> tuple[Tensor, Tensor]:
        self.evaluations += len(self._at)
        with torch.enable_grad():
            point = self._at.clone().requires_grad_()
            return point, self._network(point)


BY_AUTOGRAD = 5
"""Evaluations that a product costs of a network without ``linearised``."""


def linearised(network: Callable[[Tensor], Tensor], image: Tensor) -> Callable[[Tensor], Tensor]:
    """``d -> J d``, J the Jacobian of a network at an image, differentiable in the weights."""
    own: Callable[[Tensor], Callable[[Tensor], Tensor]] | None
    own = getattr(network, "linearised", None)
    return linearised_by_autograd(network, image) if own is None else own(image)


def linearised_by_autograd(
    network: Callable[[Tensor], Tensor], image: Tensor
) -> Callable[[Tensor], Tensor]:
    """:func:`linearised` for a network without its own, at five times the cost."""
    with torch.enable_grad():
        point = image.detach().clone().requires_grad_()
        value = network(point)
        # J^T v is linear in v, so its derivative with respect to v, transposed, is J.
        cotangent = torch.zeros_like(value).requires_grad_()
        (product,) = torch.autograd.grad(value, point, cotangent, create_graph=True)

    def forward(direction: Tensor) -> Tensor:
        (moved,) = torch.autograd.grad(
            product,
            cotangent,
            direction.to(product.dtype),
            retain_graph=True,
            create_graph=torch.is_grad_enabled(),
        )
        return moved

    return forward


class RitzPair(NamedTuple):
    """A Ritz value, (batch,), and its vector of norm 1, (batch, y, x)."""

    value: PerSample
    vector: Image


def largest_symmetric_eigenvalue(
    jacobian: Jacobian, start: Image, iterations: int = 15
) -> RitzPair:
    """The largest eigenvalue of ``(J + J^T) / 2`` and its eigenvector, by Lanczos iterations.

    A Ritz value is never above the largest eigenvalue, so it is measured and proves nothing.
    ``1 - value`` estimates the monotonicity constant of ``I - H`` at the image (5) from above.

    Parameters
    ----------
    jacobian
        J.
    start
        First direction, (batch, y, x), not zero.
    iterations
        Number of iterations; each costs one product with J and one with its transpose.
    """

    def symmetric_part(v: Tensor) -> Tensor:
        return (jacobian.forward(v) + jacobian.transposed(v)) / 2

    return _lanczos(symmetric_part, start, iterations)


def largest_singular_value(jacobian: Jacobian, start: Image, iterations: int = 15) -> RitzPair:
    """``||J||``, from below, and its right singular vector, by Lanczos iterations on ``J^T J``.

    The parameters are those of :func:`largest_symmetric_eigenvalue`.
    """

    def square(v: Tensor) -> Tensor:
        return jacobian.transposed(jacobian.forward(v))

    value, vector = _lanczos(square, start, iterations)
    # J^T J has no negative eigenvalue, but rounding can make a Ritz value of 0 negative.
    return RitzPair(value.clamp(min=0).sqrt(), vector)


def _lanczos(apply: Callable[[Tensor], Tensor], start: Tensor, iterations: int) -> RitzPair:
    """Largest eigenvalue of each sample, with full reorthogonalisation."""
    basis, diagonal, off_diagonal = [unit(start)], [], []
    for _ in range(iterations):
        last = basis[-1]
        product = apply(last)
        diagonal.append(inner(last, product))
        # Once leaves a component of the size of the cancellation; twice is enough (Parlett 1980).
        for _ in range(2):
            for vector in basis:
                product = product - times(inner(vector, product), vector)
        length = norm(product)
        if len(diagonal) == iterations or bool((length <= BREAKDOWN).all()):
            break
        off_diagonal.append(length)
        basis.append(unit(product))
    values, vectors = torch.linalg.eigh(_tridiagonal(diagonal, off_diagonal))
    parts = [times(vectors[:, k, -1], vector) for k, vector in enumerate(basis)]
    return RitzPair(values[:, -1], torch.stack(parts).sum(0))


BREAKDOWN = 1e-7
"""A new direction shorter than this is rounding of a network in single precision: the Krylov space
is complete."""


def _tridiagonal(diagonal: list[Tensor], off_diagonal: list[Tensor]) -> Tensor:
    matrix = torch.diag_embed(torch.stack(diagonal, -1))
    if off_diagonal:
        beside = torch.stack(off_diagonal, -1)
        matrix = matrix + torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1)
    return matrix
