"""Volumes: slice by slice along the readout, whole, and what is not trained."""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equipoise.experiments.cine import (
    FRAMES,
    ZERO_FILLED,
    Result,
    by_axes,
    compared,
    each_alone,
    measured,
    write_compared,
    zero_filled,
)
from equipoise.experiments.results import Row
from equipoise.experiments.volumes import VolumeCase, quality
from equipoise.methods.method import VOLUME, Method
from equipoise.methods.prediction import LamSetting
from equipoise.methods.variational import TV, Variational, Wavelet
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.readout import plane_of, slices_along_readout
from equipoise.physics.problem import Problem

log = logging.getLogger(__name__)

FILES = ("volume.md", "volume.csv", "volume.json")

MINUS_SLICES = "minus_slice_by_slice"
REFERENCES: tuple[type[Variational], ...] = (Wavelet, TV)
"""Not trained, of one slice."""

Solver = Callable[[VolumeCase], Result]


def solvers(models: dict[str, Method]) -> dict[str, Solver]:
    """The methods of the comparison by name: the models, and those that are not trained.

    A model of (y, x) solves every slice alone, one of (z, y, x) the whole volume.

    Raises
    ------
    BadInputError
        If a model is for images of other axes.
    """
    found = by_axes(models, VOLUME, _by_slice, "a volume needs one of (y, x), slice by slice")
    for kind in REFERENCES:
        found[kind.name] = partial(_by_slice, kind(), lam="rule")
    found[ZERO_FILLED] = zero_filled
    return found


def _by_slice(model: Method, case: VolumeCase, lam: LamSetting | None = None) -> Result:
    """Every slice alone, after a Fourier transform along the readout."""
    solved = partial(_slices_solved, model, case, lam)
    (image, found), row = measured(solved, case.kspace.device)
    return Result(image, row | found)


def _slices_solved(model: Method, case: VolumeCase, lam: LamSetting | None) -> tuple[Tensor, Row]:
    data, plane = slices_along_readout(case.kspace[0]), plane_of(case.operator.mask[0])
    maps = case.operator.csm[0].movedim(-1, 0)
    image = torch.zeros_like(case.target[0]).movedim(-1, 0)
    # No coil sees anything in a slice of air, and its image is zero.
    seen = (maps != 0).flatten(1).any(1).nonzero()[:, 0].tolist()
    problems = (
        Problem(SenseOp(maps[k : k + 1], plane[None]), data[k : k + 1], case.noise_level)
        for k in seen
    )
    images, found = each_alone(model, problems, lam)
    image[seen] = images.to(image.dtype)
    return image.movedim(0, -1)[None], found


def study(
    models: dict[str, Method],
    cases: Iterable[VolumeCase],
    say: Callable[[str], None] = log.info,
) -> list[Row]:
    """One row for each case and method."""
    return compared(solvers(models), cases, quality, say)


def write_study(
    folder: Path, rows: list[Row], settings: dict[str, Any], seen: Sequence[str] = ()
) -> dict[str, Any]:
    """Write ``volume.{md,csv,json}``; return the JSON."""
    names = " and ".join(kind.name for kind in REFERENCES)
    note = (
        f"{FRAMES}, {names} solve every slice along the readout alone; {names} at the lam of their "
        "rules for the noise. The bound of a volume is that of its worst slice."
    )
    return write_compared(folder, FILES, rows, MINUS_SLICES, settings, [note], seen)
