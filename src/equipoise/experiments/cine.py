"""Series in time: frame by frame, with time, temporal total variation, low rank, zero-filled."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from equipoise.experiments.memory import CLEAR_REFS, peak_since, reset_peak
from equipoise.experiments.results import Row, markdown_table, write_csv, write_json, write_text
from equipoise.experiments.series import SeriesCase, quality
from equipoise.experiments.subjects import about_subjects, interval
from equipoise.formats.replacing import make_folder
from equipoise.methods.method import PLANE, SERIES, Method
from equipoise.methods.prediction import LamSetting, weights_for
from equipoise.methods.solving import solve_slice
from equipoise.methods.temporal import PRIORS, TemporalPrior, minimise_series
from equipoise.outcome import BadInputError, Solution
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.dynamic import DynamicSenseOp, shared_views
from equipoise.physics.problem import Problem
from equipoise.recon.device import seconds_since
from equipoise.vectors import per_sample

log = logging.getLogger(__name__)

FILES = ("cine.md", "cine.csv", "cine.json")

ZERO_FILLED, VIEW_SHARING, FRAMES = "zero-filled", "view-sharing", "mol-2d"
"""Names in tables: no reconstruction, that of samples of other frames, and the model of one frame.
"""

WEIGHTS = tuple(10 ** (k / 2) for k in range(8, 0, -1))
"""Grid of lam from 10 000 to 3, two to a decade; the solves of a grid start from each other."""

SEARCH_ITERATIONS = 10
"""Iterations of each trial of a weight."""


class Result(NamedTuple):
    """An image (1, time, y, x), and what is known about it besides its quality."""

    image: Tensor
    row: Row


Solver = Callable[[SeriesCase], Result]


def solvers(models: dict[str, Method]) -> dict[str, Solver]:
    """The methods of the comparison by name: the models, and those that are not trained.

    A model of (y, x) solves every frame alone, one of (time, y, x) the whole series.

    Raises
    ------
    BadInputError
        If a model is for images of other axes.
    """
    found = by_axes(models, SERIES, _by_frame, "a series needs one of (y, x), frame by frame")
    for name, prior in PRIORS.items():
        found[name] = partial(_tuned, prior)
    found[ZERO_FILLED], found[VIEW_SHARING] = zero_filled, view_sharing
    return found


def by_axes(
    models: Mapping[str, Method],
    axes: tuple[str, ...],
    of_planes: Callable[[Method, Any], Result],
    needed: str,
) -> dict[str, Callable[[Any], Result]]:
    """A model of ``axes`` solves the whole; one of (y, x) solves as ``of_planes`` does.

    ``needed`` begins what is said of a model of other axes.

    Raises
    ------
    BadInputError
        If a model is for images of other axes.
    """
    found: dict[str, Callable[[Any], Result]] = {}
    for name, model in models.items():
        if model.axes not in (PLANE, axes):
            raise BadInputError(
                f"{name} is a model of ({', '.join(model.axes)}): {needed}, "
                f"or of ({', '.join(axes)})"
            )
        found[name] = partial(_whole if model.axes == axes else of_planes, model)
    return found


def measured(solve: Callable[[], Any], device: torch.device) -> tuple[Any, Row]:
    """What a function returns, with its time and the growth of the peak memory, in MB."""
    before = reset_peak() if CLEAR_REFS.exists() else None
    started = time.perf_counter()
    found = solve()
    seconds = seconds_since(started, device)
    return found, {
        "seconds": seconds,
        "peak_mb": None if before is None else peak_since(before),
        "bound": None,
        "lam": None,
    }


def _whole(model: Method, case: Any) -> Result:
    """The whole series or volume at once, with the weights that a reconstruction chooses."""

    def solved() -> Solution:
        problem = Problem(case.operator, case.kspace, noise_level=case.noise_level)
        return solve_slice(problem, model, weights_for(problem, model, None))

    solution, row = measured(solved, case.kspace.device)
    return Result(solution.value, row | certified(solution))


def _by_frame(model: Method, case: SeriesCase) -> Result:
    """Every frame alone."""
    frames, data = case.operator.frames(), case.kspace[0].movedim(1, 0)
    problems = (
        Problem(SenseOp(frames.csm, frames.mask[k : k + 1]), data[k : k + 1], case.noise_level)
        for k in range(len(data))
    )
    (images, found), row = measured(lambda: each_alone(model, problems), data.device)
    return Result(images[None], row | found)


def each_alone(
    model: Method, problems: Iterable[Problem[SenseOp]], lam: LamSetting | None = None
) -> tuple[Tensor, Row]:
    """The images of some frames or slices, (n, y, x), their worst bound and mean lam.

    Each has the weights that a reconstruction chooses for it, or those that ``lam`` sets.
    """
    images, found = [], []
    for problem in problems:
        solution = solve_slice(problem, model, weights_for(problem, model, lam))
        images.append(solution.value[0])
        found.append(certified(solution))
    bound = max(row["bound"] for row in found)
    return torch.stack(images), {
        "bound": bound if math.isfinite(bound) else None,
        "lam": float(np.mean([row["lam"] for row in found])),
    }


def certified(solution: Solution) -> Row:
    """The worst bound and the mean lam of a batch."""
    return {"bound": float(solution.distance_bound.max()), "lam": float(solution.lam.mean())}


def zero_filled(case: Any) -> Result:
    """``A^H b``."""
    return Result(*measured(lambda: case.operator.adjoint(case.kspace), case.kspace.device))


def view_sharing(case: SeriesCase) -> Result:
    """``A^H b`` of all samples that :func:`shared_views` gives to each frame."""

    def shared() -> Tensor:
        kspace, filled = shared_views(case.kspace, case.operator.mask)
        return DynamicSenseOp(case.operator.csm[:, :, 0], filled).adjoint(kspace)

    return Result(*measured(shared, case.kspace.device))


def _tuned(prior: TemporalPrior, case: SeriesCase) -> Result:
    """At the lam of a grid that is best for the target, which no real scan has.

    The search is not part of the measured time.
    """
    scale = case.operator.intensity_scale(case.kspace)
    units = per_sample(scale, case.kspace).to(case.kspace.real.dtype)
    problem = partial(minimise_series, case.operator, case.kspace / units, prior=prior)
    start: Tensor | None = None
    tried: list[tuple[float, float]] = []
    for lam in WEIGHTS:
        start = problem(lam=_one(lam, scale), start=start, max_iter=SEARCH_ITERATIONS).image
        tried.append((quality(start * float(scale), case)["psnr"], lam))
    best = max(tried)[1]
    found, row = measured(lambda: problem(lam=_one(best, scale)), scale.device)
    return Result(found.image * float(scale), {**row, "lam": best})


def _one(lam: float, like: Tensor) -> Tensor:
    return torch.full((1,), lam, dtype=torch.float64, device=like.device)


def study(
    models: dict[str, Method],
    cases: Iterable[SeriesCase],
    say: Callable[[str], None] = log.info,
) -> list[Row]:
    """One row for each case and method."""
    return compared(solvers(models), cases, quality, say)


@torch.no_grad()
def compared(
    methods: Mapping[str, Callable[[Any], Result]],
    cases: Iterable[Any],
    judge: Callable[[Tensor, Any], Row],
    say: Callable[[str], None],
) -> list[Row]:
    """One row for each case and method.

    Parameters
    ----------
    methods
        By name, each from a case to its result.
    cases
        What is solved, each with a ``name``, a ``subject`` and the ``seed`` of its mask.
    judge
        The quality of an image, with ``psnr`` and ``ssim``.
    say
        Receives one line for each case.
    """
    rows: list[Row] = []
    for case in cases:
        own = []
        for name, solve in methods.items():
            image, row = solve(case)
            place = {"series": case.name, "subject": case.subject, "seed": case.seed}
            own.append({**place, "method": name, **judge(image, case), **row})
        rows += own
        say(f"{case.name}, mask {case.seed}: { ({r['method']: round(r['psnr'], 2) for r in own}) }")
    return rows


SPREAD = ("psnr", "psnr_moving", "temporal_sharpness")
"""Entries of a row of which mean and standard deviation are given."""

MINUS_FRAMES = "minus_frame_by_frame"


def summary(rows: Sequence[Row], minus: str = MINUS_FRAMES) -> dict[str, Row]:
    """Of each method: mean and standard deviation of the PSNR, means, and the worst bound.

    ``minus`` is the name of the entry of the PSNR minus that of the model of (y, x).
    """
    found = {}
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        bounds = [row["bound"] for row in own if row["bound"] is not None]
        peaks = [row["peak_mb"] for row in own if row["peak_mb"] is not None]
        found[name] = {
            **{key: _spread(own, key) for key in SPREAD if key in own[0]},
            "ssim": _spread(own, "ssim"),
            "seconds": float(np.mean([row["seconds"] for row in own])),
            "peak_mb": max(peaks) if peaks else None,
            "n": len(own),
            "worst_bound": max(bounds) if bounds else None,
            minus: _against(rows, name),
        }
    return found


def _spread(rows: Sequence[Row], key: str) -> list[float] | None:
    """Mean and standard deviation of the rows that have a value."""
    values = [row[key] for row in rows if row[key] is not None]
    return [float(np.mean(values)), float(np.std(values))] if values else None


def _against(rows: Sequence[Row], name: str) -> Row | None:
    """PSNR minus that of a model of (y, x) on the same data, with an interval over subjects."""
    values: dict[str, list[float]] = {}
    pairs: dict[tuple[str, int], dict[str, Row]] = {}
    for row in rows:
        pairs.setdefault((row["subject"], row["seed"]), {})[row["method"]] = row
    for (subject, _), pair in pairs.items():
        if name in pair and FRAMES in pair:
            difference = pair[name]["psnr"] - pair[FRAMES]["psnr"]
            values.setdefault(subject, []).append(difference)
    if not values or name == FRAMES:
        return None
    every = [v for own in values.values() for v in own]
    return {"mean": float(np.mean(every)), "interval": interval(list(values.values()))}


def write_study(
    folder: Path, rows: list[Row], settings: dict[str, Any], seen: Sequence[str] = ()
) -> dict[str, Any]:
    """Write ``cine.{md,csv,json}``; return the JSON."""
    note = (
        f"{', '.join(PRIORS)} are at the lam of a grid that is best for the target, which no real "
        "scan has. Nothing bounds their distance to a minimum. Sharpness is the share of the true "
        "change from frame to frame that an image shows, along the line that changes most."
    )
    return write_compared(folder, FILES, rows, MINUS_FRAMES, settings, [note], seen)


def write_compared(
    folder: Path,
    files: tuple[str, str, str],
    rows: list[Row],
    minus: str,
    settings: dict[str, Any],
    notes: Sequence[str],
    seen: Sequence[str],
) -> dict[str, Any]:
    """Write a table with notes, its rows, and the summary as JSON, into three files; the JSON."""
    make_folder(folder)
    table, listed, complete = (folder / name for name in files)
    found = summary(rows, minus)
    result = {"methods": found, "cases": rows, "seen": [*seen], "settings": settings}
    write_csv(listed, rows)
    write_json(complete, result)
    printed = markdown_table([_printed(name, entry, minus) for name, entry in found.items()])
    write_text(table, "\n".join([printed, *notes, about_subjects(rows), *seen, ""]))
    return result


def _printed(name: str, entry: Row, minus: str) -> Row:
    bound, difference = entry["worst_bound"], entry[minus]
    return {
        "method": name,
        "PSNR (dB)": f"{entry['psnr'][0]:.2f} +- {entry['psnr'][1]:.2f}",
        **_mean_of(entry, "psnr_moving", "where it moves", "{:.2f}"),
        "SSIM": f"{entry['ssim'][0]:.4f}",
        **_mean_of(entry, "temporal_sharpness", "sharpness", "{:.3f}"),
        f"minus {FRAMES}": "" if difference is None else f"{difference['mean']:+.2f}",
        "seconds": f"{entry['seconds']:.1f}",
        "peak (MB)": "" if entry["peak_mb"] is None else f"{entry['peak_mb']:.0f}",
        "worst bound": "" if bound is None else f"{bound:.1e}",
        "n": entry["n"],
    }


def _mean_of(entry: Row, key: str, heading: str, form: str) -> Row:
    """A cell with a mean, empty where no row has a value; none if the study has no such key."""
    if key not in entry:
        return {}
    return {heading: "" if entry[key] is None else form.format(entry[key][0])}
