"""YAML without constructs that can explode: no aliases, and a limited size and depth."""

from pathlib import Path
from typing import Any

import yaml

from equipoise.formats.inputs import check_regular
from equipoise.outcome import BadInputError

MAX_BYTES = 200_000
"""Most bytes of a configuration; a list of a thousand paths takes a quarter of it."""

MAX_DEPTH = 20
"""Deepest nesting."""


class _PlainLoader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        # Checked at the event, before the alias is expanded.
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem="an alias (*name) is not allowed: write the value out", problem_mark=mark
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.YAMLError(f"it is nested deeper than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def parse_yaml(text: str) -> Any:
    """The content of a YAML text without aliases, nested at most ``MAX_DEPTH`` deep.

    Raises
    ------
    yaml.YAMLError, ValueError
        If it is not such a text; an impossible date or number is a ValueError.
    """
    return yaml.load(text, _PlainLoader)


def load_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Aliases are refused, because nine nested ones can stand for a billion values.

    Raises
    ------
    BadInputError
        If the file cannot be read, is not YAML, is longer than ``MAX_BYTES``, has aliases, or is
        nested deeper than ``MAX_DEPTH``.
    """
    check_regular(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise BadInputError(f"{path} has {size} bytes; a configuration has at most {MAX_BYTES}")
    try:
        return parse_yaml(path.read_text("utf-8"))
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise BadInputError(
            f"{path} is not a valid training configuration: it is not YAML: {error}"
        ) from error
