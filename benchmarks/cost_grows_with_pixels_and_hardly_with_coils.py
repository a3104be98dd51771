"""The cost of a reconstruction grows with the number of pixels, and hardly with that of coils.

    python benchmarks/cost_grows_with_pixels_and_hardly_with_coils.py

The trained model reconstructs simulated 4-fold scans of a head, with 64 to 512 pixels per side and
8 coils, and with 4 to 32 coils at 192 pixels. The output is CPU seconds of one thread, the
exponents by least squares on logarithms, and the share of the time that the network takes.
"""

import math
import time

import numpy as np
import torch

from equipoise.formats.sample_head import head_slice
from equipoise.networks.cnn import CNN
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.sampling.masks import make_mask
from equipoise.zoo.model_file import load_model

SIZES, COILS = (64, 128, 192, 256, 384, 512), (4, 8, 16, 32)
FIXED_COILS, FIXED_SIZE, NOISE, ROUNDS = 8, 192, 0.02, 2


class Clock:
    """CPU seconds inside the network."""

    def __init__(self) -> None:
        self.seconds, self.evaluations, forward = 0.0, 0, CNN.forward

        def timed(network: CNN, image: torch.Tensor) -> torch.Tensor:
            started = time.process_time()
            result = forward(network, image)
            self.seconds += time.process_time() - started
            self.evaluations += 1
            return result

        CNN.forward = timed  # type: ignore[method-assign]


def case(model: torch.nn.Module, clock: Clock, size: int, n_coils: int) -> tuple[float, float]:
    """Seconds of a reconstruction, and of its network evaluations; the faster of the rounds."""
    parts = torch.view_as_real(head_slice()).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(parts, (size, size), mode="area")
    image = torch.view_as_complex(resized.permute(0, 2, 3, 1).contiguous())
    csm = biot_savart_maps((size, size), n_coils, 0)
    calibration = max(8, size // 10)
    operator = SenseOp(csm, make_mask("variable-density-2d", (size, size), 4.0, calibration, 0))
    noise = torch.randn(csm.shape, dtype=csm.dtype, generator=torch.Generator().manual_seed(0))
    kspace = operator.forward(image) + NOISE * noise * operator.mask[:, None]
    best = (math.inf, math.inf)
    for _ in range(ROUNDS):
        clock.seconds, clock.evaluations = 0.0, 0
        started = time.process_time()
        with torch.no_grad():
            solution = model.solve(operator, kspace, noise_level=torch.tensor([NOISE]))
        best = min(best, (time.process_time() - started, clock.seconds))
    print(
        f"| {size} | {n_coils} | {int(solution.network_evaluations[0])} | "
        f"{solution.cg_iterations} | {best[0]:.2f} | {best[1] / best[0]:.0%} |",
        flush=True,
    )
    return best


def exponent(x: list[float], y: list[float]) -> float:
    """Slope of log y over log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def main() -> None:
    """Print both sweeps and their exponents."""
    torch.set_num_threads(1)
    model, clock = load_model(), Clock()
    print("| pixels a side | coils | H | CG | CPU s | in H |")
    print("|---|---|---|---|---|---|")
    by_size = [case(model, clock, size, FIXED_COILS)[0] for size in SIZES]
    by_coils = [case(model, clock, FIXED_SIZE, n)[0] for n in COILS]
    print(f"seconds ~ pixels^{exponent([float(s) ** 2 for s in SIZES], by_size):.2f}")
    print(f"seconds ~ coils^{exponent([float(c) for c in COILS], by_coils):.2f}")


if __name__ == "__main__":
    main()
