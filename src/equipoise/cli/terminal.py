"""The console, how much it says (``-q``, ``-v``, ``--debug``), and how a command fails."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

CONTROLS = {
    **{i: f"\\x{i:02x}" for i in (*range(9), *range(11, 32), *range(127, 160))},
    **{i: f"\\x{i - 0xDC00:02x}" for i in range(0xDC80, 0xDD00)},
    **{i: f"\\u{i:04x}" for i in (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))},
}
"""What is shown as an escape: control characters but tab and newline, which could command the
terminal, marks that turn the direction of writing, and bytes of names that are not UTF-8."""


def cleaned(text: str) -> str:
    """Text that does nothing to a terminal: names and metadata of files hold what others wrote."""
    return text.translate(CONTROLS)


def say(text: str = "") -> None:
    """A line of a result, on standard output."""
    print(cleaned(text))


class CleanConsole(Console):
    """A console that cleans all text that it is given, in tables too."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn text into what is printed."""
        return super().render_str(cleaned(text), **options)


FLAGS = ("-q", "--quiet", "-v", "--verbose", "--debug")

# Away from a terminal (a log, a pipe) tables keep their full width.
console = CleanConsole(stderr=True, soft_wrap=True, width=None if sys.stderr.isatty() else 140)
"""What is said on the way; silent with ``-q``. Results for machines go to standard output."""

errors = CleanConsole(stderr=True, soft_wrap=True)
"""What is said even with ``-q``."""


@dataclass
class Verbosity:
    """How much is said."""

    quiet: bool = False
    verbose: bool = False
    debug: bool = False


verbosity = Verbosity()


ENDINGS: tuple[type[BaseException], ...] = (typer.BadParameter.__mro__[2], typer.Exit, typer.Abort)
"""Ends that the command line knows; the first is ClickException, of click or of typer's copy."""


class VerboseGroup(TyperGroup):
    """Takes the flags from anywhere in the line, and ends what nobody foresaw in one line."""

    def make_context(self, *args: Any, **more: Any) -> Any:
        """Read the command line; a complaint about it repeats what was typed, cleaned."""
        with _clean_complaints():
            return super().make_context(*args, **more)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move the flags before the command; what follows ``--`` is left alone."""
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
            # The reader, as `head`, has seen enough; nothing is to be flushed at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from error
        except Exception as error:
            if verbosity.debug:
                raise
            errors.print(
                f"error: unexpected {type(error).__name__}: {error}. This is a fault of the "
                "program: --debug shows where",
                style="bold red",
                markup=False,
            )
            raise typer.Exit(1) from error


class _OnConsole(logging.Handler):
    """What the package logs, as lines of the console."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message; the time and the place are of no use here."""
        style = "dim" if record.levelno < logging.WARNING else "yellow"
        console.print(record.getMessage(), style=style, markup=False, highlight=False)


@contextmanager
def telling() -> Iterator[None]:
    """Say warnings of the package, even with ``-q``, and with ``-v`` what it logs."""
    from equipoise.outcome import ConvergenceWarning, InputWarning

    log, handler = logging.getLogger("equipoise"), _OnConsole()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO if verbosity.verbose else logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", ConvergenceWarning)
            warnings.simplefilter("always", InputWarning)
            show = warnings.showwarning

            def tell(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
                if issubclass(category, ConvergenceWarning | InputWarning):
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
    """Failures that the user can act on end in one line and exit code 1."""
    from equipoise.outcome import EquipoiseError

    try:
        with telling():
            yield
    except EquipoiseError as error:
        if verbosity.debug:
            raise
        errors.print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from error
    except MemoryError as error:
        if verbosity.debug:
            raise
        errors.print("error: not enough memory for this scan", style="bold red")
        raise typer.Exit(1) from error
