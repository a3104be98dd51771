"""Super-resolution of photographs (section III of the supplement): table and Fig. 2."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.experiments.results import Row, markdown_table, write_csv, write_json, write_text
from equipoise.experiments.subjects import about_subjects
from equipoise.experiments.table1 import learned, summary, table_row
from equipoise.formats.photograph import PHOTOGRAPHS, read_photograph
from equipoise.formats.replacing import make_folder, replacing
from equipoise.methods.method import Method
from equipoise.metrics import psnr, ssim
from equipoise.outcome import BadInputError
from equipoise.physics.least_squares import tikhonov
from equipoise.physics.superres import BlurDownsampleOp, resize_bicubic
from equipoise.recon.device import CPU, seconds_since
from equipoise.training.sources.images import image_files
from equipoise.training.sources.photographs import SuperResolution
from equipoise.training.sources.source import Sample

log = logging.getLogger(__name__)

BICUBIC, TIKHONOV = "bicubic", "tikhonov"
FILES = ("superres.md", "superres.csv", "superres.json", "photographs.csv", "figure2.png")
NOISE = 0.01
LAMS = tuple(10 ** (k / 4) for k in range(4, 25))
"""Grid of lam for Tikhonov, from 10 to a million."""

SMALLEST = 12
"""Fewest pixels of the small image along its shorter side."""

CROP = 96
"""Side of the crop in the figure."""


@dataclass
class Study:
    """One row for each photograph and method, and the images of the first one for the figure."""

    rows: list[Row]
    images: dict[str, Tensor]
    first: Sample

    @property
    def margin(self) -> int:
        """Pixels along the border that PSNR and SSIM leave out."""
        return _operator(self.first).margin


def photographs(paths: list[Path], factor: int) -> Iterator[tuple[Path, Tensor]]:
    """File and luminance (y, x), cropped to multiples of the factor.

    Raises
    ------
    BadInputError
        If there is no photograph, or one is too small to be measured without its border.
    """
    for file in photograph_files(paths):
        luminance = torch.from_numpy(read_photograph(file).luminance).float()
        y, x = (n // factor * factor for n in luminance.shape)
        if min(y, x) < SMALLEST * factor:
            raise BadInputError(
                f"{file} has {luminance.shape[0]} x {luminance.shape[1]} pixels: to measure a "
                f"factor of {factor}, its sides must have at least {SMALLEST * factor}"
            )
        yield file, luminance[:y, :x]


def photograph_files(paths: list[Path]) -> list[Path]:
    """The photographs of files and folders, or one that comes with the plotting library.

    Raises
    ------
    BadInputError
        If there is no photograph.
    """
    files = [f for path in paths or [default_photograph()] for f in image_files(path)]
    files = [f for f in files if f.name.lower().endswith(PHOTOGRAPHS)]
    if not files:
        raise BadInputError(f"{', '.join(map(str, paths))}: found no photograph")
    return files


def default_photograph() -> Path:
    """A photograph that comes with the plotting library."""
    from matplotlib import cbook

    return Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))


def study(
    methods: dict[str, Method | None],
    images: Iterable[tuple[Path, Tensor]],
    source: SuperResolution,
    *,
    noise: float = NOISE,
    device: torch.device = CPU,
    say: Callable[[str], None] = log.info,
) -> Study:
    """Reduce every photograph, add noise, and enlarge it with every method.

    The methods ``bicubic`` and ``tikhonov`` are None in ``methods``. Tikhonov uses the lam of a
    grid with the best PSNR for each target, and its time is that of one solve. PSNR and SSIM are
    those of the luminance, clipped to the range from 0 to 1, with data range 1, without the border
    that depends on what lies outside of the photograph.
    """
    rows: list[Row] = []
    shown: dict[str, Tensor] = {}
    first: Sample | None = None
    for index, (path, image) in enumerate(images):
        sample = source.acquire(image, noise, np.random.default_rng(index)).to(device)
        first = first or sample
        for method_name, method in methods.items():
            result, row = _reconstruct(method_name, method, sample)
            inner, target = _inner(result, sample), _inner(sample.target, sample)
            quality = {
                "psnr": float(psnr(inner, target, 1.0)),
                "ssim": float(ssim(inner, target, 1.0)),
            }
            place = {"slice": path.stem, "subject": str(path), "method": method_name}
            rows.append({**place, **quality, **row})
            if sample is first:
                shown[method_name] = inner.cpu()
        done = {r["method"]: f"{r['psnr']:.2f}" for r in rows[-len(methods) :]}
        say(f"{path.stem}: {done}")
    assert first is not None
    return Study(rows, shown, first.to(CPU))


def _reconstruct(name: str, method: Method | None, sample: Sample) -> tuple[Tensor, Row]:
    if method is not None:
        return learned(method, sample.operator, sample.data, sample.noise_level)
    if name == BICUBIC:
        started = time.perf_counter()
        shape = (sample.target.shape[1], sample.target.shape[2])
        image = resize_bicubic(sample.data, shape)
    else:
        target = _inner(sample.target, sample)
        best = max(
            LAMS, key=lambda lam: float(psnr(_inner(_tikhonov(sample, lam), sample), target))
        )
        started = time.perf_counter()
        image = _tikhonov(sample, best)
    seconds = seconds_since(started, image.device)
    return image, {"seconds": seconds, "evaluations": 0, "outcome": name, "bound": None}


def _tikhonov(sample: Sample, lam: float) -> Tensor:
    weight = torch.tensor([lam], dtype=torch.float64, device=sample.data.device)
    return tikhonov(sample.operator, sample.data, weight)


def _inner(image: Tensor, sample: Sample) -> Tensor:
    """Clipped, without the margin of the blur."""
    # At the border the small image depends on pixels outside the photograph, which no method can
    # know.
    margin = _operator(sample).margin
    # Clipped, because a photograph cannot be darker than black, and every method is free to use
    # that.
    return image.real.clamp(0, 1)[:, margin:-margin, margin:-margin].to(torch.complex64)


def _operator(sample: Sample) -> BlurDownsampleOp:
    assert isinstance(sample.operator, BlurDownsampleOp)
    return sample.operator


def write_study(
    folder: Path, found: Study, settings: dict[str, Any], seen: Sequence[str] = ()
) -> dict[str, Any]:
    """Write ``superres.{md,csv,json}``, ``photographs.csv``, ``figure2.png``; return the JSON."""
    make_folder(folder)
    result = {**summary(found.rows), "seen": [*seen], "settings": settings}
    for name, method in result["methods"].items():
        rows = [row for row in found.rows if row["method"] == name]
        bounds = [row["bound"] for row in rows]
        iterated = None not in bounds
        converged = sum(row["outcome"] == "converged" for row in rows)
        method["converged"] = converged if iterated else None
        method["largest_bound"] = max(bounds) if iterated else None
    table = [table_row(name, result) for name in result["methods"]]
    write_csv(folder / "photographs.csv", found.rows)
    write_csv(folder / "superres.csv", table)
    write_json(folder / "superres.json", result)
    note = (
        "PSNR and SSIM of the luminance, data range 1, without a border of "
        f"{settings['margin']} pixels (reach of the blur). Tikhonov uses the lam that is best for "
        "each target. Standard deviations are over photographs, each of which is a subject."
    )
    notes = [note, about_subjects(found.rows), *seen]
    write_text(folder / "superres.md", "\n".join([markdown_table(table), *notes, ""]))
    figure(folder / "figure2.png", found)
    return result


def figure(path: Path, found: Study) -> None:
    """Draw Fig. 2: the most detailed crop of the first photograph, with its error and PSNR."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    whole = _inner(found.first.target, found.first)[0].real
    cut = _detailed(whole)
    target = whole[cut].numpy()
    quality = {row["method"]: row["psnr"] for row in found.rows[: len(found.images)]}
    n_columns = len(found.images) + 1
    figure, axes = plt.subplots(2, n_columns, figsize=(2.4 * n_columns, 5.6), layout="constrained")
    axes[0, 0].imshow(target, cmap="gray", vmin=0, vmax=1)
    axes[0, 0].set_title("target", fontsize=9)
    axes[1, 0].imshow(found.first.data[0].real.numpy(), cmap="gray", vmin=0, vmax=1)
    axes[1, 0].set_title("the small image, whole", fontsize=9)
    for column, (name, image) in enumerate(found.images.items(), start=1):
        shown_image = image[0].real[cut].numpy()
        axes[0, column].imshow(shown_image, cmap="gray", vmin=0, vmax=1)
        axes[0, column].set_title(f"{name}\n{quality[name]:.2f} dB", fontsize=9)
        error = np.abs(shown_image - target)
        shown = axes[1, column].imshow(error, cmap="magma", vmin=0, vmax=0.25)
    figure.colorbar(shown, ax=axes[1, -1], label="|error|")
    for axis in axes.flat:
        axis.set_axis_off()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)


def _detailed(image: Tensor) -> tuple[slice, slice]:
    """The crop with the largest variance among those on a grid with a spacing of half a crop."""
    best, found = -1.0, (slice(0, CROP), slice(0, CROP))
    for top in range(0, max(image.shape[0] - CROP, 0) + 1, CROP // 2):
        for left in range(0, max(image.shape[1] - CROP, 0) + 1, CROP // 2):
            cut = (slice(top, top + CROP), slice(left, left + CROP))
            variance = float(image[cut].var())
            if variance > best:
                best, found = variance, cut
    return found
