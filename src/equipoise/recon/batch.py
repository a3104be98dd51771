"""Many scans: each is written when it is complete, and a failure does not stop the others.

The output itself tells whether a scan is done: the file records from which scan, with which model
and how it was made, and whether it is complete. The manifest, with one JSON object for each line,
is the log of what was begun, written and failed. It is consulted only if an output is too damaged
to tell: its name in the manifest then distinguishes a leftover of this package from a file of the
user.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from equipoise.formats.writers.stamp import read_stamp
from equipoise.formats.writers.target import (
    check_files,
    check_sidecar,
    check_target,
    companions,
    input_files,
)
from equipoise.methods.method import Method
from equipoise.outcome import BadInputError, EquipoiseError
from equipoise.recon.memory import peak_memory
from equipoise.recon.reconstruct import SliceResult
from equipoise.recon.reconstruct_file import FileReconstruction, reconstruct_file
from equipoise.recon.settings import ReconSettings, fingerprint

MANIFEST = "manifest.jsonl"
REPLACED = "a file that was made from other settings, weights or data, or was incomplete"


@dataclass(frozen=True)
class Job:
    """One scan and the file of its image."""

    scan: Path
    target: Path


def plan(scans: Sequence[Path], folder: Path, suffix: str) -> list[Job]:
    """The output of each scan: a file in the folder, with the name of the scan and the suffix.

    Raises
    ------
    BadInputError
        If an output would overwrite the output of another scan, a scan, or the sidecar of another
        image.
    """
    jobs = [Job(scan, folder / f"{scan.stem}{suffix}") for scan in scans]
    inputs = input_files(*scans)
    taken: dict[Path, Job] = {}
    for job in jobs:
        for path in (job.target, *companions(job.target)):
            # Resolved, because two names can lead to one file.
            other = taken.setdefault(path.resolve(), job)
            if other is not job:
                raise BadInputError(
                    f"{other.scan} and {job.scan} would both be written to {path}: reconstruct "
                    "them into different folders"
                )
        check_sidecar(job.target)
        check_files([job.target, *companions(job.target)], overwrite=True, inputs=inputs)
    return jobs


class Manifest:
    """A file with one JSON object for each line; a line cut off by a kill does no harm."""

    def __init__(self, folder: Path, num_parts: int = 1, part_id: int = 0) -> None:
        name = MANIFEST if num_parts == 1 else f"manifest-{part_id}-of-{num_parts}.jsonl"
        self.folder, self.path = folder, folder / name

    def append(self, record: dict[str, Any]) -> None:
        """Add a line, which is on disk when this returns."""
        with self.path.open("a+b") as file:
            file.seek(0, 2)
            # A process that was killed may have left half a line, which must not swallow this one.
            if file.tell():
                file.seek(-1, 2)
                torn = file.read(1) != b"\n"
                file.seek(0, 2)
                file.write(b"\n" * torn)
            file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def records(self) -> Iterator[dict[str, Any]]:
        """The lines of all manifests in the folder; earlier runs may have had other parts."""
        for path in sorted(self.folder.glob("manifest*.jsonl")):
            # A torn line is skipped: every record stands on its own.
            for line in path.read_text(errors="replace").splitlines():
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if isinstance(record, dict):
                    yield record

    def outputs(self) -> set[str]:
        """Names of the outputs that were begun or written here."""
        events = ("begun", "written")
        return {str(r.get("output")) for r in self.records() if r.get("event") in events}


@dataclass(frozen=True)
class Callbacks:
    """Functions that are called as the work progresses.

    Attributes
    ----------
    on_record
        Called with each record of the manifest and the number of finished jobs.
    on_slice
        Called with each reconstructed slice.
    on_written
        Called with each scan when its image is on disk.
    """

    on_record: Callable[[dict[str, Any], int], None] = lambda record, done: None
    on_slice: Callable[[SliceResult], None] = lambda result: None
    on_written: Callable[[FileReconstruction], None] = lambda found: None


def run(
    jobs: Sequence[Job],
    model: Method,
    settings: ReconSettings,
    manifest: Manifest,
    callbacks: Callbacks,
    *,
    device: torch.device,
    resume: bool,
    overwrite: bool,
) -> list[dict[str, Any]]:
    """Reconstruct every job; return the records of all jobs, in order.

    Parameters
    ----------
    jobs, model, settings, manifest
        What to do, and where to log it.
    callbacks
        Functions that are called as the work progresses.
    device
        The device of the solve.
    resume
        Skip complete outputs; make outputs again that are incomplete or have other settings.
    overwrite
        Replace outputs that exist.

    Raises
    ------
    BadInputError
        Before the work begins, if an output exists that must not be replaced.
    """
    states = _states(jobs, model, settings, manifest) if resume else {}
    inputs = input_files(*(job.scan for job in jobs), *settings.files())
    # All targets are checked first: a refusal after hours of work would help nobody.
    for job in jobs:
        state = states.get(job.target)
        # Complete outputs are skipped later, so they need no permission to be replaced.
        if state is not State.COMPLETE:
            allowed = overwrite or state is State.OUTDATED
            check_target(job.target, overwrite=allowed, inputs=inputs)
    records = []
    for number, job in enumerate(jobs, 1):
        stamp = {"scan": str(job.scan), "output": job.target.name}
        if states.get(job.target) is State.COMPLETE:
            record: dict[str, Any] = {"event": "skipped", **stamp}
        else:
            manifest.append({"event": "begun", **stamp})
            allowed = overwrite or states.get(job.target) is State.OUTDATED
            record = _attempt(job, model, settings, device, callbacks, allowed) | stamp
            record |= {"replaced": REPLACED} if states.get(job.target) is State.OUTDATED else {}
            manifest.append(record)
        records.append(record)
        callbacks.on_record(record, number)
    return records


class State(Enum):
    """The file under the name of an output.

    Complete: an intact image that records that it was made from this scan, by this model, with
    these settings. Outdated: another image, or a leftover, that this package made and may make
    again. Foreign: a file of unknown origin, which is never replaced without being asked to.
    """

    COMPLETE = "complete"
    OUTDATED = "outdated"
    FOREIGN = "foreign"


def _states(
    jobs: Sequence[Job], model: Method, settings: ReconSettings, manifest: Manifest
) -> dict[Path, State]:
    """The state of every output that exists."""
    noted, states = manifest.outputs(), {}
    for job in jobs:
        files = [job.target, *companions(job.target)]
        if any(path.exists() for path in files):
            states[job.target] = _state(job, model, settings, job.target.name in noted)
    return states


def _state(job: Job, model: Method, settings: ReconSettings, noted: bool) -> State:
    """The state by the record in the file or, if it cannot be read, by the manifest."""
    stamp = read_stamp(job.target)
    if stamp is None:
        # An empty file holds nothing that could be lost.
        empty = job.target.is_file() and job.target.stat().st_size == 0
        return State.OUTDATED if noted or empty else State.FOREIGN
    current = stamp.whole and stamp.fingerprint == fingerprint(settings, model, job.scan)
    return State.COMPLETE if current else State.OUTDATED


def _attempt(
    job: Job,
    model: Method,
    settings: ReconSettings,
    device: torch.device,
    callbacks: Callbacks,
    overwrite: bool,
) -> dict[str, Any]:
    """Reconstruct one scan; an error is recorded and does not stop the others."""
    started = time.perf_counter()
    try:
        found = _one(job, model, settings, device, callbacks, overwrite)
    except (EquipoiseError, MemoryError) as error:
        found = {"event": "failed", "error": str(error) or "not enough memory for this scan"}
    # A batch runs for days without its user: no error of one scan may end it.
    except Exception as error:
        found = {"event": "failed", "error": f"{job.scan}: {type(error).__name__}: {error}"}
    found["seconds"] = round(time.perf_counter() - started, 3)
    found["peak_memory_mb"] = round(peak_memory() / 1e6)
    return found


def _one(
    job: Job,
    model: Method,
    settings: ReconSettings,
    device: torch.device,
    callbacks: Callbacks,
    overwrite: bool,
) -> dict[str, Any]:
    done = reconstruct_file(
        job.scan,
        settings,
        device,
        target=job.target,
        # A file that has appeared since the check before the batch is not ours to replace.
        overwrite=overwrite,
        model=model,
        on_slice=callbacks.on_slice,
    )
    callbacks.on_written(done)
    as_json = done.result.as_json(str(job.scan), settings.model)["slices"]
    bounds = [s["distance_bound"] for s in as_json]
    iterations = [s["iterations"] for s in as_json]
    return {
        "event": "written",
        "fingerprint": done.fingerprint,
        "outcome": done.result.outcome.value,
        "slices": len(as_json),
        "iterations": [min(iterations), max(iterations)],
        # One slice without a bound leaves the scan without one.
        "distance_bound": None if None in bounds else max(bounds),
        "note": done.prepared.plan.note,
        "left_out": done.result.header.left_out,
    }
