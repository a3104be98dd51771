"""Methods without weights: known by their names, or described by a YAML file."""

from pathlib import Path

import yaml

from equipoise.formats.plain_yaml import parse_yaml
from equipoise.methods.variational import UNTRAINED, Variational
from equipoise.outcome import BadInputError
from equipoise.settings import checked

SUFFIXES = (".yaml", ".yml")

MOST_BYTES = 1 << 16


def untrained_model(name: str | Path) -> Variational | None:
    """The method of a name, or of a YAML file with its settings; None of anything else.

    The file holds ``method: wavelet`` or ``method: tv``, and any other fields of
    :class:`~equipoise.methods.variational.WaveletConfig` or
    :class:`~equipoise.methods.variational.TVConfig`.

    Raises
    ------
    BadInputError
        If the file cannot be read, or names another method or an unknown setting.
    """
    if str(name) in UNTRAINED:
        return UNTRAINED[str(name)]()
    path = Path(name)
    if path.suffix not in SUFFIXES or not path.is_file():
        return None
    if path.stat().st_size > MOST_BYTES:
        raise BadInputError(
            f"{path} has {path.stat().st_size} bytes: settings have at most {MOST_BYTES}"
        )
    try:
        content = parse_yaml(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise BadInputError(f"{path} is not a YAML file: {error}") from error
    method = content.get("method") if isinstance(content, dict) else None
    if not isinstance(content, dict) or method not in UNTRAINED:
        raise BadInputError(
            f"{path} does not describe a method without weights: it needs the entry "
            f"`method: {' | '.join(UNTRAINED)}`"
        )
    kind = UNTRAINED[str(method)]
    return kind(checked(kind.Config, str(path), content))
