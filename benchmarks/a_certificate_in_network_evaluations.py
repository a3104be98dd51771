"""How long a certificate takes, in evaluations of the network that are timed in the same run.

    python benchmarks/a_certificate_in_network_evaluations.py scan.h5 --acceleration 4
    python benchmarks/a_certificate_in_network_evaluations.py scan.h5 --acceleration 4 --quick

The certificate is that of ``equipoise certify --noise-map --worst-case 0.01`` for the first slice.
CPU seconds of one thread are divided by those of one evaluation of H at the image, the median of
evaluations before and after each certificate, so that other work on the machine changes both. The
certificate is made ``--rounds`` times, and the median is reported, with what each stage counted and
measured.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from equipoise.certificate.certify import certify_slice
from equipoise.certificate.effort import QUICK, Effort
from equipoise.certificate.linear_response import in_units_of_the_network
from equipoise.certificate.record import Certificate
from equipoise.cli.options import parse_lam
from equipoise.methods.mol import MOL
from equipoise.methods.solving import solve_slice
from equipoise.recon.experiment import load_experiment
from equipoise.recon.problems import slice_problem
from equipoise.zoo.model_file import load_model

TIMED = 5


def seconds_of(network: torch.nn.Module, image: torch.Tensor) -> list[float]:
    """CPU seconds of single evaluations."""
    found = []
    for _ in range(TIMED):
        started = time.process_time()
        network(image)
        found.append(time.process_time() - started)
    return found


def told(certificate: Certificate) -> None:
    """What was measured, with its accuracy."""
    noise, attack = certificate.noise, certificate.attack
    assert noise is not None
    assert attack is not None
    print(f"noise: {noise.median:.3g} +- {noise.median_error:.2g}, missing {noise.missing:.1%}")
    print(f"attack: {certificate.measured_amplification:.3f} +- {attack.error:.2g}, random noise ")
    print(f"    {certificate.random_amplification:.3f}; distance {certificate.distance_bound:.2e}")


def main() -> None:
    """Print the time of the certificate and of its stages in evaluations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--acceleration", type=float)
    parser.add_argument("--model")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--lam", help="auto, rule or a number instead of what the command takes")
    parser.add_argument("--last-step", type=float, help="instead of that of the effort")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    effort = QUICK if options.quick else Effort()
    if options.last_step is not None:
        effort = replace(effort, last_step=options.last_step)
    model = load_model(options.model) if options.model else load_model()
    if not isinstance(model, MOL):
        parser.error("the model has no equilibrium")
    experiment = load_experiment(options.scan, acceleration=options.acceleration)
    problem = slice_problem(experiment.acquisition, 0)
    with torch.no_grad():
        lam = parse_lam(options.lam) or ("rule" if options.quick else None)
        solution = solve_slice(problem, model)
        image = in_units_of_the_network(solution)
        network = model.network_on(problem.operator.support(), None, solution.network)
        ratios, units = [], []
        for _ in range(options.rounds):
            single = seconds_of(network, image)
            started = time.process_time()
            found = certify_slice(
                problem, model, lam=lam, noise_map=True, epsilon=0.01, effort=effort
            )
            spent = time.process_time() - started
            units.append(median(single + seconds_of(network, image)))
            ratios.append(spent / units[-1])
    certificate = found.certificate
    print(f"{certificate.model}, {tuple(image.shape[1:])}, {problem.data.shape[1]} coils")
    print(f"one evaluation: {1e3 * median(units):.0f} ms")
    print(f"certificate: the time of {median(ratios):.0f} evaluations", end=" ")
    print(f"({', '.join(f'{ratio:.0f}' for ratio in ratios)})")
    seconds = sum(stage.seconds for stage in certificate.stages.values())
    for name, stage in certificate.stages.items():
        share = stage.seconds / seconds
        print(f"    {name}: {stage.evaluations} evaluations, {share:.0%} of the time")
    told(certificate)


if __name__ == "__main__":
    main()
