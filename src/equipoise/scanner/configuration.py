"""What a client asks for: by the name of a configuration, by XML, or by the JSON of OpenRecon."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from equipoise.formats.readers.xml_header import parse_xml
from equipoise.methods.prediction import LamSetting, checked_lam
from equipoise.outcome import BadInputError

Method = Literal["recon", "sense", "nullrecon"]
Pixels = Literal["complex", "magnitude", "int16"]

METHODS: tuple[str, ...] = get_args(Method)
PIXELS: tuple[str, ...] = get_args(Pixels)


@dataclass(frozen=True)
class Configuration:
    """What is made of a scan.

    Attributes
    ----------
    method
        ``recon`` solves with the model, ``sense`` by regularised least squares, and ``nullrecon``
        reads the scan and sends no image.
    model
        The name of the model.
    lam
        As in :class:`~equipoise.recon.settings.ReconSettings`.
    acceleration
        Undersample a fully sampled scan by this factor.
    certificate
        Attach the certificate of each slice to its image.
    noisemap
        Send the noise of every pixel as a second series.
    images
        Complex numbers, their magnitude, or the magnitude as int16 with one slope and window for
        the series.
    """

    model: str
    method: Method = "recon"
    lam: LamSetting | None = None
    acceleration: float | None = None
    certificate: bool = False
    noisemap: bool = False
    images: Pixels = "complex"

    def __str__(self) -> str:
        """Its name, and the model."""
        words = [self.method, *(w for w in ("certificate", "noisemap") if getattr(self, w))]
        return "+".join([*words, self.images]) + f" {self.model}"


def changes(before: Configuration, after: Configuration) -> dict[str, Any]:
    """The fields in which two configurations differ, with the values of the second."""
    values = {field.name: getattr(after, field.name) for field in fields(after)}
    return {name: value for name, value in values.items() if value != getattr(before, name)}


WORDS = ("certificate", "noisemap", *PIXELS)
"""Words that may follow the method in a name, as in ``recon+certificate+int16``."""

LONGEST_VALUE = 80
"""Characters of a value that a message repeats."""


def by_name(name: str, usual: Configuration) -> tuple[Configuration, list[str]]:
    """The configuration of a name, and warnings.

    A name is a method and further words: ``recon``, ``recon+certificate``, ``sense+int16``. Other
    names leave the usual configuration, because hosts send the names of their own programs.
    """
    method, *words = name.strip().removesuffix(".xml").split("+")
    if not method or method == "default":
        return usual, []
    if method not in METHODS or not set(words) <= set(WORDS):
        return usual, [
            f"the configuration {_short(name)} is not known, and the usual one is used: expected "
            f"one of {', '.join(METHODS)}, followed by any of {', '.join('+' + w for w in WORDS)}"
        ]
    given: dict[str, Any] = {"method": method}
    for word in words:
        given |= {"images": word} if word in PIXELS else {word: True}
    return replace(usual, **given), []


def by_xml(content: bytes, usual: Configuration) -> tuple[Configuration, list[str]]:
    """The configuration of an XML text, and warnings.

    Each parameter is an element of its name with its value as the text, or an element with the
    attributes or children ``name`` and ``value``.

    Raises
    ------
    BadInputError
        If a value cannot be used.
    """
    if not content.strip():
        return usual, []
    try:
        root = parse_xml(content, "the configuration")
    except BadInputError as error:
        return usual, [f"{error}; the usual configuration is used"]
    found = {}
    for element in root.iter():
        tag = str(element.tag).rsplit("}", 1)[-1]
        children = {str(child.tag).rsplit("}", 1)[-1]: child.text or "" for child in element}
        named = {**children, **element.attrib}
        if {"name", "value"} <= set(named):
            found[named["name"].strip()] = named["value"].strip()
        elif tag in KNOWN and element.text:
            found[tag] = element.text.strip()
    # Configurations of other programs have parameters of their own, which are no mistake.
    return _applied({k: v for k, v in found.items() if k in KNOWN}, usual)


def by_json(content: str, usual: Configuration) -> tuple[Configuration, list[str]] | None:
    """The configuration of OpenRecon's ``{"parameters": {...}}``, and warnings; None if it is none.

    Raises
    ------
    BadInputError
        If a value cannot be used.
    """
    try:
        parameters = json.loads(content)["parameters"]
    # Nested thousands deep, JSON exceeds the recursion of the parser.
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    if not isinstance(parameters, dict):
        return None
    unknown = sorted(_short(str(name)) for name in set(parameters) - set(KNOWN))
    found, notes = _applied({k: v for k, v in parameters.items() if k in KNOWN}, usual)
    if unknown:
        notes.append(f"parameters that are not known: {', '.join(unknown[:10])}")
    return found, notes


def _applied(given: dict[str, Any], usual: Configuration) -> tuple[Configuration, list[str]]:
    found, notes = usual, list[str]()
    custom = str(given.pop("customconfig", "") or "").strip()
    name = str(given.pop("config", "") or "").strip()
    if custom or name:
        found, notes = by_name(custom or name, usual)
    read = {key: READERS[key](key, value) for key, value in given.items()}
    kept = {key: value for key, value in read.items() if value is not LEFT_OUT}
    return replace(found, **kept), notes


LEFT_OUT = object()
"""The value of a parameter that a user interface left empty."""


def _choice(known: Iterable[str]) -> Callable[[str, Any], Any]:
    def read(name: str, value: Any) -> Any:
        if value not in known:
            raise BadInputError(
                f"{name} is {_short(value)}: expected one of {', '.join(map(str, known))}"
            )
        return value

    return read


def _flag(name: str, value: Any) -> bool:
    text = str(value).strip().lower()
    if text in ("true", "1", "yes", "on"):
        return True
    if text in ("false", "0", "no", "off", "", "none"):
        return False
    raise BadInputError(f"{name} is {_short(value)}: expected true or false")


def _lam(name: str, value: Any) -> Any:
    text = str(value).strip()
    if text in ("", "0", "0.0", "None"):
        return LEFT_OUT
    return text if text in ("auto", "rule") else checked_lam(_number(name, text))


def _acceleration(name: str, value: Any) -> Any:
    number = _number(name, str(value).strip() or "0")
    if number == 0:
        return LEFT_OUT
    if not 1 <= number <= MOST_ACCELERATION:
        raise BadInputError(
            f"{name} is {number:g}: it must lie between 1 and {MOST_ACCELERATION}, or be 0"
        )
    return number


MOST_ACCELERATION = 100
"""Largest factor of a simulated acceleration."""


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise BadInputError(f"{name} is {_short(text)}: expected a number") from error


def _model(name: str, value: Any) -> Any:
    return str(value).strip() or LEFT_OUT


def _short(value: Any) -> str:
    return repr(value)[:LONGEST_VALUE]


READERS: dict[str, Callable[[str, Any], Any]] = {
    "model": _model,
    "method": _choice(METHODS),
    "lam": _lam,
    "acceleration": _acceleration,
    "certificate": _flag,
    "noisemap": _flag,
    "images": _choice(PIXELS),
}
assert set(READERS) == {field.name for field in fields(Configuration)}

KNOWN = {*READERS, "config", "customconfig"}
"""Names of parameters."""
