"""Training of every method: the loop, the choice of the weights that are written, and the files.

Random numbers depend only on the seed and the step, so a run that is killed and resumed ends in
the same weights. What one step does is in :mod:`equipoise.training.step`.
"""

import copy
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from equipoise.formats.replacing import make_folder
from equipoise.methods.method import Method
from equipoise.outcome import BadInputError, EquipoiseError
from equipoise.training import beginning
from equipoise.training.beginning import continued, dataset_of, first_model, source_of
from equipoise.training.checkpoint import load_checkpoint, save_checkpoint
from equipoise.training.config import TrainConfig
from equipoise.training.origin import origin_of
from equipoise.training.pool import CPU, Pool
from equipoise.training.sources.dataset import Dataset
from equipoise.training.sources.source import Measured, Source
from equipoise.training.state import State
from equipoise.training.step import Progress, take_step
from equipoise.training.validation import evaluate, score, sense_psnr, validation_set
from equipoise.zoo.model_file import save_model

log = logging.getLogger(__name__)

CHECKPOINT_EVERY = 50

DIVERGENCE_DB = 3.0
"""A validation PSNR this far below the best counts as divergence too."""

MAX_ROLLBACKS = 6


def train(
    config: TrainConfig,
    folder: Path,
    *,
    resume: bool = False,
    source: Source | None = None,
    network: nn.Module | None = None,
    device: torch.device = CPU,
    dataset: Dataset | None = None,
    validation: Sequence[Measured] | None = None,
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
    dataset, validation
        Your own samples for training and for validation instead of those of the configuration.
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
    run = Run(config, folder, say, source, network, device, dataset, validation)
    run.restore(folder / "last.ckpt") if resume else run.begin()
    state = run.state
    while state.step < state.total:
        progress = take_step(state, run.pool)
        # The step is repeated from the last validated state, so it is not counted.
        if progress is None:
            run.roll_back("the loss or its gradient exploded")
            continue
        run.log(asdict(progress))
        state.step += 1
        if state.step % config.validate_every == 0 or state.step == state.total:
            progress.validation = run.validate()
            if run.psnr_collapsed(score(progress.validation)):
                run.roll_back(f"validation fell to {score(progress.validation):.2f} dB")
                continue
            run.keep(progress.validation)
        elif state.step % CHECKPOINT_EVERY == 0:
            run.save(folder / "last.ckpt")
        report(progress)
    return run.finish()


class Run:
    """A training run: its state, its samples and its files."""

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        say: Callable[[str], None],
        source: Source | None = None,
        network: nn.Module | None = None,
        device: torch.device = CPU,
        dataset: Dataset | None = None,
        validation: Sequence[Measured] | None = None,
    ):
        self.config = config = continued(config)
        self.folder, self.say = folder, say
        self.source = source_of(config) if source is None else source
        self.pool = Pool(config, dataset or dataset_of(config, self.source), device=device)
        self.validation = [s.to(device) for s in validation or validation_set(config, self.source)]
        self.sense_psnr = sense_psnr(self.validation)
        self.state = State.of(config, first_model(config, network).to(device))

    # ---- validation ----------------------------------------------------------------------------

    def validate(self) -> dict[str, float]:
        self.state.average.refresh(exact=True)
        return self._evaluated(self.state.average)

    def _evaluated(self, model: Method) -> dict[str, float]:
        steps = self.config.lipschitz.validation_steps
        return evaluate(model.for_inference(), self.validation, steps)

    def psnr_collapsed(self, value: float) -> bool:
        return bool(self.state.best) and not value > score(self.state.best) - DIVERGENCE_DB

    def keep(self, validation: dict[str, float]) -> None:
        """Save a checkpoint and, if they are the best whose estimate stays below T, the weights.

        If the estimate is above ``T - validation_reserve``, a copy of H is scaled down to that and
        validated again. The scaled copy is kept; training continues with the original.
        """
        state, trained = self.state, validation
        kept, factor, limit = state.average, 1.0, self.config.limit
        goal = limit - self.config.lipschitz.validation_reserve
        if validation.get("constraint", 0.0) > goal:
            factor = goal / validation["constraint"]
            kept = copy.deepcopy(state.average)
            body: Any = kept.network
            body.scale(factor)
            validation = self._evaluated(kept)
        below = validation.get("constraint", 0.0) < limit
        warmed = state.step >= self.config.warmup_steps
        better = not state.best or score(validation) > score(state.best)
        # Weights whose validation did not converge have a PSNR that means nothing.
        if warmed and below and better and validation.get("converged", 1.0) == 1.0:
            state.best = {**validation, "step": float(state.step), "scaled_by": factor}
            save_model(self.weights_path, kept, self._origin())
        scaled = {} if kept is state.average else {"scaled_by": factor, "scaled": validation}
        self.log({"step": state.step, "validation": trained, **scaled, "best": state.best})
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
                **self.state.content(),
                "pool": self.pool.state(),
            },
        )

    def restore(self, path: Path) -> None:
        content = load_checkpoint(path)
        if content["config"] != self.config.model_dump_json():
            raise BadInputError(
                f"{path} was written with another configuration: resume with the same one, or "
                "start a new run in another folder with -o"
            )
        source = type(self.source).__name__
        if content["source"] != source:
            raise BadInputError(
                f"{path} was written by a run on samples of {content['source']}, not of {source}: "
                "resume with the same source, or start a new run in another folder with -o"
            )
        self.state.restore(content)
        self.pool.restore(content["pool"])

    def roll_back(self, reason: str) -> None:
        """Return to the last validated state with half the learning rate."""
        state = self.state
        factor, rollbacks = state.lr_factor / 2, state.rollbacks + 1
        if rollbacks > MAX_ROLLBACKS:
            raise EquipoiseError(
                f"training diverged {rollbacks} times, last at step {state.step} ({reason}): lower "
                "learning_rate or raise lipschitz.beta"
            )
        self.say(
            f"step {state.step}: {reason}; returning to the last validated state with half the rate"
        )
        self.restore(self.folder / "validated.ckpt")
        state.lr_factor, state.rollbacks = factor, rollbacks
        self.save(self.folder / "validated.ckpt")
        self.save(self.folder / "last.ckpt")

    def finish(self) -> Path:
        if not self.state.best:
            raise EquipoiseError(
                f"no validated model stayed below T = {self.config.limit:g} and converged: "
                "raise lipschitz.beta or lipschitz.reserve"
            )
        return self.weights_path

    def _origin(self) -> dict[str, Any]:
        sense = {} if self.sense_psnr is None else {"sense_psnr": self.sense_psnr}
        validation = {**self.state.best, **sense}
        return origin_of(self.config, self.source, self.state.step, self.state.seconds, validation)

    def log(self, entry: dict[str, Any]) -> None:
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
