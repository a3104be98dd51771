"""Convolution in double precision as a product of matrices.

The bound on the rounding of a network (24) holds for sums of products in any order. Libraries may
convolve by other algorithms (Winograd's, Fourier transforms), which have other errors.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

AT_ONCE = 2**17
"""Numbers of the patches that are copied at once. They stay in the second-level cache; a whole
image of 256 x 256 with 64 channels would need 300 MB and take a third longer."""


def convolved(h: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """``W h + c`` with zeros around h, computed a few rows at a time, without a gradient.

    Parameters
    ----------
    h
        (batch, in, y, x).
    kernel, bias
        (out, in, k, k), k odd, and (out,).

    Returns
    -------
    Tensor
        (batch, out, y, x), channels last in memory.
    """
    outputs, inputs, size, _ = kernel.shape
    batch, _, height, width = h.shape
    half = size // 2
    padded = F.pad(h.permute(0, 2, 3, 1), (0, 0, half, half, half, half)).contiguous()
    matrix = kernel.permute(2, 3, 1, 0).reshape(-1, outputs)  # (k k in, out)
    offset = torch.zeros_like(matrix[0]) if bias is None else bias
    result = h.new_empty(batch, height, width, outputs)
    rows = max(AT_ONCE // (width * len(matrix)), 1)
    along_y, along_x = padded.stride()[1:3]
    for sample in range(batch):
        for top in range(0, height, rows):
            part = result[sample, top : top + rows]
            patches = padded[sample, top:].as_strided(
                (len(part), width, size, size * inputs), (along_y, along_x, along_y, 1)
            )
            columns = patches.reshape(len(part) * width, -1)
            torch.addmm(offset, columns, matrix, out=part.view(-1, outputs))
    return result.permute(0, 3, 1, 2)
