"""One optimiser step: solve, loss, gradient, new weights.

The loss is ``log mean |x - target|^2``, so every sample counts in dB. With the plain error the
noisiest samples, a hundred times larger, would dominate. Where there is no target, it is the error
of the samples that were held back (:mod:`equipoise.training.sources.self_supervised`). For MOL-LR
and MOL-M ``beta B(l)`` is added, with l the measured constant of H at the equilibrium and B the log
barrier (14). Random numbers depend only on the seed and the step.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from equipoise.outcome import Solution
from equipoise.physics.noise_level import complex_noise
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
    """The report of a training step.

    ``psnr`` is what ``measure`` names: the PSNR, or ``kspace_snr`` where the truth is not known.
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


def take_step(state: State, pool: Pool) -> Progress | None:
    """Take one optimiser step; None if it diverged, and then nothing was changed.

    The caller counts the step.
    """
    started = time.perf_counter()
    if state.step == state.config.warmup_steps:
        # The mean loss of the denoiser is no measure of divergence for the equilibrium.
        state.mean_loss = 0.0
    set_learning_rate(state)
    state.model.refresh()
    samples = pool.sample(state.step)
    solution = None if state.warming else solve(state, samples, pool.start(state.step))
    image, scale = denoise(state, samples) if solution is None else _of(solution)
    mse = samples.error(image, scale)
    units = per_sample(scale, image).to(image.real.dtype)
    point = (_target(samples) if solution is None else image.detach()) / units
    loss = mse.log() + penalty(state, point)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    gradient_norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), state.config.clip)
    of_image = samples.error(torch.zeros_like(image), scale).item()
    if diverged(state, mse.item(), of_image, gradient_norm.item()):
        return None
    state.optimizer.step()
    follow(state)
    adjoint = solution and solution.backward
    if adjoint is not None:
        pool.keep(state.step, image, adjoint.value)
    before = state.mean_loss
    state.mean_loss = 0.98 * before + 0.02 * mse.item() if before else mse.item()
    state.seconds += time.perf_counter() - started
    measure, quality = next(iter(samples.quality(image.detach()).items()))
    return Progress(
        step=state.step + 1,
        total=state.total,
        loss=loss.item(),
        psnr=quality,
        constraint=state.estimate,
        iterations=_mean_iterations(solution),
        adjoint_iterations=_mean_iterations(adjoint),
        validation={},
        measure=measure,
    )


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


def denoise(state: State, samples: Measured) -> tuple[Tensor, Tensor]:
    """Warm-up: H removes white noise, with one evaluation per step instead of thirty."""
    target, scale = _target(samples), samples.operator.intensity_scale(samples.data)
    rng = np.random.default_rng([state.config.seed, TRAIN_STREAM, state.step, 2**20])
    level = torch.from_numpy(rng.uniform(*DENOISER_NOISE, len(scale)).astype(np.float32))
    noise = complex_noise(target.shape, rng) * per_sample(level, target.cpu())
    units = per_sample(scale, target)
    return state.model.denoise(target / units + noise.to(units.device)) * units, scale


def penalty(state: State, point: Tensor) -> Tensor:
    """``every`` times ``beta B(l)`` in every ``every``-th step, and 0 in the others."""
    settings = state.config.lipschitz
    if state.step % settings.every:
        return torch.zeros(())
    estimate = state.model.constraint(point, settings.steps, state.config.seed + state.step)
    if estimate is None:
        return torch.zeros(())
    state.estimate = float(estimate.detach().max())
    threshold = state.config.limit - settings.reserve
    barrier = log_barrier(estimate, threshold, settings.margin).mean()
    return settings.beta * settings.every * barrier


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
