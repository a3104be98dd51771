"""What lam by prediction gains, loses and costs, relative to the rule, on fully sampled scans.

    python benchmarks/weights_by_prediction_beside_the_rule.py scan.h5 other.h5 --grid

The central slice of every scan is undersampled retrospectively by four masks. Coil maps and noise
level are estimated from what is left, and the target is the image of all samples. Each line gives
the PSNR by the rule and by prediction and the network evaluations of both. ``--grid`` adds the best
of nine pairs of lam and threshold scale, factors 1 / sqrt(10), 1 and sqrt(10) of the rule, chosen
with the target. The exit code is 1 if prediction loses more than 0.2 dB to the rule in any case.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from equipoise.formats import as_slices, read
from equipoise.formats.acquisition import Acquisition
from equipoise.methods.method import Method
from equipoise.methods.prediction import STEP, Choice, choose_weights
from equipoise.methods.solving import solve_slice
from equipoise.metrics import psnr
from equipoise.recon.experiment import undersample
from equipoise.recon.problems import ScanProblem, slice_problem, target_of
from equipoise.zoo.model_file import load_model

MASKS = (
    ("variable-density-2d", 4.0),
    ("poisson-disc", 6.0),
    ("variable-density-1d", 4.0),
    ("uniform", 4.0),
)
MODELS = ["mol-ridge-universal", "mol-guided-sharp"]
LARGEST_LOSS = 0.2
GRID_RTOL = 3e-3


def cases(path: Path, seed: int) -> Iterator[tuple[str, ScanProblem, torch.Tensor]]:
    """The central slice with every mask: its name, its problem and its target."""
    full = central(as_slices(read(path)))
    for kind, acceleration in MASKS:
        reduced = undersample(full, acceleration, seed, kind)
        problem = slice_problem(reduced, 0)
        target = target_of(reduced, full, problem.operator.csm, 0, problem.unit)
        assert target is not None
        yield f"{path.stem} {kind} {acceleration:g}-fold", problem, target


def central(scan: Acquisition) -> Acquisition:
    """The slice in the middle of a stack."""
    index = len(scan.kspace) // 2
    mask = scan.mask if len(scan.mask) == 1 else scan.mask[index : index + 1]
    return scan.with_kspace(scan.kspace[index : index + 1], mask)


def quality(
    problem: ScanProblem, model: Method, target: torch.Tensor, choice: Choice | None
) -> tuple[float, int]:
    """PSNR and network evaluations of one reconstruction."""
    solution = solve_slice(problem, model, choice)
    return float(psnr(solution.value, target)), int(solution.network_evaluations[0])


def best_of_grid(problem: ScanProblem, model: Method, target: torch.Tensor) -> float:
    """The best PSNR of nine pairs of weights around the rule."""
    scale = problem.operator.intensity_scale(problem.data).double()
    rule = model.rule(problem.operator, problem.noise_level.double() / scale)
    found: list[float] = []
    start: torch.Tensor | None = None
    for steps in product((-1, 0, 1), repeat=len(rule)):
        weights: dict[str, Any] = {"start": start}
        weights |= {k: float(v) * STEP**s for (k, v), s in zip(rule.items(), steps)}
        solution = model.solve(
            problem.operator,
            problem.data,
            noise_level=problem.noise_level,
            options=replace(model.options, rtol=GRID_RTOL, exact=False),
            **weights,
        )
        start = solution.value
        found.append(float(psnr(start, target)))
    return max(found)


@torch.no_grad()
def main() -> int:
    """Print one line a case and model, and the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grid", action="store_true")
    given = parser.parse_args()
    gains, ratios = [], []
    for name, model in ((n, load_model(n)) for n in given.models):
        for case, problem, target in (c for path in given.scans for c in cases(path, given.seed)):
            by_rule, cost = quality(problem, model, target, None)
            choice = choose_weights(problem, model)
            kept = choice.follows_rule
            chosen, last = (by_rule, cost) if kept else quality(problem, model, target, choice)
            gains.append(chosen - by_rule)
            ratios.append((choice.evaluations + last) / cost)
            best = (
                f", best of grid {best_of_grid(problem, model, target):.2f}" if given.grid else ""
            )
            print(
                f"{name} {case}: rule {by_rule:.2f} dB ({cost}), auto {chosen:.2f} dB "
                f"({choice.evaluations} + {last}){best}; {choice.reason}",
                flush=True,
            )
    print(
        f"gain {sum(gains) / len(gains):+.2f} dB in the mean, {min(gains):+.2f} at worst; "
        f"evaluations of trials and solve over those of the rule: at most {max(ratios):.1f}"
    )
    return int(min(gains) < -LARGEST_LOSS)


if __name__ == "__main__":
    sys.exit(main())
