"""Which acquisition a training step uses: a new one, or one of a pool with the equilibria known.

A solve that starts where the same acquisition ended a few hundred steps ago, with nearly the same
weights, needs a third of the evaluations; so does its adjoint equation.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from equipoise.training.config import TrainConfig
from equipoise.training.sources.source import Sample, Source

TRAIN_STREAM = 0
"""Keeps the random numbers of training apart from those of validation and calibration."""


class Drawn(NamedTuple):
    """The step at which an acquisition was drawn, and where its solves ended when it was used last.

    ``image`` is in the units of the data and ``adjoint`` of intensity scale 1, both single
    precision, which is what a start needs.
    """

    step: int
    image: Tensor
    adjoint: Tensor


def drawn_at(step: int, size: int, uses: int) -> int:
    """The step at which the acquisition of a step was drawn, from the step alone.

    The steps go round the pool, and an acquisition is used ``uses`` times. The first ones are
    renewed earlier, so that later on every round renews ``1 / uses`` of the pool.
    """
    turn, slot = divmod(step, size)
    first = max(turn - (turn + slot) % uses, 0)
    return first * size + slot


@dataclass
class Pool:
    """The samples of a training run by their steps.

    Everything random comes from the seed and the step at which a sample was drawn, so a sample need
    not be kept with a checkpoint: its last equilibria are.

    Attributes
    ----------
    config, source, images
        Of the run; ``config.pool`` is the number of acquisitions, 0 for a new one at every step.
    ends
        Where the solves of each acquisition ended, by its place in the pool.
    """

    config: TrainConfig
    source: Source
    images: list[Tensor]
    ends: dict[int, Drawn] = field(default_factory=dict)
    _samples: dict[int, tuple[int, Sample]] = field(default_factory=dict)

    def sample(self, step: int) -> Sample:
        """The acquisitions of a step as one batch."""
        slot, drawn = self._place(step)
        if slot is None:
            return self._draw(drawn)
        known = self._samples.get(slot)
        if known is None or known[0] != drawn:
            known = self._samples[slot] = drawn, self._draw(drawn)
        return known[1]

    def start(self, step: int) -> dict[str, Tensor]:
        """Where the solves of a step may start, as arguments of ``solve``; nothing of a new one."""
        slot, drawn = self._place(step)
        end = None if slot is None else self.ends.get(slot)
        if end is None or end.step != drawn:
            return {}
        return {"start": end.image, "adjoint_start": end.adjoint}

    def keep(self, step: int, image: Tensor, adjoint: Tensor) -> None:
        """Where the solves of a step ended."""
        slot, drawn = self._place(step)
        if slot is not None:
            single = (t.detach().to(torch.complex64).clone() for t in (image, adjoint))
            self.ends[slot] = Drawn(drawn, *single)

    def _place(self, step: int) -> tuple[int | None, int]:
        """The place in the pool, None outside of it, and the step at which it was filled."""
        first, size = self.config.warmup_steps, self.config.pool
        if step < first or not size:
            return None, step
        return (step - first) % size, first + drawn_at(step - first, size, self.config.pool_uses)

    def state(self) -> dict[int, tuple[Any, ...]]:
        """What a checkpoint holds."""
        return {slot: tuple(end) for slot, end in self.ends.items()}

    def restore(self, state: dict[int, tuple[Any, ...]]) -> None:
        """Continue from a checkpoint."""
        self.ends = {slot: Drawn(*end) for slot, end in state.items()}

    def _draw(self, step: int) -> Sample:
        """New acquisitions."""
        samples = []
        for i in range(self.config.batch):
            rng = np.random.default_rng([self.config.seed, TRAIN_STREAM, step, i])
            image = self.images[int(rng.integers(len(self.images)))]
            samples.append(self.source.sample(image, rng, self.config.crop))
        return self.source.batch(samples)
