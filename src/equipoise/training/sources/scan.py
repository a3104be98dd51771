"""One Cartesian acquisition as a training sample, simulated or measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from equipoise.physics.cartesian import SenseOp
from equipoise.training.sources.source import Sample


@dataclass(frozen=True, repr=False)
class Scan(Sample):
    """An acquisition with its target; ``data`` is its k-space."""

    operator: SenseOp


def stacked(samples: Sequence[Scan]) -> Scan:
    """Scans of one shape as one batch; zero maps make up for missing coils."""
    n_coils = max(s.data.shape[1] for s in samples)
    return Scan(
        stacked_operators([s.operator for s in samples]),
        torch.cat([with_coils(s.data, n_coils) for s in samples]),
        torch.cat([s.target for s in samples]),
        torch.cat([s.noise_level for s in samples]),
    )


def stacked_operators(operators: Sequence[SenseOp]) -> SenseOp:
    """Operators of one matrix as one of their batch."""
    n_coils = max(a.csm.shape[1] for a in operators)
    maps = torch.cat([with_coils(a.csm, n_coils) for a in operators])
    return SenseOp(maps, torch.cat([a.mask for a in operators]))


def with_coils(array: Tensor, n_coils: int) -> Tensor:
    """Maps or k-space (batch, coil, y, x) with coils of zeros up to a number of coils."""
    return F.pad(array, (0, 0, 0, 0, 0, n_coils - array.shape[1]))
