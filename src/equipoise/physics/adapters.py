"""Adapters from and to the operators of sigpy, pylops and deepinv.

None of these libraries is imported with the package. sigpy and pylops are extras; deepinv needs
torchvision and must be installed by its user.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.optional import need
from equipoise.outcome import BadInputError
from equipoise.physics.generic import FunctionOp
from equipoise.physics.linop import LinearOperator
from equipoise.vectors import as_channels, as_image


def from_numpy(
    forward: Callable[[np.ndarray], np.ndarray],
    adjoint: Callable[[np.ndarray], np.ndarray],
    image_shape: tuple[int, ...],
    batch: int = 1,
) -> FunctionOp:
    """An operator from two functions of numpy arrays, applied on the CPU to every image of a batch.

    Parameters
    ----------
    forward, adjoint
        ``A x`` of one complex image, and ``A^H b``.
    image_shape
        (y, x) of the image.
    batch
        Number of images.

    Raises
    ------
    BadInputError
        If the adjoint does not match the function.

    Examples
    --------
    >>> import numpy as np
    >>> import equipoise as eq
    >>> fourier = eq.from_numpy(
    ...     lambda x: np.fft.fft2(x, norm="ortho"), lambda b: np.fft.ifft2(b, norm="ortho"), (8, 8)
    ... )
    >>> round(float(fourier(np.ones((8, 8)))[0, 0].real), 6)
    8.0
    """
    return FunctionOp(*_differentiable(forward, adjoint), (batch, *image_shape))


def from_sigpy(linop: Any, batch: int = 1) -> FunctionOp:
    """An operator from a ``sigpy.linop.Linop``, applied on the CPU to every image of a batch.

    Raises
    ------
    BadInputError
        If its adjoint does not match.
    """
    forward, adjoint = _differentiable(linop, linop.H)
    return FunctionOp(forward, adjoint, (batch, *map(int, linop.ishape)))


def to_sigpy(operator: LinearOperator, data_shape: tuple[int, ...]) -> Any:
    """A ``sigpy.linop.Linop`` for one image on the CPU, without the batch axis."""
    linop = need("sigpy.linop", "sigpy", "operators of sigpy")
    image_shape = operator.image_shape[1:]

    class _Forward(linop.Linop):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__(data_shape, image_shape, repr_str=type(operator).__name__)

        def _apply(self, array: Any) -> Any:
            return _torch_map(operator.forward, array)

        def _adjoint_linop(self) -> Any:
            return _Adjoint()

    class _Adjoint(linop.Linop):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__(image_shape, data_shape, repr_str=f"{type(operator).__name__}.H")

        def _apply(self, array: Any) -> Any:
            return _torch_map(operator.adjoint, array)

        def _adjoint_linop(self) -> Any:
            return _Forward()

    return _Forward()


def from_pylops(operator: Any, batch: int = 1) -> FunctionOp:
    """An operator from a ``pylops.LinearOperator``, applied on the CPU to every image of a batch.

    Raises
    ------
    BadInputError
        If its adjoint does not match.
    """
    image_shape, data_shape = (tuple(map(int, d)) for d in (operator.dims, operator.dimsd))

    forward, adjoint = _differentiable(
        lambda one: operator.matvec(one.ravel()).reshape(data_shape),
        lambda one: operator.rmatvec(one.ravel()).reshape(image_shape),
    )
    return FunctionOp(forward, adjoint, (batch, *image_shape))


def to_pylops(operator: LinearOperator, data_shape: tuple[int, ...]) -> Any:
    """A ``pylops.LinearOperator`` of an operator for one image."""
    pylops = need("pylops", "pylops", "operators of pylops")
    image_shape = operator.image_shape[1:]

    class _Operator(pylops.LinearOperator):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__(dtype=np.complex128, dims=image_shape, dimsd=data_shape)

        def _matvec(self, x: Any) -> Any:
            return _torch_map(operator.forward, x.reshape(image_shape)).ravel()

        def _rmatvec(self, x: Any) -> Any:
            return _torch_map(operator.adjoint, x.reshape(data_shape)).ravel()

    return _Operator()


def from_deepinv(physics: Any, image_shape: tuple[int, ...]) -> FunctionOp:
    """An operator from a ``deepinv.physics.LinearPhysics`` with two channels, or one if real.

    Parameters
    ----------
    physics
        ``A`` and ``A_adjoint`` are used; its noise model is not.
    image_shape
        (batch, channels, y, x) of its images; the operator acts on complex (batch, y, x) ones.

    Raises
    ------
    BadInputError
        If the images have neither one nor two channels, or the adjoint does not match.
    """
    batch, channels, *space = image_shape
    if channels not in (1, 2):
        raise BadInputError(
            f"images have {channels} channels: they must have 1 (real) or 2 (complex)"
        )

    def forward(x: Tensor) -> Tensor:
        if channels == 2:
            return as_image(physics.A(as_channels(x)))
        # A real operator acts on real and imaginary part alike, which makes it complex-linear.
        real, imaginary = physics.A(x.real[:, None]), physics.A(x.imag[:, None])
        return torch.complex(real, imaginary)

    def adjoint(b: Tensor) -> Tensor:
        if channels == 2:
            return as_image(physics.A_adjoint(as_channels(b)))
        real, imaginary = physics.A_adjoint(b.real), physics.A_adjoint(b.imag)
        return torch.complex(real, imaginary)[:, 0]

    return FunctionOp(forward, adjoint, (batch, *space))


def to_deepinv(operator: LinearOperator) -> Any:
    """A ``deepinv.physics.LinearPhysics`` with real and imaginary part as two channels.

    Raises
    ------
    BadInputError
        If deepinv is not installed.
    """
    # Not an extra of this package: deepinv needs torchvision, which fits one version of torch only.
    try:
        physics = import_module("deepinv.physics")
    except ImportError as error:
        raise BadInputError("deepinv is not installed: pip install deepinv") from error

    class _Physics(physics.LinearPhysics):  # type: ignore[misc, name-defined]
        def A(self, x: Tensor, **_: Any) -> Tensor:
            return as_channels(operator.forward(as_image(x)))

        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            return as_channels(operator.adjoint(as_image(y)))

    return _Physics()


class _Linear(torch.autograd.Function):
    """A linear function of numpy arrays on every sample; its gradient is the adjoint."""

    @staticmethod
    def forward(ctx: Any, batch: Tensor, function: Any, adjoint: Any) -> Any:
        """The function."""
        ctx.pair = (function, adjoint)
        return _numpy_map(function, batch)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """The adjoint of the gradient, differentiable in turn."""
        function, adjoint = ctx.pair
        return _Linear.apply(gradients[0], adjoint, function), None, None  # type: ignore[no-untyped-call]


def _differentiable(function: Any, adjoint: Any) -> tuple[Any, Any]:
    """A pair of functions of numpy arrays as functions of batches of tensors, with gradients."""

    def forward(x: Tensor) -> Tensor:
        return _Linear.apply(x, function, adjoint)  # type: ignore[no-untyped-call]

    def backward(b: Tensor) -> Tensor:
        return _Linear.apply(b, adjoint, function)  # type: ignore[no-untyped-call]

    return forward, backward


def _numpy_map(function: Any, batch: Tensor) -> Tensor:
    """A function of numpy arrays on every sample of a batch, in the precision of the batch."""
    found = [np.asarray(function(one)) for one in batch.detach().cpu().resolve_conj().numpy()]
    return torch.from_numpy(np.stack(found)).to(batch)


def _torch_map(function: Any, array: Any) -> Any:
    """A function of batches of tensors on one numpy array, complex, in its precision."""
    kind = np.complex64 if array.dtype in (np.complex64, np.float32) else np.complex128
    return function(torch.from_numpy(np.ascontiguousarray(array, kind))[None])[0].numpy()
