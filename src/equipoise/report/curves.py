"""Curves of a page, as SVG: how a solve converged, and what the weights predicted."""

import math
from collections.abc import Sequence

import numpy as np

from equipoise.methods.prediction import Choice, Trial

WIDTH, HEIGHT, LEFT, BOTTOM = 420, 240, 52, 34
TOP, RIGHT = 10, 12
TICKS = 6

Point = tuple[float, float]


def convergence_curve(history: np.ndarray) -> str:
    """Residual and bound by iteration, logarithmic."""
    # A logarithmic axis has no place for zeros and infinities, so points without a bound are left
    # out.
    values = np.where(np.isfinite(history) & (history > 0), history, np.nan)
    if len(values) < 2 or np.isnan(values).all():
        return ""
    low = math.floor(math.log10(float(np.nanmin(values))))
    high = math.ceil(math.log10(float(np.nanmax(values))))
    # A flat curve would give an axis without length.
    high = max(high, low + 1)
    span = len(values) - 1

    def at(i: int, value: float) -> Point:
        return _place(i / span, (math.log10(value) - low) / (high - low))

    parts = [_grid_line(at(0, 10.0**d)[1], f"1e{d}") for d in range(low, high + 1)]
    for column, kind in ((1, "bound"), (0, "residual")):
        found = enumerate(values[:, column])
        parts.append(_line(kind, [at(i, float(v)) for i, v in found if np.isfinite(v)]))
    ticks = range(0, span + 1, max(1, span // TICKS))
    parts += [_tick(at(i, 10.0**low)[0], str(i)) for i in ticks]
    return _figure(
        parts,
        "residual and distance bound by iteration",
        '<span class="bound-key">bound on ||x - x*|| / ||x||</span>, '
        '<span class="residual-key">residual</span>, by iteration',
    )


def choice_curve(choice: Choice | None) -> str:
    """The error of the samples left out against lam; trials on a line share their thresholds.

    Where thresholds moved with lam, they share the ratio of both.
    """
    trials = () if choice is None else choice.trials
    if choice is None or len(trials) < 2:
        return ""
    logs, errors = [math.log10(t.weights["lam"]) for t in trials], [t.error for t in trials]
    (left, right), (low, high) = _range(logs), _range(errors)

    def at(trial: Trial) -> Point:
        across = (math.log10(trial.weights["lam"]) - left) / (right - left)
        return _place(across, (trial.error - low) / (high - low))

    parts = [_grid_line(_place(0, share)[1], _label(low, high, share)) for share in (0, 0.5, 1)]
    kinds = ((_thresholds, "thresholds"), (_ratio, "ratio of thresholds to lam"))
    # What gives fewer lines.
    shared, name = min(kinds, key=lambda kind: len({kind[0](t.weights) for t in trials}))
    for value in sorted({shared(t.weights) for t in trials}):
        of_line = sorted((t for t in trials if shared(t.weights) == value), key=_lam)
        # The styles of the convergence curve, so that the page needs only two colours.
        kind = "bound" if value == shared(choice.weights) else "residual"
        parts.append(_line(kind, [at(t) for t in of_line]))
        parts += [_dot(kind, at(t), 6 if t.weights == choice.weights else 3) for t in of_line]
    shown = sorted({round(value, 6) for value in logs})
    parts += [_tick(_place((v - left) / (right - left), 0)[0], f"{10**v:.2g}") for v in shown]
    return _figure(
        parts,
        "error of the samples left out against lam",
        "squared error of the samples left out, relative to the noise, against lam: "
        f'<span class="bound-key">at the chosen {name}</span>, '
        '<span class="residual-key">at others</span>; the large dot is the choice',
    )


def _lam(trial: Trial) -> float:
    return trial.weights["lam"]


def _thresholds(weights: dict[str, float]) -> float:
    return weights.get("threshold", 0.0)


def _ratio(weights: dict[str, float]) -> float:
    # Of weights that moved alike it is the same but for rounding.
    return float(f"{_thresholds(weights) / weights['lam']:.6g}")


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis; a single value lies in the middle."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _label(low: float, high: float, share: float) -> str:
    return f"{low + share * (high - low):.3g}"


def _place(across: float, up: float) -> Point:
    """The point at shares of the two axes."""
    x = LEFT + (WIDTH - LEFT - RIGHT) * across
    return x, TOP + (HEIGHT - BOTTOM - TOP) * (1 - up)


def _grid_line(y: float, label: str) -> str:
    return (
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    )


def _line(kind: str, points: Sequence[Point]) -> str:
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{text}"/>'


def _dot(kind: str, point: Point, radius: int) -> str:
    return f'<circle class="{kind}-dot" cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="{radius}"/>'


def _tick(x: float, label: str) -> str:
    return f'<text x="{x:.1f}" y="{HEIGHT - 16}" text-anchor="middle">{label}</text>'


def _figure(parts: Sequence[str], label: str, caption: str) -> str:
    return (
        f'<figure class="curve"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{label}">{"".join(parts)}</svg><figcaption>{caption}</figcaption></figure>'
    )
