"""Image quality on magnitude images, per sample, with ``data_range = max |target|`` by default."""

import torch
from torch import Tensor

from equipoise.shapes import Image, PerSample


def psnr(image: Image, target: Image, data_range: float | None = None) -> PerSample:
    """``10 log10(data_range^2 / mean (|image| - |target|)^2)`` in dB, (batch,)."""
    error, reference = _magnitudes(image, target)
    mse = (error - reference).square().flatten(1).mean(1)
    return 10 * torch.log10(_data_range(reference, data_range).square() / mse)


def ssim(image: Image, target: Image, data_range: float | None = None) -> PerSample:
    """Structural similarity with a Gaussian window of 11 pixels, sigma 1.5 (Wang et al. 2004)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    magnitude, reference = _magnitudes(image, target)
    values = [
        structural_similarity_index_measure(
            a[None, None], b[None, None], sigma=1.5, kernel_size=11, data_range=float(r)
        )
        for a, b, r in zip(magnitude, reference, _data_range(reference, data_range))
    ]
    return torch.stack([torch.as_tensor(v) for v in values]).double()


def nmse(image: Image, target: Image) -> PerSample:
    """``||(|image| - |target|)||^2 / ||target||^2``, (batch,)."""
    magnitude, reference = _magnitudes(image, target)
    error = (magnitude - reference).square().flatten(1).sum(1)
    return error / reference.square().flatten(1).sum(1)


def _magnitudes(image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return image.abs().double(), target.abs().double()


def _data_range(reference: Tensor, given: float | None) -> Tensor:
    largest = reference.flatten(1).amax(1)
    return largest if given is None else torch.full_like(largest, given)
