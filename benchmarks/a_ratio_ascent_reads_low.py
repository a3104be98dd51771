"""An ascent on ||H(x + d) - H(x)|| / ||d|| underestimates the Lipschitz constant; Lanczos does not.

    python benchmarks/a_ratio_ascent_reads_low.py [--model mol-lr-brain-4x] [--scan scan.h5]

At the image of a slice (the head of the demo, if no scan is given), it compares the ratio after
ascents from noise with ||d|| = 2 % of ||x||, as the MOL paper measures it, with the norm of the
Jacobian by Lanczos iterations on J^T J. A step of either costs about three network evaluations.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from equipoise.methods.mol import MOL
from equipoise.methods.solving import solve_slice
from equipoise.networks.measured import lipschitz_lower
from equipoise.recon.demo import simulate_scan
from equipoise.recon.experiment import load_experiment
from equipoise.recon.problems import slice_problem
from equipoise.vectors import norm
from equipoise.zoo.model_file import load_model

RADIUS = 0.02
STEPS = (5, 10, 20, 40)


def ratio_ascent(model: MOL, image: Tensor, steps: int) -> float:
    """The largest ratio on the way of d <- r g / ||g||, g the gradient of the movement of H."""
    length = RADIUS * norm(image)
    d = torch.randn(image.shape, dtype=image.dtype, generator=torch.Generator().manual_seed(0))
    still = model.network(image).detach()
    largest = 0.0
    for _ in range(steps):
        d = (d * (length / norm(d)).float()).detach().requires_grad_()
        moved = norm(model.network(image + d) - still)
        largest = max(largest, float((moved / length).detach()))
        (d,) = torch.autograd.grad(moved.sum(), d)
    return largest


def main() -> None:
    """Print both estimates against the number of steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mol-lr-brain-4x")
    parser.add_argument("--scan", type=Path)
    options = parser.parse_args()
    model = load_model(options.model)
    with tempfile.TemporaryDirectory() as folder:
        scan = options.scan or Path(folder) / "scan.h5"
        if options.scan is None:
            simulate_scan(scan)
        acquisition = load_experiment(scan, acceleration=4.0 if options.scan else None).acquisition
    problem = slice_problem(acquisition, 0)
    with torch.no_grad():
        solution = solve_slice(problem, model)
    image = solution.value / solution.scale.float()
    print("steps  ratio ascent  Lanczos")
    for steps in STEPS:
        lanczos = float(lipschitz_lower(model.network, image, steps=steps).detach())
        print(f"{steps:5d}  {ratio_ascent(model, image, steps):12.3f}  {lanczos:7.3f}", flush=True)


if __name__ == "__main__":
    main()
