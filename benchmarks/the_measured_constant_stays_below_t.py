"""The constant that training limits stays below T = 1 - m at the equilibria of images and scans.

    python benchmarks/the_measured_constant_stays_below_t.py --data images.h5 [--model NAME]

For every slice it prints the norm of the Jacobian of H at its equilibrium (for MOL-M, the largest
eigenvalue of its symmetric part), by Lanczos iterations, and whether the solve converged.
"""

import argparse
import sys
from pathlib import Path

import torch

from equipoise.experiments.cases import cases
from equipoise.methods.mol import MOL
from equipoise.outcome import Outcome
from equipoise.vectors import per_sample
from equipoise.zoo.model_file import load_model

STEPS = 25
SHARE = 0.99


def main() -> int:
    """Print the shares; exit code 1 if fewer than 99 % are below T or a slice did not converge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, action="append", help="scans or images")
    parser.add_argument("--model", default="mol-lr-brain-4x")
    parser.add_argument("--seeds", type=int, default=1, help="masks for each slice")
    options = parser.parse_args()
    model = load_model(options.model)
    if not isinstance(model, MOL) or model.real:
        sys.exit(f"{options.model} has no equilibrium of complex images")
    found, converged = [], 0
    for case in cases(options.data or [], acceleration=4.0, seeds=options.seeds):
        with torch.no_grad():
            solution = model.solve(case.operator, case.kspace, noise_level=case.noise_level)
        assert solution.scale is not None
        image = solution.value / per_sample(solution.scale, solution.value).float()
        constant = model.constraint(image, STEPS)
        if constant is None:
            sys.exit(f"{options.model} has no constant that training measures and limits")
        found.append(float(constant.detach()))
        converged += solution.outcome[0] is Outcome.CONVERGED
        print(f"{case.name}, mask {case.seed}: {found[-1]:.4f}, {solution.outcome[0].value}")
    below = sum(value < 1 - model.m_network for value in found)
    print(
        f"{options.model}: {below} of {len(found)} below T = {1 - model.m_network:g}, largest "
        f"{max(found):.4f}; {converged} converged"
    )
    return int(below < SHARE * len(found) or converged < len(found))


if __name__ == "__main__":
    sys.exit(main())
