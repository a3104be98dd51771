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
from typer.core import TyperGroup

FLAGS = ("-q", "--quiet", "-v", "--verbose", "--debug")

# Away from a terminal (a log, a pipe) tables keep their full width.
console = Console(stderr=True, soft_wrap=True, width=None if sys.stderr.isatty() else 140)
"""What is said on the way; silent with ``-q``. Results for machines go to standard output."""

errors = Console(stderr=True, soft_wrap=True)
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

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move the flags before the command; what follows ``--`` is left alone."""
        end = args.index("--") if "--" in args else len(args)
        flags = [a for a in args[:end] if a in FLAGS]
        rest = [a for a in args[:end] if a not in FLAGS]
        return super().parse_args(ctx, flags + rest + args[end:])

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
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
    """Warnings that a solve did not converge are said, with ``-v`` also what the package logs."""
    from equipoise.outcome import ConvergenceWarning

    log, handler = logging.getLogger("equipoise"), _OnConsole()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO if verbosity.verbose else logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", ConvergenceWarning)
            show = warnings.showwarning

            def tell(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
                if issubclass(category, ConvergenceWarning):
                    errors.print(f"warning: {message}", style="yellow", markup=False)
                else:
                    show(message, category, *place, **more)

            warnings.showwarning = tell
            yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


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
