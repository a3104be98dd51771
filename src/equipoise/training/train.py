"""Training of every method, in one file from top to bottom.

The loss is ``log mean |x - target|^2``, so every sample counts in dB. With the plain error the
noisiest samples, a hundred times larger, would dominate. For MOL-LR and MOL-M ``beta B(l)`` is
added, with l the measured constant of H at the equilibrium and B the log barrier (14). Random
numbers depend only on the seed and the step, so a run that is killed and resumed ends in the same
weights.
"""

import copy
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from equipoise.formats.replacing import make_folder
from equipoise.methods.method import Method
from equipoise.metrics import psnr
from equipoise.outcome import BadInputError, EquipoiseError, Solution
from equipoise.physics.noise_level import complex_noise
from equipoise.training import beginning
from equipoise.training.beginning import continued, first_model, source_of, training_images
from equipoise.training.checkpoint import load_checkpoint, save_checkpoint
from equipoise.training.config import TrainConfig
from equipoise.training.loss import log_barrier
from equipoise.training.origin import origin_of
from equipoise.training.pool import CPU, TRAIN_STREAM, Pool
from equipoise.training.sources.source import Sample, Source
from equipoise.training.validation import evaluate, sense_psnr, validation_set
from equipoise.vectors import per_sample
from equipoise.zoo.model_file import save_model

log = logging.getLogger(__name__)

CHECKPOINT_EVERY = 50
TRAINING_ITERATIONS = 40
DENOISER_NOISE = (0.02, 0.2)
"""Range of the noise of the denoiser warm-up, relative to the image scale."""

DIVERGENCE_FACTOR = 30.0
"""A loss of this many times its running mean counts as divergence."""

DIVERGENCE_DB = 3.0
"""A validation PSNR this far below the best counts as divergence too."""

MAX_ROLLBACKS = 6


@dataclass
class Progress:
    """The report of a training step."""

    step: int
    total: int
    loss: float
    psnr: float
    constraint: float
    iterations: float
    adjoint_iterations: float
    validation: dict[str, float]


def train(
    config: TrainConfig,
    folder: Path,
    *,
    resume: bool = False,
    source: Source | None = None,
    network: nn.Module | None = None,
    device: torch.device = CPU,
    report: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = log.info,
) -> Path:
    """Train a model; return the path of the best validated weights.

    Parameters
    ----------
    config
        See :class:`TrainConfig`.
    folder
        Receives ``last.ckpt``, ``validated.ckpt``, ``log.jsonl``, ``config.json`` and
        ``NAME.safetensors``.
    resume
        Continue from ``last.ckpt``.
    source
        Your own source of samples, with your own A, instead of that of the configuration.
    network
        Your own network instead of that of the configuration; it is trained in place.
    device
        Where it trains. Samples are drawn on the CPU, so the device does not change them.
    report, say
        Called after every step, and with messages.

    Raises
    ------
    BadInputError
        If data are missing, or the folder holds a run or a model of that name and ``resume`` is
        False.
    EquipoiseError
        If training diverges repeatedly, or no validated model converged with its estimate below T.
    """
    if not resume:
        beginning.check_new_run(config, folder)
    run = _Run(config, folder, say, source, network, device)
    run.restore(folder / "last.ckpt") if resume else run.begin()
    while run.step < run.total:
        progress = run.train_step()
        # The step is repeated from the last validated state, so it is not counted.
        if progress is None:
            run.roll_back("the loss or its gradient exploded")
            continue
        run.step += 1
        if run.step % config.validate_every == 0 or run.step == run.total:
            progress.validation = run.validate()
            if run.psnr_collapsed(progress.validation["psnr"]):
                run.roll_back(f"validation fell to {progress.validation['psnr']:.2f} dB")
                continue
            run.keep(progress.validation)
        elif run.step % CHECKPOINT_EVERY == 0:
            run.save(folder / "last.ckpt")
        report(progress)
    return run.finish()


class _Run:
    """State of a training run."""

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        say: Callable[[str], None],
        source: Source | None = None,
        network: nn.Module | None = None,
        device: torch.device = CPU,
    ):
        self.config = config = continued(config)
        self.folder, self.say = folder, say
        self.source = source_of(config) if source is None else source
        images = training_images(config)
        beginning.check_batch(config, images)
        self.pool = Pool(config, self.source, images, device=device)
        self.validation = [s.to(device) for s in validation_set(config, self.source)]
        self.sense_psnr = sense_psnr(self.validation)
        self.model = first_model(config, network).to(device)
        self.average = copy.deepcopy(self.model) if config.average else self.model
        self.optimizer = torch.optim.Adam(
            [{"params": group.parameters} for group in self.model.parameter_groups()]
        )
        self.step, self.total = 0, config.warmup_steps + config.steps
        self.mean_loss, self.lr_factor, self.rollbacks = 0.0, 1.0, 0
        self.best: dict[str, float] = {}
        self.seconds, self.estimate = 0.0, 0.0

    # ---- one step ------------------------------------------------------------------------------

    def train_step(self) -> Progress | None:
        """One optimiser step; None if it diverged, and then nothing was changed."""
        started = time.perf_counter()
        if self.step == self.config.warmup_steps:
            # The mean loss of the denoiser is no measure of divergence for the equilibrium.
            self.mean_loss = 0.0
        self._set_learning_rate()
        self.model.refresh()
        samples = self.pool.sample(self.step)
        warming = self.step < self.config.warmup_steps
        solution = None if warming else self._solve(samples)
        image, scale = self._denoise(samples) if solution is None else _of(solution)
        units = per_sample(scale, image).to(image.real.dtype)
        mse = ((image - samples.target) / units).abs().square().mean()
        point = (samples.target if warming else image.detach()) / units
        loss = mse.log() + self._penalty(point)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        gradient_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        of_image = (samples.target / units).abs().square().mean().item()
        if self._diverged(mse.item(), of_image, gradient_norm.item()):
            return None
        self.optimizer.step()
        self._follow()
        adjoint = solution and solution.backward
        if adjoint is not None:
            self.pool.keep(self.step, image, adjoint.value)
        self.mean_loss = 0.98 * self.mean_loss + 0.02 * mse.item() if self.mean_loss else mse.item()
        self.seconds += time.perf_counter() - started
        progress = Progress(
            step=self.step + 1,
            total=self.total,
            loss=loss.item(),
            psnr=float(psnr(image.detach(), samples.target).mean()),
            constraint=self.estimate,
            iterations=_mean_iterations(solution),
            adjoint_iterations=_mean_iterations(adjoint),
            validation={},
        )
        self._log(asdict(progress))
        return progress

    @torch.no_grad()
    def _follow(self) -> None:
        """Update the average of the weights, with a shorter memory at the start."""
        if self.average is self.model:
            return
        decay = min(self.config.average, (self.step + 1) / (self.step + 10))
        for kept, weight in zip(self.average.parameters(), self.model.parameters()):
            kept.lerp_(weight, 1 - decay)

    def _penalty(self, point: Tensor) -> Tensor:
        """``every`` times ``beta B(l)`` in every ``every``-th step, and 0 in the others."""
        settings = self.config.lipschitz
        if self.step % settings.every:
            return torch.zeros(())
        estimate = self.model.constraint(point, settings.steps, self.config.seed + self.step)
        if estimate is None:
            return torch.zeros(())
        self.estimate = float(estimate.detach().max())
        threshold = self.config.limit - settings.reserve
        barrier = log_barrier(estimate, threshold, settings.margin).mean()
        return settings.beta * settings.every * barrier

    def _denoise(self, samples: Sample) -> tuple[Tensor, Tensor]:
        """Warm-up: H removes white noise, with one evaluation per step instead of thirty."""
        scale = samples.operator.intensity_scale(samples.data)
        rng = np.random.default_rng([self.config.seed, TRAIN_STREAM, self.step, 2**20])
        level = torch.from_numpy(rng.uniform(*DENOISER_NOISE, len(scale)).astype(np.float32))
        noise = complex_noise(samples.target.shape, rng) * per_sample(level, samples.target.cpu())
        units = per_sample(scale, samples.target)
        return self.model.denoise(samples.target / units + noise.to(units.device)) * units, scale

    def _solve(self, samples: Sample) -> Solution:
        first, last = self.config.rtol
        progress = (self.step - self.config.warmup_steps) / max(self.config.steps, 1)
        rtol = first * (last / first) ** progress
        return self.model.solve(
            samples.operator,
            samples.data,
            noise_level=samples.noise_level,
            options=self.model.training_options(rtol, TRAINING_ITERATIONS),
            backward_rtol=self.config.backward_rtol,
            **self.pool.start(self.step),
        )

    def _set_learning_rate(self) -> None:
        """Set a constant rate in the warm-up, then a geometric decay."""
        c = self.config
        progress = max(self.step - c.warmup_steps, 0) / max(c.steps, 1)
        decay = (c.final_learning_rate / c.learning_rate) ** progress * self.lr_factor
        groups = self.model.parameter_groups()
        for group, own in zip(self.optimizer.param_groups, groups):
            rate = c.weight_learning_rate if own.of_rules else c.learning_rate
            group["lr"] = rate * own.factor * decay

    def _diverged(self, mse: float, of_image: float, gradient_norm: float) -> bool:
        """Whether the loss is not finite, or far above its mean and above that of a zero image."""
        # Comparisons with nan are false, so it needs a test of its own.
        if not (np.isfinite(mse) and np.isfinite(gradient_norm)):
            return True
        return bool(self.mean_loss) and mse > max(DIVERGENCE_FACTOR * self.mean_loss, of_image)

    # ---- validation ----------------------------------------------------------------------------

    def validate(self) -> dict[str, float]:
        self.average.refresh(exact=True)
        return self._evaluated(self.average)

    def _evaluated(self, model: Method) -> dict[str, float]:
        steps = self.config.lipschitz.validation_steps
        return evaluate(model.for_inference(), self.validation, steps)

    def psnr_collapsed(self, value: float) -> bool:
        return bool(self.best) and not value > self.best["psnr"] - DIVERGENCE_DB

    def keep(self, validation: dict[str, float]) -> None:
        """Save a checkpoint and, if they are the best whose estimate stays below T, the weights.

        If the estimate is above ``T - validation_reserve``, a copy of H is scaled down to that and
        validated again. The scaled copy is kept; training continues with the original.
        """
        kept, factor, trained = self.average, 1.0, validation
        limit = self.config.limit
        goal = limit - self.config.lipschitz.validation_reserve
        if validation.get("constraint", 0.0) > goal:
            factor = goal / validation["constraint"]
            kept = copy.deepcopy(self.average)
            body: Any = kept.network
            body.scale(factor)
            validation = self._evaluated(kept)
        below = validation.get("constraint", 0.0) < limit
        warmed = self.step >= self.config.warmup_steps
        better = not self.best or validation["psnr"] > self.best["psnr"]
        # Weights whose validation did not converge have a PSNR that means nothing.
        if warmed and below and better and validation.get("converged", 1.0) == 1.0:
            self.best = {**validation, "step": float(self.step), "scaled_by": factor}
            save_model(self.weights_path, kept, self._origin())
        scaled = {} if kept is self.average else {"scaled_by": factor, "scaled": validation}
        self._log({"step": self.step, "validation": trained, **scaled, "best": self.best})
        self.save(self.folder / "validated.ckpt")
        self.save(self.folder / "last.ckpt")

    # ---- files ---------------------------------------------------------------------------------

    @property
    def weights_path(self) -> Path:
        return self.folder / f"{self.config.name}.safetensors"

    def begin(self) -> None:
        """Start a new run in an empty folder."""
        make_folder(self.folder)
        (self.folder / "config.json").write_text(self.config.model_dump_json(indent=1))
        self.save(self.folder / "validated.ckpt")
        self.save(self.folder / "last.ckpt")

    def save(self, path: Path) -> None:
        save_checkpoint(
            path,
            {
                "config": self.config.model_dump_json(),
                "source": type(self.source).__name__,
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "mean_loss": self.mean_loss,
                "lr_factor": self.lr_factor,
                "rollbacks": self.rollbacks,
                "best": self.best,
                "seconds": self.seconds,
                "estimate": self.estimate,
                "pool": self.pool.state(),
            },
        )

    def restore(self, path: Path) -> None:
        state = load_checkpoint(path)
        if state["config"] != self.config.model_dump_json():
            raise BadInputError(
                f"{path} was written with another configuration: resume with the same one, or "
                "start a new run in another folder with -o"
            )
        source = type(self.source).__name__
        if state["source"] != source:
            raise BadInputError(
                f"{path} was written by a run on samples of {state['source']}, not of {source}: "
                "resume with the same source, or start a new run in another folder with -o"
            )
        self.average.load_state_dict(state["average"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.pool.restore(state["pool"])
        for name in ("step", "mean_loss", "lr_factor", "rollbacks", "best", "seconds", "estimate"):
            setattr(self, name, state[name])

    def roll_back(self, reason: str) -> None:
        """Return to the last validated state with half the learning rate."""
        factor, rollbacks = self.lr_factor / 2, self.rollbacks + 1
        if rollbacks > MAX_ROLLBACKS:
            raise EquipoiseError(
                f"training diverged {rollbacks} times, last at step {self.step} ({reason}): lower "
                "learning_rate or raise lipschitz.beta"
            )
        self.say(
            f"step {self.step}: {reason}; returning to the last validated state with half the rate"
        )
        self.restore(self.folder / "validated.ckpt")
        self.lr_factor, self.rollbacks = factor, rollbacks
        self.save(self.folder / "validated.ckpt")
        self.save(self.folder / "last.ckpt")

    def finish(self) -> Path:
        if not self.best:
            raise EquipoiseError(
                f"no validated model stayed below T = {self.config.limit:g} and converged: "
                "raise lipschitz.beta or lipschitz.reserve"
            )
        return self.weights_path

    def _origin(self) -> dict[str, Any]:
        validation = {**self.best, "sense_psnr": self.sense_psnr}
        return origin_of(self.config, self.source, self.step, self.seconds, validation)

    def _log(self, entry: dict[str, Any]) -> None:
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")


def _of(solution: Solution) -> tuple[Tensor, Tensor]:
    """The image and the intensity scale of a solution."""
    assert solution.scale is not None
    return solution.value, solution.scale


def _mean_iterations(solution: Solution | None) -> float:
    return 0.0 if solution is None else float(solution.iterations.double().mean())
