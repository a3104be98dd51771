"""The centred orthonormal discrete Fourier transform, the only one in the package.

``F x = fftshift(fft(ifftshift(x)))`` with ``norm="ortho"``: DC lies at index ``n // 2``, and
``||F x|| = ||x||``. fastMRI, sigpy, mrpro and BART (unitary ``fft -u``) use the same convention.
"""

import torch
from torch import Tensor


def image_to_kspace(image: Tensor, n_axes: int = 2) -> Tensor:
    """Centred orthonormal transform over the last ``n_axes`` axes."""
    axes = tuple(range(-n_axes, 0))
    return torch.fft.fftshift(
        torch.fft.fftn(torch.fft.ifftshift(image, dim=axes), dim=axes, norm="ortho"), dim=axes
    )


def kspace_to_image(kspace: Tensor, n_axes: int = 2) -> Tensor:
    """Inverse (and adjoint) of :func:`image_to_kspace`."""
    axes = tuple(range(-n_axes, 0))
    return torch.fft.fftshift(
        torch.fft.ifftn(torch.fft.ifftshift(kspace, dim=axes), dim=axes, norm="ortho"), dim=axes
    )
