"""What rounding can add to a residual that is computed in double precision."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from equipoise.physics.linop import NormBound
from equipoise.vectors import norm

UNIT = torch.finfo(torch.float64).eps / 2
"""Unit roundoff of double precision, in which residuals and bounds are computed."""

OPERATIONS = 16
"""Roundings of each number of ``lam A^H A x + (1 + shift) x - N(x) - c`` apart from those within A
and N: six operations, the norms of the terms and of r, and as many again as a reserve."""


@dataclass(frozen=True)
class RoundingModel:
    """The hypotheses of a bound that holds for computed residuals (24).

    Attributes
    ----------
    network
        ``x -> rho``, a bound on the error of one evaluation of N at x for each sample.
    operator
        The norm of A and the rounding within it. If it is None, nothing is known about A, and only
        the rounding of the network is bounded.
    data_norm
        ``||b||`` of each sample.
    """

    network: Callable[[Tensor], Tensor]
    operator: NormBound | None
    data_norm: Tensor

    def of_normal(self, lam: Tensor) -> Tensor:
        """Bound on the error of ``lam A^H A x``, divided by ``||x||``."""
        if self.operator is None:
            return torch.zeros_like(lam)
        return lam * self.operator.value.square() * (self.operator.rounding + OPERATIONS * UNIT)

    def of_residual(
        self, x: Tensor, residual: Tensor, constant: Tensor, lam: Tensor, identity: float
    ) -> Tensor:
        """Bound on ``||fl(r(x)) - r(x)||``, including the rounding of c = ``lam A^H b``.

        ``||N(x)||`` is at most the sum of the norms of the other terms and of r.
        """
        size, within = norm(x), torch.zeros_like(lam)
        a = torch.ones_like(lam) if self.operator is None else self.operator.value
        if self.operator is not None:
            within = lam * a * self.operator.rounding * (a * size + self.data_norm)
        terms = (lam * a.square() + identity) * size + norm(constant) + norm(residual)
        terms = terms + lam * a * self.data_norm
        return self.network(x) + within + OPERATIONS * UNIT * terms


def of_energy(z: Tensor, m_z: Tensor, s: Tensor, m: float, error: Tensor) -> Tensor:
    """Bound on the error of ``z^H M z + 2 Re <z, s> + ||s||^2 / m`` of (7b).

    Parameters
    ----------
    z, m_z, s
        z, the computed ``M z``, and ``s = r - M z``.
    m
        Monotonicity constant.
    error
        Bound on the error of ``M z`` for each sample. The error of r is added to (7b) itself.
    """
    size, rest = norm(z), norm(s)
    of_m_z = (3 * size + (2 * rest + error) / m) * error
    terms = 2 * z[0].numel() + OPERATIONS
    products = size * norm(m_z) + 2 * size * rest + rest.square() / m
    return of_m_z + terms * UNIT * products
