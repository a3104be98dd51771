"""How much of ``equipoise recon`` is network evaluations, and what the rest is.

    python benchmarks/recon_is_mostly_network_evaluations.py scan.h5
    python benchmarks/recon_is_mostly_network_evaluations.py scan.h5 --acceleration 4

It prints CPU seconds of one thread for the network alone (its evaluations are timed inside the
run), for the solve, for the problem (coil maps, noise level), and for the whole reconstruction,
which for a fully sampled scan ends with the comparison with SENSE at seventeen weights. It also
runs the command as a process, which adds starting Python, importing torch and writing the file. The
second of two passes is reported.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from equipoise.methods.solving import solve_slice
from equipoise.networks.cnn import CNN
from equipoise.recon.experiment import load_experiment
from equipoise.recon.problems import slice_problem
from equipoise.recon.reconstruct import reconstruct
from equipoise.zoo.model_file import load_model

network_seconds: list[float] = []


def time_the_network() -> None:
    """Record the CPU seconds of every evaluation."""
    forward = CNN.forward

    def timed(network: CNN, image: torch.Tensor) -> torch.Tensor:
        started = time.process_time()
        result = forward(network, image)
        network_seconds.append(time.process_time() - started)
        return result

    CNN.forward = timed  # type: ignore[method-assign]


def command_seconds(scan: Path, acceleration: float | None) -> float:
    """CPU seconds of the command as a process, its imports included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        undersample = [] if acceleration is None else ["--acceleration", str(acceleration)]
        output = str(Path(folder) / "image.h5")
        subprocess.run(
            [sys.executable, "-m", "equipoise", "recon", str(scan), "-o", output, *undersample],
            check=True,
            capture_output=True,
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print each part and its ratio to the network evaluations alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--acceleration", type=float)
    options = parser.parse_args()
    torch.set_num_threads(1)
    time_the_network()
    model = load_model()
    experiment = load_experiment(options.scan, acceleration=options.acceleration)
    acquisition = experiment.acquisition
    parts: dict[str, float] = {}
    for _ in range(2):
        network_seconds.clear()
        clock = [time.process_time()]
        problems = [slice_problem(acquisition, i) for i in range(len(acquisition.kspace))]
        clock.append(time.process_time())
        with torch.no_grad():
            solutions = [solve_slice(problem, model) for problem in problems]
        clock.append(time.process_time())
        alone = sum(network_seconds)
        reconstruct(acquisition, model)
        clock.append(time.process_time())
        reconstruct(acquisition, model, full=experiment.full)
        clock.append(time.process_time())
        parts = {
            "network alone": alone,
            "solve": clock[2] - clock[1],
            "coil maps, noise level": clock[1] - clock[0],
            "reconstruction": clock[3] - clock[2],
            "with the comparison with SENSE": clock[4] - clock[3],
        }
    parts["the command"] = command_seconds(options.scan, options.acceleration)
    evaluations = sum(int(s.network_evaluations[0]) for s in solutions)
    print(f"{evaluations} network evaluations, {sum(s.cg_iterations for s in solutions)} CG")
    for name, seconds in parts.items():
        print(f"| {name} | {seconds:.2f} | {seconds / parts['network alone']:.2f} |")


if __name__ == "__main__":
    main()
