"""The state of a training run: everything on which its next step depends."""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch

from equipoise.methods.method import Method
from equipoise.training.config import TrainConfig

COUNTERS = ("step", "mean_loss", "lr_factor", "rollbacks", "best", "seconds", "estimate", "samples")


@dataclass
class State:
    """The weights of a run and its counters.

    Attributes
    ----------
    config
        That of the run.
    model, average
        The weights that are trained, and their running average, which is validated and written. It
        is the model itself if the configuration asks for no average.
    optimizer
        Of the weights of ``model``.
    step
        Number of steps that were taken.
    mean_loss
        Running mean of the squared error; 0 before the first step.
    lr_factor, rollbacks
        Factor of the learning rate, halved by each return to the last validated state, and their
        number.
    best
        Validation results of the best weights so far.
    seconds
        Time of all steps.
    samples
        Number of samples whose equilibria were trained.
    estimate
        The last measured constant.
    """

    config: TrainConfig
    model: Method
    average: Method
    optimizer: torch.optim.Optimizer
    step: int = 0
    mean_loss: float = 0.0
    lr_factor: float = 1.0
    rollbacks: int = 0
    best: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    estimate: float = 0.0
    samples: int = 0

    @classmethod
    def of(cls, config: TrainConfig, model: Method) -> "State":
        """The state before the first step."""
        average = copy.deepcopy(model) if config.average else model
        optimizer = torch.optim.Adam(
            [{"params": group.parameters} for group in model.parameter_groups()]
        )
        return cls(config, model, average, optimizer)

    @property
    def total(self) -> int:
        """Number of steps of the whole run."""
        return self.config.warmup_steps + self.config.steps

    @property
    def warming(self) -> bool:
        """Whether the next step belongs to the warm-up of the denoiser."""
        return self.step < self.config.warmup_steps

    def content(self) -> dict[str, Any]:
        """The content for a checkpoint."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **{name: getattr(self, name) for name in COUNTERS},
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Restore the content of a checkpoint."""
        self.average.load_state_dict(content["average"])
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        for name in COUNTERS:
            setattr(self, name, content[name])
