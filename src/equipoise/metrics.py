"""Image quality on magnitude images, per sample, with ``data_range = max |target|`` by default.

Images are (batch, y, x) or (y, x), complex or magnitudes, numpy or torch. The result has one number
for each sample; it is a single number if the images have no batch axis.
"""

import torch
from torch import Tensor

from equipoise.arguments import Array, Given, as_tensor
from equipoise.outcome import BadInputError
from equipoise.shapes import Numbers


def psnr(image: Array, target: Array, data_range: float | None = None) -> Numbers:
    """``10 log10(data_range^2 / mean (|image| - |target|)^2)`` in dB, (batch,).

    Examples
    --------
    >>> import numpy as np
    >>> import equipoise as eq
    >>> target = np.ones((16, 16))
    >>> round(float(eq.psnr(target + 0.01, target)), 2)
    40.0
    """
    (error, single), (reference, _) = _magnitudes(image, target)
    mse = (error - reference).square().flatten(1).mean(1)
    value = 10 * torch.log10(_data_range(reference, data_range).square() / mse)
    return Given(error, single).like(value)


def ssim(image: Array, target: Array, data_range: float | None = None) -> Numbers:
    """Structural similarity with a Gaussian window of 11 pixels, sigma 1.5 (Wang et al. 2004)."""
    # Imported here because torchmetrics loads slowly and most commands do not compute an SSIM.
    from torchmetrics.functional.image import structural_similarity_index_measure

    # One call for each sample: the library takes one data range for a whole batch.
    (magnitude, single), (reference, _) = _magnitudes(image, target)
    values = [
        structural_similarity_index_measure(
            a[None, None], b[None, None], sigma=1.5, kernel_size=11, data_range=float(r)
        )
        for a, b, r in zip(magnitude, reference, _data_range(reference, data_range))
    ]
    found = torch.stack([torch.as_tensor(v) for v in values]).double()
    return Given(magnitude, single).like(found)


def nmse(image: Array, target: Array) -> Numbers:
    """``||(|image| - |target|)||^2 / ||target||^2``, (batch,)."""
    (magnitude, single), (reference, _) = _magnitudes(image, target)
    error = (magnitude - reference).square().flatten(1).sum(1)
    return Given(magnitude, single).like(error / reference.square().flatten(1).sum(1))


def _magnitudes(image: Array, target: Array) -> tuple[Given, Given]:
    """Both as batches of magnitudes in double precision."""
    one, other = as_tensor(image, "the image"), as_tensor(target, "the target")
    if one.shape != other.shape or one.ndim < 2:
        raise BadInputError(
            f"the image has the shape {tuple(one.shape)} and the target {tuple(other.shape)}: both "
            "must be (batch, y, x) or (y, x), and equal"
        )
    single = one.ndim == 2
    pair = (one[None], other[None]) if single else (one, other)
    first, second = (Given(array.abs().double(), single) for array in pair)
    return first, second


def _data_range(reference: Tensor, given: float | None) -> Tensor:
    largest = reference.flatten(1).amax(1)
    return largest if given is None else torch.full_like(largest, given)
