"""SIGINT and SIGTERM end a run after its step, with a checkpoint."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from equipoise.outcome import EquipoiseError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
FATAL = 128
"""A process that a signal ends has the exit code 128 and the number of the signal."""


class StoppedError(EquipoiseError):
    """A run that was stopped by a signal, with its checkpoint on disk.

    Attributes
    ----------
    number
        The signal.
    """

    def __init__(self, number: int, step: int, total: int) -> None:
        name = signal.Signals(number).name
        super().__init__(
            f"stopped by {name} at step {step} of {total}; the checkpoint is saved, and resume "
            "continues the run"
        )
        self.number = number

    @property
    def exit_code(self) -> int:
        """130 for SIGINT and 143 for SIGTERM, as in a shell."""
        return FATAL + self.number


@dataclass
class Stop:
    """The signal that asked for an end; None if there was none."""

    number: int | None = None


@contextmanager
def stoppable(patient: bool) -> Iterator[Stop]:
    """A block in which SIGINT and SIGTERM only ask for an end.

    Parameters
    ----------
    patient
        Whether further signals are ignored too. ``torchrun`` passes on a signal that its processes
        have already received. Otherwise the second signal ends the process at once.
    """
    stop = Stop()
    # Only the main thread may handle signals.
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.number is not None and not patient:
            raise KeyboardInterrupt
        stop.number = stop.number or number

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
