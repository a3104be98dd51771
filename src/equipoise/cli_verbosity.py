"""``-q``, ``-v`` and ``--debug``, anywhere in the line; a traceback only with ``--debug``."""

import os
import sys
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

FLAGS = ("-q", "--quiet", "-v", "--verbose", "--debug")

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
