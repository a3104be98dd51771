"""The story of one scan: read, experiment, fit memory, solve, save.

One scan, many, the demo and whoever else reconstructs tell it here. Nothing is printed: what there
is to say comes back in the result, or through callbacks while it happens.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.formats.writers.target import check_target, input_files
from equipoise.methods.method import Method
from equipoise.recon.device import pick_device
from equipoise.recon.experiment import Experiment, load_experiment
from equipoise.recon.memory import Plan, fit_memory
from equipoise.recon.reconstruct import Reconstruction, SliceResult, reconstruct
from equipoise.recon.result_file import save
from equipoise.recon.settings import ReconSettings, fingerprint
from equipoise.zoo.model_file import load_model


@dataclass(frozen=True)
class Prepared:
    """A scan that was read and is about to be solved.

    Attributes
    ----------
    experiment
        The scan as it is reconstructed, and the fully sampled one that it was drawn from.
    plan
        How it fits into memory.
    options
        Solver options that follow from model, settings and memory.
    """

    experiment: Experiment
    plan: Plan
    options: SolverOptions


@dataclass(frozen=True)
class FileReconstruction:
    """A scan that was reconstructed.

    Attributes
    ----------
    scan, target
        The file that was read, and the one that was written, None if none was.
    settings, fingerprint
        How it was made; the fingerprint is in the file too.
    prepared, result
        What was solved, and the images with how each was reached.
    method
        The method of the model.
    seconds
        From opening the scan to the file on disk.
    """

    scan: Path
    target: Path | None
    settings: ReconSettings
    fingerprint: str
    prepared: Prepared
    result: Reconstruction
    method: str
    seconds: float


def reconstruct_file(
    scan: Path | str,
    settings: ReconSettings | None = None,
    device: torch.device | str | None = None,
    *,
    target: Path | str | None = None,
    overwrite: bool = False,
    model: Method | None = None,
    on_ready: Callable[[Prepared], None] = lambda prepared: None,
    on_slice: Callable[[SliceResult], None] = lambda result: None,
) -> FileReconstruction:
    """Reconstruct a scan of a file, and write the images where a target is given.

    Parameters
    ----------
    scan
        A file of any known format.
    settings
        How; the packaged model with its own options if not given.
    device
        Where to solve: a device, or ``auto``, ``cpu``, ``cuda:N``; the processor if not given.
    target
        Where the images go, in the format of the suffix.
    overwrite
        Replace a target that exists.
    model
        The model of the settings, if it was loaded already.
    on_ready
        Called before the first slice is solved, with what was read and how it fits into memory.
    on_slice
        Called with each slice that was reconstructed.

    Raises
    ------
    BadInputError
        If the scan, maps, mask or model cannot be used, the scan does not fit into memory, or the
        target exists, is a file that is read, or cannot be written.

    Warns
    -----
    ConvergenceWarning
        For each slice that did not converge.
    """
    started = time.perf_counter()
    scan, settings = Path(scan), settings or ReconSettings()
    target = None if target is None else Path(target)
    if target is not None:
        inputs = input_files(scan, *settings.files())
        check_target(target, overwrite=overwrite, inputs=inputs)
    model = load_model(settings.model) if model is None else model
    made_from = fingerprint(settings, model, scan)
    prepared = prepare(scan, settings, model)
    on_ready(prepared)
    where = pick_device(device) if isinstance(device, str) else device
    result = solve(prepared, settings, model, where, on_slice)
    if target is not None:
        save(target, result, str(scan), settings.model, made_from, overwrite=overwrite)
    seconds = time.perf_counter() - started
    return FileReconstruction(
        scan, target, settings, made_from, prepared, result, model.name, seconds
    )


def prepare(scan: Path, settings: ReconSettings, model: Method) -> Prepared:
    """Read a scan and find out how it fits into memory.

    Raises
    ------
    BadInputError
        If it cannot be used, or does not fit.
    """
    experiment = load_experiment(
        scan,
        csm=None if settings.csm is None else Path(settings.csm),
        mask=None if settings.mask is None else Path(settings.mask),
        acceleration=settings.acceleration,
        seed=settings.seed,
    )
    plan = fit_memory(experiment.acquisition, model)
    rtol = model.options.rtol if settings.rtol is None else settings.rtol
    return Prepared(experiment, plan, replace(model.options, rtol=rtol, tile=plan.tile))


def solve(
    prepared: Prepared,
    settings: ReconSettings,
    model: Method,
    device: torch.device | None = None,
    on_slice: Callable[[SliceResult], None] = lambda result: None,
) -> Reconstruction:
    """The images of a scan that was prepared, wherever it came from."""
    return reconstruct(
        prepared.experiment.acquisition,
        model,
        full=prepared.experiment.full,
        lam=settings.lam,
        options=prepared.options,
        on_slice=on_slice,
        device=device,
        keep_maps=prepared.plan.keep_maps,
    )
