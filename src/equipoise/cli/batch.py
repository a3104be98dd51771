"""``equipoise recon`` of many scans: progress, parts, SLURM arrays, and a list of failures."""

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from equipoise.cli.report import check_report_target, write_recon_report
from equipoise.cli.slurm import of_cluster, queue
from equipoise.cli.terminal import console, errors, failures, verbosity

if TYPE_CHECKING:
    from equipoise.recon.batch import Job
    from equipoise.recon.reconstruct import SliceResult
    from equipoise.recon.reconstruct_file import FileReconstruction
    from equipoise.recon.settings import ReconSettings

SOME_FAILED = 4
"""Exit code if some of many scans failed."""

NOT_CONVERGED = 3
"""Exit code with ``--strict`` if a slice did not converge."""


class BatchOptions(NamedTuple):
    """The options for many scans."""

    suffix: str
    resume: bool
    num_parts: int | None
    part_id: int | None
    slurm: bool
    slurm_options: Sequence[str]
    device: str
    reports: Path | None = None


def is_batch(scans: Sequence[Path], output: Path | None, options: BatchOptions) -> bool:
    """Whether there are several scans, a folder as output, or an option for many scans."""
    # A DICOM series is a folder too, but the output of one scan.
    into_folder = (
        output is not None and output.suffix != ".dcm" and (output.is_dir() or not output.suffix)
    )
    only_batch = (
        options.resume
        or options.slurm
        or options.num_parts is not None
        or options.part_id is not None
    )
    return len(scans) > 1 or into_folder or bool(only_batch)


def recon_many(
    scans: Sequence[Path],
    folder: Path | None,
    settings: "ReconSettings",
    options: BatchOptions,
    *,
    as_json: bool,
    overwrite: bool,
    strict: bool,
) -> None:
    """Reconstruct scans into a folder.

    Exit with 4 if one failed or is not whole, with 3 if strict requires it.
    """
    num_parts, part_id = part_of(
        options.num_parts, options.part_id, os.environ, len(scans), options.slurm
    )
    if folder is None:
        raise typer.BadParameter("several scans need a folder for their images: use -o DIR")
    with failures():
        from equipoise.formats.replacing import make_folder
        from equipoise.formats.writers.target import check_new_folder
        from equipoise.outcome import ConvergenceWarning
        from equipoise.recon.batch import Callbacks, Manifest, plan, run
        from equipoise.recon.device import pick_device
        from equipoise.zoo.model_file import load_model

        jobs = plan(scans, folder, options.suffix)
        model, device = load_model(settings.model), pick_device(options.device)
        check_new_folder(folder)
        make_folder(folder)
        # After the plan, so that a mistake is reported here and not in the log of every task.
        if options.slurm:
            _submit(folder, num_parts, options.slurm_options)
            return
        # Interleaved, so that large neighbouring scans are spread over the parts.
        jobs = jobs[part_id::num_parts]
        if num_parts > 1:
            console.print(f"part {part_id} of {num_parts}: {len(jobs)} of {len(scans)} scans")
        if not jobs:
            errors.print(
                f"warning: part {part_id} of {num_parts} has nothing to do: there are only "
                f"{len(scans)} scans",
                style="yellow",
            )
        on_written = _reporting(options.reports, jobs, overwrite or options.resume)
        with _Display(len(jobs), as_json) as display, warnings.catch_warnings():
            # The line of each scan already says how it ended.
            warnings.simplefilter("ignore", ConvergenceWarning)
            records = run(
                jobs,
                model,
                settings,
                Manifest(folder, num_parts, part_id),
                Callbacks(display.report, display.on_slice, on_written),
                device=device,
                resume=options.resume,
                overwrite=overwrite,
            )
    _finish(records, strict)


def _reporting(
    folder: Path | None, jobs: "Sequence[Job]", overwrite: bool
) -> "Callable[[FileReconstruction], None]":
    """A function that writes the page of each scan into a folder, if one is given."""
    from equipoise.formats.replacing import make_folder
    from equipoise.formats.writers.target import input_files

    if folder is None:
        return lambda done: None
    make_folder(folder)
    inputs = input_files(*(job.scan for job in jobs))
    for job in jobs:
        check_report_target(_page_of(job.scan, folder), overwrite, inputs)
    return lambda done: write_recon_report(_page_of(done.scan, folder), done)


def _page_of(scan: Path, folder: Path) -> Path:
    return folder / f"{scan.stem}.html"


AUTO = 0
"""Stands for the number of tasks of the SLURM array."""


def parse_parts(text: str | None) -> int | None:
    """The value of ``--num-parts``: a positive number, ``AUTO`` for ``auto``, or None."""
    if text is None or text == "auto":
        return None if text is None else AUTO
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise typer.BadParameter(f"--num-parts is {text!r}: it must be a positive number or auto")
    return int(text)


def part_of(
    num_parts: int | None,
    part_id: int | None,
    environment: Mapping[str, str],
    n_scans: int,
    submits: bool = False,
) -> tuple[int, int]:
    """The number of parts, and the part of this process.

    A SLURM array task does a part of the work if that is requested (``--num-parts auto``, or a
    number without ``--part-id``) or if the array has as many tasks as there are scans. Other tasks
    list their own scans and do all of them. The command that submits does no part itself.

    Raises
    ------
    typer.BadParameter
        If the numbers do not fit, or the array does not tell the part of its task.
    """
    # The submitting command itself may run inside an array task, whose number must not select a
    # part.
    if submits:
        if part_id is not None:
            raise typer.BadParameter("--slurm submits all parts: leave out --part-id")
        return num_parts or 1, 0
    task = _array_task(environment)
    # An array with as many tasks as scans is meant for one scan each; any other number proves
    # nothing.
    if num_parts is None and part_id is None:
        return task if task is not None and task[0] == n_scans else (1, 0)
    if num_parts is not None and part_id is None and task is not None:
        num_parts, part_id = num_parts or task[0], task[1]
    if not num_parts or part_id is None or not 0 <= part_id < num_parts:
        given = "auto" if num_parts == AUTO else num_parts
        raise typer.BadParameter(
            f"--num-parts is {given} and --part-id is {part_id}: give both, with a part id from 0 "
            "to the number of parts minus one, or use a SLURM array with evenly spaced task numbers"
        )
    return num_parts, part_id


def _array_task(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """The number of tasks of the SLURM array, and this task, from 0; None if they are unknown."""
    names = ("COUNT", "ID", "MIN", "MAX", "STEP")
    given = {n: environment.get(f"SLURM_ARRAY_TASK_{n}", "") for n in names}
    number = {n: int(text) for n, text in given.items() if text.isascii() and text.isdigit()}
    if not {"COUNT", "ID"} <= set(number):
        return None
    count, first = number["COUNT"], number.get("MIN", 0)
    step = number.get("STEP", 1)
    if count > 1 and "MAX" in number:
        step, rest = divmod(number["MAX"] - first, count - 1)
        # A list of tasks such as 1,2,7 does not tell the position of a task.
        if rest:
            return None
    index, rest = divmod(number["ID"] - first, max(step, 1))
    return (count, index) if rest == 0 and 0 <= index < count else None


def _finish(records: list[dict[str, Any]], strict: bool) -> None:
    """Print the counts and the failures, and choose the exit code."""
    count = {e: sum(r["event"] == e for r in records) for e in ("written", "skipped", "failed")}
    console.print(", ".join(f"{n} {event}" for event, n in count.items() if n), markup=False)
    for record in records:
        if record["event"] == "failed":
            errors.print(f"failed: {record['error']}", style="bold red", markup=False)
    # A failure counts more than --strict, because an image is missing.
    if count["failed"] or any(r.get("left_out") for r in records):
        raise typer.Exit(SOME_FAILED)
    if strict and any(r.get("outcome", "converged") != "converged" for r in records):
        raise typer.Exit(NOT_CONVERGED)


class _Display:
    """A progress bar on a terminal, else one plain line for each scan, on standard error."""

    def __init__(self, total: int, as_json: bool) -> None:
        self.total, self.as_json, self.started = total, as_json, time.perf_counter()
        self.worked = 0
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            # In a log a bar would leave one line for every refresh.
            disable=verbosity.quiet or not sys.stderr.isatty(),
        )
        self.task = self.bar.add_task("scans", total=total)

    def __enter__(self) -> "_Display":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def on_slice(self, result: "SliceResult") -> None:
        """Show the last slice on the bar."""
        text = f"slice {result.index}: {result.iterations} iterations"
        self.bar.update(self.task, description=text)

    def report(self, record: dict[str, Any], done: int) -> None:
        """Print one line: how the scan ended, and how long the rest will take."""
        self.bar.update(self.task, completed=done, description="scans")
        # Skipped scans take no time and would make the estimate far too short.
        if record["event"] != "skipped":
            self.worked += 1
        elapsed = time.perf_counter() - self.started
        rest = (self.total - done) * elapsed / max(self.worked, 1)
        style = "bold red" if record["event"] == "failed" else ""
        # Torch must not be loaded for --help.
        from equipoise.readable import duration

        line = f"{done}/{self.total} {_line(record)}, ETA {duration(rest)}"
        console.print(line, style=style, markup=False, highlight=False)
        if self.as_json:
            print(json.dumps(record, allow_nan=False), flush=True)


def _line(record: dict[str, Any]) -> str:
    name = Path(record["scan"]).name
    if record["event"] == "skipped":
        return f"{name}: already complete"
    tail = f"{record['seconds']:.1f} s, peak {record['peak_memory_mb']} MB"
    if record["event"] == "failed":
        return f"{name}: failed, {tail}"
    low, high = record["iterations"]
    iterations = f"{low}" if low == high else f"{low}-{high}"
    bound = "none" if record["distance_bound"] is None else f"{record['distance_bound']:.1e}"
    return (
        f"{name}: {record['outcome']}, {record['slices']} slices, {iterations} iterations, "
        f"bound {bound}, {tail}"
        + (f"; {record['note']}" if record.get("note") else "")
        + (f"; left out: {'; '.join(record['left_out'])}" if record.get("left_out") else "")
        + (f"; replaces {record['replaced']}" if "replaced" in record else "")
    )


def _submit(folder: Path, parts: int, slurm_options: Sequence[str]) -> None:
    """Submit the command once for each part, as one array; without SLURM, as local processes."""
    with queue(folder, slurm_options, slurm_array_parallelism=parts) as executor:
        from submitit.helpers import CommandFunction

        with executor.batch():
            jobs = [
                executor.submit(CommandFunction(part_command(sys.argv, parts, k)))
                for k in range(parts)
            ]
    numbers = ", ".join(job.job_id for job in jobs)
    console.print(f"{parts} parts submitted ({of_cluster(executor)}): {numbers}")
    console.print(
        f"logs: {folder / 'slurm'}; afterwards run the same command with --resume", markup=False
    )


def part_command(arguments: Sequence[str], parts: int, part: int) -> list[str]:
    """This command line for one of its parts: without the submission, and with ``--resume``."""
    kept, skip = [], False
    # The command line is copied instead of being rebuilt, so that new options need no change here.
    for argument in arguments[1:]:
        # Both --option VALUE and --option=VALUE.
        name = argument.split("=")[0]
        if skip or argument == "--slurm":
            skip = False
            continue
        if name in ("--num-parts", "--slurm-option"):
            skip = name == argument
            continue
        kept.append(argument)
    resume = [] if "--resume" in kept else ["--resume"]
    numbers = ["--num-parts", str(parts), "--part-id", str(part)]
    return [sys.executable, "-m", "equipoise", *kept, *resume, *numbers]
