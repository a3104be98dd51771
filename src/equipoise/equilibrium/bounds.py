"""The bounds that hold for every m-strongly monotone F, as formulas of norms and inner products."""

import math

import torch

from equipoise.shapes import Image, PerSample
from equipoise.vectors import inner


def distance_bound(residual_norm: PerSample, m: float) -> PerSample:
    """(7): ``||x - x*|| <= ||r(x)|| / m``, for every x and however it was found.

    It follows from the inner product of ``r(x) - r(x*)`` with ``x - x*`` and strong monotonicity.
    """
    return residual_norm / m


def tight_distance_bound(
    residual: Image, z: Image, m_z: Image, m: float, slack: PerSample | float = 0.0
) -> PerSample:
    """(7b): ``||x - x*|| <= sqrt(<r, M^-1 r> / m)`` with ``M = m I + lam A^H A``.

    For any z, with ``s = r - M z``: ``<r, M^-1 r> <= z^H M z + 2 Re<z, s> + ||s||^2 / m``, so an
    inexact solution z of ``M z = r`` still gives a proved number. With the best z the bound is
    never larger than (7). If lam is large, it divides the part of r in the range of A^H by about
    ``sqrt(lam m)`` instead of m.

    Parameters
    ----------
    residual
        ``r(x)``.
    z, m_z
        Any image and ``M z``.
    m
        Monotonicity constant.
    slack
        Bound on the rounding of the right-hand side; it is added to the right-hand side.
    """
    s = residual - m_z
    energy = inner(z, m_z) + 2 * inner(z, s) + inner(s, s) / m + slack
    # The energy is positive in exact arithmetic; near the solution rounding can make it negative.
    return torch.sqrt(energy.clamp(min=0) / m)


def delivered_slack(distance: float, rtol: float) -> float | None:
    """``(e + e') / ||x||`` of this image and another one that was delivered with rtol (24).

    ``e' <= rtol ||x'||`` and ``||x'|| <= ||x|| + ||x' - x||`` give
    ``||x' - x|| <= (K ||d|| + (distance + rtol) ||x||) / (1 - rtol)``, K the bound of equilibria.
    """
    if not rtol < 1 or not math.isfinite(distance):
        return None
    return (distance + rtol) / (1 - rtol)


def perturbation_bound(lam: PerSample, m: float, noise_norm: PerSample) -> PerSample:
    """(8): ``||x*(b + delta) - x*(b)|| <= (1/2) sqrt(lam / m) ||delta||``.

    It holds between two equilibria of the same A, lam and scale.
    """
    return 0.5 * torch.sqrt(lam / m) * noise_norm
