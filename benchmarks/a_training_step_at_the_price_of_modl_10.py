"""A training step of MOL costs at most 1.5 times that of MoDL with 10 iterations, in less memory.

    python benchmarks/a_training_step_at_the_price_of_modl_10.py

One step computes the loss and its gradient for the weights and lam, on one 160 x 160 image with 8
coils, 4-fold, with the tolerances of the end of training. Both methods have the same CNN. Its
weights are trained, so that the numbers of iterations are those of real training; MoDL always takes
ten steps. The last columns add the measured Lipschitz constant and its gradient, as often as
training computes them; MoDL has none. Every measurement is a new process, which gives its peak
memory, and the methods take turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import torch
from peer_worker import RETURN_MEMORY, peak, reset_peak

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.formats.sample_head import head_slice
from equipoise.methods.registry import new_method
from equipoise.methods.unrolled import ModlConfig
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.sampling.masks import make_mask
from equipoise.training.config import TrainConfig
from equipoise.zoo.model_file import load_model

SIZE, COILS, NOISE = 160, 8, 0.02
VARIANTS = ("modl", "mol-lr", "mol-lr, rough 2", "mol-lr, tile 80, recomputed")
WARM_UP = 2


def one_step(variant: str) -> dict[str, float]:
    """CPU seconds and memory of the last of a few steps, in this process."""
    torch.set_num_threads(1)
    name = variant.split(",")[0]
    model = load_model("mol-lr-brain-4x")
    if name == "modl":
        model = new_method(ModlConfig())
        model.network.load_state_dict(load_model("modl-brain-4x").network.state_dict())
    offset = (256 - SIZE) // 2
    target = head_slice()[:, offset : offset + SIZE, offset : offset + SIZE].contiguous()
    csm = biot_savart_maps((SIZE, SIZE), COILS, 0)
    operator = SenseOp(csm, make_mask("variable-density-2d", (SIZE, SIZE), 4.0, 24, 0))
    noise = torch.randn(csm.shape, dtype=csm.dtype, generator=torch.Generator().manual_seed(0))
    kspace = operator.forward(target) + NOISE * noise * operator.mask[:, None]
    level = torch.tensor([NOISE])
    rtol = TrainConfig.model_fields["rtol"].get_default()[1]
    options = SolverOptions(
        rtol=rtol,
        max_iter=40,
        rough=2 * variant.endswith("rough 2"),
        tile=80 if "tile" in variant else None,
        recompute="recomputed" in variant,
    )
    backward_rtol = TrainConfig.model_fields["backward_rtol"].get_default()
    result: dict[str, float] = {}
    for _ in range(WARM_UP + 1):
        model.zero_grad(set_to_none=True)
        before = reset_peak()
        started = time.process_time()
        solution = model.solve(
            operator, kspace, noise_level=level, options=options, backward_rtol=backward_rtol
        )
        (solution.value - target).abs().square().mean().log().backward()
        result = {"seconds": time.process_time() - started, "peak": peak() - before}
    result["evaluations"] = float(solution.network_evaluations[0])
    backward = solution.backward
    result["products"] = float(backward.network_evaluations[0]) if backward else 10.0
    settings = TrainConfig.model_fields["lipschitz"].get_default()
    started = time.process_time()
    constraint = model.constraint(target, settings.steps)
    if constraint is not None:
        constraint.sum().backward()
    result["whole"] = result["seconds"] + (time.process_time() - started) / settings.every
    return result


def main() -> None:
    """Alternate the variants in fresh processes and print the ratios to MoDL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(one_step(arguments.variant)))
        return
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(arguments.rounds):
        for variant, results in found.items():
            done = subprocess.run(
                [sys.executable, __file__, "--variant", variant],
                check=True,
                capture_output=True,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", **RETURN_MEMORY},
            )
            results.append(json.loads(done.stdout))
    print("| | H | J^T | CPU s | to MoDL | peak MB | to MoDL | with constraint s | to MoDL |")
    print("|---|---|---|---|---|---|---|---|---|")
    base = {
        key: statistics.median(r[key] for r in found["modl"])
        for key in ("seconds", "peak", "whole")
    }
    for variant, results in found.items():
        median = {key: statistics.median(r[key] for r in results) for key in results[0]}
        print(
            f"| {variant} | {median['evaluations']:.0f} | {median['products']:.0f} | "
            f"{median['seconds']:.2f} | {median['seconds'] / base['seconds']:.2f} | "
            f"{median['peak']:.0f} | {median['peak'] / base['peak']:.2f} | "
            f"{median['whole']:.2f} | {median['whole'] / base['whole']:.2f} |"
        )


if __name__ == "__main__":
    main()
