"""How often the conformal bound on the PSNR holds, and how often a scan is flagged.

    python benchmarks/the_psnr_bound_covers_as_often_as_it_says.py MODEL \\
        --calibration images --test held_out_images --coils head_32ch.h5 --record scans.jsonl

Scans are simulated as the model was trained, with estimated maps and noise level: of the
calibration as ``equipoise calibrate`` does it with the same seed, and of test subjects that neither
training nor the calibration saw. Subjects are those of the dataset ``subject``. The first line
gives the coverage on all test scans. In the lines after it, one kind of mask is left out of the
calibration, and the test scans are those of that kind. Every scan is appended to the record, and a
scan in it is not simulated again, so a run that was stopped continues. With ``--real`` the bound
stands beside the PSNR of fully sampled scans.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.experiments.scans import scan_cases
from equipoise.methods.method import Method
from equipoise.methods.prediction import weights_for
from equipoise.methods.solving import compared, solve_slice
from equipoise.methods.usual import Calibration, CalibrationScan, calibrate
from equipoise.metrics import psnr
from equipoise.outcome import BadInputError
from equipoise.physics.problem import Problem
from equipoise.training.calibrate import (
    STREAM,
    by_subject,
    calibration_images,
    simulated_scans,
    simulation_of,
)
from equipoise.training.sources.images import load_labelled
from equipoise.training.sources.simulated import Simulation
from equipoise.zoo.model_file import load_model, provenance

TEST_STREAM = 7
"""Separates the random numbers of the test scans from those of the calibration."""


class Record:
    """The scans of a run on disk, by the set that they belong to."""

    def __init__(self, path: Path):
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows = [json.loads(line) for line in lines]

    def of(self, part: str) -> list[CalibrationScan]:
        """The scans of a set."""
        return [CalibrationScan(**row["scan"]) for row in self.rows if row["part"] == part]

    def add(self, part: str, scan: CalibrationScan) -> None:
        """Append a scan."""
        row = {"part": part, "scan": scan._asdict()}
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def simulate(
    record: Record,
    part: str,
    model: Method,
    images: Mapping[str, list[Tensor]],
    source: Simulation,
    scans: int,
    stream: int,
) -> list[CalibrationScan]:
    """The scans of a set, those of the record and what is missing."""
    done = len(record.of(part))
    missing = simulated_scans(
        model, images, source, scans=scans, seed=0, stream=stream, skip=done, tell=told
    )
    for scan in missing:
        record.add(part, scan)
    return record.of(part)[:scans]


def told(done: int, total: int) -> None:
    """Say how far it is."""
    print(f"\r{done} of {total}", end="", file=sys.stderr)


def line(calibration: Calibration, scans: list[CalibrationScan], name: str) -> str:
    """Coverage, false alarms, and how far the bound is below the PSNR."""
    bounds = [calibration.psnr_bound(s.features) for s in scans]
    given = [(s, b) for s, b in zip(scans, bounds) if b is not None]
    wrong = [s for s, b in given if s.psnr < b.value]
    slack = [s.psnr - b.value for s, b in given]
    assert calibration.psnr is not None
    regardless = [s.psnr >= calibration.psnr.bound(s.features).value for s in scans]
    subjects = len({s.subject for s in scans})
    return (
        f"| {name} | {len(scans)}, {subjects} | {len(scans) - len(wrong)} of {len(scans)} "
        f"({1 - len(wrong) / len(scans):.1%}) | {sum(regardless)} | "
        f"{len(scans) - len(given)} of {len(scans)} | "
        f"{calibration.psnr.margin:.2f} | {np.median(slack):.2f} |"
    )


HEADER = (
    "| test scans | n, subjects | no wrong bound | bound right, flagged scans too | flagged | "
    "margin (dB) | PSNR minus bound, median (dB) |\n|---|---|---|---|---|---|---|"
)


def table(
    known: list[CalibrationScan], test: list[CalibrationScan], rate: float, level: float
) -> Iterator[str]:
    """Coverage of all test scans, and of each kind of mask if the calibration did not see it."""
    yield HEADER
    whole = calibrate(known, false_alarm_rate=rate, level=level)
    yield line(whole, test, "all")
    for kind in sorted({scan.mask for scan in test}):
        own = [s for s in test if s.mask == kind]
        yield line(whole, own, kind)
        try:
            without = calibrate(
                [s for s in known if s.mask != kind], false_alarm_rate=rate, level=level
            )
        except BadInputError as error:
            yield f"| {kind}, not seen by the calibration | {error} | | | | | |"
            continue
        yield line(without, own, f"{kind}, not seen by the calibration")


def real(model: Method, paths: list[Path]) -> Iterator[str]:
    """The bound beside the PSNR of fully sampled scans, undersampled by four masks."""
    for case in scan_cases(paths, 1):
        problem = Problem(case.operator, case.kspace, case.noise_level)
        with torch.no_grad():
            choice = weights_for(problem, model, None)
            solution = solve_slice(problem, model, choice)
        found = compared(model, problem, solution, choice, None)
        bound = "none" if found.psnr_bound is None else f"{found.psnr_bound.value:.1f}"
        yield (
            f"| {case.name} | {float(psnr(solution.value, case.target)):.2f} | {bound} | "
            f"{found.in_range} |"
        )


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--calibration", type=Path, nargs="+", required=True)
    parser.add_argument("--test", type=Path, nargs="+", required=True)
    parser.add_argument("--coils", type=Path)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--scans", type=int, default=154)
    parser.add_argument("--test-scans", type=int, default=60)
    parser.add_argument("--zoom", type=float, nargs=2)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--level", type=float, default=0.95)
    parser.add_argument("--real", type=Path, nargs="*", default=[])
    return parser.parse_args()


def main() -> None:
    """Print the tables."""
    given = options()
    model, origin = load_model(given.model), provenance(given.model)
    zoom: Any = None if given.zoom is None else tuple(given.zoom)
    source = simulation_of(origin, given.coils, zoom)
    record = Record(given.record)
    sets = {
        "calibration": (calibration_images(given.calibration, origin), given.scans, STREAM),
        "test": (by_subject(iter(load_labelled(given.test))), given.test_scans, TEST_STREAM),
    }
    known, test = (
        simulate(record, part, model, images, source, scans, stream)
        for part, (images, scans, stream) in sets.items()
    )
    common = {s.subject for s in known} & {s.subject for s in test}
    if common:
        raise BadInputError(f"calibration and test share the subjects {sorted(common)}")
    for text in table(known, test, given.rate, given.level):
        print(text)
    model.calibration = calibrate(
        known, false_alarm_rate=given.rate, level=given.level, lam=model.usual_lam
    )
    if given.real:
        print("\n| scan | PSNR (dB) | bound (dB) | in range |\n|---|---|---|---|")
    for text in real(model, given.real) if given.real else ():
        print(text)


if __name__ == "__main__":
    main()
