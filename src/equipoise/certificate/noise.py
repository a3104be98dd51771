"""The noise of a scan in its image, pixel by pixel (16)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from equipoise.outcome import BadInputError
from equipoise.readable import counted, matrix

Respond = Callable[[Tensor], Tensor]


@dataclass(frozen=True, repr=False)
class NoiseMap:
    """Standard deviation of the *complex* image, ``E|dx|^2 = std^2``, and its own uncertainty.

    For the magnitude image it is smaller by up to ``sqrt(2)`` where the signal is large.

    Attributes
    ----------
    std
        (y, x), with an axis for time or z before them where the image has it, in its units.
    error
        Standard error of ``std`` from the finite number of probes, (y, x).
    probes
        Number of noise realisations.
    accuracy
        Largest certified relative error of a response; 0 if none was certified.
    """

    std: Tensor
    error: Tensor
    probes: int
    accuracy: float = 0.0

    def __repr__(self) -> str:
        """The size of the map and its median."""
        inside = self.std > 0
        median = float(self.std[inside].median()) if bool(inside.any()) else 0.0
        return (
            f"NoiseMap {matrix(self.std.shape)} of {counted(self.probes, 'probe')}: "
            f"median std {median:.3g}"
        )


def noise_map(
    respond: Respond,
    measured: Tensor,
    sigma: float,
    *,
    probes: int = 128,
    batch: int = 4,
    seed: int = 0,
    real: bool = False,
    shrink: bool = True,
) -> NoiseMap:
    """``sqrt(E |K n|^2)`` pixel by pixel, estimated from probes n; K is the response of the image.

    Each probe n is white noise on the measured samples, circular complex or real, with equal
    variance in all coils. K must be linear over the real numbers. For SENSE without regularisation
    and maps with unit sum of squares this is ``sigma sqrt(R) g``, with R the acceleration and g the
    g-factor map (Pruessmann et al., MRM 42:952-962, 1999).

    Parameters
    ----------
    respond
        K, from noise (batch, ...) to images (batch, y, x). For a non-linear method it is either the
        linearisation, or the difference of two reconstructions (pseudo-replicas, Robson et al., MRM
        60:895-907, 2008).
    measured
        The mask of the measurements in the shape of the data, (1, ...).
    sigma
        Standard deviation of the noise, ``E|n|^2 = sigma^2``.
    probes, batch, seed
        Number of probes (rounded up to whole batches), size of a batch, and seed.
    real
        Draw real noise, for data without an imaginary part.
    shrink
        Shrink each variance towards the mean of its neighbourhood in the plane (y, x), by the share
        of their spread that the finite number of probes explains (Lee, IEEE PAMI 2:165-168, 1980).
        Where the map is smooth, this is as good as many more probes.

    Raises
    ------
    BadInputError
        If there are fewer than two probes.
    """
    if probes < 2:
        raise BadInputError(f"probes is {probes}: a standard deviation needs at least 2")
    generator = torch.Generator().manual_seed(seed)
    power = _Moments()
    for _ in range(-(-probes // batch)):
        noise = white_noise(measured, batch, generator, real).mul_(sigma).mul_(measured)
        power.add(respond(noise))
        del noise
    variance, uncertainty = power.mean, power.uncertainty()
    if shrink:
        variance, uncertainty = _shrunk_by_plane(variance, uncertainty)
    std = variance.sqrt()
    error = torch.where(std > 0, uncertainty.sqrt() / (2 * std), 0.0)
    return NoiseMap(std, error, power.count)


class _Moments:
    """Mean and spread of ``|dx|^2`` of every pixel so far (Welford, Technometrics 4:419, 1962).

    All responses of a volume together would not fit into memory.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, moved: Tensor) -> None:
        """More responses, (batch, ...)."""
        if not self.count:
            self.mean = torch.zeros(moved.shape[1:], dtype=torch.float64, device=moved.device)
            self._squares = torch.zeros_like(self.mean)
        for one in moved:
            self.count += 1
            # Squares in double precision, because those of small noise vanish in single precision.
            power = one.abs().double().square()
            off = power - self.mean
            self.mean.add_(off, alpha=1 / self.count)
            self._squares.add_(off.mul_(power.sub_(self.mean)))

    def uncertainty(self) -> Tensor:
        """The variance of the mean."""
        return self._squares / ((self.count - 1) * self.count)


def _shrunk_by_plane(variance: Tensor, uncertainty: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`_shrunk` of every plane (y, x) of a series or a volume, one at a time."""
    flat = (image.reshape(-1, *image.shape[-2:]) for image in (variance, uncertainty))
    found = zip(*(_shrunk(*planes) for planes in zip(*flat)))
    first, second = (torch.stack(planes).reshape(variance.shape) for planes in found)
    return first, second


def _shrunk(variance: Tensor, uncertainty: Tensor) -> tuple[Tensor, Tensor]:
    """Variance and uncertainty after shrinkage of log(variance), whose uncertainty is uniform.

    Pixels without noise do not take part and remain zero.
    """
    inside = variance > 0
    # log(0) would spread as nan through the sums over neighbourhoods.
    log = torch.where(inside, variance, 1.0).log()
    relative = torch.where(inside, uncertainty / variance.square().clamp(min=TINY), 0.0)
    count = _box(inside.double()).clamp(min=1)
    mean = _box(log) / count
    spread = (_box(log.square()) / count - mean.square()) * count / (count - 1).clamp(min=1)
    relative = _box(relative) / count
    # A pixel without neighbours has no spread to compare with, so it is kept.
    kept = torch.where(count > 1, 1 - relative / spread.clamp(min=TINY), 1.0).clamp(0, 1)
    # The mean of a logarithm is lower than the logarithm of the mean, by half of the variance.
    shrunk = (mean + kept * (log - mean) + (1 - kept) * relative / 2).exp()
    error = shrunk.square() * relative * (kept + (1 - kept) / count)
    return torch.where(inside, shrunk, 0.0), torch.where(inside, error, 0.0)


def _box(values: Tensor) -> Tensor:
    """The sum over the neighbourhood of each pixel."""
    pooled = avg_pool2d(values[None], NEIGHBOURHOOD, stride=1, padding=NEIGHBOURHOOD // 2)
    return pooled[0] * NEIGHBOURHOOD**2


NEIGHBOURHOOD = 5
"""Side of the neighbourhood in pixels."""

TINY = torch.finfo(torch.float64).tiny


def white_noise(like: Tensor, n: int, generator: torch.Generator, real: bool = False) -> Tensor:
    """n samples of white noise, ``E|n|^2 = 1``, circular complex or with no imaginary part."""
    # Drawn on the CPU, so that a seed gives the same noise on every device.
    shape = (n, *like.shape[1:])
    noise = torch.randn(shape, dtype=torch.complex64, generator=generator).to(like.device)
    return noise.real * 2**0.5 + 0j if real else noise


class Agreement(NamedTuple):
    """Correlation of two maps, and the ratio of their means."""

    correlation: float
    ratio: float


def agreement(a: Tensor, b: Tensor, inside: Tensor) -> Agreement:
    """The agreement of two maps over the pixels ``inside``."""
    u, v = a[inside].double(), b[inside].double()
    correlation = torch.corrcoef(torch.stack([u, v]))[0, 1]
    return Agreement(float(correlation), float(u.mean() / v.mean()))
