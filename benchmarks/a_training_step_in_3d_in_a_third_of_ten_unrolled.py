"""A training step in 3D: flat in the iterations, and at most a third of the memory of ten unrolled.

    python benchmarks/a_training_step_in_3d_in_a_third_of_ten_unrolled.py

One step computes a loss and its gradient for the weights of `mol-ridge-3d`, with the network of the
preset `volume`, on a crop (z, y, x) with 4 coils, 8-fold. The step size of the equilibrium is so
small that it takes every iteration that it may. The unrolled method has the same network and the
same update with step size 1, ``x <- (I + lam A^H A)^-1 (H(x) + lam A^H b)``, ten times, whose
gradient goes through all evaluations of H. The least squares of its update are differentiated
implicitly, so that only H costs it memory. Every measurement is a new process. Memory is the growth
of the peak during the step; freed memory returns to the system at once.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import torch
from peer_worker import RETURN_MEMORY, peak, reset_peak

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.feed_forward import data_consistency
from equipoise.methods.mol_ridge_3d import MolRidge3D, MolRidge3DConfig
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.sampling.dynamic import volume_mask
from equipoise.zoo.model_file import load_model

COILS, NOISE, LAM, UNROLLED, SMALL_STEP = 4, 0.02, 10.0, 10, 0.02
ITERATIONS = (10, 50, 200)
LIMIT, FLAT = 1 / 3, 0.05
"""Largest ratio to ten unrolled iterations, and largest growth from 10 to 200 iterations."""


def problem(shape: tuple[int, ...]) -> tuple[SenseOp, torch.Tensor]:
    """A, and k-space with noise of an ellipsoid."""
    csm = biot_savart_maps(shape[1:], COILS, 0)[:, :, None].expand(-1, -1, shape[0], -1, -1)
    mask = volume_mask(shape, 8.0, 8, seed=0)
    operator = SenseOp(csm.contiguous(), mask)
    axes = torch.meshgrid(*(torch.linspace(-1.2, 1.2, n) for n in shape), indexing="ij")
    target = (sum(a.square() for a in axes) < 1)[None].to(csm.dtype)
    data = operator.forward(target)
    noise = torch.randn(data.shape, dtype=data.dtype, generator=torch.Generator().manual_seed(0))
    return operator, data + NOISE * noise * operator.mask[:, None]


def unrolled(model: MolRidge3D, operator: SenseOp, data: torch.Tensor) -> torch.Tensor:
    """Ten updates, with a gradient through each."""
    lam = torch.tensor([LAM], dtype=torch.float64)
    constant = LAM * operator.adjoint(data)
    network = model.network.at(torch.tensor([NOISE]))
    x = data_consistency(operator, constant, lam)
    for _ in range(UNROLLED):
        x = data_consistency(operator, network(x) + constant, lam, x)
    return x


def equilibrium(
    model: MolRidge3D, operator: SenseOp, data: torch.Tensor, iterations: int
) -> torch.Tensor:
    """The image after some iterations, with the gradient of the equilibrium."""
    options = SolverOptions(
        method="picard", rtol=1e-12, max_iter=iterations, alpha=SMALL_STEP, exact=False
    )
    level = torch.tensor([NOISE])
    solution = model.solve(
        operator, data, noise_level=level, lam=LAM, scale=1.0, threshold=NOISE, options=options
    )
    return solution.value


def one_step(iterations: int, shape: tuple[int, ...]) -> dict[str, float]:
    """Peak memory in MB and CPU seconds of one step in this process; 0 iterations are unrolled."""
    torch.set_num_threads(1)
    config = MolRidge3DConfig.model_validate({"network": {"axis": "z", "across": 10}})
    model = MolRidge3D.after(load_model("mol-ridge-universal"), config)
    operator, data = problem(shape)
    before, started = reset_peak(), time.process_time()
    if iterations:
        image = equilibrium(model, operator, data, iterations)
    else:
        image = unrolled(model, operator, data)
    image.abs().square().mean().backward()
    return {"peak_mb": peak() - before, "seconds": time.process_time() - started}


def measured(iterations: int, shape: list[int]) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--step", str(iterations), "--shape", *map(str, shape)]
    environment = {**os.environ, **RETURN_MEMORY}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout))


def main() -> int:
    """Measure all steps, and compare them; 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=[16, 32, 32])
    parser.add_argument("--step", type=int)
    given = parser.parse_args()
    if given.step is not None:
        print(json.dumps(one_step(given.step, tuple(given.shape))))
        return 0
    print(f"a crop of {' x '.join(map(str, given.shape))} voxels, {COILS} coils")
    peaks = {}
    for iterations in (*ITERATIONS, 0):
        found = measured(iterations, given.shape)
        peaks[iterations] = found["peak_mb"]
        name = f"{iterations} iterations" if iterations else f"{UNROLLED} unrolled"
        text = f"{name:>15}: {found['peak_mb']:6.1f} MB, {found['seconds']:5.1f} s of CPU"
        print(text, flush=True)
    steps = [peaks[n] for n in ITERATIONS]
    ratio, growth = max(steps) / peaks[0], max(steps) / min(steps) - 1
    print(f"largest step / unrolled: {ratio:.2f} (limit {LIMIT:.2f}); growth: {growth:.1%}")
    return 0 if ratio <= LIMIT and growth <= FLAT else 1


if __name__ == "__main__":
    sys.exit(main())
