"""Many scans: each written when it is complete, a bad one does not stop the others.

The manifest, one JSON object a line, says what was begun, written and failed. A scan is complete
when its output exists and the manifest says that it was written from the same scan with the same
settings; an output that was begun but not recorded (the process was killed) is made again.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from equipoise.formats.writers.write import check_target
from equipoise.methods.method import Method
from equipoise.outcome import BadInputError, EquipoiseError
from equipoise.recon.experiment import load_experiment
from equipoise.recon.memory import fit_memory, peak_memory
from equipoise.recon.reconstruct import SliceResult, reconstruct
from equipoise.recon.result_file import save
from equipoise.version import __version__

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class Settings:
    """All that decides an image beside the scan."""

    model: str
    lam: float | None = None
    rtol: float | None = None
    acceleration: float | None = None
    seed: int = 0
    csm: Path | None = None
    mask: Path | None = None

    def fingerprint(self) -> str:
        """Equal for equal settings, files by their content."""
        content = {k: str(v) for k, v in asdict(self).items()} | {"version": __version__}
        for name in ("model", "csm", "mask"):
            path = Path(content[name])
            if path.is_file():
                content[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Job:
    """One scan and where its image goes."""

    scan: Path
    target: Path

    def identity(self) -> list[int]:
        """Size and time of the scan: another file under the same name is another scan."""
        data = next((p for p in (self.scan, self.scan.with_suffix(".cfl")) if p.exists()), None)
        stat = None if data is None else data.stat()
        return [] if stat is None else [stat.st_size, stat.st_mtime_ns]


def plan(scans: Sequence[Path], folder: Path, suffix: str) -> list[Job]:
    """The output of each scan: its name with another suffix, in the folder.

    Raises
    ------
    BadInputError
        If two scans would be written to one file, or a scan over itself.
    """
    jobs = [Job(scan, folder / f"{scan.stem}{suffix}") for scan in scans]
    taken: dict[Path, Path] = {}
    for job in jobs:
        if job.target in taken:
            raise BadInputError(
                f"{taken[job.target]} and {job.scan} would both be written to {job.target}: "
                "reconstruct them into different folders"
            )
        if job.target.resolve() == job.scan.resolve():
            raise BadInputError(f"{job.scan} would be written over: give another folder with -o")
        taken[job.target] = job.scan
    return jobs


class Manifest:
    """A file of one JSON object a line; a torn last line of a killed process does no harm."""

    def __init__(self, folder: Path, num_parts: int = 1, part_id: int = 0) -> None:
        name = MANIFEST if num_parts == 1 else f"manifest-{part_id}-of-{num_parts}.jsonl"
        self.folder, self.path = folder, folder / name

    def append(self, record: dict[str, Any]) -> None:
        """Add a line; it is on disk when this returns."""
        with self.path.open("a+b") as file:
            file.seek(0, 2)
            if file.tell():
                file.seek(-1, 2)
                torn = file.read(1) != b"\n"
                file.seek(0, 2)
                file.write(b"\n" * torn)
            file.write(json.dumps(record, allow_nan=False).encode() + b"\n")

    def records(self) -> Iterator[dict[str, Any]]:
        """The lines of all manifests of the folder: another run may have had other parts."""
        for path in sorted(self.folder.glob("manifest*.jsonl")):
            for line in path.read_text(errors="replace").splitlines():
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if isinstance(record, dict):
                    yield record

    def known(self) -> dict[str, dict[str, Any]]:
        """The best that is known of each output by its name: written, else begun."""
        found: dict[str, dict[str, Any]] = {}
        for record in self.records():
            name, event = record.get("output"), record.get("event")
            if isinstance(name, str) and event in ("begun", "written"):
                found[name] = record
        return found


def run(
    jobs: Sequence[Job],
    model: Method,
    settings: Settings,
    manifest: Manifest,
    *,
    device: torch.device,
    resume: bool,
    overwrite: bool,
    report: Callable[[dict[str, Any], int], None],
    on_slice: Callable[[SliceResult], None] | None = None,
) -> list[dict[str, Any]]:
    """Reconstruct every job; returns the records of all, in order.

    Parameters
    ----------
    jobs, model, settings, manifest
        What to do and where to write it down.
    device
        Where to solve.
    resume
        Skip what is complete, make again what was begun and not finished.
    overwrite
        Replace outputs that exist.
    report
        Called with each record and the number of jobs that were finished.
    on_slice
        Called with each slice that was reconstructed.

    Raises
    ------
    BadInputError
        Before the work, if an output exists that is not to be replaced.
    """
    fingerprint, known = settings.fingerprint(), manifest.known() if resume else {}
    complete = {j.target for j in jobs if _is_complete(j, known.get(j.target.name), fingerprint)}
    for job in jobs:
        was_begun = known.get(job.target.name, {}).get("event") == "begun"
        if job.target not in complete:
            check_target(job.target, overwrite=overwrite or was_begun)
    records = []
    for number, job in enumerate(jobs, 1):
        if job.target in complete:
            record: dict[str, Any] = {"event": "skipped", "scan": str(job.scan)}
            record["output"] = job.target.name
        else:
            stamp = {"scan": str(job.scan), "output": job.target.name, "settings": fingerprint}
            manifest.append({"event": "begun", **stamp})
            record = _attempt(job, model, settings, device, on_slice) | stamp
            manifest.append(record)
        records.append(record)
        report(record, number)
    return records


def _is_complete(job: Job, record: dict[str, Any] | None, fingerprint: str) -> bool:
    return (
        record is not None
        and record.get("event") == "written"
        and record.get("settings") == fingerprint
        and record.get("identity") == job.identity()
        and job.target.exists()
    )


def _attempt(
    job: Job,
    model: Method,
    settings: Settings,
    device: torch.device,
    on_slice: Callable[[SliceResult], None] | None,
) -> dict[str, Any]:
    """One scan; whatever is wrong with it is recorded and does not stop the others."""
    started = time.perf_counter()
    try:
        found = _one(job, model, settings, device, on_slice)
    except (EquipoiseError, MemoryError) as error:
        found = {"event": "failed", "error": str(error) or "not enough memory for this scan"}
    except Exception as error:  # the batch goes on: the record names what went wrong
        found = {"event": "failed", "error": f"{job.scan}: {type(error).__name__}: {error}"}
    found["seconds"] = round(time.perf_counter() - started, 3)
    found["peak_memory_mb"] = round(peak_memory() / 1e6)
    return found


def _one(
    job: Job,
    model: Method,
    settings: Settings,
    device: torch.device,
    on_slice: Callable[[SliceResult], None] | None,
) -> dict[str, Any]:
    identity = job.identity()
    experiment = load_experiment(
        job.scan,
        csm=settings.csm,
        mask=settings.mask,
        acceleration=settings.acceleration,
        seed=settings.seed,
    )
    fitting = fit_memory(experiment.acquisition, model)
    rtol = model.options.rtol if settings.rtol is None else settings.rtol
    result = reconstruct(
        experiment.acquisition,
        model,
        full=experiment.full,
        lam=settings.lam,
        options=replace(model.options, rtol=rtol, tile=fitting.tile),
        on_slice=on_slice,
        device=device,
        keep_maps=fitting.keep_maps,
    )
    save(job.target, result, str(job.scan), settings.model, overwrite=True)
    as_json = result.as_json(str(job.scan), settings.model)["slices"]
    bounds = [s["distance_bound"] for s in as_json]
    iterations = [s["iterations"] for s in as_json]
    return {
        "event": "written",
        "identity": identity,
        "outcome": result.outcome.value,
        "slices": len(as_json),
        "iterations": [min(iterations), max(iterations)],
        "distance_bound": None if None in bounds else max(bounds),
        "note": fitting.note,
    }
