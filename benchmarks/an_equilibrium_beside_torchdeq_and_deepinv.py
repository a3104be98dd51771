"""What an equilibrium and its gradient cost beside torchdeq and deepinv, at equal true distance.

    pip install torchdeq                      # into the environment of this package
    python -m venv DIR && DIR/bin/pip install deepinv    # needs torchvision: its own environment
    python benchmarks/an_equilibrium_beside_torchdeq_and_deepinv.py --deepinv DIR/bin/python

Every library solves the problem of :mod:`peer_problem`. First the loosest tolerance is found with
which it reaches a true relative distance of at most 1.3e-3 to a reference in double precision. Then
all are timed in turn, in processes that stay alive, so that the load of the machine cancels in
ratios. Libraries that are not installed are left out with a message.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from peer_problem import COILS, LAM, SIZE, M, PeerNetwork, Problem
from peer_worker import RETURN_MEMORY

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.formats.sample_head import head_slice
from equipoise.methods.data_weight import FixedWeight
from equipoise.methods.mol import MOL
from equipoise.networks.proved import convolution_norm_upper
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.sampling.masks import make_mask

TARGET = 1.3e-3
TOLERANCES = [10 ** (-k / 6) for k in range(6, 31)]


def build() -> Problem:
    """The problem, its equilibrium to 1e-8 and the gradient there, in double precision."""
    network = PeerNetwork()
    with torch.no_grad():
        for convolution in network.convolutions:
            convolution.weight /= convolution_norm_upper(convolution.weight)
    csm = biot_savart_maps((SIZE, SIZE), COILS, 0)
    mask = make_mask("variable-density-1d", (SIZE, SIZE), 4.0, 10, 0)
    target = head_slice()[:, ::2, ::2].contiguous()
    operator = SenseOp(csm, mask)
    noise = torch.randn(csm.shape, dtype=csm.dtype, generator=torch.Generator().manual_seed(0))
    kspace = operator.forward(target) + 0.01 * noise * mask[:, None]
    problem = Problem(network, csm, mask, kspace, target)
    exact = MOL(copy.deepcopy(network).double(), FixedWeight(LAM), M)
    solution = exact.solve(
        SenseOp(csm.to(torch.complex128), mask),
        kspace.to(torch.complex128),
        scale=torch.ones(1, dtype=torch.float64),
        options=SolverOptions(rtol=1e-8, max_iter=1000),
    )
    problem.loss(solution.value).backward()
    assert solution.converged, "the reference did not converge"
    assert solution.backward is not None
    assert solution.backward.converged, "the reference gradient did not converge"
    problem.reference = solution.value.detach()
    problem.reference_gradient = [p.grad for p in exact.network.parameters()]
    return problem


class Library:
    """A worker process, and the settings that it is run with."""

    def __init__(self, name: str, python: str, problem: str, settings: dict[str, Any]):
        self.name, self.python, self.problem, self.settings = name, python, problem, settings
        self.records: list[dict[str, float]] = []
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> bool:
        """Whether the library can be run."""
        library = self.name.split()[0].strip(",")
        found = subprocess.run(
            [self.python, "-c", f"import importlib.util as u; assert u.find_spec('{library}')"],
            capture_output=True,
        )
        if found.returncode:
            return False
        worker = Path(__file__).with_name("peer_worker.py")
        self.process = subprocess.Popen(
            [self.python, str(worker), library, self.problem],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **RETURN_MEMORY},
        )
        return True

    def run(self, **settings: Any) -> dict[str, float]:
        """One measurement."""
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({**self.settings, **settings}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} ended; its own message stands above")
        return json.loads(answer)

    def loosest(self, key: str) -> float | None:
        """The loosest tolerance that reaches the target distance, by bisection; None if none."""
        low, high = 0, len(TOLERANCES)
        while low < high:
            middle = (low + high) // 2
            distance = self.run(gradient=False, **{key: TOLERANCES[middle]})["distance"]
            low, high = (low, middle) if distance <= TARGET else (middle + 1, high)
        if low == len(TOLERANCES):
            return None
        self.settings[key] = TOLERANCES[low]
        return TOLERANCES[low]

    def median(self, key: str) -> float:
        """Over the rounds."""
        return statistics.median(record[key] for record in self.records)


def libraries(problem: str, deepinv: str | None) -> list[tuple[Library, str]]:
    """Every library in every variant, with the name of its tolerance."""
    ours = {"rtol": 1e-3, "backward_rtol": 0.05}
    torchdeq = {"backward_tol": 1e-4}
    found = [
        (Library("equipoise", sys.executable, problem, {**ours, "rough": 0}), "rtol"),
        (Library("equipoise, 6 rough", sys.executable, problem, {**ours, "rough": 6}), "rtol"),
        *(
            (Library(f"torchdeq {s}", sys.executable, problem, {**torchdeq, "solver": s}), "tol")
            for s in ("fixed_point_iter", "anderson")
        ),
    ]
    if deepinv:
        histories = {
            "Picard": None,
            "Anderson": {"history_size": 5, "beta": 1.0, "eps": 1e-4},
            "Anderson, ridge 1e-8": {"history_size": 5, "beta": 1.0, "eps": 1e-8},
        }
        for label, history in histories.items():
            settings = {"anderson": history, "cg_tol": 1e-6, "backward_tol": 1e-4}
            found.append((Library(f"deepinv {label}", deepinv, problem, settings), "tol"))
    return found


def table(entries: list[Library]) -> None:
    """Print the medians of all rounds."""
    columns = {
        "H fwd": ("evaluations", "{:.0f}"),
        "true distance": ("distance", "{:.1e}"),
        "CPU s fwd": ("alone", "{:.2f}"),
        "fwd+bwd": ("seconds", "{:.2f}"),
        "J^T bwd": ("products", "{:.0f}"),
        "gradient error": ("gradient_error", "{:.2%}"),
        "saved MB": ("saved_mb", "{:.2f}"),
        "peak MB": ("peak_mb", "{:.0f}"),
    }
    print("| | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for entry in entries:
        cells = [form.format(entry.median(key)) for key, form in columns.values()]
        print(f"| {entry.name} | " + " | ".join(cells) + " |")


def main() -> None:
    """Calibrate, time in turn, print the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deepinv", help="python of an environment that has deepinv")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "problem.pt")
        build().save(path)
        entries = []
        for entry, key in libraries(path, options.deepinv):
            if not entry.start():
                print(f"{entry.name}: not installed, left out")
            elif entry.loosest(key) is None:
                print(f"{entry.name}: no tolerance reaches {TARGET:g}")
            else:
                print(f"{entry.name}: {key} = {entry.settings[key]:.1e}", flush=True)
                entries.append(entry)
        ours = entries[0]
        certified, halved = [], []
        for _ in range(options.rounds):
            for entry in entries:
                alone = entry.run(gradient=False)
                entry.records.append({**entry.run(gradient=True), "alone": alone["seconds"]})
                print(f"{entry.name}: {entry.records[-1]['seconds']:.1f} s", file=sys.stderr)
            certified.append(ours.run(gradient=False, rtol=TARGET))
            halved.append(ours.run(gradient=True, rtol=ours.settings["rtol"] / 2))
    table(entries)
    for own in entries[:2]:
        for peer in dict.fromkeys(e.name.split()[0] for e in entries[2:]):
            for key, label in (("alone", "forward"), ("seconds", "forward and backward")):
                theirs = [e for e in entries if e.name.startswith(peer)]
                best = min(theirs, key=lambda e: e.median(key))
                ratio = own.median(key) / best.median(key)
                print(f"{own.name}, {label}: {ratio:.2f} of the CPU time of {best.name}")
    both = statistics.median(h["seconds"] for h in halved)
    print(
        f"equipoise at half its tolerance: {halved[0]['evaluations']:.0f} and "
        f"{halved[0]['products']:.0f} evaluations, {both:.2f} s forward and backward, true "
        f"distance {halved[0]['distance']:.1e}, gradient error {halved[0]['gradient_error']:.2%}"
    )
    one = statistics.median(c["seconds"] for c in certified)
    print(
        f"certified to {TARGET:g}: {certified[0]['evaluations']:.0f} evaluations, {one:.2f} s, "
        f"bound {certified[0]['certified']:.1e}, true distance {certified[0]['distance']:.1e}, "
        f"ratio {certified[0]['certified'] / certified[0]['distance']:.0f}"
    )


if __name__ == "__main__":
    main()
