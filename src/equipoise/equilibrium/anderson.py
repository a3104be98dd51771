"""Anderson's acceleration (type II), batched, with a ridge relative to the Gram matrix.

See Walker and Ni, SIAM J. Numer. Anal. 49:1715-1735, 2011. For a linear map it is GMRES.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equipoise.vectors import per_sample, pieces

RIDGE = 1e-10
"""Added to the diagonal of the Gram matrix of normalised differences, so it does not depend on
their scale."""


@dataclass(frozen=True)
class AndersonHistory:
    """The last iterates ``x_j`` and steps ``d_j = T(x_j) - x_j`` of each sample; immutable.

    The next iterate is ``x_k + d_k - sum_j theta_j (dx_j + dd_j)``, where ``dx_j`` and ``dd_j``
    are differences of successive iterates and steps, and theta minimises
    ``||d_k - sum_j theta_j dd_j||``. The coefficients are real, because the derivative of a network
    is linear over the real numbers only.

    Attributes
    ----------
    window
        Number of differences that are kept.
    single
        Keep differences in single precision. An iterate that they lead to is evaluated like any
        other, and for a volume they are most of what a solve holds.
    last
        The newest iterate and its step.
    differences
        ``(dx_j, dd_j)``, the oldest first.
    valid
        For each difference, the samples that may use it.
    fresh
        The samples whose next iterate does not follow from the last one, so the difference of the
        two is meaningless.
    """

    window: int
    single: bool = False
    last: tuple[Tensor, Tensor] | None = None
    differences: tuple[tuple[Tensor, Tensor], ...] = ()
    valid: tuple[Tensor, ...] = ()
    fresh: Tensor | None = None

    def pushed(self, x: Tensor, direction: Tensor, reset: Tensor) -> "AndersonHistory":
        """With one more iterate; the samples in ``reset`` drop their past first."""
        differences, valid = self.differences, self.valid
        if self.last is not None and self.fresh is not None:
            kind = torch.complex64 if self.single else x.dtype
            change = (x - self.last[0]).to(kind), (direction - self.last[1]).to(kind)
            differences = (*differences, change)[-self.window :]
            valid = (*valid, ~self.fresh)[-self.window :]
        return AndersonHistory(
            self.window,
            self.single,
            (x, direction),
            differences,
            tuple(v & ~reset for v in valid),
            torch.zeros(x.shape[0], dtype=torch.bool, device=x.device),
        )

    def without(self, samples: Tensor) -> "AndersonHistory":
        """Without the past of some samples, including their newest iterate."""
        if self.fresh is None:
            return self
        valid = tuple(v & ~samples for v in self.valid)
        return replace(self, valid=valid, fresh=self.fresh | samples)

    def depth(self) -> Tensor:
        """Number of iterates that the next combination uses, (batch,)."""
        if self.last is None:
            # Without an axis it combines with tensors of any device.
            return torch.zeros(())
        newest = torch.ones_like(self.last[0].real.flatten(1)[:, 0], dtype=torch.long)
        return newest + sum(v.long() for v in self.valid)

    def combine(self) -> Tensor:
        """The accelerated iterate; the plain step for samples without a usable past."""
        assert self.last is not None
        x, direction = self.last
        if not self.differences:
            return x + direction
        theta = self._coefficients(direction)
        result = x + direction
        for j, (dx, dd) in enumerate(self.differences):
            factor = per_sample(theta[:, j].to(x.real.dtype), x)
            # In place, because a volume has room for few more images than the history holds.
            result.sub_(factor * dx).sub_(factor * dd)
        return result

    def _coefficients(self, direction: Tensor) -> Tensor:
        """theta, (batch, k): ridge least squares on differences of unit length."""
        gram, rhs = self._products(direction)
        valid = torch.stack(self.valid, dim=1)
        length = gram.diagonal(dim1=1, dim2=2).sqrt()
        valid = valid & (length > 0) & torch.isfinite(length)
        # Unusable columns become zero with a 1 on the diagonal: one solve serves the whole batch.
        safe = torch.where(valid, length, 1.0)
        both = valid[:, :, None] & valid[:, None]
        gram = torch.where(both, gram / (safe[:, :, None] * safe[:, None]), 0.0)
        eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        gram = gram + RIDGE * eye + torch.diag_embed((~valid).to(gram.dtype))
        rhs = torch.where(valid, rhs / safe, 0.0)[..., None]
        theta = torch.linalg.solve(gram, rhs)[..., 0] / safe
        return torch.where(valid & torch.isfinite(theta), theta, 0.0)

    def _products(self, direction: Tensor) -> tuple[Tensor, Tensor]:
        """``<dd_i, dd_j>`` and ``<dd_j, d>``, (batch, k, k) and (batch, k)."""
        real = [torch.view_as_real(dd).flatten(1) for _, dd in self.differences]
        gram = rhs = torch.zeros((), dtype=torch.float64, device=direction.device)
        for *differences, step in pieces(*real, torch.view_as_real(direction).flatten(1)):
            columns = torch.stack(differences, dim=2).double()
            gram = gram + columns.mT @ columns
            rhs = rhs + (columns.mT @ step.double()[..., None])[..., 0]
        return gram, rhs
