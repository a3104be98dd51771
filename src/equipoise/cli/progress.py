"""How far a command is, and the time that remains: on standard error, silent with ``-q``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
