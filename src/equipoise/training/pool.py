"""The acquisition of a training step: a new one, or one of a pool with known equilibria.

A solve that starts from the equilibrium of the same acquisition a few hundred steps ago, with
nearly the same weights, needs a third of the evaluations, and so does its adjoint equation.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from equipoise.training.config import TrainConfig
from equipoise.training.sources.dataset import Dataset
from equipoise.training.sources.source import Measured

TRAIN_STREAM = 0
"""Separates the random numbers of training from those of validation and calibration."""


CPU = torch.device("cpu")


class Drawn(NamedTuple):
    """The step at which an acquisition was drawn, and the results of its last solves.

    ``image`` is in the units of the data, ``adjoint`` at intensity scale 1. Single precision is
    enough for a start.
    """

    step: int
    image: Tensor
    adjoint: Tensor


def drawn_at(step: int, size: int, uses: int) -> int:
    """The step at which the acquisition of a step was drawn, as a function of the step.

    The steps cycle through the pool, and an acquisition is used ``uses`` times. The first ones are
    replaced earlier, so that later every cycle replaces ``1 / uses`` of the pool.
    """
    turn, slot = divmod(step, size)
    first = max(turn - (turn + slot) % uses, 0)
    return first * size + slot


@dataclass
class Pool:
    """The samples of a training run by their steps.

    All random numbers follow from the seed and the step at which a sample was drawn. A checkpoint
    therefore stores the last equilibria but not the samples.

    Attributes
    ----------
    config, dataset
        Those of the run; ``config.pool`` is the number of acquisitions, 0 for a new one each step.
    ends
        The results of the last solves of each acquisition, by its place in the pool.
    device
        Where the samples are used; they are drawn on the CPU, so they are the same everywhere.
    """

    config: TrainConfig
    dataset: Dataset
    ends: dict[int, Drawn] = field(default_factory=dict)
    device: torch.device = CPU
    _samples: dict[int, tuple[int, Measured]] = field(default_factory=dict)

    def sample(self, step: int) -> Measured:
        """The acquisitions of a step as one batch."""
        slot, drawn = self._place(step)
        if slot is None:
            return self._draw(drawn)
        known = self._samples.get(slot)
        # Drawn again from its seed after a resume, because a checkpoint does not hold samples.
        if known is None or known[0] != drawn:
            known = self._samples[slot] = drawn, self._draw(drawn)
        return known[1]

    def start(self, step: int) -> dict[str, Tensor]:
        """The starts of the solves of a step, as arguments of ``solve``; none for a new sample."""
        slot, drawn = self._place(step)
        end = None if slot is None else self.ends.get(slot)
        # The stored equilibrium belongs to the acquisition that had this place before.
        if end is None or end.step != drawn:
            return {}
        image, adjoint = end.image.to(self.device), end.adjoint.to(self.device)
        return {"start": image, "adjoint_start": adjoint}

    def keep(self, step: int, image: Tensor, adjoint: Tensor) -> None:
        """Store the results of the solves of a step."""
        slot, drawn = self._place(step)
        if slot is not None:
            single = (t.detach().to(torch.complex64).clone() for t in (image, adjoint))
            self.ends[slot] = Drawn(drawn, *single)

    def _place(self, step: int) -> tuple[int | None, int]:
        """The place of a step in the pool, or None, and the step at which it was filled."""
        first, size = self.config.warmup_steps, self.config.pool
        # The warm-up solves nothing that a start could shorten.
        if step < first or not size:
            return None, step
        return (step - first) % size, first + drawn_at(step - first, size, self.config.pool_uses)

    def state(self) -> dict[int, tuple[Any, ...]]:
        """The content for a checkpoint."""
        return {slot: tuple(end) for slot, end in self.ends.items()}

    def restore(self, state: dict[int, tuple[Any, ...]]) -> None:
        """Restore the content of a checkpoint."""
        self.ends = {slot: Drawn(*end) for slot, end in state.items()}

    def _draw(self, step: int) -> Measured:
        """Draw new acquisitions."""
        seeds = ([self.config.seed, TRAIN_STREAM, step, i] for i in range(self.config.batch))
        generators = [np.random.default_rng(seed) for seed in seeds]
        return self.dataset.draw(generators, self.config.crop).to(self.device)
