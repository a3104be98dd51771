"""Tables and sentences for the terminal."""

import math

import numpy as np
from rich.table import Table

from equipoise.methods.usual import PsnrBound
from equipoise.recon.reconstruct import Reconstruction
from equipoise.recon.stack import kind_of

MANY_SLICES = 12
"""Most slices that a table lists."""


def slice_table(result: Reconstruction) -> Table:
    """One row for each slice (the first few of a large volume); with a target also the mean."""
    compared = result.target is not None
    table = Table(box=None, pad_edge=False)
    headings = [
        kind_of(result.axes),
        "outcome",
        "iterations",
        "evaluations",
        "lam",
        "bound",
        "seconds",
    ]
    for heading in headings + (["PSNR", "SSIM", "SENSE PSNR", "SENSE SSIM"] if compared else []):
        table.add_column(heading, justify="left" if heading == "outcome" else "right")
    for s in result.slices[:MANY_SLICES]:
        row = [str(s.index), s.outcome, str(s.iterations), str(s.network_evaluations)]
        bound = f"{s.distance_bound:.1e}" if math.isfinite(s.distance_bound) else "none"
        row += [f"{s.lam:.3g}", bound, f"{s.seconds:.1f}"]
        if compared:
            row += [f"{s.psnr:.2f}", f"{s.ssim:.4f}", f"{s.sense_psnr:.2f}", f"{s.sense_ssim:.4f}"]
        table.add_row(*row)
    # The mean below is over all slices, also those that are not shown.
    if len(result.slices) > MANY_SLICES:
        table.add_row(f"... {len(result.slices)}")
    if compared and len(result.slices) > 1:
        names = ("psnr", "ssim", "sense_psnr", "sense_ssim")
        means = [np.mean([getattr(s, name) for s in result.slices]) for name in names]
        table.add_row("mean", *[""] * 6, *[f"{m:.{2 + 2 * (i % 2)}f}" for i, m in enumerate(means)])
    return table


def _changes(result: Reconstruction) -> str:
    """What a change of the data can do to the image, or that nothing is promised about it."""
    bounds = [s.perturbation_bound for s in result.slices]
    known = [bound for bound in bounds if bound is not None]
    # One sentence speaks for all slices, so it promises only what holds for every one of them.
    if len(known) < len(bounds):
        return "nothing is promised about a change of the data"
    noise = [s.noise_bound for s in result.slices if s.noise_bound is not None]
    of_noise = (
        f"the noise of this scan by at most {max(noise):.0%} of its norm"
        if len(noise) == len(bounds)
        else "`equipoise certify` measures what the noise of this scan does"
    )
    return (
        f"a change d of the data moves the equilibrium by at most {max(known):.3g} ||d|| at this "
        f"lam, this scale and these maps{_between(result)}, {of_noise}"
    )


def objective_sentence(result: Reconstruction) -> str | None:
    """What the duality gaps prove of methods that minimise; None for all others."""
    gaps = [s.objective_gap for s in result.slices if s.objective_gap is not None]
    if not gaps or len(gaps) < len(result.slices):
        return None
    return (
        f"objective: at most {max(gaps):.1e} of itself above its minimum (duality gap, proved in "
        "exact arithmetic); nothing bounds the distance of the image to the minimum"
    )


def _between(result: Reconstruction) -> str:
    """By how much two delivered images may differ beyond their equilibria (24), or (23)."""
    held = [s.second_pass_bound for s in result.slices if s.second_pass_bound is not None]
    if held:
        return f" ({max(held):.3g} ||d|| with F held, which no attack does)"
    slack = [s.slack for s in result.slices]
    known = [value for value in slack if value is not None]
    if len(known) < len(slack):
        return " (two delivered images by their distance bounds more)"
    return f" (two delivered images by up to {max(known):.1e} ||x|| more)"


def short_certificate(result: Reconstruction) -> str | None:
    """One sentence on the worst slice and the evidence; None without an equilibrium."""
    first, distances = result.slices[0], [s.distance_bound for s in result.slices]
    if first.m is None or not all(map(math.isfinite, distances)):
        return None
    text = (
        f"certificate (m = {first.m:.3g}, {first.m_evidence}): at most {max(distances):.1e} from "
        f"the equilibrium; {_changes(result)}"
    )
    if any(s.choice.basis == "prediction" for s in result.slices):
        text += "; lam was chosen from the data by prediction, and the bound holds this lam fixed"
    unlike = [str(s.index) for s in result.slices if s.in_range is False]
    if unlike:
        text += f"; UNLIKE the validation scans: {kind_of(result.axes)} {', '.join(unlike)}"
    elif first.in_range is not None:
        text += "; in the range of the validation scans"
    return text


def rule_sentence(result: Reconstruction) -> str | None:
    """Why lam was not chosen by prediction although that was asked for; None where it was."""
    fallen = [s for s in result.slices if s.choice.fell_back]
    if not fallen:
        return None
    reasons = dict.fromkeys(s.choice.reason for s in fallen)
    which = f"{kind_of(result.axes)} {', '.join(str(s.index) for s in fallen)}"
    return f"lam was not chosen by prediction: {which}: {'; '.join(reasons)}"


def psnr_sentence(result: Reconstruction) -> str | None:
    """What the calibration says about the PSNR of the slices; None without one."""
    bounds = [s.psnr_bound for s in result.slices if s.psnr_bound is not None]
    if not bounds:
        return None
    lowest = min(bounds, key=lambda b: b.value)
    which = "" if len(result.slices) == 1 else f", the lowest of {len(bounds)}"
    each = "" if len(bounds) == 1 else ", each slice by itself"
    return f"{bound_text(lowest)}{which}{each}"


def bound_text(bound: PsnrBound) -> str:
    """A bound on the PSNR in words, with its level, its n and its evidence."""
    return (
        f"PSNR at least {bound.value:.1f} dB with {bound.level:.3g} coverage over scans like those "
        f"of the calibration (conformal, {bound.subjects} subjects; measured, not proved)"
    )
