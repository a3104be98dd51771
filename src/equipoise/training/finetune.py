"""Fine-tuning a model to the scans of a site: a few steps, and a judgement on scans held out.

The method, its m and what proves it are those of the start, because only the weights change and
training keeps the same constraint. Nothing is written that is worse than the start.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from equipoise.formats.writers.target import MODELS, check_target, input_files
from equipoise.methods.method import Method
from equipoise.outcome import BadInputError
from equipoise.training.beginning import scan_samples
from equipoise.training.config import TrainConfig, refuse_test_data
from equipoise.training.drawn import SimulationConfig
from equipoise.training.pool import CPU
from equipoise.training.sources.held_out import HeldOut, hold_out
from equipoise.training.sources.scans import training_scans
from equipoise.training.step import Progress
from equipoise.training.train import train
from equipoise.training.validation import evaluate
from equipoise.zoo.find import find_model
from equipoise.zoo.model_file import load_model, model_config, provenance, save_model
from equipoise.zoo.untrained import untrained_model

LIPSCHITZ = {"beta": 0.05, "margin": 0.005, "reserve": 0.008, "steps": 25}
"""The barrier for methods whose constant is measured: trained weights lie close below T."""

QUALITIES = ("psnr", "kspace_snr")
"""What decides; the first is of fully sampled scans, the second of undersampled ones."""


class FinetuneOutcome(str, Enum):
    """The named end of a fine-tuning."""

    BETTER = "better"
    NOT_BETTER = "not_better"
    NOT_CERTAIN = "not_certain"

    @property
    def advice(self) -> str:
        """What happened, and what can be done."""
        return _ADVICE[self]


_ADVICE = {
    FinetuneOutcome.BETTER: "the fine-tuned model is better on the scans that were held out",
    FinetuneOutcome.NOT_BETTER: (
        "the fine-tuned model is not better on the scans that were held out, so nothing was "
        "written: use the start as it is, give more scans, or change --steps or --learning-rate"
    ),
    FinetuneOutcome.NOT_CERTAIN: (
        "the fine-tuned model has less evidence for its m than the start, so nothing was written: "
        "lower --learning-rate"
    ),
}


@dataclass(frozen=True)
class FinetuneSettings:
    """How a model is fine-tuned.

    Attributes
    ----------
    steps
        Number of steps, of one slice each.
    learning_rate
        Of the network at the beginning; it falls to a tenth.
    rule_rate
        Of the rules for lam and thresholds.
    acceleration
        Of the masks for fully sampled scans; that of the training of the model if not given.
    fraction
        Share of the samples of undersampled scans that is held back from each solve.
    seed
        Of the split and of all samples.
    """

    steps: int = 30
    learning_rate: float = 1e-3
    rule_rate: float = 3e-2
    acceleration: float | None = None
    fraction: float = 0.4
    seed: int = 0


@dataclass(frozen=True)
class Finetuned:
    """How a fine-tuning ended.

    Attributes
    ----------
    outcome
        Nothing is written unless it is ``better``.
    before, after
        Results on the scans that were held out: ``psnr`` of fully sampled ones, ``kspace_snr`` of
        undersampled ones, both in dB, and those of the equilibria.
    split
        Which part was held out, in words.
    m, evidence
        m of the fine-tuned model, and what it rests on, computed from its weights.
    skipped
        Files that could not be used, and why.
    path
        The file that was written, or None.
    """

    outcome: FinetuneOutcome
    before: dict[str, float]
    after: dict[str, float]
    split: str
    m: float | None
    evidence: str
    skipped: dict[str, str] = field(default_factory=dict)
    path: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """The object that ``equipoise finetune --json`` prints."""
        return {
            "outcome": self.outcome.value,
            "before": self.before,
            "after": self.after,
            "split": self.split,
            "m": self.m,
            "m_evidence": self.evidence,
            "skipped": self.skipped,
            "written": None if self.path is None else str(self.path),
        }


def finetune(
    model: str | Path,
    scans: Sequence[Path],
    output: Path,
    settings: FinetuneSettings | None = None,
    *,
    overwrite: bool = False,
    device: torch.device = CPU,
    report: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = lambda text: None,
) -> Finetuned:
    """Train a model further on scans, and write it if it is better on those held out.

    Fully sampled scans are undersampled, undersampled ones are split
    (:mod:`equipoise.training.sources.self_supervised`). The weights of the last step are judged,
    and no others, so the held-out scans choose nothing.

    Parameters
    ----------
    model
        Name or file of the start.
    scans
        Files, or folders of them.
    output
        The model file to write.
    settings
        See :class:`FinetuneSettings`.
    overwrite
        Replace an output that exists.
    device
        Where it trains.
    report, say
        Called after every step, and with messages.

    Raises
    ------
    BadInputError
        If the model has no weights or is not for slices of scans, no scan can be used, or the
        output must not be written.
    StoppedError
        If SIGINT or SIGTERM stopped it; nothing is written.
    EquipoiseError
        If training diverges, or the constant of the weights cannot be kept below ``1 - m``.
    """
    settings = settings or FinetuneSettings()
    start = _start(model)
    files = training_scans(list(scans), set())
    inputs = input_files(find_model(model), *files)
    check_target(output, overwrite=overwrite, suffixes=MODELS, inputs=inputs)
    config = configuration(model, files, settings)
    held = hold_out(files, scan_samples(config), settings.seed)
    say(held.split)
    judged = [sample.to(device) for sample in held.judged]
    before = evaluate(start.to(device), judged, config.lipschitz.validation_steps)
    with tempfile.TemporaryDirectory(prefix="equipoise-finetune-") as folder:
        path = train(
            config,
            Path(folder) / "run",
            dataset=held.dataset,
            validation=held.judged,
            device=device,
            report=report,
            say=say,
        )
        tuned, origin = load_model(path), provenance(path)
    # The weights were validated on the same samples in the same way when they were written.
    after = {key: origin["validation"][key] for key in before if key in origin["validation"]}
    outcome = judgement(start, tuned, before, after)
    skipped = {**getattr(held.dataset, "skipped", {}), **held.skipped}
    found = Finetuned(
        outcome,
        before,
        after,
        held.split,
        tuned.m,
        tuned.m_evidence,
        {str(scan): why for scan, why in skipped.items()},
        output if outcome is FinetuneOutcome.BETTER else None,
    )
    if found.path is not None:
        save_model(found.path, tuned.cpu(), _origin(origin, config, held, found))
    return found


def _start(model: str | Path) -> Method:
    if untrained_model(model) is not None:
        raise BadInputError(f"{model} has no weights: choose a trained model to fine-tune")
    start: Method = load_model(model)
    if start.real:
        raise BadInputError(
            f"{model} is for photographs and a scan is complex: choose one of the -brain- models"
        )
    if len(start.axes) > 2:
        raise BadInputError(
            f"{model} is for images ({', '.join(start.axes)}), and scans are fine-tuned to slice "
            "by slice: choose a model of (y, x), or train with `equipoise train cine`"
        )
    return start


def configuration(
    model: str | Path, scans: Sequence[Path], settings: FinetuneSettings
) -> TrainConfig:
    """The training configuration: the method of the start, and the masks of its training."""
    content = model_config(model).model_dump()
    known = provenance(model).get("config", {})
    refuse_test_data(known.get("data"))
    masks = {
        key: value
        for key, value in (known.get("simulation") or {}).items()
        if key in ("acceleration", "calibration", "mask")
    }
    if settings.acceleration is not None:
        masks["acceleration"] = settings.acceleration
    return TrainConfig.model_validate(
        {
            "name": "finetuned",
            "data": {
                "scans": list(scans),
                "validation_scans": list(scans),
                "self_supervised": {"fraction": settings.fraction},
            },
            "simulation": SimulationConfig.model_validate(masks).model_dump(),
            "model": content,
            "lipschitz": LIPSCHITZ,
            "start": find_model(model),
            "seed": settings.seed,
            "crop": None,
            "warmup_steps": 0,
            "steps": settings.steps,
            "learning_rate": settings.learning_rate,
            "final_learning_rate": settings.learning_rate / 10,
            "weight_learning_rate": settings.rule_rate,
            # Judged once, at the end: a choice among several would be a choice by the held-out
            # scans.
            "validate_every": settings.steps,
        }
    )


def judgement(
    start: Method, tuned: Method, before: dict[str, float], after: dict[str, float]
) -> FinetuneOutcome:
    """Whether no quality fell and one rose, and m has the evidence that it had."""
    if start.m_evidence == "proved" and tuned.m_evidence != "proved":
        return FinetuneOutcome.NOT_CERTAIN
    gains = [after[name] - before[name] for name in QUALITIES if name in before]
    # Written so that a quality that is not a number refuses the model.
    better = all(gain >= 0 for gain in gains) and any(gain > 0 for gain in gains)
    return FinetuneOutcome.BETTER if better else FinetuneOutcome.NOT_BETTER


def _origin(
    origin: dict[str, Any], config: TrainConfig, held: HeldOut, found: Finetuned
) -> dict[str, Any]:
    """The provenance, with the names of the files without their folders."""
    names = sorted({path.name for path in held.files})
    content = {**origin["config"]["data"], "validation_scans": names}
    kept = {**origin["config"], "data": content}
    tuning = {key: value for key, value in found.as_json().items() if key != "written"}
    tuning["skipped"] = sorted(Path(scan).name for scan in found.skipped)
    return {**origin, "config": kept, "finetune": tuning}
