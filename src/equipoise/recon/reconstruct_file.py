"""Reconstruction of one file: read, prepare, fit into memory, solve, save.

The commands for one scan and for many, and the demo, all use these functions. Nothing is printed:
results are returned, and progress is reported through callbacks.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.formats.study import read_template
from equipoise.formats.writers.target import check_target, input_files, suffix_of
from equipoise.formats.writers.write import check_further
from equipoise.methods.method import PLANE, Method
from equipoise.outcome import BadInputError
from equipoise.readable import counted
from equipoise.recon.device import pick_device
from equipoise.recon.experiment import Experiment, load_experiment
from equipoise.recon.memory import Plan, fit_memory
from equipoise.recon.problems import count_of
from equipoise.recon.reconstruct import Reconstruction, SliceResult, reconstruct
from equipoise.recon.result_file import save
from equipoise.recon.settings import ReconSettings, fingerprint
from equipoise.recon.stack import kind_of
from equipoise.zoo.model_file import load_model


@dataclass(frozen=True)
class Prepared:
    """A scan that was read and is about to be solved.

    Attributes
    ----------
    experiment
        The scan to reconstruct, and the fully sampled scan from which it was drawn, if any.
    plan
        How it fits into memory.
    options
        Solver options from model, settings and memory.
    axes
        The axes of the images of the model.
    """

    experiment: Experiment
    plan: Plan
    options: SolverOptions
    axes: tuple[str, ...] = PLANE

    @property
    def size(self) -> str:
        """How many slices, series or volumes there are."""
        scan = self.experiment.acquisition
        return counted(count_of(scan, self.axes), kind_of(self.axes))


@dataclass(frozen=True)
class FileReconstruction:
    """A scan that was reconstructed.

    Attributes
    ----------
    scan, target
        The file that was read, and the file that was written, or None.
    settings, fingerprint
        How the images were made; the fingerprint is in the file too.
    prepared, result
        The scan that was solved, and the images with their outcomes.
    method
        The method of the model.
    seconds
        Time from opening the scan to the file on disk.
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
    dicom_template: Path | str | None = None,
    on_ready: Callable[[Prepared], None] = lambda prepared: None,
    on_slice: Callable[[SliceResult], None] = lambda result: None,
) -> FileReconstruction:
    """Reconstruct the scan of a file, and write the images if a target is given.

    Parameters
    ----------
    scan
        A file of any known format.
    settings
        How to reconstruct; the default model with its own options if not given.
    device
        The device of the solve, or ``auto``, ``cpu``, ``cuda:N``; the CPU if not given.
    target
        File for the images, in the format of its suffix.
    overwrite
        Replace a target that exists.
    model
        The model of the settings, if it was loaded before.
    dicom_template
        Folder of DICOM images whose patient, study and frame of reference a DICOM target takes.
    on_ready
        Called before the first slice is solved, with the scan and how it fits into memory.
    on_slice
        Called with each reconstructed slice.

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
    # Before anything is solved: an output that cannot be written must not cost an hour.
    if target is not None:
        inputs = input_files(scan, dicom_template, *settings.files())
        check_target(target, overwrite=overwrite, inputs=inputs)
    study = None if dicom_template is None else _study(Path(dicom_template), target)
    model = load_model(settings.model) if model is None else model
    # Taken before the scan is read, so that a file that changes meanwhile does not look unchanged.
    made_from = fingerprint(settings, model, scan)
    prepared = prepare(scan, settings, model)
    if target is not None:
        header = prepared.experiment.acquisition.header
        check_further(target, header, overwrite=overwrite, inputs=inputs)
    on_ready(prepared)
    where = pick_device(device) if isinstance(device, str) else device
    result = solve(prepared, settings, model, where, on_slice)
    if study is not None:
        result.header = replace(result.header, study={**result.header.study, **study})
    if target is not None:
        save(target, result, str(scan), settings.model, made_from, overwrite=overwrite)
    seconds = time.perf_counter() - started
    return FileReconstruction(
        scan, target, settings, made_from, prepared, result, model.name, seconds
    )


def _study(template: Path, target: Path | None) -> dict[str, str]:
    if target is None or suffix_of(target) != ".dcm":
        raise BadInputError(
            f"the DICOM template {template} needs a DICOM output, not {target}: use -o NAME.dcm"
        )
    return read_template(template)


def prepare(scan: Path, settings: ReconSettings, model: Method) -> Prepared:
    """Read a scan and plan how it fits into memory.

    Raises
    ------
    BadInputError
        If the scan cannot be used, or does not fit.
    """
    experiment = load_experiment(
        scan,
        csm=None if settings.csm is None else Path(settings.csm),
        mask=None if settings.mask is None else Path(settings.mask),
        acceleration=settings.acceleration,
        seed=settings.seed,
        axes=model.axes,
    )
    plan = fit_memory(experiment.acquisition, model, settings.lam)
    rtol = model.options.rtol if settings.rtol is None else settings.rtol
    options = replace(model.options, rtol=rtol, tile=plan.tile)
    return Prepared(experiment, plan, options, model.axes)


def solve(
    prepared: Prepared,
    settings: ReconSettings,
    model: Method,
    device: torch.device | None = None,
    on_slice: Callable[[SliceResult], None] = lambda result: None,
) -> Reconstruction:
    """The images of a prepared scan."""
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
