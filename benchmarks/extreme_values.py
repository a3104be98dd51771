"""Extreme values of every option and of every setting, for malformed_inputs_are_refused.py.

Options are found in the signatures of the commands and settings in the schema of the training, so a
new one is tried without a change here. All else is a small good input: a value that is accepted by
mistake runs, and shows what it does.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from pydantic import BaseModel
from typer.models import OptionInfo
from typer.utils import get_params_from_function

from equipoise.cli.app import app
from equipoise.settings import branches, parts
from equipoise.training.config import TrainConfig

NUMBERS = ("nan", "inf", "-1", "0", "1e300", "1e-320", "1" + "0" * 30)
WORDS = ("", "../x", "\x1b[31m", "x" * 5000)
VALUES = (".nan", ".inf", "-1", "0", "1e300", "1" + "0" * 30, "[]", "{}", "word", "true", "null",
          "[.nan, 1]", "[1, 2, 3]", "[-1, 5]", "[0, 1e300]")  # fmt: skip

Command = tuple[str, ...]


def options(good: dict[Command, list[str]]) -> Iterator[tuple[str, list[str]]]:
    """Every option of the commands that have a good line, with every extreme value of its type."""
    for path, callback in _commands(app):
        line = good.get(path)
        if line is None:
            continue
        for name, found in get_params_from_function(callback).items():
            kinds = parts(found.annotation)
            values = NUMBERS if {int, float} & kinds else WORDS if str in kinds else ()
            if not isinstance(found.default, OptionInfo):
                continue
            declared = [d for d in found.default.param_decls or () if d.startswith("--")]
            option = declared[0] if declared else f"--{name}".replace("_", "-")
            count = 2 if "tuple" in str(found.annotation) else 1
            for value in values:
                yield f"{' '.join(path)} {option}={value[:20]!r}", [*line, option, *[value] * count]


def _commands(group: Any, path: Command = ()) -> Iterator[tuple[Command, Any]]:
    for one in group.registered_commands:
        yield (*path, one.name or one.callback.__name__), one.callback
    for below in group.registered_groups:
        yield from _commands(below.typer_instance, (*path, below.name))


def settings(line: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Every setting of a training, at any depth, with every extreme value.

    Kinds that share a setting have it from one class, so one of them is enough.
    """
    first = dict(reversed(list(_keys(TrainConfig))))
    for key, chosen in first.items():
        for value in VALUES:
            changes = [f"--set={change}" for change in (*chosen, f"{key}={value}")]
            yield f"--set {key}={value}", [*line, *changes]


def _keys(
    schema: Any, path: str = "", chosen: tuple[str, ...] = ()
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Keys below a schema, with the changes that choose the kinds that have them."""
    if is_dataclass(schema):
        yield from ((f"{path}{field.name}", chosen) for field in fields(schema))
        return
    if schema is None:
        yield path.rstrip("."), chosen
        return
    for name, field in schema.model_fields.items():
        kinds = branches(field.annotation)
        for tag, kind in kinds.items():
            key = next(k for k in ("kind", "method") if k in kind.model_fields)
            yield from _keys(kind, f"{path}{name}.", (*chosen, f"{path}{name}.{key}={tag}"))
        if not kinds:
            whole = (field.annotation, *get_args(field.annotation))
            below = [k for k in whole if is_dataclass(k) or BaseModel in getattr(k, "__mro__", ())]
            yield from _keys(below[0] if below else None, f"{path}{name}.", chosen)
