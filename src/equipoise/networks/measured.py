"""The Lipschitz constant of H and the one-sided constant, measured from below (12)."""

from collections.abc import Callable

import torch
from torch import Tensor

from equipoise.arguments import Array, as_images
from equipoise.networks.jacobian import (
    Jacobian,
    largest_singular_value,
    largest_symmetric_eigenvalue,
)
from equipoise.shapes import Image, Numbers, PerSample
from equipoise.vectors import inner, norm


def lipschitz_lower(
    network: Callable[[Tensor], Tensor], image: Array, *, steps: int = 12, seed: int = 0
) -> Numbers:
    """``||J d|| / ||d||`` for the worst d that Lanczos iterations find, J the Jacobian at x (12).

    It is the limit of ``||H(x + t d) - H(x)|| / ||t d||`` for small t, hence a lower bound on the
    Lipschitz constant. It proves nothing about other images. It is differentiable in the weights.

    Parameters
    ----------
    network
        H.
    image
        x, (batch, y, x) or (y, x), numpy or torch.
    steps
        Lanczos iterations on ``J^T J``. Each takes one product with the Jacobian and one with its
        transpose.
    seed
        Seed of the start direction.

    Examples
    --------
    >>> import numpy as np
    >>> import equipoise as eq
    >>> round(float(eq.lipschitz_lower(lambda x: 0.5 * x, np.ones((8, 8)))), 6)
    0.5
    """
    given = as_images(image)
    jacobian = Jacobian(network, given.value)
    start = _random_like(given.value, seed)
    direction = largest_singular_value(jacobian, start, steps).vector
    return given.like(norm(jacobian.forward(direction, create_graph=True)) / norm(direction))


def one_sided_lipschitz_lower(
    network: Callable[[Tensor], Tensor], image: Image, *, steps: int = 12, seed: int = 0
) -> PerSample:
    """``Re <d, J d> / ||d||^2`` for the worst d that Lanczos iterations on ``(J + J^T) / 2`` find.

    ``I - H`` is m-strongly monotone exactly if this is at most ``1 - m`` for every x and d (5). A
    bound on the Lipschitz constant is a stronger condition. The value is measured from below; the
    parameters are those of :func:`lipschitz_lower`.
    """
    jacobian = Jacobian(network, image)
    direction = largest_symmetric_eigenvalue(jacobian, _random_like(image, seed), steps).vector
    product = jacobian.forward(direction, create_graph=True)
    return inner(direction, product) / inner(direction, direction)


def _random_like(image: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(image.shape, dtype=image.dtype, generator=generator).to(image.device)
