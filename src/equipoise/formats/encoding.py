"""Where the samples of a scan lie in k-space: on a Cartesian matrix, or along a trajectory."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from equipoise.readable import matrix as matrix_text

AXES = ("z", "y", "x")
"""The axes of a matrix; an image in two dimensions has the last two."""

MAX_GAPS = 0.01
"""Share of the samples that may be missing inside lines, because data with few bits contain
zeros."""


@dataclass(frozen=True, repr=False)
class CartesianEncoding:
    """Samples on the points of a Cartesian matrix.

    Attributes
    ----------
    mask
        (1 or frames, y, x) or (1 or frames, z, y, x), bool, True where measured, DC at index
        ``n // 2`` of each axis.
    """

    mask: Tensor

    def __repr__(self) -> str:
        """The matrix and the acceleration."""
        return f"Cartesian, {matrix_text(self.matrix)}, {self.acceleration:.2f}-fold"

    @property
    def matrix(self) -> tuple[int, ...]:
        """(y, x) or (z, y, x)."""
        return tuple(self.mask.shape[1:])

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the axes of the matrix."""
        return AXES[-len(self.matrix) :]

    @property
    def acceleration(self) -> float:
        """Samples of the matrix divided by measured samples."""
        return self.mask.numel() / max(int(self.mask.sum()), 1)

    @cached_property
    def readout(self) -> str | None:
        """The first of x, y and z along which whole lines were measured; None if there is none.

        A line counts as whole if its samples form one stretch that contains DC. An inverse
        transform along the axis then splits the problem. This is exact if the stretch is the whole
        axis; after a partial echo the missing samples are taken as zero.
        """
        whole = (name for name in reversed(self.axes) if _whole_lines(self.lines(name)))
        return next(whole, None)

    def lines(self, axis: str) -> Tensor:
        """The mask with one axis moved to the end, (1 or frames, the other axes, axis)."""
        return self.mask.movedim(1 + self.axes.index(axis), -1)


def _whole_lines(lines: Tensor) -> bool:
    """Whether each line with samples is one stretch through DC, up to ``MAX_GAPS``."""
    lines = lines.flatten(0, -2)
    lines = lines[lines.any(-1)].to(torch.uint8)
    n = lines.shape[-1]
    first, last = lines.argmax(-1), n - 1 - lines.flip(-1).argmax(-1)
    centred = (first <= n // 2) & (last >= n // 2)
    count = int(lines.sum())
    missing = int((last - first + 1).sum()) - count
    return bool(centred.all()) and missing <= MAX_GAPS * count


@dataclass(frozen=True, repr=False)
class TrajectoryEncoding:
    """Samples at any points of k-space, grouped in readouts such as spokes or spiral arms.

    Attributes
    ----------
    coordinates
        (1 or frames, readout, sample, 2 or 3) real, in the order x, y, z, in cycles per field of
        view: neighbouring samples of a full matrix of n points are 1 apart, from -n/2 to n/2.
    matrix
        The matrix (y, x) or (z, y, x) of the image.
    name
        The name in the file: radial, spiral, ...
    density
        (1 or frames, readout, sample) real, the weight of each sample in the adjoint, if given.
    """

    coordinates: Tensor
    matrix: tuple[int, ...]
    name: str = "not named"
    density: Tensor | None = None

    def __repr__(self) -> str:
        """The name of the trajectory and the matrix."""
        return f"trajectory ({self.name}) for a matrix of {matrix_text(self.matrix)}"

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the axes of the samples."""
        return ("readout", "sample")

    @property
    def extent(self) -> tuple[float, ...]:
        """The largest coordinate along each axis, in the order of the matrix."""
        largest = self.coordinates.abs().flatten(0, -2).amax(0)
        return tuple(float(v) for v in largest.flip(0))

    def visited(self) -> Tensor:
        """The points of the matrix nearest to the samples of the first frame, (matrix) bool.

        Samples beyond the matrix are left out.
        """
        device = self.coordinates.device
        sizes = torch.tensor(self.matrix, device=device)
        points = self.coordinates[0].flatten(0, 1).flip(-1).round().long() + sizes // 2
        inside = points[((points >= 0) & (points < sizes)).all(-1)]
        grid = torch.zeros(self.matrix, dtype=torch.bool, device=device)
        grid[tuple(inside.T)] = True
        return grid


PER_SAMPLE = 0.55
"""Coordinates up to this number are in cycles per sample, whose largest is 0.5 plus rounding."""


def in_cycles(points: np.ndarray, matrix: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """Coordinates (..., x y [z]) in cycles per field of view, and the assumption about their unit.

    Files do not name the unit; coordinates within -0.5 to 0.5 are taken as cycles per sample.
    """
    if np.abs(points).max(initial=0) > PER_SAMPLE:
        return points, "assumed: the coordinates are cycles per field of view"
    scaled = points * np.array(matrix[::-1], np.float32)
    return scaled, (
        "assumed: coordinates within -0.5 to 0.5 are cycles per sample; they were multiplied by "
        "the matrix"
    )


COORDINATE_ROUNDING = 1e-3
"""Rounding of coordinates in single precision that end at half the matrix."""


def holding_matrix(points: np.ndarray) -> tuple[int, ...]:
    """The smallest even matrix that holds coordinates (..., x y [z]) in cycles per field of view.

    `bart nufft` uses the same rule.
    """
    largest = np.nan_to_num(np.abs(points)).reshape(-1, points.shape[-1]).max(0)[::-1]
    return tuple(max(2 * math.ceil(float(v) - COORDINATE_ROUNDING), 1) for v in largest)


Encoding = CartesianEncoding | TrajectoryEncoding
