"""The report of a reconstruction or of its certificates: what the page shows of each slice."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equipoise.certificate.record import CertifiedSlice
from equipoise.formats.writers.target import check_target
from equipoise.methods.method import PLANE
from equipoise.methods.prediction import Choice
from equipoise.methods.usual import PsnrBound
from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.least_squares import tikhonov
from equipoise.physics.problem import Problem
from equipoise.readable import matrix as matrix_text
from equipoise.recon.experiment import Experiment
from equipoise.recon.problems import ScanProblem, arranged_for, problem_at, target_at
from equipoise.recon.reconstruct import Reconstruction, SliceResult
from equipoise.recon.stack import maps_at
from equipoise.report.page import Report, ReportSlice, number, write_report

SENSE_RTOL = 1e-4
"""Relative tolerance of the SENSE images: below what a picture of 8 bits shows."""


def of_reconstruction(
    result: Reconstruction,
    experiment: Experiment,
    model: str,
    method: str,
    command: str,
) -> Report:
    """The report of ``equipoise recon``; without a target, SENSE is solved here."""
    slices = []
    for s in result.slices:
        problem = problem_with(experiment, result, s.index)
        sense, label = _sense(problem, result, s)
        facts = [
            ("outcome", s.outcome),
            ("iterations, network evaluations", f"{s.iterations}, {s.network_evaluations}"),
            *weight_facts(s.lam, s.threshold, s.choice),
            ("bound on the relative distance to the equilibrium", number(s.distance_bound)),
            *_gap(s),
            ("m", "none" if s.m is None else f"{s.m:.3g} ({s.m_evidence})"),
            ("bound on ||dx*|| / ||db||", number(s.perturbation_bound)),
            ("noise of the scan moves the equilibrium by at most", _noise(s)),
            ("like the validation scans", _range(s.in_range)),
            *_psnr_bound(s.psnr_bound),
            ("seconds", f"{s.seconds:.2f}"),
        ]
        if s.psnr is not None:
            facts += [
                ("PSNR, SSIM", f"{s.psnr:.2f} dB, {s.ssim:.4f}"),
                ("SENSE: PSNR, SSIM", f"{s.sense_psnr:.2f} dB, {s.sense_ssim:.4f}"),
            ]
        slices.append(
            ReportSlice(
                index=s.index,
                image=_of(result.image, s, result.axes),
                sense=sense,
                sense_label=label,
                csm=_maps(problem),
                mask=problem.operator.mask[0].numpy(),
                history=result.history[s.index].numpy(),
                facts=facts,
                target=None if result.target is None else _of(result.target, s, result.axes),
                choice=s.choice,
                axes=result.axes,
                frame_ms=result.header.frame_ms,
            )
        )
    return _report(experiment, model, method, command, slices)


def of_certificates(
    found: Sequence[CertifiedSlice], experiment: Experiment, model: str, command: str
) -> Report:
    """The report of ``equipoise certify``, with statements and, if computed, noise maps."""
    slices = []
    for one in found:
        maps_and_mask = {"csm": _maps(one.problem), "mask": one.problem.operator.mask[0].numpy()}
        shown = replace(_certified(one), target=_target(experiment, one), **maps_and_mask)
        slices.append(replace(shown, frame_ms=experiment.acquisition.header.frame_ms))
    return _report(experiment, model, found[0].certificate.model, command, slices)


def write_certificate_report(
    path: Path | str,
    found: Sequence[CertifiedSlice],
    *,
    name: str,
    model: str,
    overwrite: bool = False,
) -> None:
    """Write the page of certified reconstructions with your own A.

    Parameters
    ----------
    path
        A file with the suffix ``.html``, written atomically.
    found
        The results of :func:`equipoise.certify_slice`, one for each problem.
    name, model
        The names of the data and the model on the page.
    overwrite
        Replace a page that exists.

    Raises
    ------
    BadInputError
        If nothing was certified, or the page exists or cannot be written.
    """
    if not found:
        raise BadInputError("no certified image was given: a report shows at least one")
    path = Path(path)
    check_target(path, overwrite=overwrite, suffixes=(".html",))
    first = found[0]
    slices = [
        replace(_certified(one, "least squares (Tikhonov)"), index=i) for i, one in enumerate(found)
    ]
    report = Report(
        scan=name,
        model=model,
        method=first.certificate.model,
        command="equipoise.certify_slice",
        measured=_measured(found),
        slices=slices,
        not_converged=_not_converged(slices),
    )
    write_report(path, report)


def _measured(found: Sequence[CertifiedSlice]) -> str:
    """The different sizes of images and data."""
    sizes = {(tuple(one.image.shape[1:]), one.problem.sample_count): None for one in found}
    return ", ".join(
        f"{matrix_text(shape)} pixels from {count} measured numbers" for shape, count in sizes
    )


def _certified(one: CertifiedSlice, least_squares: str = "SENSE") -> ReportSlice:
    c = one.certificate
    facts = [
        ("outcome", c.outcome),
        *weight_facts(c.lam, c.threshold, c.choice),
        ("seconds", f"{one.seconds:.2f}"),
        ("m", "none" if c.m is None else f"{c.m:.3g} ({c.m_evidence})"),
        ("m_local (measured)", number(min(c.m_local) if c.m_local else None)),
        ("lipschitz_lower (measured)", number(c.lipschitz_lower)),
        ("lipschitz_upper (proved)", number(c.lipschitz_upper)),
        ("like the validation scans", _range(c.in_range)),
        *_psnr_bound(c.psnr_bound),
    ]
    if c.noise_response is not None:
        facts.append(("noise moves the image by (measured)", f"{c.noise_response.mean:.2%}"))
    if c.measured_amplification is not None and c.attack is not None:
        attack = f"{c.measured_amplification:.3g} at {c.attack.epsilon:.0%} of the data"
        facts.append(("attack: ||dx|| / ||db|| (measured)", attack))
    return ReportSlice(
        index=c.index,
        image=one.image[0].numpy(),
        sense=_at_lam(one.problem, c.lam),
        sense_label=f"{least_squares} at the same lam, {c.lam:.3g}",
        history=one.history.numpy(),
        facts=facts,
        noise=None if one.noise is None else one.noise.std.numpy(),
        statements=c.statements,
        choice=c.choice,
        axes=tuple(c.axes) or PLANE,
    )


def weight_facts(lam: float, threshold: float | None, choice: Choice) -> list[tuple[str, str]]:
    """Rows for lam and the scale of the thresholds, and for how they were chosen."""
    facts = [("lam", f"{lam:.3g} ({choice.basis})")]
    if threshold is not None:
        facts.append(("scale of the thresholds", f"{threshold:.3g}"))
    if choice.trials:
        told = f"{choice.reason}; {choice.evaluations} network evaluations"
        facts.append(("chosen by prediction", told))
    if choice.fell_back:
        facts.append(("not chosen by prediction", choice.reason))
    return facts


def _target(experiment: Experiment, one: CertifiedSlice) -> np.ndarray | None:
    """The image from all samples of the slice, or the one in the file."""
    scan, axes = experiment.acquisition, tuple(one.certificate.axes)
    problem: Any = one.problem
    found = target_at(scan, experiment.full, problem, axes)
    return None if found is None else np.asarray((found[0] * one.unit).numpy())


def problem_with(experiment: Experiment, result: Reconstruction, index: int) -> ScanProblem:
    """A problem of a scan with the coil maps of its reconstruction."""
    scan, csm = arranged_for(experiment.acquisition, result.axes), None
    if result.csm is not None:
        csm = maps_at(result.csm, tuple(result.slices[index].images), result.axes)
    return problem_at(scan, index, result.axes, csm)


def _of(stack: torch.Tensor, s: SliceResult, axes: tuple[str, ...]) -> np.ndarray:
    """The image of one problem out of the stack: (y, x), or with time or z before them."""
    found = stack[s.images].numpy()
    return np.asarray(found[0] if axes == PLANE else found)


def _maps(problem: Problem[SenseOp]) -> np.ndarray:
    """Maps (coil, y, x) of a slice or a series, or of the slice in the middle of a volume."""
    csm = problem.operator.csm[0]
    return np.asarray((csm if csm.ndim == 3 else csm[:, csm.shape[1] // 2]).numpy())


def _sense(
    problem: Problem[SenseOp], result: Reconstruction, s: SliceResult
) -> tuple[np.ndarray, str]:
    # With a target the best lam is known, which makes the comparison fair to SENSE.
    if result.sense is not None:
        return _of(result.sense, s, result.axes), "SENSE at the lam that is best for the target"
    return _at_lam(problem, s.lam), f"SENSE at the same lam, {s.lam:.3g}"


def _at_lam(problem: Problem[Any], lam: float) -> np.ndarray:
    weight = torch.tensor([lam], dtype=torch.float64, device=problem.data.device)
    image = tikhonov(problem.operator, problem.data, weight, rtol=SENSE_RTOL)
    return np.asarray(image[0].numpy() * problem.unit)


def _report(
    experiment: Experiment,
    model: str,
    method: str,
    command: str,
    slices: list[ReportSlice],
) -> Report:
    acquisition = experiment.acquisition
    coils, matrix = acquisition.samples.shape[1], matrix_text(acquisition.samples.shape[2:])
    retrospective = "" if experiment.full is None else " retrospectively"
    estimated = "were estimated from the calibration region by ESPIRiT [3]"
    return Report(
        scan=str(acquisition.source),
        model=model,
        method=method,
        command=command,
        measured=(
            f"{coils} receiver coils, matrix {matrix}, {acquisition.acceleration:.2f}-fold "
            f"undersampled{retrospective}"
        ),
        slices=slices,
        notes=acquisition.notes,
        maps=estimated if acquisition.csm is None else "were given",
        not_converged=_not_converged(slices),
    )


def _not_converged(slices: list[ReportSlice]) -> list[int]:
    return [s.index for s in slices if dict(s.facts)["outcome"] not in DONE]


DONE = ("converged", "feed_forward")
"""Outcomes that the page does not list as slices that did not converge."""


def _noise(s: SliceResult) -> str:
    if s.noise_bound is not None:
        return f"{s.noise_bound:.1%} of its norm"
    return "not available" if s.perturbation_bound is None else "vacuous: above 100 %"


def _gap(s: SliceResult) -> list[tuple[str, str]]:
    if s.objective_gap is None:
        return []
    return [(GAP, number(s.objective_gap))]


def _psnr_bound(bound: PsnrBound | None) -> list[tuple[str, str]]:
    """The bound of the calibration on the PSNR, where there is one."""
    if bound is None:
        return []
    share = f"{bound.level:.0%} of scans like those of the calibration reach a PSNR of (measured)"
    return [(share, f"{bound.value:.1f} dB, from {bound.subjects} subjects")]


GAP = "duality gap: the objective is above its minimum, relative to it, by at most"


def _range(value: bool | None) -> str:
    return {None: "not known", True: "yes", False: "NO"}[value]
