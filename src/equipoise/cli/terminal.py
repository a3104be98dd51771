"""The console, its verbosity (``-q``, ``-v``, ``--debug``), and the failure of a command."""

import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO, cast

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

for _name in ("stdin", "stdout", "stderr"):
    # Python leaves None where the stream was closed, and the next file would take its number.
    if getattr(sys, _name) is None:
        setattr(
            sys, _name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if _name == "stdin" else "w")
        )

CONTROLS = {
    **{i: f"\\x{i:02x}" for i in (*range(9), *range(10, 32), *range(127, 160))},
    **{i: f"\\x{i - 0xDC00:02x}" for i in range(0xDC80, 0xDD00)},
    **{i: f"\\u{i:04x}" for i in (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))},
}
"""Characters that are shown as escapes: control characters other than tab, which could command the
terminal or begin a line that looks like one of ours, marks that change the direction of text, and
bytes that are not UTF-8."""


def cleaned(text: str) -> str:
    """Text without effect on a terminal, because names and metadata of files are not trusted."""
    return text.translate(CONTROLS)


def say(*lines: str) -> None:
    """Print lines of a result on standard output."""
    for line in lines:
        print(cleaned(line))


class CleanConsole(Console):
    """A console that cleans all of its text, also in tables."""

    def render_str(self, text: str, **options: Any) -> Text:
        """The text as it is printed."""
        return super().render_str(cleaned(text), **options)

    def document(self, text: str) -> None:
        """Print a text of several lines."""
        for line in text.splitlines():
            self.print(line, markup=False)


class Messages:
    """Standard error as it is at the moment; what cannot be written there is dropped.

    A log on a full disk must not cost the result of a command, or change its exit code.
    """

    def write(self, text: str) -> int:
        """Write a text."""
        with _dropping():
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is held back."""
        with _dropping():
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        """Everything else is that of the stream."""
        return getattr(sys.stderr, name)


@contextmanager
def _dropping() -> Iterator[None]:
    try:
        yield
    except OSError:
        # What is held back would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


FLAGS = ("-q", "--quiet", "-v", "--verbose", "--debug")

# In a log or a pipe, which has no width, tables must not be squeezed.
console = CleanConsole(
    file=cast(TextIO, Messages()), soft_wrap=True, width=None if sys.stderr.isatty() else 140
)
"""For progress and notes; silent with ``-q``. Results for scripts go to standard output."""

errors = CleanConsole(file=cast(TextIO, Messages()), soft_wrap=True)
"""For errors and warnings, which are printed even with ``-q``."""


@dataclass
class Verbosity:
    """How much is printed."""

    quiet: bool = False
    verbose: bool = False
    debug: bool = False


verbosity = Verbosity()


ENDINGS: tuple[type[BaseException], ...] = (typer.BadParameter.__mro__[2], typer.Exit, typer.Abort)
"""Exceptions that the command line handles itself. The first is ClickException, of click or of
typer's own copy of it."""


class VerboseGroup(TyperGroup):
    """Accepts the flags anywhere in the line, and reports unexpected errors in one line."""

    def make_context(self, *args: Any, **more: Any) -> Any:
        """Read the command line; an error message repeats the typed text, cleaned."""
        with _clean_complaints():
            return super().make_context(*args, **more)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move the flags before the command, except those after ``--``."""
        # After -- a file may have the name of a flag.
        end = args.index("--") if "--" in args else len(args)
        flags = [a for a in args[:end] if a in FLAGS]
        rest = [a for a in args[:end] if a not in FLAGS]
        return super().parse_args(ctx, flags + rest + args[end:])

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            with _clean_complaints():
                return super().invoke(ctx)
        except ENDINGS:
            raise
        except BrokenPipeError as error:
            # The reader of the pipe, such as `head`, has ended. Without this, Python would try to
            # flush the rest at exit and fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from error
        # A full disk, a name that is too long or a folder that vanished is no bug of the program.
        except OSError as error:
            if verbosity.debug:
                raise
            errors.print(f"error: {_what_failed(error)}", style="bold red", markup=False)
            raise typer.Exit(1) from error
        except Exception as error:
            if verbosity.debug:
                raise
            errors.print(
                f"error: unexpected {type(error).__name__}: {error}. This is a bug in equipoise; "
                "--debug shows where it happened",
                style="bold red",
                markup=False,
            )
            raise typer.Exit(1) from error


def _what_failed(error: OSError) -> str:
    """The file and the reason that the operating system gave, without its number."""
    if error.strerror is None:
        return str(error)
    named = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return f"{named}{error.strerror}: use another file or folder, or change what prevents it"


class FiniteCommand(TyperCommand):
    """Refuses nan and inf: nan passes every limit, and most options have no upper one."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command if all of its numbers are finite."""
        for parameter in self.params:
            given = ctx.params.get(parameter.name)
            for value in given if isinstance(given, list | tuple) else [given]:
                if isinstance(value, float) and not math.isfinite(value):
                    raise typer.BadParameter(
                        f"{value} is not a finite number",
                        param_hint=f"'{max(parameter.opts, key=len)}'",
                    )
        return super().invoke(ctx)


class _OnConsole(logging.Handler):
    """Prints the log of the package as lines of the console."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message without time and place, which are useless here."""
        style = "dim" if record.levelno < logging.WARNING else "yellow"
        console.print(record.getMessage(), style=style, markup=False, highlight=False)


@contextmanager
def telling() -> Iterator[None]:
    """Print warnings of the package, even with ``-q``, and its log with ``-v``."""
    from equipoise.outcome import ConvergenceWarning, InputWarning

    log, handler = logging.getLogger("equipoise"), _OnConsole()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO if verbosity.verbose else logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", ConvergenceWarning)
            warnings.simplefilter("always", InputWarning)
            show, said = warnings.showwarning, set[str]()

            # Only warnings that are meant for users; those of libraries take their usual way.
            def tell(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
                if issubclass(category, ConvergenceWarning | InputWarning):
                    # Every slice of a scan may say the same.
                    if str(message) not in said:
                        said.add(str(message))
                        errors.print(f"warning: {message}", style="yellow", markup=False)
                else:
                    show(message, category, *place, **more)

            warnings.showwarning = tell
            yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


@contextmanager
def _clean_complaints() -> Iterator[None]:
    try:
        yield
    except ENDINGS[0] as error:
        if isinstance(getattr(error, "message", None), str):
            error.message = cleaned(error.message)  # type: ignore[attr-defined]
        raise


@contextmanager
def failures() -> Iterator[None]:
    """Report failures that the user can act on in one line, and exit with code 1."""
    from equipoise.outcome import EquipoiseError

    try:
        with telling():
            yield
    # Expected failures have advice in their message; a traceback would hide it.
    except EquipoiseError as error:
        if verbosity.debug:
            raise
        errors.print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from error
    # A MemoryError usually has no text.
    except MemoryError as error:
        if verbosity.debug:
            raise
        errors.print("error: not enough memory for this scan", style="bold red")
        raise typer.Exit(1) from error
