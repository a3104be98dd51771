"""Where model files lie, and how they are found by name."""

import os
from importlib import resources
from pathlib import Path

from equipoise.outcome import BadInputError

SUFFIX = ".safetensors"
DEFAULT_MODEL = "mol-lr-brain-4x"


def packaged_models() -> list[str]:
    """Names of the models that come with the package."""
    return _names(_packaged())


def available_models() -> list[str]:
    """Names of the models that come with the package or were installed."""
    return sorted({*packaged_models(), *_names(user_folder())})


def user_folder() -> Path:
    """Where models are installed: ``EQUIPOISE_MODELS``, or the user's data folder."""
    given = os.environ.get("EQUIPOISE_MODELS")
    if given:
        return Path(given)
    from platformdirs import user_data_path

    return user_data_path("equipoise", appauthor=False) / "models"


def _packaged() -> Path:
    return Path(str(resources.files("equipoise.zoo"))) / "weights"


def _names(folder: Path) -> list[str]:
    return sorted(path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}"))


def find_model(name: str | Path) -> Path:
    """Path of a model given by name or path.

    Raises
    ------
    BadInputError
        If there is no such model.
    """
    for folder in (_packaged(), user_folder()):
        path = folder / f"{name}{SUFFIX}"
        if path.is_file():
            return path
    if Path(name).is_file():
        return Path(name)
    raise BadInputError(
        f"there is no model {str(name)!r}: it is not a file, and the package has "
        f"{', '.join(available_models())}"
    )
