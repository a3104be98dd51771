"""How far a command is, and the time that remains: on standard error, silent with ``-q``."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from equipoise.cli.terminal import console

if TYPE_CHECKING:
    from equipoise.equilibrium.watching import Seen

WIDTH = 24
"""Of the bar, in characters."""


class Bar:
    """One line: what is being done, a bar, the time that has passed and that remains.

    Away from a terminal each stage is a plain line as it begins.
    """

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._task: TaskID | None = None
        self._said = ""

    def of(self, what: str) -> Callable[[int, int], None]:
        """A callback with how many are done, and of how many."""
        return lambda done, total: self._tell(what, what, done, total)

    def stages(self, what: str, count: int) -> Callable[[str, int, int], None]:
        """A callback with the name of a stage, how many of its parts are done, and of how many.

        The bar counts stages, of which there are ``count`` at most, so that the time that remains
        is that of all of them.
        """
        seen: list[str] = []

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in seen:
                seen.append(stage)
            share = len(seen) - 1 + done / max(total, 1)
            self._tell(what, f"{what}: {stage}", share, max(count, len(seen)))

        return tell

    def saying(self, what: str, total: int) -> Callable[[str], None]:
        """A callback that prints the result of one of ``total`` parts above the bar."""
        done = 0
        self._tell(what, what, done, total)

        def say(text: str) -> None:
            nonlocal done
            done += 1
            console.print(text, markup=False)
            self._tell(what, what, done, max(total, done))

        return say

    def finish(self) -> None:
        """Take the line away: what follows is the result."""
        if self._task is not None:
            self._shown.remove_task(self._task)
            self._task = None

    def _tell(self, key: str, text: str, done: float, total: float) -> None:
        if self._task is None:
            self._task = self._shown.add_task(text, total=total)
        if not console.is_terminal and text != self._said:
            console.print(text, style="dim", markup=False)
        self._said = text
        self._shown.update(self._task, description=text, completed=done, total=total)


@contextmanager
def progress() -> Iterator[Bar]:
    """A line that shows how far the block is; results that are printed inside stay above it."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(WIDTH),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    quiet = console.quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=quiet) as shown:
        yield Bar(shown)


class SolveText:
    """How far a solve is, and the time that remains, if its bound goes on falling as it has.

    Parameters
    ----------
    clock
        Seconds since any moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, float] | None = None

    def after(self, seen: "Seen") -> str:
        """The text after an evaluation; each solve begins anew."""
        from equipoise.readable import duration

        if seen.evaluations == 1:
            self._first = None
        if not 0 < seen.bound < math.inf:
            return f"evaluation {seen.evaluations}"
        left = self._left(seen)
        about = "" if left is None else f", about {duration(left)} left"
        return f"evaluation {seen.evaluations}, bound {seen.bound:.1e}{about}"

    def _left(self, seen: "Seen") -> float | None:
        """Seconds until the bound is rtol, from the mean slope of its logarithm."""
        now, size = self._clock(), math.log(seen.bound)
        if self._first is None:
            self._first = now, size
        begun, largest = self._first
        if size >= largest:
            return None
        return max(size - math.log(seen.rtol), 0.0) * (now - begun) / (largest - size)
