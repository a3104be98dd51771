"""How the noise of a scan appears in its image, pixel by pixel (16)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.outcome import BadInputError

Respond = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class NoiseMap:
    """Standard deviation of the *complex* image, ``E|dx|^2 = std^2``, and its own uncertainty.

    Where the signal is large, that of the magnitude image is smaller by up to ``sqrt(2)``.

    Attributes
    ----------
    std
        (y, x), in the units of the image.
    error
        Standard error of ``std`` from the finite number of probes, (y, x).
    probes
        Number of noise realisations.
    accuracy
        Largest certified relative error of a response; 0 where none was certified.
    """

    std: Tensor
    error: Tensor
    probes: int
    accuracy: float = 0.0


def noise_map(
    respond: Respond,
    measured: Tensor,
    sigma: float,
    *,
    probes: int = 128,
    batch: int = 4,
    seed: int = 0,
    real: bool = False,
) -> NoiseMap:
    """``sqrt(E |K n|^2)`` pixel by pixel, K the response of the image to the data, by probes.

    Each probe n is white noise, circular complex or real, equal in all coils, on the measured
    samples. K need only be real-linear. For SENSE without regularisation and maps with unit sum of
    squares this is ``sigma sqrt(R) g``, R the acceleration and g the g-factor map (Pruessmann et
    al., MRM 42:952-962, 1999).

    Parameters
    ----------
    respond
        K: from noise (batch, ...) to images (batch, y, x). For a non-linear method either its
        linearisation, or the difference of two reconstructions (pseudo-replicas, Robson et al.,
        MRM 60:895-907, 2008).
    measured
        Where the data hold a measurement, in their shape, (1, ...).
    sigma
        Standard deviation of the noise, ``E|n|^2 = sigma^2``.
    probes, batch, seed
        Number of probes (rounded up to whole batches), how many are handled at once, their seed.
    real
        Draw real noise, of data that have no imaginary part.

    Raises
    ------
    BadInputError
        If there are fewer than two probes.
    """
    if probes < 2:
        raise BadInputError(f"{probes} probes: at least 2 are needed for a standard deviation")
    generator = torch.Generator().manual_seed(seed)
    powers = []
    for _ in range(-(-probes // batch)):
        noise = white_noise(measured, batch, generator, real)
        powers.append(respond(sigma * noise * measured).abs().double().square())
    power = torch.cat(powers)
    variance = power.mean(0)
    std = variance.sqrt()
    standard_error = power.std(0) / len(power) ** 0.5
    error = torch.where(std > 0, standard_error / (2 * std), 0.0)
    return NoiseMap(std, error, len(power))


def white_noise(like: Tensor, n: int, generator: torch.Generator, real: bool = False) -> Tensor:
    """n samples of white noise, ``E|n|^2 = 1``, circular complex or with no imaginary part."""
    noise = torch.randn((n, *like.shape[1:]), dtype=torch.complex64, generator=generator)
    return noise.real * 2**0.5 + 0j if real else noise


class Agreement(NamedTuple):
    """Correlation of two maps, and the ratio of their means."""

    correlation: float
    ratio: float


def agreement(a: Tensor, b: Tensor, inside: Tensor) -> Agreement:
    """How well two maps agree over the pixels ``inside``."""
    u, v = a[inside].double(), b[inside].double()
    correlation = torch.corrcoef(torch.stack([u, v]))[0, 1]
    return Agreement(float(correlation), float(u.mean() / v.mean()))
