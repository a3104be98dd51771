"""One equilibrium code on the problem of :mod:`peer_problem`, in its own process.

``peer_worker.py LIBRARY PROBLEM`` reads one JSON object per line, the settings of a run, and
answers each with one JSON object: distance to the equilibrium, network evaluations, CPU seconds,
memory. Every library can thus run in the environment that it needs, and runs can be interleaved.
"""

import contextlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peer_problem import ALPHA, CG_MAX_ITER, CG_RTOL, LAM, M, Problem
from torch import Tensor

Run = Callable[[Problem, dict[str, Any]], Tensor]
RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Freed memory goes back to the system, so that the peak of each run can be read."""


def equipoise_run(problem: Problem, settings: dict[str, Any]) -> Tensor:
    """This package: ``rtol`` is a proved bound, ``backward_rtol`` that of the adjoint solve."""
    from equipoise.equilibrium.fixed_point import SolverOptions
    from equipoise.methods.data_weight import FixedWeight
    from equipoise.methods.mol import MOL
    from equipoise.physics.cartesian import SenseOp

    model = MOL(problem.network, FixedWeight(LAM), M)
    solution = model.solve(
        SenseOp(problem.csm, problem.mask),
        problem.kspace,
        scale=torch.ones(1, dtype=torch.float64),
        options=SolverOptions(rtol=settings["rtol"], max_iter=200, rough=settings["rough"]),
        backward_rtol=settings["backward_rtol"],
    )
    problem.certified = float(solution.distance_bound[0])
    return solution.value


class _Inverse(torch.autograd.Function):
    """``(I + weight A^H A)^-1 rhs``, which is its own transpose, by conjugate gradients."""

    @staticmethod
    def forward(ctx: Any, operator: Any, rhs: Tensor, start: Tensor | None) -> Tensor:
        from equipoise.physics.least_squares import conjugate_gradient

        ctx.operator = operator
        weight, one = torch.tensor([ALPHA * LAM]), torch.ones(1)
        options: Any = {"start": start, "rtol": CG_RTOL, "max_iter": CG_MAX_ITER}
        return conjugate_gradient(operator, rhs, weight, one, **options).value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, _Inverse.forward(ctx, ctx.operator, gradients[0], None), None


def torchdeq_run(problem: Problem, settings: dict[str, Any]) -> Tensor:
    """torchdeq on the MOL map, with the A^H A and the warm-started CG of this package."""
    from torchdeq import get_deq

    from equipoise.physics.cartesian import SenseOp

    operator = SenseOp(problem.csm, problem.mask)
    with torch.no_grad():
        adjoint_image = operator.adjoint(problem.kspace)

    def step(channels: Tensor) -> Tensor:
        x = torch.view_as_complex(channels)
        rhs = (1 - ALPHA) * x + ALPHA * problem.network(x) + ALPHA * LAM * adjoint_image
        return torch.view_as_real(_Inverse.apply(operator, rhs, x.detach()))

    solver = settings["solver"]
    deq = get_deq(
        f_solver=solver,
        b_solver=solver,
        f_max_iter=300,
        b_max_iter=300,
        f_tol=settings["tol"],
        b_tol=settings["backward_tol"],
        f_stop_mode="rel",
        b_stop_mode="rel",
        ift=True,
    )
    value, _ = deq(step, torch.view_as_real(adjoint_image))
    return torch.view_as_complex(value[-1].contiguous())


def deepinv_run(problem: Problem, settings: dict[str, Any]) -> Tensor:
    """deepinv's half-quadratic splitting as equilibrium, its own operator and CG."""
    _declare_torchvision_operators()
    from deepinv.optim import HQS, L2, PnP
    from deepinv.optim.optimizers import AndersonAccelerationConfig, DEQConfig
    from deepinv.physics import MultiCoilMRI

    physics = MultiCoilMRI(mask=problem.mask.float(), coil_maps=problem.csm)
    physics.max_iter, physics.tol = CG_MAX_ITER, settings["cg_tol"]
    network = problem.network

    def denoise(x: Tensor, sigma: Any) -> Tensor:
        return (1 - ALPHA) * x + ALPHA * network.channels(x)

    history = settings.get("anderson")
    model = HQS(
        data_fidelity=L2(),
        prior=PnP(denoise),
        stepsize=ALPHA * LAM,
        g_param=0.0,
        g_first=True,
        max_iter=300,
        thres_conv=settings["tol"],
        early_stop=True,
        anderson_acceleration=AndersonAccelerationConfig(**history) if history else None,
        DEQ=DEQConfig(
            max_iter_backward=300,
            anderson_acceleration_backward=bool(history),
            **({"eps_backward": history["eps"]} if history else {}),
        ),
    )
    kspace = torch.stack([problem.kspace.real, problem.kspace.imag], 1)
    value = model(kspace, physics)
    model.thres_conv = settings["backward_tol"]  # one tolerance serves both of its solves
    return torch.view_as_complex(value.permute(0, 2, 3, 1).contiguous())


def _declare_torchvision_operators() -> None:
    """deepinv imports torchvision, whose compiled part needs the build of torch it was made for.

    With another build the import fails for two operators that nothing here calls: declare them.
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for name in ("nms", "qnms"):
            with contextlib.suppress(RuntimeError):
                torch.library.define(
                    f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor"
                )


RUNS: dict[str, Run] = {
    "equipoise": equipoise_run,
    "torchdeq": torchdeq_run,
    "deepinv": deepinv_run,
}


def measure(problem: Problem, run: Run, settings: dict[str, Any]) -> dict[str, float]:
    """One run: forward only, or with the gradient for the weights if ``gradient`` is set."""
    network = problem.network
    counts = network.counts
    counts.update(evaluations=0, products=0)
    network.requires_grad_(settings["gradient"]).zero_grad(set_to_none=True)
    held: dict[int, int] = {}
    before = reset_peak()
    started = time.process_time()
    with torch.set_grad_enabled(settings["gradient"]), _counting_saved(network, held):
        value = run(problem, settings)
    forward = time.process_time() - started
    forward_evaluations = counts["evaluations"]
    if settings["gradient"]:
        problem.loss(value).backward()
    seconds = time.process_time() - started
    result = {
        "distance": problem.distance(value),
        "evaluations": forward_evaluations,
        "products": counts["products"],
        "forward_seconds": forward,
        "seconds": seconds,
        "saved_mb": sum(held.values()) / 2**20,
        "peak_mb": _status("VmHWM") - before,
        "certified": getattr(problem, "certified", float("nan")),
    }
    if settings["gradient"]:
        result["gradient_error"] = problem.gradient_error()
    return result


@contextlib.contextmanager
def _counting_saved(network: torch.nn.Module, held: dict[int, int]) -> Iterator[None]:
    """Bytes of the distinct storages that autograd saves, the weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


def reset_peak() -> float:
    """Let the peak memory of this process start anew; the memory that it holds, in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> float:
    """The most memory that this process held since :func:`reset_peak`, in MB."""
    return _status("VmHWM")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def main() -> None:
    """Answer settings with measurements until the input ends."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    # Libraries print: their output must not end up among the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    problem = Problem.load(sys.argv[2])
    for line in sys.stdin:
        result = measure(problem, RUNS[sys.argv[1]], json.loads(line))
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()
