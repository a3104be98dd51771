"""The reference page of the configuration, and a configuration as YAML.

``python -m equipoise.training.reference > docs/configuration.md`` writes the page.
"""

import dataclasses
import importlib
import inspect
import json
import re
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.settings import branches
from equipoise.training.config import TrainConfig
from equipoise.training.overrides import presets

HEAD = """# Configuration of a training run

`equipoise train CONFIG` takes a YAML file or the name of a preset: {presets}. Unknown
keys are errors. Every key can be changed on the command line, such as `--set steps=5000` or
`--set model.network.features=16`; `--print-config` prints the whole configuration and ends. Paths
in a file are relative to its folder, paths on the command line to the working folder. How a run
goes: [training.md](training.md).

This page is generated from the schema by `make configuration`.
"""


def as_yaml(config: TrainConfig) -> str:
    """The whole configuration, with every default, as YAML that `equipoise train` accepts."""
    content = config.model_dump(mode="json")
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)


def reference() -> str:
    """The page: one table for each section, with default, limits and meaning of every key."""
    names = ", ".join(f"`{name}`" for name in presets())
    parts = [HEAD.format(presets=names), *dict.fromkeys(_sections("", TrainConfig)), _solver()]
    return "\n".join(parts)


def _sections(path: str, schema: type[BaseModel], title: str = "") -> list[str]:
    """The table of a section, and those of the sections in it."""
    rows, below = list[str](), list[str]()
    for name, field in schema.model_fields.items():
        full = f"{path}.{name}" if path else name
        kinds, inner = branches(field.annotation), _settings(field.annotation)
        for kind, settings in kinds.items():
            below += _sections(full, settings, f"`{full}` of `{kind}`")
        if not kinds and inner is not None:
            below += _sections(full, inner, f"`{full}`{title.partition('`')[2].partition('`')[2]}")
        section = bool(kinds) or inner is not None
        cells = (f"`{name}`", _default(field, section), _allowed(field, section))
        rows.append(f"| {' | '.join(cells)} | {_cell(meaning(schema, name))} |")
    return [_table(title or "Top level", _introduction(schema), rows), *below]


def _table(heading: str, introduction: str, rows: list[str]) -> str:
    head = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    return "\n".join([f"## {heading}\n", *([f"{introduction}\n"] if introduction else []),
                      *head, *rows, ""])  # fmt: skip


def _solver() -> str:
    """The options of the solver, which are not settings of pydantic."""
    rows, texts = [], _entries(SolverOptions)
    for field in dataclasses.fields(SolverOptions):
        default = field.default
        kind = _cell(_kind(field.type))
        rows.append(f"| `{field.name}` | `{json.dumps(default)}` | {kind} | "
                    f"{_cell(_plain(texts.get(field.name, '')))} |")  # fmt: skip
    return _table("`solver`", "Every method has its own defaults for these; here are the usual "
                  "ones.", rows)  # fmt: skip


def meaning(schema: type[BaseModel], name: str) -> str:
    """What a key means: its description, else the words of the class that the settings are of."""
    field = schema.model_fields[name]
    if field.description:
        return field.description
    values = get_args(field.annotation)
    if len(values) == 1 and isinstance(values[0], str):
        return "selects this section"
    found = [_documented(of).get(name) for of in schema.__mro__ if of.__doc__]
    return next((_plain(text) for text in found if text), SECTIONS.get(name, ""))


def _plain(text: str) -> str:
    """Text without the roles of Sphinx: names of classes and functions alone."""
    return re.sub(r":\w+:`~?[\w.]*?(\w+)`", r"`\1`", text).replace("``", "`")


SECTIONS = {
    "network": "H, or the network of the method",
    "data_weight": "how lam follows from the scan",
    "threshold_rule": "how the scale of the thresholds follows from the scan",
    "solver": "how the equilibrium is found",
    "guide": "the first pass",
    "adaptation": "what adapts the second pass to the first image",
    "refinement": "a network that refines the first image; none if null",
}


REFERENCE = r"See :class:`~?([\w.]+)`"


def _documented(schema: type) -> dict[str, str]:
    """The attributes and parameters in the docstring of the class that a schema refers to."""
    reference = re.match(REFERENCE, schema.__doc__ or "")
    return _entries(_named(reference[1], schema) if reference else schema)


def _named(name: str, where: type) -> type:
    """The class of a reference, which may leave out its module."""
    module, _, last = name.rpartition(".")
    found: type = getattr(importlib.import_module(module or where.__module__), last)
    return found


def _entries(documented: type) -> dict[str, str]:
    """The entries of a docstring in numpy style; an entry may refer to another class."""
    found = _own_entries(documented)
    for name, text in found.items():
        reference = re.match(REFERENCE, text)
        if reference:
            found[name] = _own_entries(_named(reference[1], documented)).get(name, "")
    return found


def _own_entries(documented: type) -> dict[str, str]:
    """The entries as they stand; several names may share one text."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in (inspect.getdoc(documented) or "").splitlines():
        if line.startswith("    "):
            found |= {name: f"{found.get(name, '')} {line.strip()}".strip() for name in names}
        else:
            names = re.split(r", *", line)
    return found


def _introduction(schema: type[BaseModel]) -> str:
    """The first paragraph of the docstring, unless it only refers to a class."""
    text = " ".join((schema.__doc__ or "").split("\n\n")[0].split())
    return "" if text.startswith("See :") else _plain(text)


def _settings(annotation: Any) -> type[BaseModel] | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _default(field: FieldInfo, section: bool) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if dataclasses.is_dataclass(value) or (section and value is not None):
        return "section below"
    return f"`{json.dumps(value, default=str)}`"


def _allowed(field: FieldInfo, section: bool) -> str:
    if section or field.annotation is SolverOptions:
        return "section, null" if type(None) in get_args(field.annotation) else "section"
    limits = [
        f"{sign} {getattr(one, name)}"
        for one in field.metadata
        for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
        if hasattr(one, name)
    ]
    return _cell(", ".join([_kind(field.annotation), *limits]))


NAMES = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}


def _kind(annotation: Any) -> str:
    """The kind of a value in words."""
    if annotation in NAMES:
        return NAMES[annotation]
    # Annotated[kind, ...] is the kind; the rest are checks.
    if hasattr(annotation, "__metadata__"):
        return _kind(get_args(annotation)[0])
    name = getattr(getattr(annotation, "__origin__", annotation), "__name__", str(annotation))
    parts = [
        _kind(arg) if not isinstance(arg, str) else f"`{arg}`"
        for arg in get_args(annotation)
        if arg is not Ellipsis
    ]
    if name == "list":
        return f"list of {parts[0]}"
    if name == "tuple":
        many = Ellipsis in get_args(annotation)
        return f"list of {parts[0]}" if many else f"[{', '.join(parts)}]"
    if parts:
        return " or ".join(dict.fromkeys(parts)) if name != "Literal" else ", ".join(parts)
    return "path" if name == "Path" else name


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    print(reference(), end="")
