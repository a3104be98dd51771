"""The data weight lam, and the threshold scale, as monotone functions of the noise of the scan."""

import math
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from equipoise.physics.linop import LinearOperator
from equipoise.settings import Settings, checked, one_of
from equipoise.shapes import PerSample

SMALLEST_LAM, LARGEST_LAM = 1e-12, 1e12
"""Beyond these the working precision ends: with 1e15 the iteration gives NaN, with 1e20 zeros, and
with 1e-38 the image is smaller than single precision holds."""


class NoiseWeightConfig(Settings):
    """See :class:`DataWeight`."""

    kind: Literal["noise"] = "noise"
    lam: float = Field(
        20.0,
        ge=SMALLEST_LAM,
        le=LARGEST_LAM,
        description="start of lam at a relative noise of `at`",
    )
    at: float = Field(0.015, gt=0, le=1)
    power: float = Field(1.0, gt=0, le=10)
    floor: float = Field(0.005, gt=0, le=1)

    def build(self) -> "DataWeight":
        """The weight with its start values."""
        return DataWeight(**self.model_dump(exclude={"kind"}))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of its parameters."""
        return {"log_lam_1": (), "raw_power": (), "log_floor": ()}


class FixedWeightConfig(Settings):
    """See :class:`FixedWeight`."""

    kind: Literal["fixed"] = "fixed"
    lam: float = Field(20.0, ge=SMALLEST_LAM, le=LARGEST_LAM, description="start of lam")

    def build(self) -> "FixedWeight":
        """The weight with its start value."""
        return FixedWeight(self.lam)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of its parameters."""
        return {"log_lam": ()}


class ScanRuleConfig(Settings):
    """See :class:`ScanRule`; whether the rule rises depends on what it is used for."""

    kind: Literal["scan"] = "scan"
    value: float = Field(
        ge=SMALLEST_LAM, le=LARGEST_LAM, description="start at a relative noise of 0.015, 4-fold"
    )
    power: float = Field(1.0, gt=0, le=10)
    floor: float = Field(0.005, gt=0, le=1)
    encoding: bool = Field(False, description="whether it also follows what the coils encode")

    def build(self, rising: bool = False) -> "ScanRule":
        """The rule with its start values."""
        return ScanRule(self.value, rising, self.power, self.floor, encoding=self.encoding)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of its parameters."""
        return {"coefficients": (4 + self.encoding,)}


if TYPE_CHECKING:
    AnyWeightConfig = NoiseWeightConfig | FixedWeightConfig
else:
    AnyWeightConfig = one_of("kind", "noise", NoiseWeightConfig, FixedWeightConfig)


class DataWeight(nn.Module):
    """``lam(s) = lam_1 (s^2 + s_0^2)^(-p)``, s the noise level relative to the image scale.

    lam is positive and falls with s by construction. With ``p = 1`` and ``s_0 = 0`` it is the
    weight for white Gaussian noise. ``s_0`` stands for errors that do not fall with the noise (coil
    maps, motion) and keeps lam finite. lam occurs in the data term only, so it may follow the scan
    without any effect on the network, its bounds or its monotonicity.

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
        start = {"lam": lam, "at": at, "power": power, "floor": floor}
        self.config = checked(NoiseWeightConfig, "data weight", start)
        # All parameters are logarithms, so every value that training can reach is positive.
        log_lam_1 = math.log(lam) + power * math.log(at**2 + floor**2)
        self.log_lam_1 = nn.Parameter(torch.tensor(log_lam_1, dtype=torch.float64))
        # softplus(raw) = power, which keeps the power positive during training.
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
        self.config = checked(FixedWeightConfig, "data weight", {"lam": lam})
        self.log_lam = nn.Parameter(torch.tensor(math.log(lam), dtype=torch.float64))

    def forward(self, relative_noise: PerSample) -> Tensor:
        """lam, (batch,)."""
        return torch.exp(self.log_lam).expand(relative_noise.shape[0])


class ScanRule(nn.Module):
    """A positive number for each scan: ``v (s^2 + s_0^2)^(q/2) R^c e^d``, in typical units.

    s is the noise level relative to the image scale, R the acceleration, if it is known, and e what
    the coils encode, see :meth:`~equipoise.physics.linop.LinearOperator.encoding`. By construction
    a data weight falls with the noise (q < 0) and a threshold scale rises with it (q > 0). The
    effects of R and e are learned; d is 0 without ``encoding``. None affects monotonicity: lam
    occurs in the data term only, and thresholds may be scaled by (22).

    Parameters
    ----------
    value
        Start of v, at a relative noise of 0.015 and 4-fold acceleration.
    rising
        Whether it rises with the noise.
    power, floor
        Start of ``|q|`` and of ``s_0``.
    encoding
        Whether the number depends on e.
    """

    def __init__(
        self,
        value: float,
        rising: bool,
        power: float = 1.0,
        floor: float = 0.005,
        *,
        encoding: bool = False,
    ):
        super().__init__()
        given = {"value": value, "power": power, "floor": floor, "encoding": encoding}
        self.config = checked(ScanRuleConfig, "rule", given)
        self.sign = 1 if rising else -1
        # The softplus of it is the power, which stays positive during training.
        raw_power = math.log(math.expm1(power))
        start = torch.tensor([math.log(value), raw_power, 0.0, math.log(floor), *[0.0] * encoding])
        self.coefficients = nn.Parameter(start.double())

    def of(self, operator: LinearOperator, relative_noise: PerSample) -> PerSample:
        """The number for scans with an operator, (batch,)."""
        encoding = operator.encoding(relative_noise.device) if self.config.encoding else None
        return self(relative_noise, operator.acceleration(), encoding)

    def forward(
        self,
        relative_noise: PerSample,
        acceleration: PerSample | None = None,
        encoding: PerSample | None = None,
    ) -> PerSample:
        """The number for each relative noise level, R and e, (batch,), or the typical R and e."""
        log_value, raw_power, of_acceleration, log_floor, *of_encoding = self.coefficients
        variance = relative_noise.double() ** 2 + torch.exp(2 * log_floor)
        rise = self.sign * F.softplus(raw_power) * torch.log(variance / TYPICAL_NOISE**2) / 2
        found = log_value + rise
        # Your own operator has no acceleration.
        if acceleration is not None:
            found = found + of_acceleration * torch.log(
                acceleration.double() / TYPICAL_ACCELERATION
            )
        if encoding is not None:
            found = found + of_encoding[0] * torch.log(encoding / TYPICAL_ENCODING)
        return torch.exp(found)


TYPICAL_NOISE, TYPICAL_ACCELERATION, TYPICAL_ENCODING = 0.015, 4.0, 0.4
"""Units of s, R and e, in which v is a typical value and the coefficients are of order one."""
