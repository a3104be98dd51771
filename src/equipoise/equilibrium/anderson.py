"""Anderson's acceleration (type II), batched, with a ridge relative to the Gram matrix.

Walker and Ni, SIAM J. Numer. Anal. 49:1715-1735, 2011. For a linear map it is GMRES.
"""

import torch
from torch import Tensor

from equipoise.vectors import per_sample

RIDGE = 1e-10
"""Added to the diagonal of the Gram matrix of normalised differences: free of any scale."""


class AndersonHistory:
    """The last iterates ``x_j`` and steps ``d_j = T(x_j) - x_j`` of each sample.

    The next iterate is ``x_k + d_k - sum_j theta_j (dx_j + dd_j)``, where ``dx_j`` and ``dd_j``
    are differences of successive iterates and steps and theta minimises
    ``||d_k - sum_j theta_j dd_j||``. Coefficients are real: the maps are real-linear at best.
    """

    def __init__(self, window: int):
        self.window = window
        self.differences: list[tuple[Tensor, Tensor]] = []
        self.last: tuple[Tensor, Tensor] | None = None
        self.valid: list[Tensor] = []
        self.fresh: Tensor | None = None

    def push(self, x: Tensor, direction: Tensor, reset: Tensor) -> None:
        """Add an iterate; the samples in ``reset`` drop their past first."""
        if self.last is not None and self.fresh is not None:
            self.differences.append((x - self.last[0], direction - self.last[1]))
            self.valid.append(~self.fresh)
            self.differences = self.differences[-self.window :]
            self.valid = self.valid[-self.window :]
        self.last = (x, direction)
        self.fresh = torch.zeros(x.shape[0], dtype=torch.bool)
        self.forget(reset, keep_last=True)

    def forget(self, samples: Tensor, keep_last: bool = False) -> None:
        """Drop the past of some samples; with ``keep_last`` their newest iterate stays."""
        self.valid = [valid & ~samples for valid in self.valid]
        if not keep_last and self.fresh is not None:
            self.fresh = self.fresh | samples

    def depth(self) -> Tensor:
        """Number of iterates that the next combination rests on, per sample."""
        if self.last is None:
            return torch.zeros(1)
        counts = [valid.long() for valid in self.valid]
        return torch.stack(counts).sum(0) + 1 if counts else torch.ones(self.last[0].shape[0])

    def combine(self) -> Tensor:
        """The accelerated iterate; the plain step where there is no usable past."""
        assert self.last is not None
        x, direction = self.last
        if not self.differences:
            return x + direction
        theta = self._coefficients(direction)
        result = x + direction
        for j, (dx, dd) in enumerate(self.differences):
            result = result - per_sample(theta[:, j].to(x.real.dtype), x) * (dx + dd)
        return result

    def _coefficients(self, direction: Tensor) -> Tensor:
        """theta, (batch, k): ridge least squares on differences of unit length."""
        columns = torch.stack([_real(dd) for _, dd in self.differences], dim=2)
        valid = torch.stack(self.valid, dim=1)
        length = columns.norm(dim=1)
        valid = valid & (length > 0) & torch.isfinite(length)
        safe = torch.where(valid, length, 1.0)
        columns = torch.where(valid[:, None], columns / safe[:, None], 0.0)
        gram = columns.mT @ columns
        eye = torch.eye(gram.shape[1], dtype=gram.dtype)
        gram = gram + RIDGE * eye + torch.diag_embed((~valid).to(gram.dtype))
        rhs = columns.mT @ _real(direction)[..., None]
        theta = torch.linalg.solve(gram, rhs)[..., 0] / safe
        return torch.where(valid & torch.isfinite(theta), theta, 0.0)


def _real(a: Tensor) -> Tensor:
    """Complex samples as real float64 vectors, (batch, n)."""
    return torch.view_as_real(a).flatten(1).double()
