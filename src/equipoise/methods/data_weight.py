"""The data weight lam as a monotone function of the noise of the scan."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equipoise.shapes import PerSample


class DataWeight(nn.Module):
    """``lam(s) = lam_1 (s^2 + s_0^2)^(-p)``, s the noise level relative to the image scale.

    lam is positive and falls with s by construction. ``p = 1`` and ``s_0 = 0`` is the weight of
    white Gaussian noise; ``s_0`` stands for the errors that do not fall with the noise (coil maps,
    motion) and keeps lam finite. lam enters the data term alone, so it may follow the scan without
    touching the network, its bounds or its monotonicity.

    Parameters
    ----------
    lam
        Start value of lam at the noise level ``at``.
    at
        A typical relative noise level.
    power
        Start value of p.
    floor
        Start value of ``s_0``.
    """

    def __init__(
        self, lam: float = 20.0, at: float = 0.015, power: float = 1.0, floor: float = 0.005
    ):
        super().__init__()
        log_lam_1 = math.log(lam) + power * math.log(at**2 + floor**2)
        self.log_lam_1 = nn.Parameter(torch.tensor(log_lam_1, dtype=torch.float64))
        # softplus(raw) = power
        self.raw_power = nn.Parameter(
            torch.tensor(math.log(math.expm1(power)), dtype=torch.float64)
        )
        self.log_floor = nn.Parameter(torch.tensor(math.log(floor), dtype=torch.float64))

    def forward(self, relative_noise: PerSample) -> PerSample:
        """lam for each relative noise level, (batch,)."""
        variance = relative_noise.double() ** 2 + torch.exp(2 * self.log_floor)
        return torch.exp(self.log_lam_1 - F.softplus(self.raw_power) * torch.log(variance))


class FixedWeight(nn.Module):
    """The same lam for every scan, as in the paper: ``lam = exp(log_lam)``."""

    def __init__(self, lam: float):
        super().__init__()
        self.log_lam = nn.Parameter(torch.tensor(math.log(lam), dtype=torch.float64))

    def forward(self, relative_noise: PerSample) -> Tensor:
        """lam, (batch,)."""
        return torch.exp(self.log_lam).expand(relative_noise.shape[0])
