"""File in, image out: the straight story of one reconstruction."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.equilibrium.method import Method
from equipoise.formats.acquisition import Acquisition
from equipoise.formats.header import Header
from equipoise.learning.baselines import best_sense
from equipoise.learning.metrics import psnr, ssim
from equipoise.outcome import BadInputError, Outcome, Solution
from equipoise.physics.csm import estimate_csm, normalize_csm
from equipoise.physics.fourier import kspace_to_image
from equipoise.physics.noise_level import noise_level
from equipoise.physics.sense import SenseOp
from equipoise.problem import Problem
from equipoise.robustness.certificate import perturbation_bound
from equipoise.robustness.detection import Features, features


@dataclass
class SliceResult:
    """What is known about one reconstructed slice; the names are those of the JSON output.

    ``perturbation_bound`` bounds ``||dx|| / ||db||`` for any change of the data at this lam,
    intensity scale and these maps (8), ``noise_bound`` is that times ``||n|| / ||x||`` for the
    estimated noise of the scan. ``m_evidence`` is ``measured`` where m was checked in validation;
    ``equipoise certify`` checks it at the image itself.
    """

    index: int
    outcome: str
    iterations: int
    network_evaluations: int
    lam: float
    relative_residual: float
    distance_bound: float
    m: float | None
    m_evidence: str
    perturbation_bound: float | None
    noise_bound: float | None
    in_range: bool | None
    seconds: float
    psnr: float | None = None
    ssim: float | None = None
    sense_psnr: float | None = None
    sense_ssim: float | None = None


@dataclass
class Reconstruction:
    """The images of a scan and how each was reached.

    ``image`` and, with a target, ``target`` and ``sense`` are (slices, y, x) complex64; ``csm``
    is (slices, coils, y, x), None where the maps were not kept; ``history`` holds, for each slice,
    the relative residual and the distance bound by iteration, (iterations + 1, 2).
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

    @property
    def outcome(self) -> Outcome:
        """Converged if every slice did, else the outcome of the first that did not."""
        bad = [s.outcome for s in self.slices if s.outcome != Outcome.CONVERGED.value]
        return Outcome(bad[0]) if bad else Outcome.CONVERGED

    def as_json(self, scan: str, model: str) -> dict[str, Any]:
        """The object that ``equipoise recon --json`` prints."""
        return {
            "scan": scan,
            "model": model,
            "outcome": self.outcome.value,
            "slices": [_json_numbers(asdict(s)) for s in self.slices],
        }


def _json_numbers(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: a bound that is not finite is null."""
    return {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()
    }


def slice_problem(acquisition: Acquisition, index: int) -> Problem[SenseOp]:
    """One slice of a scan, with its coil maps (estimated if it brings none) and noise level."""
    kspace = acquisition.kspace[index : index + 1]
    unit = float(kspace.abs().max()) or 1.0
    kspace, mask = kspace / unit, _of_slice(acquisition.mask, index)
    if acquisition.csm is None:
        csm = estimate_csm(kspace, mask)
    else:
        csm = normalize_csm(_of_slice(acquisition.csm, index))
    return Problem(SenseOp(csm, mask), kspace, noise_level(kspace, mask), unit)


def solve_slice(
    problem: Problem[Any], model: Method, lam: float | None, options: SolverOptions | None
) -> Solution:
    """The model's image of one slice, or of whatever your own A measures.

    Raises
    ------
    BadInputError
        If the model is one for real images.
    """
    if model.real and isinstance(problem.operator, SenseOp):
        raise BadInputError(
            "the model is for photographs and a scan is complex: choose one of the -brain- models"
        )
    weight = None if lam is None else torch.tensor([lam], dtype=torch.float64)
    return model.solve(
        problem.operator,
        problem.data,
        noise_level=problem.noise_level,
        lam=weight,
        options=options,
    )


def reconstruct(
    acquisition: Acquisition,
    model: Method,
    *,
    full: Acquisition | None = None,
    lam: float | None = None,
    options: SolverOptions | None = None,
    on_slice: Callable[[SliceResult], None] | None = None,
    device: torch.device | None = None,
    keep_maps: bool = True,
) -> Reconstruction:
    """Reconstruct every slice of a scan.

    Parameters
    ----------
    acquisition
        The scan as it is to be reconstructed.
    model
        The model.
    full
        The fully sampled scan that the acquisition was undersampled from; with it (or with a
        target in the file) SENSE is reconstructed too, at the best lam for the target.
    lam
        Data weight instead of the one that follows the noise of the scan.
    options
        Solver options.
    on_slice
        Called with each slice when it is reconstructed.
    device
        Where to solve; maps and comparisons stay on the processor.
    keep_maps
        Return the coil maps of all slices.
    """
    device = torch.device("cpu") if device is None else device
    model = model.to(device)
    slices, images, targets, senses, maps, history = [], [], [], [], [], []
    for index in range(len(acquisition.kspace)):
        started = time.perf_counter()
        problem = slice_problem(acquisition, index)
        unit, csm = problem.unit, problem.operator.csm
        with torch.no_grad(), creating_on(device):
            moved = _on_device(problem, device)
            solution = solve_slice(moved, model, lam, options)
            image, record = solution.value.cpu(), solution.history_of(0).cpu()
            seconds = time.perf_counter() - started
            usual = lam is None and _same_equilibrium(options, model)
            result = _slice_result(index, solution, model, moved, seconds, usual)
        target = target_of(acquisition, full, csm, index, unit)
        if target is not None:
            sense = best_sense(problem.operator, problem.data, target).image
            _compare(result, image, sense, target)
            targets.append(target * unit)
            senses.append(sense * unit)
        slices.append(result)
        images.append(image * unit)
        if keep_maps:
            maps.append(csm)
        history.append(record)
        if on_slice is not None:
            on_slice(result)
    return Reconstruction(
        image=torch.cat(images),
        csm=torch.cat(maps) if keep_maps else None,
        mask=acquisition.mask,
        slices=slices,
        target=torch.cat(targets) if targets else None,
        sense=torch.cat(senses) if senses else None,
        history=history,
        notes=acquisition.notes,
        header=acquisition.header,
    )


def _same_equilibrium(options: SolverOptions | None, model: Method) -> bool:
    """Whether the options are those of the model; tiles change nothing but memory."""
    usual = model.options
    return options is None or replace(options, tile=usual.tile, recompute=usual.recompute) == usual


def _on_device(problem: Problem[SenseOp], device: torch.device) -> Problem[SenseOp]:
    operator = SenseOp(problem.operator.csm.to(device), problem.operator.mask.to(device))
    data, level = problem.data.to(device), problem.noise_level.to(device)
    return Problem(operator, data, level, problem.unit)


def creating_on(device: torch.device) -> AbstractContextManager[Any]:
    """New tensors go to the device; on the processor they do so anyway, without a function mode."""
    return nullcontext() if device.type == "cpu" else device


def _of_slice(array: Tensor, index: int) -> Tensor:
    return array if len(array) == 1 else array[index : index + 1]


def target_of(
    acquisition: Acquisition, full: Acquisition | None, csm: Tensor, index: int, unit: float
) -> Tensor | None:
    """What a slice should be, (1, y, x), divided by its unit; None where nothing says so."""
    if full is not None:
        coil_images = kspace_to_image(full.kspace[index : index + 1] / unit)
        return (csm.conj() * coil_images).sum(1)
    if acquisition.target is not None:
        return acquisition.target[index : index + 1] / unit
    return None


def amplification_bound(model: Method, solution: Solution) -> float | None:
    """(8): the most that ``||dx|| / ||db||`` can be; None where nothing is promised."""
    if model.m is None or solution.outcome[0] is Outcome.DIVERGED:
        return None
    one = torch.ones(1, dtype=torch.float64)
    return float(perturbation_bound(solution.lam, model.m, one)[0])


def _slice_result(
    index: int,
    solution: Solution,
    model: Method,
    problem: Problem[Any],
    seconds: float,
    usual: bool,
) -> SliceResult:
    amplification = amplification_bound(model, solution)
    return SliceResult(
        index=index,
        outcome=solution.outcome[0].value,
        iterations=int(solution.iterations[0]),
        network_evaluations=int(solution.network_evaluations[0]),
        lam=float(solution.lam[0]),
        relative_residual=float(solution.relative_residual[0]),
        distance_bound=float(solution.distance_bound[0]),
        m=model.m,
        m_evidence=model.m_evidence,
        perturbation_bound=amplification,
        noise_bound=(
            None if amplification is None else amplification * problem.noise_to(solution.value)
        ),
        in_range=in_range(model, problem, solution) if usual else None,
        seconds=seconds,
    )


def in_range(model: Method, problem: Problem[Any], solution: Solution) -> bool | None:
    """Whether the slice looks like those of the calibration; None without a calibration.

    Comparable only where lam follows the noise and the solver options are those of the model.
    """
    if model.calibration is None:
        return None
    return model.calibration.in_range(slice_features(problem, solution))


def slice_features(problem: Problem[Any], solution: Solution) -> Features:
    """What is compared with the calibration."""
    return features(
        problem.operator,
        problem.data,
        solution,
        problem.noise_level,
        problem.sample_count,
    )


def _compare(result: SliceResult, image: Tensor, sense: Tensor, target: Tensor) -> None:
    result.psnr, result.ssim = float(psnr(image, target)), float(ssim(image, target))
    result.sense_psnr, result.sense_ssim = float(psnr(sense, target)), float(ssim(sense, target))
