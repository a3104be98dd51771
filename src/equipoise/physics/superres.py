"""Super-resolution: ``A = D B``, a blur against aliasing and then every ``factor``-th pixel."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from equipoise.outcome import BadInputError
from equipoise.physics.linop import LinearOperator, NormBound, percentile
from equipoise.readable import matrix
from equipoise.shapes import Data, Image, PerSample
from equipoise.vectors import per_sample

Kernel = Literal["gaussian", "bicubic"]
Border = Literal["zero", "circular", "reflect"]

CUT = 3.0
"""The Gaussian is cut at this number of standard deviations."""

BICUBIC_A = -0.5
"""Keys, IEEE Trans. ASSP 29:1153-1160, 1981."""


class BlurDownsampleOp(LinearOperator):
    """``A X = R_y X R_x^T``: blur with a separable kernel and keep every ``factor``-th pixel.

    Row i of R holds the kernel centred at ``factor i + (factor - 1) / 2``, so the two grids have
    the same centre. Both kernels sum to one, so a constant image keeps its value, except near a
    zero border. A is a Kronecker product, so ``A^H A`` is diagonal in the right singular vectors of
    R_y and R_x, and ``(I + lam A^H A)^-1`` has a closed form for every border.

    Parameters
    ----------
    shape
        (y, x) of the large image; the small one has ``ceil(n / factor)`` pixels along an axis.
    factor
        Ratio of the two pixel sizes, 1 or more.
    kernel
        ``gaussian``, sigma ``(factor - 1) / 2`` pixels as in scikit-image's antialiasing, cut at
        three sigma; or ``bicubic``, widened by the factor.
    border
        What lies outside the image: ``zero``, ``circular`` repetition, or its ``reflect``-ion.
    batch
        Number of images.

    Raises
    ------
    BadInputError
        If the image is smaller than the kernel, if its sides are not multiples of the factor with
        a circular border, or if the factor is below 1.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        factor: int = 3,
        kernel: Kernel = "gaussian",
        border: Border = "zero",
        batch: int = 1,
    ):
        if factor < 1:
            raise BadInputError(f"factor is {factor}: it must be 1 or more")
        if border == "circular" and any(n % factor for n in shape):
            raise BadInputError(
                f"an image of {shape[0]} x {shape[1]} pixels does not repeat on a grid of every "
                f"{factor} pixels: crop it to multiples of {factor}, or use another border"
            )
        self.shape, self.factor, self.batch = shape, factor, batch
        self.kernel, self.border = kernel, border
        self._rows = [_resampling(n, factor, kernel, border) for n in shape]

    def __repr__(self) -> str:
        """Sizes, factor, kernel and border."""
        small = matrix([len(rows) for rows in self._rows])
        kind = f"{self.kernel} kernel, {self.border} border, batch {self.batch}"
        return f"BlurDownsampleOp from {matrix(self.shape)} to {small}, {kind}"

    @property
    def data_shape(self) -> tuple[int, ...]:
        """(batch, y / factor, x / factor)."""
        return (self.batch, *(len(rows) for rows in self._rows))

    @property
    def data_axes(self) -> tuple[str, ...]:
        """The axes of the small image."""
        return ("y", "x")

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(batch, y, x)."""
        return (self.batch, *self.shape)

    @property
    def margin(self) -> int:
        """Pixels of the large image along its border whose data depend on what lies outside."""
        return math.ceil(_radius(self.factor, self.kernel)) + self.factor

    def forward(self, image: Image) -> Data:
        """``R_y X R_x^T``, (batch, y / factor, x / factor)."""
        y, x = self._matrices(image)
        return y @ image @ x.mT

    def adjoint(self, data: Data) -> Image:
        """``R_y^T B R_x``."""
        y, x = self._matrices(data)
        return y.mT @ data @ x

    def regularized_inverse(self, rhs: Image, weight: PerSample, shift: PerSample) -> Image:
        """``(shift I + weight A^H A)^-1 rhs`` in closed form.

        With ``R = U S V^T`` along each axis, the part of rhs in the range of ``A^H`` is divided by
        ``shift + weight S_y^2 S_x^2``, and the rest by ``shift``.
        """
        (y, s_y), (x, s_x) = ((v.to(rhs), s.to(rhs.real)) for v, s in self._singular)
        weights, shifts = (per_sample(v.to(rhs.real), rhs) for v in (weight, shift))
        power = (s_y[:, None] * s_x).square()
        seen = (y.mT @ rhs @ x) * (1 / (shifts + weights * power) - 1 / shifts)
        return rhs / shifts + y @ seen @ x.mT

    def norm_bound(self) -> NormBound:
        """The product of the largest singular values of ``R_y`` and ``R_x``.

        A product with R of n columns has a backward error of ``gamma_n || |R| ||``, and ``A^H A``
        consists of four such products.
        """
        largest, rounding = 1.0, 0.0
        for rows, (_, values) in zip(self._rows, self._singular, strict=True):
            size = max(rows.shape)
            largest *= float(values.max())
            absolute = rows.abs()
            # Schur's test bounds the norm of |R|, which the rounding bound needs, without an SVD.
            schur = math.sqrt(float(absolute.sum(0).max()) * float(absolute.sum(1).max()))
            unit = torch.finfo(torch.float64).eps / 2
            rounding += 4 * (size + 4) * unit * schur / float(values.max())
        value = torch.full((self.batch,), largest * (1 + rounding), dtype=torch.float64)
        return NormBound(value, True, rounding)

    def intensity_scale(self, data: Data) -> PerSample:
        """99th percentile of the small image; A preserves the values of an image."""
        return percentile(data.abs(), 0.99)

    def _matrices(self, like: Tensor) -> list[Tensor]:
        return [rows.to(like) for rows in self._rows]

    @cached_property
    def _singular(self) -> list[tuple[Tensor, Tensor]]:
        found = []
        for rows in self._rows:
            _, values, vectors = torch.linalg.svd(rows, full_matrices=False)
            found.append((vectors.mT.contiguous(), values))
        return found


@dataclass(frozen=True)
class Blur:
    """How a photograph is made small; the attributes are those of :class:`BlurDownsampleOp`."""

    factor: int = 3
    kernel: Kernel = "gaussian"
    border: Border = "reflect"

    def operator(self, images: Tensor) -> BlurDownsampleOp:
        """A for images (batch, y, x)."""
        shape = (images.shape[1], images.shape[2])
        return BlurDownsampleOp(shape, self.factor, self.kernel, self.border, len(images))


def resize_bicubic(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Bicubic interpolation of images (batch, y, x), real or complex, to a larger shape (Keys)."""
    y, x = (_interpolation(n, m).to(image) for n, m in zip(image.shape[1:], shape))
    return y @ image @ x.mT


def _sigma(factor: int) -> float:
    return (factor - 1) / 2


def _radius(factor: int, kernel: Kernel) -> float:
    return CUT * _sigma(factor) if kernel == "gaussian" else 2.0 * factor


def _weights(distance: Tensor, factor: int, kernel: Kernel) -> Tensor:
    """The kernel at distances in pixels of the large image, before it is normalised."""
    if kernel == "gaussian":
        # A factor of 1 has sigma 0; tiny then leaves the pixel itself instead of 0 / 0.
        sigma = max(_sigma(factor), torch.finfo().tiny)
        inside = distance.abs() <= CUT * sigma
        return inside * torch.exp(-0.5 * (distance / sigma) ** 2)
    return _keys(distance.abs() / factor)


def _keys(t: Tensor) -> Tensor:
    """The cubic convolution kernel of Keys."""
    near = (BICUBIC_A + 2) * t**3 - (BICUBIC_A + 3) * t**2 + 1
    far = BICUBIC_A * (t**3 - 5 * t**2 + 8 * t - 4)
    return torch.where(t <= 1, near, torch.where(t < 2, far, 0.0))


def _resampling(n: int, factor: int, kernel: Kernel, border: Border) -> Tensor:
    """R: (ceil(n / factor), n) in double precision."""
    width = 2 * math.floor(_radius(factor, kernel)) + 1
    if n < width:
        raise BadInputError(
            f"the image has a side of {n} pixels and the kernel has {width}: the image is too "
            f"small for a factor of {factor}"
        )
    centres = factor * torch.arange(-(-n // factor)).double() + (factor - 1) / 2
    return _taps(centres, n, factor, kernel, border)


def _interpolation(n: int, larger: int) -> Tensor:
    """Bicubic interpolation from n to ``larger`` points with the same centre, reflected border."""
    centres = (torch.arange(larger).double() + 0.5) * n / larger - 0.5
    return _taps(centres, n, 1, "bicubic", "reflect")


def _taps(centres: Tensor, n: int, factor: int, kernel: Kernel, border: Border) -> Tensor:
    """One row of kernel values for each centre; values outside follow the border's rule."""
    reach = math.ceil(_radius(factor, kernel)) + 1
    offsets = torch.arange(-reach, reach + 1)
    positions = centres.floor().long()[:, None] + offsets
    weights = _weights(positions - centres[:, None], factor, kernel)
    # Normalised before the border is applied: what lies outside a zero border counts as black.
    weights = weights / weights.sum(1, keepdim=True)
    if border == "zero":
        weights = torch.where((positions >= 0) & (positions < n), weights, 0.0)
        columns = positions.clamp(0, n - 1)
    elif border == "circular":
        columns = positions % n
    else:
        columns = positions % (2 * n)
        columns = torch.where(columns < n, columns, 2 * n - 1 - columns)
    rows = torch.zeros(len(centres), n, dtype=torch.float64)
    # Added, not assigned: a reflected pixel occurs twice in a row.
    return rows.scatter_add_(1, columns, weights)
