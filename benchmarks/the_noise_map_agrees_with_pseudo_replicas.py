"""The noise map of the linearised equilibrium agrees with that of repeated reconstructions.

    python benchmarks/the_noise_map_agrees_with_pseudo_replicas.py scan.h5 [--acceleration 4]

A replica is the scan with new noise of its own level, reconstructed at the same lam, intensity
scale and coil maps from the same first iterate. The standard deviation of the replicas is compared
with the map of ``equipoise certify --noise-map``, over the object. Both use the same realisations
of the noise, so that only the linearisation is tested. With ``--independent`` each has its own, and
the errors of the two finite samples, 3.5 % of a pixel each at 200, lower the correlation.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

from equipoise.certificate.noise import agreement
from equipoise.certificate.noise_map import replica_noise_map, slice_noise_map
from equipoise.methods.solving import solve_slice
from equipoise.physics.linop import percentile
from equipoise.recon.experiment import load_experiment
from equipoise.recon.problems import slice_problem
from equipoise.zoo.model_file import load_model

OBJECT = 0.05
"""The object is where the image exceeds this share of its 99th percentile."""


def main() -> int:
    """Print correlation and ratio; exit code 1 outside of 0.95 and 1 +- 0.05."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--model", default="mol-lr-brain-4x")
    parser.add_argument("--acceleration", type=float)
    parser.add_argument("--probes", type=int, default=200)
    parser.add_argument("--replicas", type=int, default=200)
    parser.add_argument("--independent", action="store_true", help="own noise for the replicas")
    options = parser.parse_args()
    model = load_model(options.model)
    acquisition = load_experiment(options.scan, acceleration=options.acceleration).acquisition
    problem = slice_problem(acquisition, len(acquisition.kspace) // 2)
    with torch.no_grad():
        solution = solve_slice(problem, model)
    started = time.perf_counter()
    linear = slice_noise_map(problem, model, solution, probes=options.probes)
    linear_seconds = time.perf_counter() - started

    started = time.perf_counter()
    replicas = replica_noise_map(
        problem, model, solution, probes=options.replicas, seed=int(options.independent)
    )
    seconds = time.perf_counter() - started
    magnitude = solution.value.abs()
    inside = magnitude[0] > OBJECT * percentile(magnitude, 0.99)[0]
    found = agreement(linear.std, replicas.std, inside)
    print(
        f"{options.scan.name}, {options.model}, {options.probes} probes and "
        f"{options.replicas} replicas: correlation {found.correlation:.3f}, ratio of means "
        f"{found.ratio:.3f}, {linear_seconds:.0f} s and {seconds:.0f} s"
    )
    return int(not (found.correlation > 0.95 and abs(found.ratio - 1) < 0.05))


if __name__ == "__main__":
    sys.exit(main())
