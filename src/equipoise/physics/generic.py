"""A linear operator from any pair of functions."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from equipoise.outcome import BadInputError
from equipoise.physics.linop import (
    LinearOperator,
    NormBound,
    adjoint_error,
    operator_norm,
)
from equipoise.shapes import Data, Image

ADJOINT_TOLERANCE = 1e-4
"""Largest accepted relative violation of ``<A x, y> = <x, A^H y>``. Single precision reaches 1e-6;
a pair that does not match is of the order of 1."""


class FunctionOp(LinearOperator):
    """Your own A: a function and its adjoint.

    Parameters
    ----------
    forward
        ``A x``: images (batch, ...) complex to data (batch, ...) complex. It must be linear and
        treat each sample independently; the data may have any number of axes.
    adjoint
        ``A^H b``, back to images.
    image_shape
        Shape of the images, (batch, y, x).
    norm
        A number with ``||A x|| <= norm ||x||`` for every x, if you know one. It is your claim, so
        statements that rest on it are called measured. Without it the bounds that need it are not
        available.

    Raises
    ------
    BadInputError
        If a function does not return a complex tensor of the right batch, if the adjoint does not
        match, as tested with random images, or if the norm is too small. For functions of numpy
        arrays use :func:`equipoise.from_numpy`.

    Examples
    --------
    >>> import torch
    >>> import equipoise as eq
    >>> known = torch.arange(32 * 32).reshape(32, 32) % 3 > 0
    >>> inpainting = eq.FunctionOp(lambda x: known * x, lambda b: known * b, (1, 32, 32))
    >>> inpainting(torch.ones(32, 32)).abs().sum()  # 682 of 1024 pixels are known
    tensor(682.)
    """

    def __init__(
        self,
        forward: Callable[[Image], Data],
        adjoint: Callable[[Data], Image],
        image_shape: Sequence[int],
        norm: float | None = None,
    ):
        self._forward, self._adjoint, self._norm = forward, adjoint, norm
        self._shape = tuple(int(n) for n in image_shape)
        if len(self._shape) < 2 or min(self._shape) < 1:
            raise BadInputError(
                f"image_shape is {self._shape}: it must be (batch, y, x), the batch 1 for one image"
            )
        self._refuse_other_results()
        self._refuse_a_norm_that_is_too_small()
        # In single precision, because a user's function may compute in nothing else.
        error = adjoint_error(self, double=False)
        if not error < ADJOINT_TOLERANCE:
            raise BadInputError(
                f"the adjoint does not match the function: <A x, y> and <x, A^H y> differ by "
                f"{error:.1e} of ||A x|| ||y||; a gradient or an inverse is not an adjoint"
            )

    def _refuse_other_results(self) -> None:
        """Refuse a pair of functions that does not return batches of complex tensors."""
        data = self._forward(torch.ones(self._shape, dtype=torch.complex64))
        _refuse_other_result("forward", data, (self._shape[0],))
        image = self._adjoint(data)
        _refuse_other_result("adjoint", image, self._shape)

    def _refuse_a_norm_that_is_too_small(self) -> None:
        if self._norm is None:
            return
        if not 0 < self._norm < math.inf:
            raise BadInputError(f"norm is {self._norm}: it must be positive and finite")
        # Power iteration estimates from below, so this can refute a claimed norm but never prove
        # it.
        found = float(operator_norm(self).max())
        if found > self._norm * (1 + ADJOINT_TOLERANCE):
            raise BadInputError(
                f"norm is {self._norm:g}, but A multiplies the norm of some image by {found:.6g}: "
                "give a number that no image exceeds"
            )

    def norm_bound(self) -> NormBound | None:
        """The norm that the user claims; None without a claim."""
        if self._norm is None:
            return None
        return NormBound(torch.full(self._shape[:1], self._norm, dtype=torch.float64), False)

    def __repr__(self) -> str:
        """The shapes of images and data."""
        return f"FunctionOp from images {self._shape} to data {self.data_shape}"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of the batch of images."""
        return self._shape

    def forward(self, image: Image) -> Data:
        """``A x``, in the precision of x."""
        return self._forward(image).to(image.dtype)

    def adjoint(self, data: Data) -> Image:
        """``A^H b``, in the precision of b."""
        return self._adjoint(data).to(data.dtype)


def _refuse_other_result(name: str, result: object, shape: tuple[int, ...]) -> None:
    if not isinstance(result, Tensor) or not result.is_complex():
        found = result.dtype if isinstance(result, Tensor) else type(result).__name__
        raise BadInputError(
            f"{name} returns {found}: it must return a complex tensor; for functions of numpy "
            "arrays use equipoise.from_numpy"
        )
    if result.shape[: len(shape)] != shape:
        raise BadInputError(
            f"{name} returns the shape {tuple(result.shape)}: it must begin with {shape}, "
            "the batch first"
        )
