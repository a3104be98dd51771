"""The page of a report: one HTML file that needs no network connection.

Images are embedded as WebP, residual curves as SVG. The page works without a mouse, in dark and in
light mode, and prints every slice.
"""

import base64
import io
import math
import platform
import time
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np
import torch

from equipoise.certificate.statements import Statement
from equipoise.formats.replacing import replacing
from equipoise.methods.prediction import Choice
from equipoise.readable import counted
from equipoise.recon.stack import KINDS, kind_of
from equipoise.report.curves import choice_curve, convergence_curve
from equipoise.report.planes import (
    SERIES,
    loop,
    planes_of,
    profile_of,
    sampled_plane,
)
from equipoise.version import __version__

QUALITY = 80
"""Quality of WebP images, 0 to 100."""

LARGEST_SIDE = 400
"""Pixels of an embedded image along its longer side; a page of twenty slices stays below 5 MB."""

ERROR_SHARE = 0.15
"""The scale of error images ends at this share of the largest target intensity."""

WHITE = 0.9
"""Images are white at this share of their largest intensity, as in the figures."""

COILS_SHOWN = 8
CITATIONS = (
    "A. Pramanik, M. B. Zimmerman, M. Jacob, Memory-efficient model-based deep learning with "
    "convergence and robustness guarantees, IEEE Trans. Comput. Imaging 9:260-275, 2023.",
    "K. P. Pruessmann, M. Weiger, P. Börnert, P. Boesiger, Advances in sensitivity encoding with "
    "arbitrary k-space trajectories, Magn. Reson. Med. 46:638-651, 2001.",
    "M. Uecker et al., ESPIRiT - an eigenvalue approach to autocalibrating parallel MRI, Magn. "
    "Reson. Med. 71:990-1001, 2014.",
)


@dataclass
class ReportSlice:
    """What the page shows of one slice; images are (y, x), ``csm`` is (coil, y, x).

    Images and mask of a series or a volume have a first axis more, which ``axes`` names: the page
    shows a loop and a profile over time, or three planes. ``frame_ms`` is the time between frames.
    Only a scan has coil maps and a mask; your own A has neither. ``history`` holds relative
    residual and distance bound by iteration. ``facts`` are pairs of a name and a text.
    ``sense_label`` states the lam of the least-squares image.
    """

    index: int
    image: np.ndarray
    sense: np.ndarray
    sense_label: str
    history: np.ndarray
    facts: list[tuple[str, str]]
    csm: np.ndarray | None = None
    mask: np.ndarray | None = None
    target: np.ndarray | None = None
    noise: np.ndarray | None = None
    statements: dict[str, Statement] = field(default_factory=dict)
    choice: Choice | None = None
    axes: tuple[str, ...] = ("y", "x")
    frame_ms: float | None = None


@dataclass
class Report:
    """The whole page; ``measured`` describes the data, ``maps`` the origin of the coil maps."""

    scan: str
    model: str
    method: str
    command: str
    measured: str
    slices: list[ReportSlice]
    notes: list[str] = field(default_factory=list)
    maps: str = ""
    not_converged: list[int] = field(default_factory=list)


def write_report(path: Path, report: Report) -> None:
    """Write the page atomically."""
    page = render(report)
    with replacing(path) as temporary:
        # Names of files need not be UTF-8.
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def render(report: Report) -> str:
    """The page as text."""
    last = len(report.slices) - 1
    return _page().substitute(
        title=escape(f"{Path(report.scan).name} - Equipoise"),
        scan=escape(Path(report.scan).name),
        summary=escape(f"{_count(report)}, {report.measured}; model {report.model}"),
        notes="".join(f"<li>{escape(note)}</li>" for note in report.notes),
        last=last,
        single="hidden" if last == 0 else "",
        slices="".join(_slice(s, i) for i, s in enumerate(report.slices)),
        table=_table(report),
        methods=escape(_methods(report)),
        citations="".join(f"<li>{escape(c)}</li>" for c in _citations(report)),
        command=escape(report.command),
        versions=escape(
            f"equipoise {__version__}, torch {torch.__version__}, numpy {np.__version__}, python "
            f"{platform.python_version()}, {platform.system()} {platform.machine()}, "
            f"{time.strftime('%Y-%m-%d %H:%M')}"
        ),
    )


def _page() -> Template:
    return Template((resources.files("equipoise.report") / "page.html").read_text("utf-8"))


def _slice(s: ReportSlice, position: int) -> str:
    # All panels share the white of the target, or an error of scale would not show.
    reference = s.image if s.target is None else s.target
    # An empty slice would divide by zero.
    white = float(np.abs(reference).max()) * WHITE or 1.0
    panels = _compared(s, white)
    if s.noise is not None:
        # A few pixels at the edge of the maps are far noisier and would darken all others.
        limit = float(np.percentile(s.noise, 99.5)) or 1.0
        for place, plane in planes_of(s.noise, s.axes):
            label = f"{_caption('noise, standard deviation', place)}, to {limit:.3g}"
            panels.append(_panel(_coloured(plane / limit, "viridis"), label))
    if s.mask is not None:
        share = s.mask.size / max(int(s.mask.sum()), 1)
        pattern = sampled_plane(s.mask).astype(float)
        panels.append(_panel(_grey(pattern, 1.0), f"samples, {share:.2f}-fold"))
    if s.csm is not None:
        shown = f"coil maps, {min(len(s.csm), COILS_SHOWN)} of {len(s.csm)}"
        panels.append(_panel(_montage(s.csm), shown))
    facts = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in s.facts)
    hidden = "" if position == 0 else " hidden"
    return (
        f'<section class="slice" data-position="{position}"{hidden}>'
        f"<h2>{_kind(s).capitalize()} {s.index}</h2>"
        f'<div class="panels">{"".join(panels)}</div><div class="beside">'
        f'<table class="facts"><caption>This {_kind(s)}</caption>{facts}</table>'
        f"{convergence_curve(s.history)}{choice_curve(s.choice)}</div>{_statements(s.statements)}</section>"
    )


def _compared(s: ReportSlice, white: float) -> list[str]:
    """The reconstruction, least squares and target, and their errors on one scale."""
    panels = []
    if s.axes == SERIES:
        panels.append(_panel(loop(s.image, white, s.frame_ms), "reconstruction, over time"))
        panels.append(_panel(_grey(profile_of(s.image), white), "reconstruction, x-t profile"))
    named = [("reconstruction", s.image), (s.sense_label, s.sense)]
    if s.target is not None:
        named.append(("target", s.target))
    for name, image in named:
        for place, plane in planes_of(image, s.axes):
            panels.append(_panel(_grey(plane, white), _caption(name, place), "gray"))
    if s.target is None:
        return panels
    limit = ERROR_SHARE * float(np.abs(s.target).max()) or 1.0
    for name, image in (("error of the reconstruction", s.image), ("error of SENSE", s.sense)):
        error = np.abs(np.abs(image) - np.abs(s.target)) / limit
        for place, plane in planes_of(error, s.axes):
            caption = f"{_caption(name, place)}, to {limit:.3g}"
            panels.append(_panel(_coloured(plane, "magma"), caption))
    return panels


def _caption(name: str, place: str) -> str:
    return f"{name}, {place}" if place else name


def _kind(s: ReportSlice) -> str:
    return kind_of(s.axes) if s.axes in KINDS else "slice"


def _statements(statements: dict[str, Statement]) -> str:
    if not statements:
        return ""
    rows = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{number(s.value)}</td>"
        f"<td>{escape(s.evidence)}</td><td>{escape(s.meaning)}</td>"
        f"<td><code>{escape(s.formula)}</code></td></tr>"
        for name, s in statements.items()
    )
    head = "<tr><th>bound</th><th>value</th><th>evidence</th><th>meaning</th><th>formula</th></tr>"
    return f'<table class="statements"><caption>Certificate</caption>{head}{rows}</table>'


def _table(report: Report) -> str:
    names = [name for name, _ in report.slices[0].facts]
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = "".join(
        f"<tr><th>{s.index}</th>" + "".join(f"<td>{escape(v)}</td>" for _, v in s.facts) + "</tr>"
        for s in report.slices
    )
    return f"<table><tr><th>{_kind(report.slices[0])}</th>{head}</tr>{rows}</table>"


def _panel(data: str, caption: str, kind: str = "") -> str:
    text = escape(caption)
    return (
        f'<figure><img class="{kind}" alt="{text}" src="{data}"><figcaption>{text}</figcaption>'
        "</figure>"
    )


def _grey(image: np.ndarray, white: float) -> str:
    return _embedded(np.clip(np.abs(image) / white, 0, 1)[..., None].repeat(3, -1))


def _coloured(values: np.ndarray, name: str) -> str:
    from matplotlib import colormaps

    return _embedded(colormaps[name](np.clip(values, 0, 1))[..., :3])


def _montage(csm: np.ndarray) -> str:
    """Magnitudes of the first coils, at half size, four in a row."""
    shown = np.abs(csm[:COILS_SHOWN, ::2, ::2])
    # Empty tiles fill the last row.
    shown = np.concatenate([shown, np.zeros((-len(shown) % 4, *shown.shape[1:]))])
    rows = [np.concatenate(list(row), 1) for row in np.split(shown, len(shown) // 4)]
    return _coloured(np.concatenate(rows, 0), "viridis")


def _embedded(colours: np.ndarray) -> str:
    """A WebP image as a data URL; large images are averaged over blocks of pixels."""
    from PIL import Image

    content = io.BytesIO()
    block = -(-max(colours.shape[:2]) // LARGEST_SIDE)
    y, x = (n // block * block for n in colours.shape[:2])
    cells = colours[:y, :x].reshape(y // block, block, x // block, block, 3)
    # Averaged, because skipping pixels would alias fine structure.
    pixels = np.rint(cells.mean((1, 3)) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(content, format="WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()


def _methods(report: Report) -> str:
    first = dict(report.slices[0].facts)
    text = (
        f"The data of {_count(report)} ({report.measured}) were reconstructed with Equipoise "
        f"{__version__} (model {report.model}). "
    )
    if report.maps:
        text += f"Coil sensitivity maps {report.maps}. "
    # The sentence describes an equilibrium, which the other methods do not have.
    if report.method.startswith("mol"):
        text += (
            "The image is the equilibrium of lam A^H (A x - b) + x - H(x) = 0, where H is a "
            "convolutional network that is kept monotone (monotone operator learning [1]); lam "
            f"{_weights(report)}. The iteration is stopped by a bound on the relative distance to "
            f"the equilibrium that rests on the monotonicity constant m = {first['m']}. "
        )
    if report.not_converged:
        text += f"Slices that did not converge: {', '.join(map(str, report.not_converged))}. "
    least_squares = "SENSE images" if report.maps else "The least-squares images beside it"
    return text + f"{least_squares} are regularised by ||x||^2 [2]."


def _weights(report: Report) -> str:
    """How lam of the slices was chosen, in words."""
    bases = {s.choice.basis for s in report.slices if s.choice is not None}
    return " or ".join(words for basis, words in WEIGHTS.items() if basis in bases)


WEIGHTS = {
    "given": "was given",
    "rule": "follows the noise of the scan",
    "prediction": "and the thresholds, if there are any, were chosen for every slice so that its "
    "samples best predict those that are left out",
}


def _citations(report: Report) -> tuple[str, ...]:
    # The last one is about coil maps, which only a scan has.
    return CITATIONS if report.maps else CITATIONS[:-1]


def _count(report: Report) -> str:
    return counted(len(report.slices), _kind(report.slices[0]))


def number(value: float | None) -> str:
    """A bound as text; infinity and None are not available."""
    return "not available" if value is None or not math.isfinite(value) else f"{value:.3g}"
