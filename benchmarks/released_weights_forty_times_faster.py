"""The released weights reach their equilibrium forty times faster than in the authors' code.

    git clone https://github.com/anikpram/Monotone-Operator-Learning DIR
    python benchmarks/released_weights_forty_times_faster.py --authors-code DIR

The scan has a matrix of 256 x 240 and 12 coils, 6-fold undersampled. The authors' step (alpha =
0.01, five steps of conjugate gradients) and network start from their SENSE image and run until the
*true* relative distance to the equilibrium of their own equation is 1e-3. Their solver has 1.001 I,
hence F + 0.1 x (``shift=0.1`` here). The point where their own rule would have stopped is reported
too. This package then solves for the same equilibrium, to the same true distance. The reference is
solved in double precision to a proved 1e-6.
"""

import argparse
import copy
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.formats.sample_head import head_slice
from equipoise.methods.mol import MOL
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.sampling.masks import make_mask
from equipoise.zoo.authors import import_authors_checkpoint

CHECKPOINT = "Models/UIHC_brain_360_Slices_MOL/model_best_trn.pth.tar"
SHAPE, COILS, ACCELERATION, NOISE = (256, 240), 12, 6.0, 0.005
TARGET = 1e-3
THEIR_RULE, THEIR_ALPHA, THEIR_START_LAM = 1e-4, 0.01, 100
CHECK_EVERY = 10
ONE = torch.ones(1, dtype=torch.float64)


class Authors:
    """Their blocks, imported from their code as it is."""

    def __init__(self, folder: Path):
        sys.path.insert(0, str(folder))
        from Sense import sense  # type: ignore[import-not-found]
        from solver_blocks import fwdbwdBlock  # type: ignore[import-not-found]

        self.first = sense(50)
        self.block = fwdbwdBlock(sense(5), 100, 1, 64, 1, 5, spectral_norm=False)
        self.block.alpha = torch.tensor(THEIR_ALPHA)
        state = torch.load(folder / CHECKPOINT, "cpu", weights_only=True)["state_dict"]
        own = {k.removeprefix("f."): v for k, v in state.items() if k.startswith("f.")}
        self.block.load_state_dict(own, strict=False)

    def iterates(self, kspace: Tensor, csm: Tensor, mask: Tensor) -> Iterator[Tensor]:
        """Their SENSE image, then every iterate."""
        mask = mask[:, None].to(kspace.dtype)
        adjoint_image = self.first.adjoint(kspace, csm)
        start = torch.zeros_like(adjoint_image)
        rhs = THEIR_START_LAM * adjoint_image
        x = self.first.inv(start, rhs, THEIR_START_LAM, csm, mask)
        yield x
        while True:
            x = self.block(x, adjoint_image, csm, mask)
            yield x


def theirs(authors: Authors, kspace: Tensor, operator: SenseOp, reference: Tensor) -> float:
    """CPU seconds of their iteration to the target; the checks are not counted."""
    seconds, stopped, last = 0.0, False, None
    iterates = authors.iterates(kspace, operator.csm, operator.mask)
    for n in range(10_000):
        started = time.process_time()
        with torch.no_grad():
            x = next(iterates)[:, 0]
        seconds += time.process_time() - started
        step = 1.0 if last is None else float((x - last).norm() / last.norm())
        if step < THEIR_RULE and not stopped:
            stopped = True
            print(
                f"  their rule: {n} iterations, {distance(x, reference):.1e} away, {seconds:.1f} s"
            )
        if n % CHECK_EVERY == 0 and distance(x, reference) <= TARGET:
            print(
                f"  their code: {n} iterations, {distance(x, reference):.1e} away, {seconds:.1f} s"
            )
            return seconds
        last = x
    raise RuntimeError("their iteration did not reach the target in 10 000 steps")


def distance(x: Tensor, reference: Tensor) -> float:
    """``||x - x*|| / ||x*||``."""
    return float((x.to(reference.dtype) - reference).norm() / reference.norm())


def ours(model: MOL, operator: SenseOp, kspace: Tensor, rtol: float) -> tuple[float, Tensor, int]:
    """CPU seconds, image and network evaluations."""
    started = time.process_time()
    with torch.no_grad():
        solution = model.solve(
            operator, kspace, scale=ONE, options=SolverOptions(rtol=rtol, max_iter=300)
        )
    seconds = time.process_time() - started
    evaluations = int(solution.network_evaluations[0])
    print(
        f"  equipoise, rtol {rtol:g}: {evaluations} evaluations, {solution.cg_iterations} CG, "
        f"{seconds:.2f} s, bound {float(solution.distance_bound[0]):.1e}"
    )
    return seconds, solution.value, evaluations


def main() -> None:
    """One run: theirs, with ours before and after, so that the load of the machine shows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--authors-code", type=Path, required=True)
    folder = parser.parse_args().authors_code
    torch.set_num_threads(1)
    model = import_authors_checkpoint(folder / CHECKPOINT, shift=0.1)
    csm = biot_savart_maps(SHAPE, COILS, 0)
    operator = SenseOp(csm, make_mask("variable-density-2d", SHAPE, ACCELERATION, 24, 0))
    image = head_slice()[..., : SHAPE[1]].contiguous()
    noise = torch.randn(csm.shape, dtype=csm.dtype, generator=torch.Generator().manual_seed(0))
    kspace = operator.forward(image) + NOISE * noise * operator.mask[:, None]
    double = SenseOp(csm.to(torch.complex128), operator.mask)
    with torch.no_grad():
        exact = (
            copy.deepcopy(model)
            .double()
            .solve(
                double,
                kspace.to(torch.complex128),
                scale=ONE,
                options=SolverOptions(rtol=1e-6, max_iter=500),
            )
        )
    print(f"reference: {exact.outcome[0].value}, bound {float(exact.distance_bound[0]):.1e}")
    for rtol in [10 ** (-k / 4) for k in range(7, 13)]:
        _, value, _ = ours(model, operator, kspace, rtol)
        if distance(value, exact.value) <= TARGET:
            break
    print(f"  true distance {distance(value, exact.value):.1e} at rtol {rtol:g}")
    before, _, evaluations = ours(model, operator, kspace, rtol)
    slow = theirs(Authors(folder), kspace, operator, exact.value)
    after, _, _ = ours(model, operator, kspace, rtol)
    certified, value, count = ours(model, operator, kspace, TARGET)
    seconds = (before + after) / 2
    print(f"to a true {TARGET:g}: {slow / seconds:.0f} times faster, {evaluations} evaluations")
    print(
        f"to a bound of {TARGET:g}: {slow / certified:.0f} times faster, {count} evaluations, "
        f"true distance {distance(value, exact.value):.1e}"
    )


if __name__ == "__main__":
    main()
