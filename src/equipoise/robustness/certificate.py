"""Bounds that hold for every m-strongly monotone F, from numbers alone, and what they rest on."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from equipoise.physics.linop import inner
from equipoise.shapes import Image, PerSample


def distance_bound(residual_norm: PerSample, m: float) -> PerSample:
    """(7): ``||x - x*|| <= ||r(x)|| / m``, whatever x is and however it was found.

    From the inner product of ``r(x) - r(x*)`` with ``x - x*`` and strong monotonicity.
    """
    return residual_norm / m


def tight_distance_bound(residual: Image, z: Image, m_z: Image, m: float) -> PerSample:
    """(7b): ``||x - x*|| <= sqrt(<r, M^-1 r> / m)`` with ``M = m I + lam A^H A``.

    For any z, with ``s = r - M z``: ``<r, M^-1 r> <= z^H M z + 2 Re<z, s> + ||s||^2 / m``, so an
    inexact solution z of ``M z = r`` still gives a proved number. Never larger than (7) for the
    best z; where lam is large it divides what r has in the range of A^H by about
    ``sqrt(lam m)`` instead of m.

    Parameters
    ----------
    residual
        ``r(x)``.
    z, m_z
        Any image and ``M z``.
    m
        Monotonicity constant.
    """
    s = residual - m_z
    energy = inner(z, m_z) + 2 * inner(z, s) + inner(s, s) / m
    return torch.sqrt(energy.clamp(min=0) / m)


def perturbation_bound(lam: PerSample, m: float, noise_norm: PerSample) -> PerSample:
    """(8): ``||x*(b + delta) - x*(b)|| <= (1/2) sqrt(lam / m) ||delta||``."""
    return 0.5 * torch.sqrt(lam / m) * noise_norm


Evidence = Literal["proved", "measured", "not available"]


@dataclass(frozen=True)
class Statement:
    """One promise about one image.

    Attributes
    ----------
    value
        The number; None where nothing can be promised.
    formula
        How it is computed, with the number of the statement in the documentation.
    evidence
        ``proved``: holds for all inputs. ``measured``: holds if the monotonicity that was measured
        at this image holds wherever the proof needs it. ``not available``: nothing is promised.
    meaning
        The promise in words.
    """

    value: float | None
    formula: str
    evidence: Evidence
    meaning: str


@dataclass(frozen=True)
class Constants:
    """What is known of the method at one image; None where it does not apply or was not asked for.

    Attributes
    ----------
    m, m_proved
        The monotonicity constant that is claimed, and whether a proof stands behind it.
    m_local
        The smallest constant measured at this image and on the way to it.
    lam
        Data weight.
    contracts
        Whether ``Lip(H) <= 1 - m`` is claimed, not only monotonicity.
    """

    m: float | None
    m_proved: bool
    m_local: float | None
    lam: float
    contracts: bool

    @property
    def evidence(self) -> Evidence:
        """What the statements that need m rest on."""
        if self.m is None or (self.m_local is not None and self.m_local < self.m):
            return "not available"
        return "proved" if self.m_proved else "measured"


def statements(
    constants: Constants, distance: float | None, noise_to_image: float
) -> dict[str, Statement]:
    """All bounds for one image.

    Parameters
    ----------
    constants
        What is known of the method.
    distance
        The bound on ``||x - x*|| / ||x||`` that the solver reached with the claimed m.
    noise_to_image
        ``||n|| / ||x||``: the norm of the noise in the measured samples over that of the image.
    """
    evidence = constants.evidence
    if constants.m is None:
        reason = "The method has no equilibrium, so nothing bounds its error."
    else:
        local = "not measured" if constants.m_local is None else f"{constants.m_local:.4g}"
        reason = (
            f"m = {constants.m:.3g} is claimed; m_local at this image: {local}. Nothing can be "
            "promised here."
        )

    def promise(value: float | None, formula: str, meaning: str) -> Statement:
        if evidence == "not available" or value is None or not math.isfinite(value):
            return Statement(None, formula, "not available", reason)
        return Statement(value, formula, evidence, meaning.format(value))

    ratio = None if constants.m is None else constants.lam / constants.m
    amplification = None if ratio is None else 0.5 * ratio**0.5
    noise = None if amplification is None else amplification * noise_to_image
    contraction = 1 - constants.m if constants.m is not None and constants.contracts else None
    return {
        "distance_bound": promise(
            distance,
            "min of ||r|| / (m ||x||) (7) and sqrt(<r, M^-1 r> / m) / ||x|| (7b)",
            "The image is at most {:.2e} of its norm away from the exact equilibrium.",
        ),
        "perturbation_bound": promise(
            amplification,
            "1/2 sqrt(lam / m) (8)",
            "No change of the data, noise or attack, moves the image by more than {:.3g} times "
            "its own norm.",
        ),
        "noise_bound": promise(
            noise,
            "1/2 sqrt(lam / m) ||n|| / ||x|| (8)",
            "Whatever its direction, noise of the level of this scan moves the image by at most "
            "{:.3g} of its norm.",
        ),
        "paper_bound": promise(
            ratio,
            "lam / m",
            "The bound of the MOL paper on the same amplification: {:.3g}.",
        ),
        "contraction": promise(
            contraction,
            "1 - m, at alpha = 1 (6)",
            "Every plain iteration multiplies the distance to the equilibrium by at most {:.3g}.",
        ),
    }
