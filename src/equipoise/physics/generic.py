"""A linear operator from any pair of functions."""

from collections.abc import Callable

from equipoise.outcome import BadInputError
from equipoise.physics.linop import LinearOperator, adjoint_error
from equipoise.shapes import Data, Image

ADJOINT_TOLERANCE = 1e-4
"""Largest relative violation of ``<A x, y> = <x, A^H y>`` that is accepted: single precision
reaches 1e-6, a pair that does not match is of the order of 1."""


class FunctionOp(LinearOperator):
    """Your own A: a function and its adjoint.

    Parameters
    ----------
    forward
        ``A x``: images (batch, ...) complex to data (batch, ...) complex. Linear, every sample
        alone, any number of axes, and in the precision of its input.
    adjoint
        ``A^H b``, back to images.
    image_shape
        Shape of the images, with the batch.

    Raises
    ------
    BadInputError
        If the adjoint is not that of the function, measured with random images.

    Examples
    --------
    >>> known = torch.rand(1, 32, 32) > 0.5
    >>> inpainting = FunctionOp(lambda x: known * x, lambda b: known * b, (1, 32, 32))
    >>> inpainting.normal(torch.ones(1, 32, 32, dtype=torch.complex64)).shape
    torch.Size([1, 32, 32])
    """

    def __init__(
        self,
        forward: Callable[[Image], Data],
        adjoint: Callable[[Data], Image],
        image_shape: tuple[int, ...],
    ):
        self._forward, self._adjoint, self._shape = forward, adjoint, tuple(image_shape)
        error = adjoint_error(self, double=False)
        if not error < ADJOINT_TOLERANCE:
            raise BadInputError(
                f"the adjoint does not belong to the function: <A x, y> and <x, A^H y> differ by "
                f"{error:.1e} of ||A x|| ||y||; a gradient or an inverse is no adjoint"
            )

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of the batch of images."""
        return self._shape

    def forward(self, image: Image) -> Data:
        """``A x``."""
        return self._forward(image)

    def adjoint(self, data: Data) -> Image:
        """``A^H b``."""
        return self._adjoint(data)
