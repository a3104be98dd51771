"""A convolution from one plane to many, and its transpose, evaluated between blocks of pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.shapes import Image

KERNEL = 9
"""Side of the kernels of U."""

BLOCK = 4
"""Side of the blocks of pixels that become channels. CPUs convolve 16 channels faster than one, and
three blocks hold a kernel of 9. The transposed convolution was measured to take half the time."""

PRODUCTS = 9 * BLOCK**2
"""Products that are summed to one coefficient, including those with zeros."""


def analysed(image: Image, blocks: Tensor, channels: int) -> Tensor:
    """``U x`` inside the image, (batch, part, feature, 16, blocks, blocks).

    Parameters
    ----------
    image
        x, in the precision of the kernels or another.
    blocks
        U in the form that :func:`between_blocks` returns.
    channels
        2 for real and imaginary part, 1 for the real part alone.
    """
    complex_dtype = torch.complex128 if blocks.dtype == torch.float64 else torch.complex64
    parts = torch.view_as_real(image.to(complex_dtype))[..., :channels].to(blocks.dtype)
    parts = parts.permute(0, 3, 1, 2).flatten(0, 1)[:, None]
    z = F.conv2d(F.pixel_unshuffle(whole_blocks(parts), BLOCK), blocks, padding=1)
    z = z.reshape(len(image), channels, -1, BLOCK**2, *z.shape[-2:])
    # U ends at the border of the image; the padding to whole blocks must hold no coefficients.
    inside = inside_blocks(image, z)
    return z if inside is None else z.mul_(inside)


def synthesised(z: Tensor, image: Image, blocks: Tensor) -> Image:
    """``U^T z`` as an image of the shape and precision of ``image``."""
    batch, channels = z.shape[:2]
    flat = z.reshape(batch * channels, -1, *z.shape[-2:])
    planes = F.pixel_shuffle(F.conv_transpose2d(flat, blocks, padding=1), BLOCK)
    planes = planes[..., : image.shape[-2], : image.shape[-1]]
    parts = planes.reshape(batch, channels, *image.shape[-2:]).permute(0, 2, 3, 1)
    # A complex view needs both parts.
    if channels == 1:
        parts = torch.cat([parts, torch.zeros_like(parts)], -1)
    # Half precision, in which a warm-up may run, has no complex numbers.
    return torch.view_as_complex(parts.contiguous().to(blocks.dtype)).to(image.dtype)


def inside_blocks(image: Image, z: Tensor) -> Tensor | None:
    """1 at the pixels of the image, 0 in the padding to whole blocks; None if nothing is padded."""
    if image.shape[-2] % BLOCK == 0 and image.shape[-1] % BLOCK == 0:
        return None
    ones = torch.ones((1, 1, *image.shape[-2:]), dtype=z.dtype, device=z.device)
    return F.pixel_unshuffle(whole_blocks(ones), BLOCK)[:, None, None]


def whole_blocks(planes: Tensor) -> Tensor:
    """Planes with zeros added below and to the right, up to whole blocks."""
    y, x = (-n % BLOCK for n in planes.shape[-2:])
    return F.pad(planes, (0, x, 0, y)) if x or y else planes


def between_blocks(kernel: Tensor) -> Tensor:
    """A kernel (features, 1, 9, 9) as a kernel between images of blocks, (features 16, 16, 3, 3).

    The offset from pixel p of a block to pixel q of a block at distance b is ``4 b + q - p``.
    """
    device = kernel.device
    phase, block = torch.arange(BLOCK, device=device), torch.arange(3, device=device) - 1
    offset = BLOCK * block + phase[:, None] - phase[:, None, None] + KERNEL // 2
    fits = (offset >= 0) & (offset < KERNEL)
    # Clamped so that the index is valid; what lies outside the kernel is set to zero below.
    index = offset.clamp(0, KERNEL - 1).flatten()
    taken = kernel[:, 0, index][:, :, index].reshape(-1, BLOCK, BLOCK, 3, BLOCK, BLOCK, 3)
    taken = taken * (fits[..., None, None, None] & fits)
    order = taken.permute(0, 1, 4, 2, 5, 3, 6)
    return order.reshape(len(kernel) * BLOCK**2, BLOCK**2, 3, 3)
