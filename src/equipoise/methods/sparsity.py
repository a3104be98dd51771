"""Linear maps to what is sparse in an image: translation-invariant wavelets, and differences.

Each is a K with the penalty ``R(x) = sum_i w_i |(K x)_i|`` of :mod:`equipoise.methods.convex`.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from equipoise.outcome import BadInputError
from equipoise.shapes import Image

Coefficients = Tensor
"""(batch, band, y, x), complex."""


class Sparsity(ABC):
    """``R(x) = sum_i w_i |(K x)_i|`` on periodic images, K diagonalised by the Fourier transform.

    Attributes
    ----------
    weights
        w, which broadcasts over coefficients; positive.
    rho
        Step of the multipliers that suits images of intensity scale 1.
    """

    weights: Tensor
    rho: float

    @abstractmethod
    def analysis(self, image: Image) -> Coefficients:
        """``K x``."""

    @abstractmethod
    def synthesis(self, coefficients: Coefficients) -> Image:
        """``K^H c``."""

    @abstractmethod
    def gram(self, image: Image) -> Image:
        """``K^H K x``."""

    @abstractmethod
    def gram_inverse(self, image: Image) -> Image:
        """The pseudo-inverse of ``K^H K``."""

    @abstractmethod
    def size(self, coefficients: Coefficients) -> Tensor:
        """``|c_i|``: the modulus that is penalised, over all directions where they are joint."""

    @property
    def blind(self) -> bool:
        """Whether K does not see constants."""
        return False

    def penalty(self, image: Image) -> Tensor:
        """``R(x)``, (batch,)."""
        return (self.weights * self.size(self.analysis(image))).flatten(1).sum(1).double()

    def clipped(self, coefficients: Coefficients, rho: float) -> Coefficients:
        """The nearest coefficients of size at most ``w / rho``."""
        size = self.size(coefficients)
        smallest = torch.finfo(size.dtype).tiny
        return coefficients * (self.weights / rho / size.clamp(min=smallest)).clamp(max=1)


class Wavelets(Sparsity):
    """The l1 norm of an orthonormal wavelet transform, averaged over all circular shifts.

    ``R(x) = mean_s ||W S_s x||_1``. The coefficients of all shifts are those of the undecimated
    transform, a tight frame ``K^H K = I`` whose band after n halvings has the weight
    ``2^(-n / 2)``. It is the transform ``pywt.swt2(norm=True)``, for any matrix size, as products
    with the frequency responses of the filters of PyWavelets: on the device of the image, and
    batched. Coarse coefficients are penalised too, as in BART. Without the average, K is W itself:
    each band at every 2nd, 4th, ... place.

    An axis is halved while its band has at least ``coarsest`` coefficients, counted as in BART:
    ``(n + taps - 1) // 2`` after n.

    Parameters
    ----------
    image
        Its shape (batch, y, x), precision and device are those of the transform.
    name
        An orthogonal wavelet of PyWavelets; ``db2`` is that of BART.
    coarsest
        The smallest band that is divided further.
    averaged
        Over all shifts, or W at the one shift of BART's ``pics -n``.

    Raises
    ------
    BadInputError
        If W is not orthonormal because a side of the matrix is not a multiple of its places.
    """

    rho = 20.0

    def __init__(self, image: Image, name: str, coarsest: int, averaged: bool = True):
        filters = _filters(name)
        shape = image.shape[-2:]
        depths = [_halvings(n, len(filters[0]), coarsest) for n in shape]
        low = torch.ones(tuple(shape), dtype=torch.complex128)
        bands, weights, places, halvings = [], [], [], 0
        steps = [1, 1]
        for level in range(max(depths)):
            parts = [low]
            for axis in (0, 1):
                if depths[axis] > level:
                    pair = [_response(f, shape[axis], 2**level) for f in filters]
                    parts = [p * r.reshape((-1, 1)[:: 1 - 2 * axis]) for p in parts for r in pair]
                    halvings, steps[axis] = halvings + 1, 2 * steps[axis]
            low = parts[0]
            bands += parts[1:]
            weights += [2 ** (-halvings / 2)] * (len(parts) - 1)
            places += [_places(shape, steps)] * (len(parts) - 1)
        bands, weights = [*bands, low], [*weights, 2 ** (-halvings / 2)]
        self.responses = torch.stack(bands).to(image)
        each = torch.tensor(weights, dtype=torch.float64).to(image.real)[:, None, None]
        self.weights = each if averaged else torch.ones_like(each)
        self.places: Tensor | None = None
        if not averaged:
            _check_divisible(shape, steps)
            self.places = torch.stack([*places, _places(shape, steps)]).to(image.real) / each

    def analysis(self, image: Image) -> Coefficients:
        """Coefficients of all bands, the coarse one last."""
        found = torch.fft.ifft2(self.responses * torch.fft.fft2(image)[:, None])
        return found if self.places is None else self.places * found

    def synthesis(self, coefficients: Coefficients) -> Image:
        """``K^H c``."""
        if self.places is not None:
            coefficients = self.places * coefficients
        return torch.fft.ifft2((self.responses.conj() * torch.fft.fft2(coefficients)).sum(1))

    def gram(self, image: Image) -> Image:
        """The image: the frame is tight."""
        return image

    def gram_inverse(self, image: Image) -> Image:
        """The image."""
        return image

    def size(self, coefficients: Coefficients) -> Tensor:
        """The modulus of each."""
        return coefficients.abs()


class Differences(Sparsity):
    """Isotropic total variation: ``R(x) = sum_p sqrt(|d_y x|^2 + |d_x x|^2)``, periodic.

    Real and imaginary part are joint, as both directions are. K does not see constants.
    """

    rho = 10.0

    def __init__(self, image: Image):
        self.weights = torch.ones((), dtype=image.real.dtype, device=image.device)
        angles = [2 * math.pi * torch.arange(n, dtype=torch.float64) / n for n in image.shape[-2:]]
        y, x = (2 - 2 * torch.cos(angle) for angle in angles)
        eigenvalues = y[:, None] + x
        seen = eigenvalues > 0
        inverse = torch.where(seen, 1 / torch.where(seen, eigenvalues, 1.0), 0.0)
        self.inverse = inverse.to(image.real)

    @property
    def blind(self) -> bool:
        """True."""
        return True

    def analysis(self, image: Image) -> Coefficients:
        """Differences to the neighbours above and to the left."""
        return torch.stack([image - image.roll(1, axis) for axis in (1, 2)], 1)

    def synthesis(self, coefficients: Coefficients) -> Image:
        """``K^H c``."""
        y, x = coefficients.unbind(1)
        return y - y.roll(-1, 1) + x - x.roll(-1, 2)

    def gram(self, image: Image) -> Image:
        """The negative Laplacian."""
        neighbours = [image.roll(step, axis) for axis in (1, 2) for step in (1, -1)]
        return 4 * image - torch.stack(neighbours).sum(0)

    def gram_inverse(self, image: Image) -> Image:
        """By Fourier transform; constants become zero."""
        return torch.fft.ifft2(self.inverse * torch.fft.fft2(image))

    def size(self, coefficients: Coefficients) -> Tensor:
        """Over both directions."""
        return coefficients.abs().square().sum(1, keepdim=True).sqrt()


def _filters(name: str) -> tuple[Tensor, Tensor]:
    """Low and high pass of norm 1 / sqrt(2): that of an undecimated tight frame."""
    import pywt

    wavelet = pywt.Wavelet(name)
    low, high = (
        torch.tensor(taps, dtype=torch.float64) / math.sqrt(2)
        for taps in (wavelet.dec_lo, wavelet.dec_hi)
    )
    return low, high


def _halvings(n: int, taps: int, coarsest: int) -> int:
    count = 0
    while n >= coarsest:
        n, count = (n + taps - 1) // 2, count + 1
    return count


def _places(shape: torch.Size, steps: list[int]) -> Tensor:
    """1 at the last of every ``steps`` pixels along each axis, as in BART, else 0."""
    y, x = (torch.arange(n) % step == step - 1 for n, step in zip(shape, steps))
    return (y[:, None] & x).double()


def _check_divisible(shape: torch.Size, steps: list[int]) -> None:
    if any(n % step for n, step in zip(shape, steps)):
        raise BadInputError(
            f"the matrix is {shape[0]} x {shape[1]}, and an orthonormal wavelet transform of one "
            f"shift needs multiples of {steps[0]} x {steps[1]}: average over shifts"
        )


def _response(taps: Tensor, n: int, dilation: int) -> Tensor:
    """The frequency response of a filter whose taps lie ``dilation`` pixels apart."""
    frequency = 2 * math.pi * dilation * torch.arange(n, dtype=torch.float64) / n
    phase = frequency[:, None] * torch.arange(len(taps), dtype=torch.float64)
    return (taps * torch.exp(-1j * phase)).sum(1)
