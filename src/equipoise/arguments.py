"""Arguments of users become the tensors that the package works on, or are refused by name.

Every public call takes numpy arrays and torch tensors, with or without the batch axis. If the input
has no batch axis, the result has none. Results are tensors. Behind this module the package works on
batches of complex tensors only.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from equipoise.outcome import BadInputError

Array: TypeAlias = Tensor | np.ndarray
"""A numpy array or a tensor; tensors keep their device and their graph."""

Number: TypeAlias = float | np.number | Tensor | np.ndarray | Sequence[float]
"""One number for the whole batch, or one for each sample."""

COMPLEX = {torch.complex64, torch.complex128}
DOUBLE = {torch.float64, torch.int64, torch.int32}
"""Types whose values only a complex128 can represent."""


class Given(NamedTuple):
    """An array with its batch axis, and whether the user left that axis out."""

    value: Tensor
    single: bool

    def like(self, result: Tensor) -> Tensor:
        """A result of this batch, without the batch axis if the user gave none."""
        return result[0] if self.single else result


def as_tensor(value: Any, name: str) -> Tensor:
    """The same numbers as a tensor.

    Raises
    ------
    BadInputError
        If it is neither an array nor a tensor, or holds no numbers.
    """
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, np.ndarray | np.generic):
        raise BadInputError(
            f"{name} is a {type(value).__name__}: it must be a numpy array or a torch tensor"
        )
    if not (np.issubdtype(value.dtype, np.number) or value.dtype == bool):
        raise BadInputError(f"{name} has the type {value.dtype}: it must hold numbers")
    # torch refuses foreign byte orders and negative strides, which files and flips produce.
    native = np.ascontiguousarray(value, value.dtype.newbyteorder("="))
    # A tensor is always writable, and a read-only array must not be changed through one.
    return torch.from_numpy(native if native.flags.writeable else native.copy())


def as_complex(value: Array, name: str) -> Tensor:
    """The same numbers as complex64 or complex128; real numbers get the imaginary part 0."""
    tensor = as_tensor(value, name)
    if tensor.dtype in COMPLEX:
        return tensor
    return tensor.to(torch.complex128 if tensor.dtype in DOUBLE else torch.complex64)


def as_batch(value: Array, shape: Sequence[int], name: str, axes: Sequence[str] = ()) -> Given:
    """An array, with or without the batch axis, as the complex batch that an operator needs.

    Any batch fits an operator of batch 1.

    Parameters
    ----------
    value
        The array of the user.
    shape
        The shape that the operator needs, (batch, ...).
    name
        The name of the array in messages.
    axes
        The names of the axes after the batch in messages.

    Raises
    ------
    BadInputError
        If the shape does not fit.
    """
    tensor, needed = as_complex(value, name), tuple(shape[1:])
    single = tensor.ndim == len(needed)
    # A single number has no axes at all, and is refused below by its shape.
    batch = 1 if single else (tensor.shape[0] if tensor.ndim else 0)
    found = tuple(tensor.shape if single else tensor.shape[1:])
    if found != needed:
        named = f" ({', '.join(axes)})" if len(axes) == len(needed) else ""
        raise BadInputError(
            f"{name} has the shape {tuple(tensor.shape)}; expected {needed}{named}, with or "
            f"without a batch axis before it{_differences(found, needed, axes)}"
        )
    if batch == 0 or (shape[0] != 1 and batch != shape[0]):
        raise BadInputError(
            f"{name} has the shape {tuple(tensor.shape)}, a batch of {batch}; the operator has a "
            f"batch of {shape[0]}: the two must be equal"
        )
    return Given(tensor[None] if single else tensor, single)


def _differences(found: tuple[int, ...], needed: tuple[int, ...], axes: Sequence[str]) -> str:
    """``: coil is 4 instead of 8``, where the axes have names."""
    if len(found) != len(needed) or len(axes) != len(needed):
        return ""
    wrong = [f"{a} is {n} instead of {m}" for a, n, m in zip(axes, found, needed) if n != m]
    return f": {', '.join(wrong)}"


def as_images(image: Array, name: str = "the image") -> Given:
    """Complex images (batch, y, x); (y, x) without the batch axis.

    Raises
    ------
    BadInputError
        If the number of axes is neither 2 nor 3.
    """
    tensor = as_complex(image, name)
    if tensor.ndim not in (2, 3):
        raise BadInputError(
            f"{name} has the shape {tuple(tensor.shape)}: expected (y, x) or (batch, y, x)"
        )
    single = tensor.ndim == 2
    return Given(tensor[None] if single else tensor, single)


def as_kspace(kspace: Array, name: str = "the k-space") -> Given:
    """Multi-coil k-space (batch, coil, y, x); (coil, y, x) without the batch axis.

    Raises
    ------
    BadInputError
        If it is real, or the number of axes does not fit.
    """
    return _with_coils(as_complex(refuse_real(kspace, name), name), name)


def refuse_real(kspace: Array, name: str = "the k-space") -> Tensor:
    """K-space as a tensor.

    Raises
    ------
    BadInputError
        If it is real: such an array is a magnitude or an image, never the k-space of a scan.
    """
    tensor = as_tensor(kspace, name)
    if not tensor.is_complex():
        raise BadInputError(f"{name} has the type {tensor.dtype}: k-space is complex")
    return tensor


def as_maps(csm: Array, name: str = "the array of coil maps") -> Given:
    """Coil maps (batch or 1, coil, y, x); (coil, y, x) without the batch axis.

    Raises
    ------
    BadInputError
        If the number of axes does not fit.
    """
    return _with_coils(as_complex(csm, name), name)


def _with_coils(tensor: Tensor, name: str) -> Given:
    if tensor.ndim not in (3, 4, 5) or 0 in tensor.shape:
        raise BadInputError(
            f"{name} has the shape {tuple(tensor.shape)}: expected (coil, y, x) or "
            "(batch, coil, y, x), in 3D (batch, coil, z, y, x)"
        )
    single = tensor.ndim == 3
    return Given(tensor[None] if single else tensor, single)


def as_mask(mask: Array, space: Sequence[int], batch: int | None = None) -> Tensor:
    """A sampling mask as bool (batch or 1, *space).

    (x,) and (1, x) stand for whole columns, (y, 1) for whole rows.

    Raises
    ------
    BadInputError
        If its matrix or batch does not fit, or it holds more than one value besides zero.
    """
    name = "the sampling mask"
    tensor, space = as_tensor(mask, name), tuple(space)
    if tensor.dtype != torch.bool:
        tensor = _selected(tensor, name)
    shape, width = tuple(tensor.shape), space[-1]
    if shape == (width,):
        return tensor.expand(1, *space)
    # At least one axis must have its full length: (1, 1) would select everything or nothing.
    lines = any(n == m > 1 for n, m in zip(shape, space))
    if tensor.ndim == len(space) and lines and all(n in (1, m) for n, m in zip(shape, space)):
        return tensor.expand(1, *space)
    if tensor.ndim != len(space) + 1 or shape[1:] != space or not shape[0]:
        raise BadInputError(
            f"{name} has the shape {shape}; the matrix is {space}: the mask must have this shape, "
            f"with or without a batch axis before it, or the shape ({width},) for whole columns"
        )
    if batch is not None and shape[0] not in (1, batch):
        raise BadInputError(
            f"{name} has a batch of {shape[0]} and the k-space one of {batch}: give one mask, or "
            "one mask for each sample"
        )
    return tensor


def _selected(tensor: Tensor, name: str) -> Tensor:
    """A mask of numbers as bool: zero, and one other value."""
    # A mask with several values is a sampling density or an image that was given by mistake.
    selected = tensor != 0
    values = tensor[selected]
    if values.numel() and not bool((values == values[0]).all()):
        raise BadInputError(
            f"{name} holds values such as {values[0].item():.4g} and "
            f"{values[values != values[0]][0].item():.4g}: it must be bool, or zeros and ones"
        )
    return selected


def as_numbers(value: Number, batch: int, name: str) -> Tensor:
    """One real number for each sample, (batch,) float64; a single number counts for all samples.

    Raises
    ------
    BadInputError
        If a number is complex, negative or not finite, or their count does not fit.
    """
    numbers = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    if numbers.is_complex() or numbers.dtype == torch.bool:
        raise BadInputError(f"{name} has the type {numbers.dtype}: it must be a real number")
    if numbers.numel() not in (1, batch) or numbers.ndim > 1:
        raise BadInputError(
            f"{name} has the shape {tuple(numbers.shape)}: it must be one number, or one for each "
            f"of the {batch} samples"
        )
    if not bool((torch.isfinite(numbers) & (numbers >= 0)).all()):
        raise BadInputError(
            f"{name} is {numbers.detach().flatten().tolist()}: it must be finite and not negative"
        )
    return numbers.to(torch.float64).reshape(-1).expand(batch)
