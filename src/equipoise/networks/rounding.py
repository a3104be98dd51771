"""A priori bounds on the rounding of one evaluation of a network, true for every image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.networks.proved import convolution_norm_upper
from equipoise.shapes import Image, PerSample
from equipoise.vectors import norm

UPWARDS = 1 + 1e-9
"""Covers the rounding of the bounds themselves, which are computed in double precision."""


def unit_roundoff(dtype: torch.dtype) -> float:
    """u, the largest relative error of an operation: half the gap from 1 to the next number."""
    return torch.finfo(dtype).eps / 2


def gamma(operations: int, dtype: torch.dtype) -> float:
    """``n u / (1 - n u)``, the relative error of n operations in any order (Higham 2002, 3.1).

    A sum of n products has an error of at most ``gamma_n`` times the sum of their absolute values,
    for every order of the sum, with or without fused multiplication.
    """
    share = operations * unit_roundoff(dtype)
    # Beyond 1 / u operations nothing is known about the result.
    return share / (1 - share) if share < 1 else math.inf


@dataclass(frozen=True)
class LayerRounding:
    """What the bound needs to know about ``h -> W h + c``.

    Attributes
    ----------
    norm
        Proved bound on ``||W||``.
    absolute_norm
        Proved bound on the norm of the convolution with ``|W|``.
    offset
        ``||c||_2`` over the channels; c is added at every pixel.
    terms
        Number of products that are summed to one output, and one for the offset.
    """

    norm: float
    absolute_norm: float
    offset: float
    terms: int


def layer_rounding(kernel: Tensor, bias: Tensor) -> LayerRounding:
    """The numbers of one convolution, from its kernel (out, in, k, k) and bias (out,), cached."""
    # The key is the content: weights can change in place, and then no cached number holds.
    weights, offset = (v.detach().double().cpu().contiguous() for v in (kernel, bias))
    return _remembered(weights.numpy().tobytes(), offset.numpy().tobytes(), tuple(kernel.shape))


@lru_cache(maxsize=64)
def _remembered(weights: bytes, offset: bytes, shape: tuple[int, ...]) -> LayerRounding:
    kernel = torch.frombuffer(bytearray(weights), dtype=torch.float64).reshape(shape)
    bias = torch.frombuffer(bytearray(offset), dtype=torch.float64)
    absolute = kernel.abs().sum((2, 3))
    # Schur: ||B||_2^2 <= ||B||_1 ||B||_inf; for kernels >= 0 the frequency 0 has the largest norm.
    schur = math.sqrt(float(absolute.sum(0).max()) * float(absolute.sum(1).max()))
    return LayerRounding(
        norm=convolution_norm_upper(kernel),
        absolute_norm=schur * UPWARDS,
        offset=float(torch.linalg.vector_norm(bias)) * UPWARDS,
        terms=kernel[0].numel() + 1,
    )


@torch.no_grad()
def chain_rounding(
    layers: Sequence[LayerRounding], image: Image, dtype: torch.dtype, skip: float = 0.0
) -> PerSample:
    """Bound on ``||fl(H(x)) - H(x)||`` for convolutions with ReLU between them, and a skip.

    With ``h_k = relu(W_k h_(k-1) + c_k)`` on p pixels, ``s_k >= ||h_k||`` and ``e_k`` the error::

        s_k = ||W_k|| s_(k-1) + sqrt(p) ||c_k||
        e_k = ||W_k|| e_(k-1) + gamma_k (|| |W_k| || (s_(k-1) + e_(k-1)) + sqrt(p) ||c_k||)

    because ReLU is exact and has the constant 1. ``e_0 = u ||x||`` if x is rounded to the precision
    of the weights. The bound holds for sums in any order. It does not hold for convolutions by
    Winograd's algorithm or by Fourier transforms, which double precision does not use here.
    """
    size, error = _at_the_start(image, dtype)
    pixels = math.sqrt(image[0].numel())
    image_size = size
    for layer in layers:
        fresh = layer.absolute_norm * (size + error) + pixels * layer.offset
        error = layer.norm * error + gamma(layer.terms, dtype) * fresh
        size = layer.norm * size + pixels * layer.offset
    # skip x - N(x) takes a product, a difference, and the conversion to the precision of x.
    of_image = gamma(SKIP_OPERATIONS, image.dtype)
    last = of_image * (abs(skip) * image_size + size + error)
    return (error + last) * UPWARDS


SKIP_OPERATIONS = 3
"""Roundings of each number of ``skip x - N(x)``."""


class AnalysisNorms(NamedTuple):
    """Proved bounds on ``||U||`` and ``|| |U| ||``."""

    norm: float
    absolute: float


def norms_of_analysis(kernel: Tensor) -> AnalysisNorms:
    """Those of a convolution from one plane, (out, 1, k, k).

    The second follows from the inequality of Cauchy and Schwarz over the kernels.
    """
    weights = kernel.detach().double()
    absolute = float(weights.abs().sum((1, 2, 3)).square().sum().sqrt()) * UPWARDS
    return AnalysisNorms(convolution_norm_upper(weights), absolute)


@torch.no_grad()
def shrinkage_rounding(
    norms: AnalysisNorms, terms: tuple[int, int], image: Image, dtype: torch.dtype
) -> PerSample:
    """Bound on ``||fl(H(x)) - H(x)||`` for ``H(x) = k x - U^T s(U x)``, ``|k| <= 1``.

    ``N >= ||U||`` and ``A >= || |U| ||``. s multiplies each coefficient by a number in [0, 1], the
    result of a few operations on positive numbers, and is non-expansive. With X = ||x||, e_0 the
    rounding of x to the precision of the weights, and n and n' the numbers of products that are
    summed to a coefficient and to a pixel::

        e_1 = N e_0 + gamma_n A (X + e_0)            of z = U x, ||z|| <= N X
        e_2 = e_1 + gamma_s (N X + e_1)              of s(z), ||s(z)|| <= ||z||
        e_3 = N e_2 + gamma_n' A (N X + e_2)         of U^T s(z)

    Parameters
    ----------
    norms
        N and A.
    terms
        n and n'.
    image, dtype
        x, and the precision of the weights.
    """
    upper, absolute = norms
    size, error = _at_the_start(image, dtype)
    analysed = upper * error + gamma(terms[0], dtype) * absolute * (size + error)
    largest = upper * size
    shrunk = analysed + gamma(SHRINKAGE_OPERATIONS, dtype) * (largest + analysed)
    back = upper * shrunk + gamma(terms[1], dtype) * absolute * (largest + shrunk)
    last = gamma(SKIP_OPERATIONS, image.dtype) * (size + upper * largest + back)
    return (back + last) * UPWARDS


@torch.no_grad()
def layered_rounding(
    kernel: Tensor,
    between: Sequence[Tensor],
    terms: tuple[int, int],
    image: Image,
    dtype: torch.dtype,
) -> PerSample:
    """Bound on ``||fl(H(x)) - H(x)||`` for ``H(x) = k x - U^T z`` of layers.

    The bound follows :func:`shrinkage_rounding`, with ``z_k = s(W_k z_(k-1) + U_k x)``,
    ``||U_k|| <= ||U||`` and sums over the layers. With ``t_k >= ||z_k||`` and e_k its error::

        t_k = ||U|| X + ||W_k|| t_(k-1)
        v_k = e_U + ||W_k|| e_(k-1) + gamma || |W_k| || (t_(k-1) + e_(k-1)) + u t_k
        e_k = v_k + gamma_s (t_k + v_k)

    Parameters
    ----------
    kernel
        The kernels of all U_k, (layers features, 1, k, k).
    between
        The kernels of W_k.
    terms
        Numbers of products that are summed to a coefficient of U x and to a pixel of U^T z.
    image, dtype
        x, and the precision of the weights.
    """
    upper, absolute = norms_of_analysis(kernel)
    size, error = _at_the_start(image, dtype)
    of_u = upper * error + gamma(terms[0], dtype) * absolute * (size + error)
    layer_size = torch.zeros_like(size)
    layer_error = torch.zeros_like(size)
    all_sizes, all_errors = torch.zeros_like(size), torch.zeros_like(size)
    for k in range(len(between) + 1):
        of_v = of_u
        before, layer_size = layer_size, upper * size
        if k:
            found = layer_rounding(between[k - 1], between[k - 1].new_zeros(1))
            fresh = gamma(found.terms, dtype) * found.absolute_norm * (before + layer_error)
            of_v = of_u + found.norm * layer_error + fresh
            layer_size = layer_size + found.norm * before
            of_v = of_v + gamma(1, dtype) * (layer_size + of_v)
        layer_error = of_v + gamma(SHRINKAGE_OPERATIONS, dtype) * (layer_size + of_v)
        all_sizes = all_sizes + layer_size.square()
        all_errors = all_errors + layer_error.square()
    sizes, errors = all_sizes.sqrt(), all_errors.sqrt()
    back = upper * errors + gamma(terms[1], dtype) * absolute * (sizes + errors)
    last = gamma(SKIP_OPERATIONS, image.dtype) * (size + upper * sizes + back)
    return (back + last) * UPWARDS


@torch.no_grad()
def composed_rounding(kernels: Sequence[Tensor], image: Image, dtype: torch.dtype) -> PerSample:
    """Bound on ``||fl(H(x)) - H(x)||`` for layers ``h - W^T s(W h)`` one after the other.

    Every layer maps 0 to 0 and has a Lipschitz constant of at most ``l = max(1, ||W||^2 - 1)``. The
    rounding that it adds, at an input of norm ``S <= size + error``, is bounded as in
    :func:`shrinkage_rounding`.

    Parameters
    ----------
    kernels
        The kernels of W, (features, width, k, k) each.
    image, dtype
        x, and the precision of the weights.
    """
    size, error = _at_the_start(image, dtype)
    for kernel in kernels:
        found = layer_rounding(kernel, kernel.new_zeros(1))
        taps = kernel.shape[0] * kernel[0, 0].numel()
        given = size + error
        wide = gamma(found.terms, dtype) * found.absolute_norm * given
        coefficients = found.norm * given
        shrunk = wide + gamma(SHRINKAGE_OPERATIONS, dtype) * (coefficients + wide)
        back = found.norm * shrunk
        back = back + gamma(taps, dtype) * found.absolute_norm * (coefficients + shrunk)
        taken = gamma(1, dtype) * (given + found.norm * coefficients + back)
        expands = max(1.0, found.norm**2 - 1)
        size, error = expands * size, expands * error + back + taken
    last = gamma(SKIP_OPERATIONS, image.dtype) * (size + error)
    return (error + last) * UPWARDS


def _at_the_start(image: Image, dtype: torch.dtype) -> tuple[PerSample, PerSample]:
    """``||x||``, and the rounding of x to the precision of the weights."""
    size = norm(image) * UPWARDS
    # A conversion to higher precision is exact.
    narrows = torch.finfo(image.dtype).eps < torch.finfo(dtype).eps
    return size, size * unit_roundoff(dtype) if narrows else torch.zeros_like(size)


SHRINKAGE_OPERATIONS = 40
"""Roundings of one shrunk coefficient, with a reserve: its modulus, a few ratios and their sum."""
