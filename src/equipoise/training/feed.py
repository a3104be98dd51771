"""Samples that are prepared beside the training, in the order of its steps.

Every sample is a function of its key, so it does not depend on the process that draws it: runs with
any number of workers are the same bit for bit.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from equipoise.outcome import BadInputError, EquipoiseError
from equipoise.threads import usable_processors
from equipoise.training.sources.source import Measured

log = logging.getLogger(__name__)

Key = tuple[int, int]
"""The step at which a batch is drawn, and its part of the step."""

AHEAD = 2
"""Batches that each worker has ready."""

MOST_WORKERS = 4
"""Workers that are chosen automatically, at most."""


def usual_workers(processes: int) -> int:
    """The number of workers of each of some processes on this machine: one processor is its own."""
    return max(0, min(MOST_WORKERS, usable_processors() // processes - 1))


@dataclass
class Feed:
    """Batches by their keys.

    Attributes
    ----------
    draw
        Draws the batch of a key.
    workers
        Number of processes that draw; with 0 the training draws itself.
    waited
        Seconds for which the training has waited for batches.
    skipped
        Files that could not be used, and why.
    """

    draw: Callable[[Key], Measured]
    workers: int = 0
    waited: float = 0.0
    skipped: dict[Path, str] = field(default_factory=dict)
    _expected: Iterator[Key] = field(default_factory=lambda: iter(()))
    _batches: Iterator[bytes] = field(default_factory=lambda: iter(()))

    def take(self, key: Key, upcoming: Callable[[], Iterable[Key]]) -> Measured:
        """The batch of a key.

        Parameters
        ----------
        key
            Step and part.
        upcoming
            The keys from this one on, if those that were prepared were others.
        """
        started = time.perf_counter()
        if self.workers:
            batch = self._taken(key, upcoming)
        else:
            batch = self.draw(key)
            self.skipped |= _skipped(self.draw)
        self.waited += time.perf_counter() - started
        return batch

    def _taken(self, key: Key, upcoming: Callable[[], Iterable[Key]]) -> Measured:
        # At the beginning, and after a return to an earlier state, other batches come next.
        if next(self._expected, None) != key:
            self.close()
            self._expected = iter(upcoming())
            self._batches = self._started(upcoming())
            assert next(self._expected) == key
        try:
            batch, skipped = pickle.loads(next(self._batches))
        except RuntimeError as error:
            raise EquipoiseError(
                f"a worker that prepares samples ended ({error}): if memory was short, use fewer "
                "--workers; --resume continues the run"
            ) from error
        for path in skipped.keys() - self.skipped.keys():
            log.warning("skipped %d files: %s", len(self.skipped) + 1, skipped[path])
            self.skipped[path] = skipped[path]
        # Raised here, because the loader would put the traceback of the worker into the message.
        if isinstance(batch, EquipoiseError):
            raise batch
        assert isinstance(batch, Measured)
        return batch

    def _started(self, keys: Iterable[Key]) -> Iterator[bytes]:
        # A forked worker shares the images; elsewhere each gets a copy.
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
        loader = DataLoader(
            _Drawn(self.draw),
            batch_size=None,
            sampler=keys,
            num_workers=self.workers,
            prefetch_factor=AHEAD,
            collate_fn=_unchanged,
            worker_init_fn=_prepare,
            multiprocessing_context=context,
            generator=torch.Generator().manual_seed(0),
        )
        with warnings.catch_warnings():
            # Python warns of threads that hold locks; a worker uses none of those locks.
            warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
            return iter(loader)

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        self._expected, self._batches = iter(()), iter(())


@dataclass(frozen=True)
class _Drawn(Dataset[bytes]):
    draw: Callable[[Key], Measured]

    def __getitem__(self, key: Key) -> bytes:
        batch: Any
        try:
            batch = self.draw(key)
        except EquipoiseError as error:
            batch = error
        # Bytes go through a pipe. Tensors would take shared memory, of which containers have
        # little, and an open file each.
        try:
            return pickle.dumps((batch, _skipped(self.draw)), pickle.HIGHEST_PROTOCOL)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            refusal = BadInputError(
                "a worker cannot send its sample, because its operator cannot be pickled "
                f"({error}): train with workers=0, or write the operator without lambdas"
            )
            return pickle.dumps((refusal, {}))


def _skipped(draw: Callable[[Key], Measured]) -> dict[Path, str]:
    return dict(getattr(draw, "skipped", {}))


def _unchanged(batch: Any) -> Any:
    return batch


def _prepare(worker: int) -> None:
    """Leave signals and messages to the training, which ends its workers itself."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # What it finds out about files is told once, by the training.
    logging.getLogger("equipoise").setLevel(logging.ERROR)
    threading.Thread(target=_end_with_the_training, daemon=True).start()


def _end_with_the_training() -> None:
    """End when the training was killed: a worker waits for its samples to be taken for ever."""
    training = multiprocessing.parent_process()
    assert training is not None
    training.join()
    os._exit(1)
