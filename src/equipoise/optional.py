"""Libraries that only some formats and adapters need."""

from importlib import import_module
from typing import Any

from equipoise.outcome import BadInputError


def need(module: str, extra: str, what: str) -> Any:
    """Import a library of an optional extra.

    Raises
    ------
    BadInputError
        If it is not installed; the message gives the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise BadInputError(
            f"{what} needs {module}, which is not installed: pip install 'equipoise[{extra}]'"
        ) from error
