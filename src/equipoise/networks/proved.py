"""Proved upper bounds: the norm of a convolution, and the Lipschitz constant of a network (13)."""

import hashlib
import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d

GRID = 64
"""Frequencies per axis at which the symbol is bounded."""

ROUNDING = 1 + 1e-9
"""Covers the rounding of the bound, which is computed in double precision. For n channels the
backward error of a Cholesky factorisation is below ``4 n^2 u`` of the bound (Rump, BIT 46:433-452,
2006), and that of the Fourier transform below ``100 n^(1/2) u``; together below 1e-9 up to
n = 1000."""


def convolution_norm_upper(weight: Tensor, grid: int = GRID) -> float:
    """Proved bound on the norm of a zero-padded convolution on images of any size (13).

    The convolution of an image with zero borders is a compression of the convolution on the
    infinite plane, whose norm is the largest singular value of the symbol
    ``W(t) = sum_k w_k exp(-i k t)`` over all frequencies t. At each t of a grid a Cholesky
    factorisation of ``tau I - W W^H`` proves ``sigma^2 <= tau``: it exists for positive definite
    matrices only. Between the grid points: for a unit vector u that is a top eigenvector where
    ``G = W W^H`` is largest, ``u^H G(t) u`` is a non-negative trigonometric polynomial of degree
    ``D = kernel size - 1`` in each variable, and falls from its maximum M no faster than
    ``M cos^2(D (|d_1| + |d_2|) / 2)`` at the distance d (Bernstein and Szego). The nearest grid
    point has ``|d_i| <= pi / grid``, so the largest value on the grid is at least
    ``M cos^2(D pi / grid)``.

    It is computed once for each kernel and stored under the bytes of the weights, never a name.

    Parameters
    ----------
    weight
        Kernel, (out, in, k, k).
    grid
        Number of frequencies per axis, more than twice the degree D.

    Raises
    ------
    ValueError
        If the grid is too coarse for the kernel.
    """
    degree = max(weight.shape[2:]) - 1
    if grid <= 2 * degree:
        raise ValueError(f"grid is {grid}: it must exceed {2 * degree} for this kernel")
    kernel = weight.detach().double().cpu().contiguous()
    digest = hashlib.sha256(f"{PROOF} {tuple(kernel.shape)} {grid} ".encode())
    digest.update(kernel.numpy().tobytes())
    key = digest.hexdigest()
    if key not in known_norms:
        known_norms[key] = _computed(kernel, grid)
    return known_norms[key]


known_norms: dict[str, float] = {}
"""Bounds under the SHA-256 of their kernels."""

PROOF = "cholesky"
"""Part of the key, so that bounds of another algorithm are never mixed up with these."""


@torch.no_grad()
def _computed(kernel: Tensor, grid: int) -> float:
    if kernel.shape[0] > kernel.shape[1]:
        # W^H W instead of W W^H has the same norm, and its matrices are smaller.
        kernel = kernel.transpose(0, 1)
    degree = max(kernel.shape[2:]) - 1
    squared = _largest_eigenvalue_upper(kernel, grid)
    return math.sqrt(squared) / math.cos(degree * math.pi / grid) * ROUNDING


def _largest_eigenvalue_upper(kernel: Tensor, grid: int) -> float:
    """Upper bound on the largest eigenvalue of ``G(t)`` on the grid, at most 1e-9 too high.

    Eigenvalues of a few matrices only guess ``tau``. A matrix is done when the factorisation of
    its ``tau I - G`` has proved that it has no larger eigenvalue.
    """
    # tau would stay 0, and no matrix of zeros is positive definite, so the search would not end.
    if not bool(kernel.any()):
        return 0.0
    lags, cosines, sines = _correlation(kernel, grid)
    tau, n = 0.0, len(kernel)
    for part in torch.split(
        torch.arange(len(cosines), device=kernel.device), max(AT_ONCE // n**2, 1)
    ):
        left = torch.complex(
            cosines[part] @ (lags + lags.mT).flatten(1), sines[part] @ (lags.mT - lags).flatten(1)
        ).reshape(-1, n, n)
        while len(left):
            # Evenly spaced, because neighbouring frequencies have nearly the same eigenvalues.
            some = left[:: -(-len(left) // GUESSED)]
            tau = max(tau, float(torch.linalg.eigvalsh(some)[:, -1].max()) * ROUNDING)
            shifted = -left
            shifted.diagonal(dim1=1, dim2=2).add_(tau)
            left = left[torch.linalg.cholesky_ex(shifted).info != 0]
    return tau


def _correlation(kernel: Tensor, grid: int) -> tuple[Tensor, Tensor, Tensor]:
    """``R_d``, and the cosines and sines that turn it into ``G`` on half of the grid.

    ``G(t) = W(t) W(t)^H = sum_d R_d exp(-i d t)`` with ``R_d = sum_k w_k w_(k+d)^T``. There are few
    lags d, so no frequency needs a product of matrices, and ``R_(-d) = R_d^T``, so half of them is
    enough. The other half of the grid holds the complex conjugates.
    """
    height, width = kernel.shape[2:]
    correlation = conv2d(kernel, kernel, padding=(height - 1, width - 1)).flatten(2)
    lags = correlation.permute(2, 0, 1)[: correlation.shape[2] // 2 + 1]
    device = kernel.device
    y, x = torch.meshgrid(
        torch.arange(1 - height, height, device=device),
        torch.arange(1 - width, width, device=device),
        indexing="ij",
    )
    frequency = 2 * torch.pi / grid * torch.arange(grid, dtype=torch.float64, device=device)
    angle = frequency[:, None, None] * y.flatten() + frequency[: grid // 2 + 1, None] * x.flatten()
    angle = angle.flatten(0, 1)[:, : len(lags)]
    cosines, sines = torch.cos(angle), torch.sin(angle)
    # The lag 0 is its own mirror image and would count twice.
    cosines[:, -1] /= 2
    return lags, cosines, sines


GUESSED = 32
"""Matrices whose eigenvalues are computed for a guess: the largest eigenvalues lie in few of the
thousands of matrices."""

AT_ONCE = 2**22
"""Matrix entries that are held at once: 64 MiB."""


def one_input_norm_squared(kernel: Tensor, grid: int = GRID) -> Tensor:
    """Proved bound on ``||U||^2`` of a convolution with one input, differentiable.

    The symbol has one column, so its squared norm is a trigonometric polynomial. It is bounded
    between grid points as in :func:`convolution_norm_upper`.
    """
    symbol = torch.fft.rfft2(kernel[:, 0], s=(grid, grid))
    largest = symbol.abs().square().sum(0).amax()
    return largest / math.cos((kernel.shape[-1] - 1) * math.pi / grid) ** 2


def filtered_norm_squared(within: Tensor, across: Tensor, taps: Tensor, grid: int = GRID) -> Tensor:
    """Proved bound on ``||U||^2`` of kernels within and across frames, differentiable.

    The symbol of U has one column, and its squared norm at the frequencies w along the filters and
    v in the plane is ``P(w, v) = A_0(v) + sum_g |T_g(w)|^2 A_g(v)`` with
    ``A_g = sum_f |S_gf|^2``. For fixed v it is ``A_0`` plus a non-negative trigonometric polynomial
    in w of degree ``taps - 1``, and for fixed w one in v. Each is bounded between its grid points
    as in :func:`convolution_norm_upper`, one after the other. Zeros at a border, or a period, are a
    compression of the operator on infinite images or a sample of its symbol, and do not raise it.

    Parameters
    ----------
    within
        S_0, (features, 1, k, k).
    across
        The other S_g, (filters, features, 1, k, k).
    taps
        T_g, (filters, taps).
    grid
        Frequencies per axis of the plane; ``FINER`` times as many along the filters.
    """
    planes = torch.fft.rfft2(within[:, 0], s=(grid, grid)).abs().square().sum(0)
    others = torch.fft.rfft2(across[:, :, 0], s=(grid, grid)).abs().square().sum(1)
    along = torch.fft.rfft(taps, n=FINER * grid).abs().square()
    filtered = (along.T @ others.flatten(1)).amax(0).reshape(planes.shape)
    between = math.cos((taps.shape[-1] - 1) * math.pi / (2 * FINER * grid)) ** 2
    largest = (planes + filtered / between).amax()
    return largest / math.cos((within.shape[-1] - 1) * math.pi / grid) ** 2


FINER = 4
"""A filter has one axis, so that a finer grid costs nothing."""


def convolution_norm(kernel: Tensor, grid: int = GRID) -> Tensor:
    """The bound of :func:`convolution_norm_upper`, differentiable in the kernel.

    Its gradient is that of the largest singular value, at the frequency of the grid that has it:
    found on a coarse grid first.
    """
    upper = convolution_norm_upper(kernel, grid)
    # The singular values are needed for the gradient only.
    if not (torch.is_grad_enabled() and kernel.requires_grad):
        return torch.full((), upper, dtype=kernel.dtype, device=kernel.device)
    with torch.no_grad():
        coarse = torch.fft.rfft2(kernel, s=(COARSE, COARSE)).permute(2, 3, 0, 1)
        sizes = torch.linalg.svdvals(coarse)[..., 0]
        y, x = divmod(int(sizes.argmax()), sizes.shape[1])
    apart = torch.arange(1 - grid // COARSE, grid // COARSE, device=kernel.device)
    taps = torch.arange(kernel.shape[-1], device=kernel.device)
    rows, columns = (
        torch.exp(-2j * math.pi / grid * ((at * (grid // COARSE) + apart)[:, None] * taps).double())
        for at in (y, x)
    )
    symbol = torch.einsum("oiyx,ay,bx->aboi", kernel.to(rows.dtype), rows, columns)
    largest = torch.linalg.svdvals(symbol)[..., 0].amax()
    return largest * (upper / largest.detach()) if upper else largest


COARSE = 16
"""Frequencies per axis at which a gradient looks for the largest singular value."""


def lipschitz_upper(kernels: list[Tensor], grid: int = GRID, *, skip: float = 0.0) -> float:
    """Proved bound on the Lipschitz constant of convolutions with ReLU between them (13).

    It is the product of the bounds of the layers, because biases do not matter and ReLU has the
    constant 1. A network ``skip x - N(x)`` adds ``|skip|``.
    """
    return abs(skip) + math.prod(convolution_norm_upper(kernel, grid) for kernel in kernels)
