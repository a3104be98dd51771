"""The report of a reconstruction or of its certificates: what the page shows of each slice."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from equipoise.certification import CertifiedSlice
from equipoise.equilibrium.data_consistency import tikhonov
from equipoise.html_page import Report, ReportSlice, number
from equipoise.reconstruction import Reconstruction, SliceProblem, slice_problem, target_of
from equipoise.retrospective import Experiment

SENSE_RTOL = 1e-4


def of_reconstruction(
    result: Reconstruction,
    experiment: Experiment,
    model: str,
    method: str,
    command: str,
    *,
    lam_given: bool = False,
) -> Report:
    """The report of ``equipoise recon``; SENSE is solved here where there is no target."""
    slices = []
    for s in result.slices:
        problem = slice_problem_with(experiment, result, s.index)
        sense, label = _sense(problem, result, s.index, s.lam)
        facts = [
            ("outcome", s.outcome),
            ("iterations, network evaluations", f"{s.iterations}, {s.network_evaluations}"),
            ("lam", f"{s.lam:.3g}"),
            ("bound on the relative distance to the equilibrium", number(s.distance_bound)),
            ("m", "none" if s.m is None else f"{s.m:.3g} ({s.m_evidence})"),
            ("bound on ||dx|| / ||db||", number(s.perturbation_bound)),
            ("noise of the scan moves the image by at most", _percent(s.noise_bound)),
            ("like the validation scans", _range(s.in_range)),
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
                image=result.image[s.index].numpy(),
                sense=sense,
                sense_label=label,
                csm=problem.operator.csm[0].numpy(),
                mask=problem.operator.mask[0].numpy(),
                history=result.history[s.index].numpy(),
                facts=facts,
                target=None if result.target is None else result.target[s.index].numpy(),
            )
        )
    return _report(experiment, model, method, command, slices, lam_given)


def of_certificates(
    found: Sequence[CertifiedSlice], experiment: Experiment, model: str, command: str
) -> Report:
    """The report of ``equipoise certify``: with statements and, where computed, noise maps."""
    slices = []
    for one in found:
        c = one.certificate
        problem = one.problem
        sense = _at_lam(problem, c.lam)
        facts = [
            ("outcome", c.outcome),
            ("lam", f"{c.lam:.3g} ({c.lam_source})"),
            ("seconds", f"{one.seconds:.2f}"),
            ("m", "none" if c.m is None else f"{c.m:.3g} ({c.m_evidence})"),
            ("m_local (measured)", number(min(c.m_local) if c.m_local else None)),
            ("lipschitz_lower (measured)", number(c.lipschitz_lower)),
            ("lipschitz_upper (proved)", number(c.lipschitz_upper)),
            ("like the validation scans", _range(c.in_range)),
        ]
        if c.measured_amplification is not None and c.attack is not None:
            attack = f"{c.measured_amplification:.3g} at {c.attack.epsilon:.0%} of the data"
            facts.append(("attack: ||dx|| / ||db|| (measured)", attack))
        slices.append(
            ReportSlice(
                index=c.index,
                image=one.image[0].numpy(),
                sense=sense,
                sense_label=f"SENSE at the same lam, {c.lam:.3g}",
                csm=problem.operator.csm[0].numpy(),
                mask=problem.operator.mask[0].numpy(),
                history=one.history.numpy(),
                facts=facts,
                target=_target(experiment, one),
                noise=None if one.noise is None else one.noise.std.numpy(),
                statements=c.statements,
            )
        )
    first = found[0].certificate
    given = first.lam_source == "given"
    return _report(experiment, model, first.model, command, slices, given)


def _target(experiment: Experiment, one: CertifiedSlice) -> np.ndarray | None:
    """The image of all samples of the slice, or that of the file."""
    index, csm = one.certificate.index, one.problem.operator.csm
    found = target_of(experiment.acquisition, experiment.full, csm, index, one.unit)
    return None if found is None else np.asarray((found[0] * one.unit).numpy())


def slice_problem_with(experiment: Experiment, result: Reconstruction, index: int) -> SliceProblem:
    """The problem of a slice with the coil maps that it was reconstructed with."""
    acquisition = experiment.acquisition
    csm = acquisition.csm if result.csm is None else result.csm
    return slice_problem(replace(acquisition, csm=csm), index)


def _sense(
    problem: SliceProblem, result: Reconstruction, index: int, lam: float
) -> tuple[np.ndarray, str]:
    if result.sense is not None:
        return result.sense[index].numpy(), "SENSE at the lam that is best for the target"
    return _at_lam(problem, lam), f"SENSE at the same lam, {lam:.3g}"


def _at_lam(problem: SliceProblem, lam: float) -> np.ndarray:
    weight = torch.tensor([lam], dtype=torch.float64)
    image = tikhonov(problem.operator, problem.kspace, weight, rtol=SENSE_RTOL)
    return np.asarray(image[0].numpy() * problem.unit)


def _report(
    experiment: Experiment,
    model: str,
    method: str,
    command: str,
    slices: list[ReportSlice],
    lam_given: bool,
) -> Report:
    acquisition = experiment.acquisition
    _, coils, y, x = acquisition.kspace.shape
    report = Report(
        scan=str(acquisition.source),
        model=model,
        method=method,
        command=command,
        shape=(coils, y, x),
        acceleration=acquisition.acceleration,
        slices=slices,
        notes=acquisition.notes,
        lam_given=lam_given,
        retrospective=experiment.full is not None,
        not_converged=[s.index for s in slices if dict(s.facts)["outcome"] not in DONE],
    )
    return report if acquisition.csm is None else replace(report, maps="were given")


DONE = ("converged", "feed_forward")


def _percent(value: float | None) -> str:
    return "not available" if value is None else f"{value:.1%} of its norm"


def _range(value: bool | None) -> str:
    return {None: "not known", True: "yes", False: "NO"}[value]
