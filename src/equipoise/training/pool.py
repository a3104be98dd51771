"""The acquisition of a training step: a new one, or one of a pool with known equilibria.

A solve that starts from the equilibrium of the same acquisition a few hundred steps ago, with
nearly the same weights, needs a third of the evaluations, and so does its adjoint equation.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from equipoise.training.config import TrainConfig
from equipoise.training.feed import Feed, Key
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


@dataclass(frozen=True)
class Draws:
    """The batches of a run by their keys: every random number follows from seed, step and place.

    The samples of a step are numbered through its parts, so several parts, in one process or in
    many, draw the samples of one large batch.

    Attributes
    ----------
    config, dataset
        Those of the run.
    """

    config: TrainConfig
    dataset: Dataset

    def __call__(self, key: Key) -> Measured:
        """Draw new acquisitions."""
        (step, part), batch = key, self.config.batch
        places = range(part * batch, (part + 1) * batch)
        seeds = ([self.config.seed, TRAIN_STREAM, step, place] for place in places)
        return self.dataset.draw([np.random.default_rng(seed) for seed in seeds], self.config.crop)

    @property
    def skipped(self) -> Mapping[Path, str]:
        """The files that could not be used so far, and why."""
        return self.dataset.skipped


@dataclass
class Pool:
    """The samples of a training run by their steps and the parts of a step.

    All random numbers follow from the seed, the part, and the step at which a sample was drawn. A
    checkpoint therefore stores the last equilibria but not the samples.

    Attributes
    ----------
    config
        Of the run; ``config.pool`` is the number of acquisitions of each part, 0 for a new one each
        step.
    feed
        Where batches come from.
    parts
        The parts of each step that this process takes.
    ends
        The results of the last solves of each acquisition, by its part and its place in the pool.
    device
        Where the samples are used; they are drawn on the CPU, so they are the same everywhere.
    """

    config: TrainConfig
    feed: Feed
    parts: range = range(1)
    ends: dict[Key, Drawn] = field(default_factory=dict)
    device: torch.device = CPU
    _samples: dict[Key, tuple[int, Measured]] = field(default_factory=dict)

    def sample(self, step: int, part: int) -> Measured:
        """The acquisitions of a part of a step as one batch."""
        slot, drawn = self._place(step)
        known = None if slot is None else self._samples.get((part, slot))
        # Drawn again from its seed after a resume, because a checkpoint does not hold samples.
        if known is None or known[0] != drawn:
            fresh = self.feed.take((drawn, part), lambda: self._upcoming(step, part))
            known = drawn, fresh.to(self.device)
            if slot is not None:
                self._samples[part, slot] = known
        return known[1]

    def _upcoming(self, first: int, part: int) -> Iterator[Key]:
        """The batches that will be drawn from a part of a step on, in their order."""
        held = {place: drawn for place, (drawn, _) in self._samples.items()}
        for step in range(first, self.config.warmup_steps + self.config.steps):
            slot, drawn = self._place(step)
            for one in self.parts:
                taken = step == first and one < part
                if taken or (slot is not None and held.get((one, slot)) == drawn):
                    continue
                if slot is not None:
                    held[one, slot] = drawn
                yield drawn, one

    def start(self, step: int, part: int) -> dict[str, Tensor]:
        """The starts of the solves of a step, as arguments of ``solve``; none for a new sample."""
        slot, drawn = self._place(step)
        end = None if slot is None else self.ends.get((part, slot))
        # The stored equilibrium belongs to the acquisition that had this place before.
        if end is None or end.step != drawn:
            return {}
        image, adjoint = end.image.to(self.device), end.adjoint.to(self.device)
        return {"start": image, "adjoint_start": adjoint}

    def keep(self, step: int, part: int, image: Tensor, adjoint: Tensor) -> None:
        """Store the results of the solves of a step."""
        slot, drawn = self._place(step)
        if slot is not None:
            single = (t.detach().to(torch.complex64).clone() for t in (image, adjoint))
            self.ends[part, slot] = Drawn(drawn, *single)

    def _place(self, step: int) -> tuple[int | None, int]:
        """The place of a step in the pool, or None, and the step at which it was filled."""
        first, size = self.config.warmup_steps, self.config.pool
        # The warm-up solves nothing that a start could shorten.
        if step < first or not size:
            return None, step
        return (step - first) % size, first + drawn_at(step - first, size, self.config.pool_uses)

    def state(self) -> dict[Key, tuple[Any, ...]]:
        """The content for a checkpoint."""
        return {place: tuple(end) for place, end in self.ends.items()}

    def restore(self, state: dict[Key, tuple[Any, ...]]) -> None:
        """Restore the content of a checkpoint; other processes may have written parts of it."""
        ends = {place: Drawn(*end) for place, end in state.items()}
        self.ends = {place: end for place, end in ends.items() if place[0] in self.parts}
