"""SENSE: regularised least squares, with the weight that is best for a target."""

from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.metrics import psnr
from equipoise.physics.least_squares import tikhonov_path
from equipoise.physics.linop import LinearOperator
from equipoise.shapes import Data, Image

SENSE_LAMS = tuple(10 ** (k / 4) for k in range(-2, 15))
"""Grid of lam from 0.3 to 3000, four to a decade."""


class SenseResult(NamedTuple):
    """Image (batch, y, x) and the lam of each sample."""

    image: Tensor
    lam: Tensor


def best_sense(operator: LinearOperator, kspace: Data, target: Image) -> SenseResult:
    """Regularised least squares (SENSE in MRI) with the lam of a grid that is best for the target.

    The choice uses the target, which a real scan does not have, so the result is the best that
    SENSE can reach.
    """
    best_psnr = torch.full(
        (kspace.shape[0],), -torch.inf, dtype=torch.float64, device=target.device
    )
    image, best_lam = torch.zeros_like(target), torch.zeros_like(best_psnr)
    for lam, trial in zip(SENSE_LAMS, tikhonov_path(operator, kspace, SENSE_LAMS, rtol=1e-4)):
        weights = torch.full_like(best_psnr, lam)
        value = psnr(trial, target)
        better = value > best_psnr
        image = torch.where(better.reshape(-1, *[1] * (image.ndim - 1)), trial, image)
        best_psnr = torch.where(better, value, best_psnr)
        best_lam = torch.where(better, weights, best_lam)
    return SenseResult(image, best_lam)
