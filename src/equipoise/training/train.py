"""Training of every method: the loop, the choice of the weights that are written, and the files.

Random numbers depend only on the seed and the step, so a run that is killed and resumed ends in
the same weights. What one step does is in :mod:`equipoise.training.step`.
"""

import json
import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from equipoise.formats.replacing import make_folder, replacing
from equipoise.outcome import BadInputError, EquipoiseError
from equipoise.readable import counted
from equipoise.training import beginning
from equipoise.training.beginning import continued, dataset_of, first_model, source_of
from equipoise.training.checkpoint import load_checkpoint, save_checkpoint
from equipoise.training.config import TrainConfig
from equipoise.training.distributed import ALONE, Processes
from equipoise.training.feed import Feed
from equipoise.training.log import LOG, append, drop_after
from equipoise.training.origin import origin_of
from equipoise.training.pool import CPU, Draws, Pool
from equipoise.training.sources.dataset import Dataset
from equipoise.training.sources.source import Measured, Source
from equipoise.training.state import State
from equipoise.training.step import Progress, take_step
from equipoise.training.stopping import Stop, StoppedError, stoppable
from equipoise.training.validation import Validated, score, sense_psnr, validated, validation_set
from equipoise.zoo.model_file import save_model

log = logging.getLogger(__name__)

LAST, VALIDATED = "last.ckpt", "validated.ckpt"
CHECKPOINT_EVERY = 50

DIVERGENCE_DB = 3.0
"""A validation PSNR this far below the best counts as divergence too."""

EXPLODED = "the loss or its gradient exploded"

MAX_ROLLBACKS = 6

MAX_LEFT_OUT = 3
"""Steps in a row that may be left out. Samples that no weights explain, as those whose coil maps
failed, come alone; after an update that went wrong every sample is far off."""


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
    workers: int = 0,
    processes: Processes = ALONE,
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
    workers
        Number of processes that prepare samples beside the training. It does not change them.
    processes
        The processes that train together, see :func:`~equipoise.training.distributed.joined`. Each
        takes its own batches, so a step has as many times more samples. The folder must be the same
        for all of them.
    report, say
        Called after every step, and with messages; in the first process only.

    Raises
    ------
    BadInputError
        If data are missing, or the folder holds a run or a model of that name and ``resume`` is
        False.
    StoppedError
        If SIGINT or SIGTERM stopped the run; its checkpoint is written.
    EquipoiseError
        If training diverges repeatedly, no validated model converged with its estimate below T, or
        another process ended.
    """
    if not resume:
        beginning.check_new_run(config, folder)
    run = Run(config, folder, say, source, network, device, dataset, validation, workers, processes)
    run.resume() if resume else run.begin()
    with run.feed, stoppable(patient=processes.count > 1) as stop:
        _loop(run, stop, report)
    run.say_skipped()
    return run.finish()


def _loop(run: "Run", stop: Stop, report: Callable[[Progress], None]) -> None:
    state, config, left_out = run.state, run.config, 0
    while state.step < state.total:
        progress = take_step(state, run.pool, run.processes)
        left_out = left_out + 1 if progress is None else 0
        # The steps are repeated from the last validated state, so they are not counted.
        if left_out == MAX_LEFT_OUT:
            run.roll_back(EXPLODED)
            left_out = 0
            continue
        if progress is None:
            run.leave_out()
        else:
            run.log(asdict(progress))
        state.step += 1
        if state.step % config.validate_every == 0 or state.step == state.total:
            found = run.validate()
            if run.psnr_collapsed(score(found.trained)):
                run.roll_back(f"validation fell to {score(found.trained):.2f} dB")
                continue
            run.keep(found)
            if progress is not None:
                progress.validation = found.results
        elif state.step % CHECKPOINT_EVERY == 0:
            run.save(run.folder / LAST)
        if progress is not None and run.processes.writes:
            progress.best_step = int(state.best.get("step", 0))
            report(progress)
        # All processes stop at the same step, whichever of them received the signal.
        if state.step < state.total and run.processes.any(stop.number is not None):
            run.save(run.folder / LAST)
            raise StoppedError(stop.number or signal.SIGTERM, state.step, state.total)


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
        workers: int = 0,
        processes: Processes = ALONE,
    ):
        self.config = config = continued(config)
        self.folder, self.processes = folder, processes
        self.say = say if processes.writes else log.debug
        self.skipped: dict[Path, str] = {}
        self.source = source_of(config, self.skipped) if source is None else source
        self.feed = Feed(Draws(config, dataset or dataset_of(config, self.source)), workers)
        first = processes.rank * config.accumulate
        parts = range(first, first + config.accumulate)
        self.pool = Pool(config, self.feed, parts, device=device)
        if validation is None:
            own = validation_set(config, self.source, processes, self.skipped)
        else:
            own = list(validation[processes.rank :: processes.count])
        self.validation = [sample.to(device) for sample in own]
        self.sense_psnr = sense_psnr(self.validation, processes)
        self.state = State.of(config, first_model(config, network).to(device))
        # A network of the user may begin with random weights.
        processes.agree(self.state.model.state_dict().values())
        processes.agree(self.state.average.state_dict().values())

    # ---- validation ----------------------------------------------------------------------------

    def validate(self) -> Validated:
        return validated(self.state, self.validation, self.processes)

    def psnr_collapsed(self, value: float) -> bool:
        return bool(self.state.best) and not value > score(self.state.best) - DIVERGENCE_DB

    def keep(self, found: Validated) -> None:
        """Save a checkpoint and, if they are the best whose estimate stays below T, the weights."""
        state, results = self.state, found.results
        below = results.get("constraint", 0.0) < self.config.limit
        warmed = state.step >= self.config.warmup_steps
        better = not state.best or score(results) > score(state.best)
        # Weights whose validation did not converge have a PSNR that means nothing.
        if warmed and below and better and results.get("converged", 1.0) == 1.0:
            state.best = {**results, "step": float(state.step), "scaled_by": found.factor}
            if self.processes.writes:
                save_model(self.weights_path, found.model, self._origin())
        unscaled = {} if found.factor == 1 else {"unscaled": found.trained}
        self.log({"step": state.step, "validation": results, **unscaled, "best": state.best})
        self.save(self.folder / VALIDATED, self.folder / LAST)

    # ---- files ---------------------------------------------------------------------------------

    @property
    def weights_path(self) -> Path:
        return self.folder / f"{self.config.name}.safetensors"

    def begin(self) -> None:
        """Start a new run in an empty folder."""
        # No process may write before all of them have seen that the folder is empty.
        self.processes.gathered(None)
        if self.processes.writes:
            make_folder(self.folder)
            with replacing(self.folder / "config.json") as temporary:
                temporary.write_text(json.dumps(self.config.model_dump(mode="json"), indent=1))
        self.save(self.folder / VALIDATED, self.folder / LAST)
        self._say_parts()

    def resume(self) -> None:
        """Continue from the last checkpoint."""
        before = self.restore(self.folder / LAST)
        state = self.state
        self.say(f"resuming at step {state.step} of {state.total}")
        count = self.processes.count
        if before != count:
            self.say(f"number of processes: {before} until here, {count} from now on")
        self._say_parts()

    def _say_parts(self) -> None:
        count, parts = self.processes.count, self.config.accumulate
        if count * parts > 1:
            size = count * parts * self.config.batch
            self.say(
                f"a step is the mean over {size} samples: {count} processes x {parts} batches "
                f"x {self.config.batch}"
            )

    def save(self, *paths: Path) -> None:
        """Write checkpoints; all processes take part, because each holds a part of the pool."""
        pools = self.processes.gathered(self.pool.state())
        if not self.processes.writes:
            return
        content = {
            "config": json.dumps(self.config.model_dump(mode="json")),
            "source": type(self.source).__name__,
            "processes": self.processes.count,
            **self.state.content(),
            "pool": {place: end for pool in pools for place, end in pool.items()},
        }
        for path in paths:
            save_checkpoint(path, content)

    def restore(self, path: Path) -> int:
        """Restore a checkpoint and cut the log after it; the number of processes that wrote it."""
        content = load_checkpoint(path)
        try:
            written = json.loads(content["config"])
        except (TypeError, ValueError):
            written = None
        if written != self.config.model_dump(mode="json"):
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
        if self.processes.writes:
            drop_after(self.folder / LOG, self.state.step)
        return int(content["processes"])

    def leave_out(self) -> None:
        """Say that the samples of the step change nothing."""
        step = self.state.step + 1
        self.say(f"step {step}: {EXPLODED}; its samples are left out")
        self.log({"step": step, "left_out": EXPLODED})

    def roll_back(self, reason: str) -> None:
        """Return to the last validated state with half the learning rate."""
        state, reached = self.state, self.state.step
        factor, rollbacks = state.lr_factor / 2, state.rollbacks + 1
        if rollbacks > MAX_ROLLBACKS:
            raise EquipoiseError(
                f"training diverged {rollbacks} times, last at step {reached} ({reason}): lower "
                "learning_rate or raise lipschitz.beta"
            )
        self.say(
            f"step {reached}: {reason}; returning to the last validated state with half the rate"
        )
        self.restore(self.folder / VALIDATED)
        state.lr_factor, state.rollbacks = factor, rollbacks
        self.log({"step": state.step, "returned_from": reached, "reason": reason})
        self.save(self.folder / VALIDATED, self.folder / LAST)

    def finish(self) -> Path:
        if not self.state.best:
            raise EquipoiseError(
                f"no validated model stayed below T = {self.config.limit:g} and converged: "
                "raise lipschitz.beta or lipschitz.reserve"
            )
        return self.weights_path

    def say_skipped(self) -> None:
        """List the files that could not be used."""
        skipped = {**self.feed.skipped, **self.skipped}
        if skipped:
            self.say(f"{counted(len(skipped), 'file')} could not be used:")
            for why in sorted(skipped.values()):
                self.say(f"  {why}")

    def _origin(self) -> dict[str, Any]:
        sense = {} if self.sense_psnr is None else {"sense_psnr": self.sense_psnr}
        state, validation = self.state, {**self.state.best, **sense}
        return origin_of(self.config, self.source, state.samples, state.seconds, validation)

    def log(self, entry: dict[str, Any]) -> None:
        if self.processes.writes:
            append(self.folder / LOG, entry)
