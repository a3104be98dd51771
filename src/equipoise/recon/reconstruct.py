"""Reconstruction of every slice of a scan by one method: images and bounds."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from equipoise.equilibrium.bounds import delivered_slack
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.formats.acquisition import Acquisition
from equipoise.formats.encoding import CartesianEncoding
from equipoise.formats.header import Header
from equipoise.methods.method import PLANE, Method
from equipoise.methods.prediction import Choice, LamSetting, weights_for
from equipoise.methods.sense import best_sense
from equipoise.methods.solving import (
    Compared,
    amplification_bound,
    compared,
    noise_bound,
    solve_slice,
)
from equipoise.methods.usual import PsnrBound
from equipoise.methods.variational import gap_of
from equipoise.metrics import psnr, ssim
from equipoise.outcome import BadInputError, Outcome, Solution
from equipoise.physics.problem import Problem
from equipoise.readable import counted, matrix, span
from equipoise.recon.device import creating_on, on_device
from equipoise.recon.problems import (
    ScanProblem,
    arranged_for,
    count_of,
    image_header,
    problems,
    target_at,
)
from equipoise.recon.stack import kind_of, planes, stacked, stacked_maps

log = logging.getLogger(__name__)


@dataclass(repr=False)
class SliceResult:
    """What is known about one reconstructed slice; the names are those of the JSON output.

    ``perturbation_bound`` bounds ``||dx*|| / ||db||`` for any change of the data at this lam,
    intensity scale and these maps (8). It is about exact equilibria; two images that are delivered
    with the same tolerance may differ by ``slack`` times the norm of this one in addition (24).
    For a method of two passes it is the bound through both, and ``second_pass_bound`` is that with
    the first image held fixed, which promises nothing about an attack (23). ``noise_bound`` is
    this bound times ``||n|| / ||x||`` for the estimated noise of the scan. ``m_evidence`` is
    ``proved``, or ``claimed`` until ``equipoise certify`` measures m at the image itself.
    ``images`` are its positions in the stack of images: one, or those of a series or a volume.
    ``choice`` says how lam and the scale of the thresholds, if there is one, were chosen; its
    trials are not part of ``network_evaluations``. ``objective_gap`` belongs to methods that
    minimise: a duality gap, relative to the objective. ``psnr_bound`` is measured, not proved: the
    PSNR that a stated share of scans like those of the calibration reach, each slice by itself.
    """

    index: int
    images: list[int]
    outcome: str
    iterations: int
    network_evaluations: int
    lam: float
    threshold: float | None
    choice: Choice
    relative_residual: float
    distance_bound: float
    m: float | None
    m_evidence: str
    perturbation_bound: float | None
    second_pass_bound: float | None
    slack: float | None
    noise_bound: float | None
    in_range: bool | None
    seconds: float
    objective_gap: float | None = None
    psnr_bound: PsnrBound | None = None
    psnr: float | None = None
    ssim: float | None = None
    sense_psnr: float | None = None
    sense_ssim: float | None = None

    def __repr__(self) -> str:
        """How the slice ended, and its PSNR if there is a target."""
        psnr = "" if self.psnr is None else f", PSNR {self.psnr:.2f} dB"
        return (
            f"SliceResult {self.index}: {self.outcome}, lam {self.lam:.3g}, "
            f"distance bound {self.distance_bound:.1e} ({self.m_evidence}){psnr}"
        )


@dataclass(repr=False)
class Reconstruction:
    """The images of a scan, and how each was reached.

    ``image`` and, with a target, ``target`` and ``sense`` are (images, y, x) complex64: slices,
    the frames of all series, or the slices along z of all volumes; ``header`` has their labels.
    ``csm`` is (1 or images, coils, y, x), or None if the maps were not kept. ``slices`` has an
    entry for each problem: slice, series or volume, by ``axes``. ``history`` holds the relative
    residual and the distance bound of each of them by iteration, (iterations + 1, 2).
    """

    image: Tensor
    csm: Tensor | None
    mask: Tensor
    slices: list[SliceResult]
    target: Tensor | None = None
    sense: Tensor | None = None
    history: list[Tensor] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    header: Header = field(default_factory=Header)
    axes: tuple[str, ...] = PLANE

    def __repr__(self) -> str:
        """How the scan ended in one line, and its lam, bounds and PSNR in another."""
        count = counted(len(self.slices), kind_of(self.axes))
        bounds = span([s.distance_bound for s in self.slices], ".1e")
        lams = span([s.lam for s in self.slices])
        psnr = [s.psnr for s in self.slices if s.psnr is not None]
        quality = f", PSNR {span(psnr, '.2f')} dB" if psnr else ""
        return (
            f"Reconstruction of {count}, {matrix(self.image.shape[1:])}: {self.outcome.value}\n"
            f"  lam {lams}, distance bound {bounds}{quality}"
        )

    @property
    def outcome(self) -> Outcome:
        """Converged if every slice converged, else the outcome of the first that did not."""
        bad = [s.outcome for s in self.slices if s.outcome != Outcome.CONVERGED.value]
        return Outcome(bad[0]) if bad else Outcome.CONVERGED

    def as_json(self, scan: str, model: str) -> dict[str, Any]:
        """The object that ``equipoise recon --json`` prints."""
        return {
            "scan": scan,
            "model": model,
            "axes": [*self.axes],
            "outcome": self.outcome.value,
            "left_out": self.header.left_out,
            "slices": [_json_numbers(asdict(s)) for s in self.slices],
        }


def _json_numbers(values: Any) -> Any:
    """Replace numbers that are not finite by null, because JSON has no infinity."""
    if isinstance(values, dict):
        return {key: _json_numbers(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_json_numbers(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def reconstruct(
    acquisition: Acquisition,
    model: Method,
    *,
    full: Acquisition | None = None,
    lam: LamSetting | None = None,
    options: SolverOptions | None = None,
    on_slice: Callable[[SliceResult], None] | None = None,
    device: torch.device | None = None,
    keep_maps: bool = True,
) -> Reconstruction:
    """Reconstruct every slice, series or volume of a scan, by the axes of the model.

    Parameters
    ----------
    acquisition
        The scan to reconstruct.
    model
        The model.
    full
        The fully sampled scan from which the acquisition was drawn. With it, or with a target in
        the file, SENSE is reconstructed too, at the best lam for the target.
    lam
        With ``rule``, lam and the scale of the thresholds follow the noise of the scan. With
        ``auto``, they are those that best predict samples that were left out, see
        :func:`equipoise.choose_weights`. A number is the data weight itself. With None, the model
        decides.
    options
        Solver options.
    on_slice
        Called with each slice when it is reconstructed.
    device
        The device of the solve; maps and comparisons stay on the CPU.
    keep_maps
        Return the coil maps of all slices.

    Raises
    ------
    BadInputError
        If the scan cannot be solved, or the image of a slice is not finite.

    Warns
    -----
    ConvergenceWarning
        For each slice that did not converge.

    Examples
    --------
    >>> import numpy as np
    >>> import equipoise as eq
    >>> csm, image = np.full((4, 24, 24), 0.5), np.outer(np.hanning(24), np.hanning(24))
    >>> full = eq.Acquisition.from_arrays(eq.SenseOp(csm, np.ones(24))(image), csm=csm)
    >>> model = eq.MOL(eq.CNN(features=4, layers=2, gain=0.5), eq.FixedWeight(20.0), m=0.4)
    >>> eq.reconstruct(eq.undersample(full, 2.0, seed=0), model).image.shape
    torch.Size([1, 24, 24])
    """
    device = torch.device("cpu") if device is None else device
    axes = model.axes
    acquisition = arranged_for(acquisition, axes)
    model = model.to(device)
    slices, places, images, targets, senses, maps, history = [], [], [], [], [], [], []
    started, count = time.perf_counter(), count_of(acquisition, axes)
    for problem in problems(acquisition, axes):
        index, unit, csm = problem.index, problem.unit, problem.operator.csm
        with torch.no_grad(), creating_on(device):
            moved = on_device(problem, device)
            choice = weights_for(moved, model, lam, options)
            solution = solve_slice(moved, model, choice, options)
            image, record = solution.value.cpu(), solution.history_of(0).cpu()
            seconds = time.perf_counter() - started
            usual = compared(model, moved, solution, choice, options)
            used = options or model.options
            result = _slice_result(problem, solution, model, moved, choice, seconds, usual, used)
        _check_image(image, problem.data, index, acquisition.source, result)
        # With the same maps as the solve, so that the difference is not one of the coil
        # combination.
        target = target_at(acquisition, full, problem, axes)
        if target is not None:
            sense = best_sense(problem.operator, problem.data, target).image
            _compare(result, image, sense, target)
            targets.append(target * unit)
            senses.append(sense * unit)
        slices.append(result)
        places.append(problem.images)
        images.append(image * unit)
        if keep_maps:
            maps.append(csm)
        history.append(record)
        solution.warn_unless_converged(f"{acquisition.source}: {kind_of(axes)} {index}")
        _log(result, count)
        if on_slice is not None:
            on_slice(result)
        # The loop then makes the next problem, whose coil maps count as its time.
        started = time.perf_counter()
    return Reconstruction(
        image=stacked(images, places),
        csm=stacked_maps(maps, places, axes) if keep_maps else None,
        mask=_mask_of(acquisition),
        slices=slices,
        target=stacked(targets, places) if targets else None,
        sense=stacked(senses, places) if senses else None,
        history=history,
        notes=acquisition.notes,
        header=image_header(acquisition, axes),
        axes=axes,
    )


def _mask_of(scan: Acquisition) -> Tensor:
    assert isinstance(scan.encoding, CartesianEncoding)
    return scan.encoding.mask


def _check_image(image: Tensor, data: Tensor, index: int, source: str, result: SliceResult) -> None:
    if not bool(torch.isfinite(torch.view_as_real(image)).all()):
        raise BadInputError(
            f"{source}: the image of slice {index} holds NaN or Inf ({result.outcome}, lam "
            f"{result.lam:.3g}), so nothing is written: lower --lam, or leave it out"
        )
    # Thresholds may leave nothing, but then they converge.
    lost = (
        result.outcome != "converged" and not bool((image != 0).any()) and bool((data != 0).any())
    )
    if lost:
        raise BadInputError(
            f"{source}: the image of slice {index} is zero everywhere and its data are not "
            f"({result.outcome}, lam {result.lam:.3g}), so nothing is written: leave --lam out"
        )


def _log(result: SliceResult, count: int) -> None:
    log.info(
        "slice %d of %d: %s, %d iterations, bound %.1e, %.1f s",
        *(result.index, count, result.outcome, result.iterations),
        *(result.distance_bound, result.seconds),
    )


def _slice_result(
    of: ScanProblem,
    solution: Solution,
    model: Method,
    problem: Problem[Any],
    choice: Choice,
    seconds: float,
    usual: Compared,
    options: SolverOptions,
) -> SliceResult:
    bound = amplification_bound(model, solution)
    amplification = None if bound is None else bound.end_to_end
    frozen = getattr(model, "frozen", False)
    distance = float(solution.distance_bound[0])
    certified = bound is not None and not frozen and options.rule == "certified"
    return SliceResult(
        index=of.index,
        images=[*of.images],
        outcome=solution.outcome[0].value,
        iterations=int(solution.iterations[0]),
        network_evaluations=int(solution.network_evaluations[0]),
        lam=float(solution.lam[0]),
        threshold=None if solution.threshold is None else float(solution.threshold[0]),
        choice=choice,
        relative_residual=float(solution.relative_residual[0]),
        distance_bound=distance,
        m=model.m,
        m_evidence=model.m_evidence,
        perturbation_bound=amplification,
        second_pass_bound=bound.first_held if bound is not None and frozen else None,
        slack=delivered_slack(distance, options.rtol) if certified else None,
        noise_bound=noise_bound(amplification, problem.noise_to(solution.value)),
        in_range=usual.in_range,
        seconds=seconds,
        objective_gap=gap_of(solution),
        psnr_bound=usual.psnr_bound,
    )


def _compare(result: SliceResult, image: Tensor, sense: Tensor, target: Tensor) -> None:
    result.psnr, result.ssim = float(psnr(image, target)), _ssim(image, target)
    result.sense_psnr, result.sense_ssim = float(psnr(sense, target)), _ssim(sense, target)


def _ssim(image: Tensor, target: Tensor) -> float:
    """The mean over the images (y, x) of a series or a volume, whose range is that of the whole."""
    return float(ssim(planes(image), planes(target), float(target.abs().max())).mean())
