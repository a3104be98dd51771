"""Settings are frozen and checked; the error for an unknown key names the nearest known one."""

import dataclasses
import difflib
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Tag,
    ValidationError,
    field_validator,
)

from equipoise.outcome import BadInputError


class Settings(BaseModel):
    """Settings that do not change once they are made; unknown keys, nan and inf are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _number(cls, value: Any, info: Any) -> Any:
        # pydantic reads true as 1, and YAML reads `on` and `yes` as true.
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and not {bool, Any} & parts(field.annotation):
            raise ValueError(f"{str(value).lower()} is neither a number nor a text")
        return value


def parts(annotation: Any) -> set[Any]:
    """An annotation, and everything that it is made of at any depth."""
    origin, below = get_origin(annotation), get_args(annotation)
    # The values of Literal and the conditions of Annotated are no annotations.
    if origin is Literal:
        return {type(value) for value in below}
    within = below[:1] if origin is Annotated else below
    return set().union(*map(parts, within)) if within else {annotation}


UNKNOWN = "unknown kind by "
"""Begins the type of pydantic's error for a key that selects a kind; the name of the key
follows."""

AnySettings = TypeVar("AnySettings", bound=Settings)


def one_of(key: str, default: str, *kinds: type[Settings]) -> Any:
    """A union of settings for an annotation, told apart by a key that may be left out.

    Parameters
    ----------
    key
        A field of every kind; its default is the name of the kind.
    default
        The kind that is meant if the key is left out.
    kinds
        At least two kinds.
    """
    names = [str(kind.model_fields[key].default) for kind in kinds]

    def name_of(value: Any) -> str:
        found = value.get(key, default) if isinstance(value, dict) else getattr(value, key, default)
        return str(found)

    discriminator = Discriminator(
        name_of,
        custom_error_type=UNKNOWN + key,
        custom_error_message=f"must be one of {', '.join(names)}",
    )
    tagged = tuple(Annotated[kind, Tag(name)] for kind, name in zip(kinds, names))
    return Annotated[Union[tagged], discriminator]  # noqa: UP007


def checked(schema: Callable[..., AnySettings], what: str, content: dict[str, Any]) -> AnySettings:
    """Settings from keys and values.

    Raises
    ------
    BadInputError
        If they do not fit. The message begins with ``what`` and names each wrong key and the
        nearest right one.
    """
    try:
        return schema(**content)
    except ValidationError as error:
        raise BadInputError(f"{what}: {explained(error, schema)}") from error


def explained(error: ValidationError, schema: Any) -> str:
    """The wrong entries: where each is, what is wrong, and the nearest name of an unknown key."""
    found = error.errors()
    # To look for the nearest names of a whole file of unknown keys would take minutes.
    shown = [_explained(dict(entry), schema) for entry in found[:MOST_EXPLAINED]]
    more = len(found) - len(shown)
    return "; ".join([*shown, *([f"and {more} more"] if more else [])])


MOST_EXPLAINED = 20
"""Most entries that a message explains."""


def _explained(entry: dict[str, Any], schema: Any) -> str:
    place, value = [str(part) for part in entry["loc"]] or [""], entry["input"]
    if entry["type"].startswith(UNKNOWN):
        key = entry["type"].removeprefix(UNKNOWN)
        place, value = [*place, key], value.get(key)
    *above, name = place
    path, kind = [], ""
    for part in above:
        branch = branches(schema).get(part)
        # pydantic puts the name of the kind into the path, but users never wrote it there.
        if branch is None:
            path.append(part)
            schema = _fields(schema).get(part)
        else:
            schema, kind = branch, part
    if entry["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{'.'.join([*path, name])} is not a setting{kind and f' of {kind}'}: " + _hint(
            name, path, schema
        )
    if name not in branches(schema):
        path.append(name)
    message = entry["msg"].removeprefix("Value error, ")
    # Here the input is the whole section, or the message already holds the value.
    if entry["type"] in ("missing", "value_error"):
        return ": ".join(filter(None, [".".join(path), message]))
    return f"{'.'.join(path)}: {message}, not {value!r:.80}"


def _hint(name: str, path: list[str], schema: Any) -> str:
    """The nearest key here, or the same key one step below."""
    known = _fields(schema)
    nearest = difflib.get_close_matches(name, known, n=1)
    if nearest:
        return f"did you mean {nearest[0]}?"
    for field, annotation in known.items():
        for kind in (annotation, *branches(annotation).values()):
            if name in _fields(kind):
                return f"did you mean {'.'.join([*path, field, name])}?"
    return f"the settings are {', '.join(known)}"


def _fields(schema: Any) -> dict[str, Any]:
    """The fields of settings, or of a dataclass, with their annotations."""
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return {name: _bare(field.annotation) for name, field in schema.model_fields.items()}
    if dataclasses.is_dataclass(schema):
        return {field.name: None for field in dataclasses.fields(schema)}
    return {}


def _bare(annotation: Any) -> Any:
    """An annotation without an alternative None."""
    others = [arg for arg in get_args(annotation) if arg is not type(None)]
    return others[0] if len(others) == 1 and type(None) in get_args(annotation) else annotation


def branches(annotation: Any) -> dict[str, Any]:
    """The kinds of a union of :func:`one_of` by their names."""
    return {
        tag.tag: kind
        for kind, tag in (get_args(arg)[:2] for arg in get_args(annotation) if _is_tagged(arg))
    }


def _is_tagged(annotation: Any) -> bool:
    return get_origin(annotation) is Annotated and isinstance(get_args(annotation)[1], Tag)
