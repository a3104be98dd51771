"""The content of a configuration before it is checked: file or preset, paths, and changes."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from equipoise.formats.plain_yaml import load_yaml, parse_yaml
from equipoise.outcome import BadInputError


def presets() -> list[str]:
    """The names of the configurations that come with the package."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def _folder() -> Path:
    return Path(str(resources.files("equipoise.training"))) / "presets"


def content_of(name: Path, schema: type[BaseModel]) -> tuple[dict[str, Any], str]:
    """The content of a file or preset, with absolute paths, and what it is called in messages.

    Raises
    ------
    BadInputError
        If there is no such file or preset, or it is not YAML with keys.
    """
    preset = _folder() / f"{name}.yaml"
    # A file of the user has a suffix; a bare name is never looked up in the working folder.
    is_preset = len(name.parts) == 1 and not name.suffix
    if is_preset and not preset.is_file():
        raise BadInputError(
            f"there is no preset {str(name)!r}: give a YAML file, or one of {', '.join(presets())}"
        )
    content = load_yaml(preset if is_preset else name)
    if not isinstance(content, dict):
        raise BadInputError(f"{name} is not a valid training configuration: it has no keys")
    if is_preset:
        return content, f"the preset {name}"
    return rooted(content, schema, name.resolve().parent), str(name)


def rooted(content: Any, schema: Any, folder: Path) -> Any:
    """The content with paths relative to a folder made absolute, wherever the schema has paths."""
    if not isinstance(content, dict):
        return content
    found = dict(content)
    for key, value in content.items():
        field = schema.model_fields.get(key)
        if field is None:
            continue
        below = _settings_of(field.annotation)
        if below is not None:
            found[key] = rooted(value, below, folder)
        elif _holds_paths(field.annotation):
            found[key] = _rooted_paths(value, folder)
    return found


def _rooted_paths(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_rooted_paths(one, folder) for one in value]
    return str(folder / value) if isinstance(value, str | Path) else value


def _settings_of(annotation: Any) -> Any:
    """The settings that an annotation names, also with None as alternative."""
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    return next((kind for kind in kinds if issubclass(kind, BaseModel)), None)


def _holds_paths(annotation: Any) -> bool:
    return annotation is Path or any(map(_holds_paths, get_args(annotation)))


def changed(content: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """The content with changes such as ``steps=5000`` or ``model.network.features=16``.

    ``training.steps=5000`` is ``steps=5000``.

    Raises
    ------
    BadInputError
        If a change is not KEY=VALUE with a YAML value, or leads through what is not a section.
    """
    for change in changes:
        key, equals, text = change.partition("=")
        if not (key and equals):
            raise BadInputError(f"--set is {change!r}: it must be KEY=VALUE, such as steps=5000")
        try:
            value = parse_yaml(text)
        except (yaml.YAMLError, ValueError) as error:
            raise BadInputError(f"--set {change}: the value is not YAML: {error}") from error
        # The settings of the whole run may be called by its name too.
        content = _with(content, key.removeprefix("training.").split("."), value, change)
    return content


def _with(content: Any, keys: list[str], value: Any, change: str) -> dict[str, Any]:
    first, *rest = keys
    # A section that is left out, or null, has its usual values.
    section = {} if content is None else content
    if not isinstance(section, dict):
        raise BadInputError(f"--set {change}: {first} is not a setting of {section!r}")
    return {**section, first: _with(section.get(first), rest, value, change) if rest else value}
