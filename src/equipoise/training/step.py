"""One optimiser step: solve, loss, gradient, new weights.

The loss is the mean of ``log mean |x - target|^2`` over the samples, so each counts in dB. With the
plain error the noisiest samples, a hundred times larger, would dominate. Where there is no target,
it is the error of the samples that were held back
(:mod:`equipoise.training.sources.self_supervised`). For MOL-LR and MOL-M ``beta B(l)`` is added,
with l the measured constant of H at the equilibrium and B the log barrier (14). Random numbers
depend only on the seed, the step and the place of a sample in it.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from equipoise.methods.equilibrium_config import SolvedConfig
from equipoise.outcome import Solution
from equipoise.physics.noise_level import complex_noise
from equipoise.training.distributed import ALONE, Processes
from equipoise.training.loss import log_barrier
from equipoise.training.pool import TRAIN_STREAM, Pool
from equipoise.training.sources.source import Measured, Sample
from equipoise.training.state import State
from equipoise.vectors import per_sample

TRAINING_ITERATIONS = 40
DENOISER_NOISE = (0.02, 0.2)
"""Range of the noise of the denoiser warm-up, relative to the image scale."""

DIVERGENCE_FACTOR = 30.0
"""A loss of this many times its running mean counts as divergence."""


@dataclass
class Progress:
    """The report of a training step: means over its samples.

    ``psnr`` is what ``measure`` names: the PSNR, or ``kspace_snr`` where the truth is not known.
    ``constraint`` is the largest value, and ``waiting`` the share of the time of the step for which
    it waited for samples. ``best_step`` is that of the weights that are written so far, 0 if none.
    """

    step: int
    total: int
    loss: float
    psnr: float
    constraint: float
    iterations: float
    adjoint_iterations: float
    validation: dict[str, float]
    measure: str = "psnr"
    waiting: float = 0.0
    best_step: int = 0
    warmup_steps: int = 0


def take_step(state: State, pool: Pool, processes: Processes = ALONE) -> Progress | None:
    """Take one optimiser step; None if it diverged, and then nothing was changed.

    The caller counts the step.
    """
    started, waited = time.perf_counter(), pool.feed.waited
    if state.step == state.config.warmup_steps:
        # The mean loss of the denoiser is no measure of divergence for the equilibrium.
        state.mean_loss = 0.0
    set_learning_rate(state)
    state.model.refresh()
    state.optimizer.zero_grad(set_to_none=True)
    parts = [add_gradient(state, pool, part) for part in pool.parts]
    found = _means(parts[0].measure, processes.gathered([part[2:] for part in parts]))
    processes.average_gradients(state.model.parameters())
    gradient_norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), state.config.clip)
    if diverged(state, found["mse"], found["of_image"], gradient_norm.item()):
        return None
    state.optimizer.step()
    follow(state)
    for number, part in zip(pool.parts, parts):
        if part.adjoint is not None:
            pool.keep(state.step, number, part.image, part.adjoint)
    before, mse = state.mean_loss, found["mse"]
    state.mean_loss = 0.98 * before + 0.02 * mse if before else mse
    state.estimate = found["constraint"]
    if not state.warming:
        state.samples += processes.count * len(parts) * state.config.batch
    seconds = time.perf_counter() - started
    state.seconds += seconds
    return Progress(
        step=state.step + 1,
        total=state.total,
        warmup_steps=state.config.warmup_steps,
        loss=found["loss"],
        psnr=found["psnr"],
        constraint=found["constraint"],
        iterations=found["iterations"],
        adjoint_iterations=found["adjoint_iterations"],
        validation={},
        measure=parts[0].measure,
        waiting=(pool.feed.waited - waited) / seconds,
    )


class Part(NamedTuple):
    """The result of one batch of a step: its images, p of (10), and its figures.

    ``measure`` names the quality of its samples.
    """

    image: Tensor
    adjoint: Tensor | None
    measure: str
    figures: dict[str, float]


def add_gradient(state: State, pool: Pool, part: int) -> Part:
    """Solve one batch of a step, and add its share of the gradient."""
    samples = pool.sample(state.step, part)
    with mixed(state):
        solution = None if state.warming else solve(state, samples, pool.start(state.step, part))
        image, scale = denoise(state, samples, part) if solution is None else _of(solution)
    errors = samples.error(image, scale)
    units = per_sample(scale, image).to(image.real.dtype)
    point = (_target(samples) if solution is None else image.detach()) / units
    barrier, estimate = penalty(state, point)
    loss = errors.log().mean() + barrier
    (loss / len(pool.parts)).backward()  # type: ignore[no-untyped-call]
    adjoint = solution and solution.backward
    image = image.detach()
    measure, quality = next(iter(samples.quality(image).items()))
    figures = {
        "loss": loss.item(),
        "mse": errors.mean().item(),
        "of_image": samples.error(torch.zeros_like(image), scale).mean().item(),
        "psnr": quality,
        "constraint": estimate,
        "iterations": _mean_iterations(solution),
        "adjoint_iterations": _mean_iterations(adjoint),
    }
    return Part(image, None if adjoint is None else adjoint.value, measure, figures)


def _means(measure: str, found: list[list[tuple[str, dict[str, float]]]]) -> dict[str, float]:
    """The figures of all parts of all processes as one, with the quality of one measure."""
    parts = [part for of_process in found for part in of_process]
    rows = [figures for _, figures in parts]
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    means["constraint"] = max(row["constraint"] for row in rows)
    # Of a mixture of scans with and without a target.
    means["psnr"] = float(np.mean([row["psnr"] for own, row in parts if own == measure]))
    return means


def set_learning_rate(state: State) -> None:
    """Set a constant rate in the warm-up, then a geometric decay."""
    c = state.config
    progress = max(state.step - c.warmup_steps, 0) / max(c.steps, 1)
    decay = (c.final_learning_rate / c.learning_rate) ** progress * state.lr_factor
    groups = state.model.parameter_groups()
    for group, own in zip(state.optimizer.param_groups, groups):
        rate = c.weight_learning_rate if own.of_rules else c.learning_rate
        group["lr"] = rate * own.factor * decay


def solve(state: State, samples: Measured, start: dict[str, Tensor]) -> Solution:
    """The images of a batch, with a tolerance that falls during training."""
    c = state.config
    first, last = c.rtol
    progress = (state.step - c.warmup_steps) / max(c.steps, 1)
    rtol = first * (last / first) ** progress
    return state.model.solve(
        samples.operator,
        samples.data,
        noise_level=samples.noise_level,
        scale=samples.scale,
        options=state.model.training_options(rtol, TRAINING_ITERATIONS),
        backward_rtol=c.backward_rtol,
        **start,
    )


def mixed(state: State) -> AbstractContextManager[Any]:
    """Half precision for the networks of a block, where the configuration asks for it.

    The rounding of bfloat16 is above the bounds to which an equilibrium is found, so equilibria
    keep single precision.
    """
    certified = isinstance(state.config.model, SolvedConfig) and not state.warming
    if state.config.precision == "float32" or certified:
        return nullcontext()
    device = next(state.model.parameters()).device.type
    return torch.autocast(device, dtype=torch.bfloat16)


def denoise(state: State, samples: Measured, part: int) -> tuple[Tensor, Tensor]:
    """Warm-up: H removes white noise, with one evaluation per step instead of thirty."""
    target, scale = _target(samples), samples.operator.intensity_scale(samples.data)
    places, shape = range(part * len(scale), (part + 1) * len(scale)), target.shape[1:]
    noise = torch.cat([_noise(state, place, shape) for place in places])
    units = per_sample(scale, target)
    return state.model.denoise(target / units + noise.to(units.device)) * units, scale


def _noise(state: State, place: int, shape: torch.Size) -> Tensor:
    """The noise of one sample of a step, (1, y, x), with a level of its own."""
    rng = np.random.default_rng([state.config.seed, TRAIN_STREAM, state.step, NOISE + place])
    level = float(np.float32(rng.uniform(*DENOISER_NOISE)))
    return level * complex_noise((1, *shape), rng)


NOISE = 2**20
"""Separates the random numbers of this noise from those of the samples of a step."""


def penalty(state: State, point: Tensor) -> tuple[Tensor, float]:
    """``every`` times ``beta B(l)`` in every ``every``-th step, and 0 in the others; the largest l.

    Without a new measurement the last one is returned.
    """
    settings = state.config.lipschitz
    if state.step % settings.every:
        return torch.zeros(()), state.estimate
    estimate = state.model.constraint(point, settings.steps, state.config.seed + state.step)
    if estimate is None:
        return torch.zeros(()), state.estimate
    threshold = state.config.limit - settings.reserve
    barrier = log_barrier(estimate, threshold, settings.margin).mean()
    return settings.beta * settings.every * barrier, float(estimate.detach().max())


def diverged(state: State, mse: float, of_image: float, gradient_norm: float) -> bool:
    """Whether the loss is not finite, or far above its mean and above that of a zero image."""
    # Comparisons with nan are false, so it needs a test of its own.
    if not (np.isfinite(mse) and np.isfinite(gradient_norm)):
        return True
    return bool(state.mean_loss) and mse > max(DIVERGENCE_FACTOR * state.mean_loss, of_image)


@torch.no_grad()
def follow(state: State) -> None:
    """Update the average of the weights, with a shorter memory at the start."""
    if state.average is state.model:
        return
    decay = min(state.config.average, (state.step + 1) / (state.step + 10))
    for kept, weight in zip(state.average.parameters(), state.model.parameters()):
        kept.lerp_(weight, 1 - decay)


def _target(samples: Measured) -> Tensor:
    """The target of samples in a warm-up, which is refused if some have none."""
    assert isinstance(samples, Sample)
    return samples.target


def _of(solution: Solution) -> tuple[Tensor, Tensor]:
    """The image and the intensity scale of a solution."""
    assert solution.scale is not None
    return solution.value, solution.scale


def _mean_iterations(solution: Solution | None) -> float:
    return 0.0 if solution is None else float(solution.iterations.double().mean())
