"""Where model files lie, and how they are found by name."""

import os
from contextlib import suppress
from importlib import resources
from pathlib import Path

from equipoise.methods.registry import METHODS
from equipoise.outcome import BadInputError
from equipoise.zoo.header import opened

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
    """Path of a model: by its name, by that of its method if it has one model, or by its path.

    What has a folder in it is a path and nothing else. A name is looked for in the package, then
    among the installed models, then as a method, then in the working folder.

    Raises
    ------
    BadInputError
        If there is no such model, or a method has several.
    """
    text = chosen_model(str(name))
    if _is_bare(text):
        for folder in (_packaged(), user_folder()):
            if (folder / f"{text}{SUFFIX}").is_file():
                return folder / f"{text}{SUFFIX}"
    if Path(text).is_file():
        return Path(text)
    nearby = Path(f"{text}{SUFFIX}")
    hint = f", but {nearby} is one" if nearby.is_file() else ""
    raise BadInputError(
        f"there is no model {text!r}: it is not a file{hint}; the package has "
        f"{', '.join(available_models())}"
    )


def chosen_model(name: str, *, real: bool | None = None) -> str:
    """The name of the model that the name of a method stands for; any other name as it is.

    Parameters
    ----------
    name
        Name, method or path.
    real
        Whether the model is to be one for real images, or for complex ones; either if None.

    Raises
    ------
    BadInputError
        If the method has no model, or several.
    """
    if name not in METHODS or name in available_models() or Path(name).is_file():
        return name
    names = models_of(name, real)
    if len(names) == 1:
        return names[0]
    images = {None: "", True: " for real images", False: " for complex images"}[real]
    if not names:
        raise BadInputError(
            f"there is no model of {name}{images}: train one with `equipoise train`, or choose "
            f"one of {', '.join(available_models())}"
        )
    raise BadInputError(
        f"there are {len(names)} models of {name}{images}: choose one of {', '.join(names)}"
    )


def models_of(method: str, real: bool | None = None) -> list[str]:
    """Names of the available models of a method; a file that cannot be read is of none."""
    found = []
    for name in available_models():
        with suppress(BadInputError), opened(find_model(name)) as (header, _):
            channels = getattr(header.config.network, "channels", 2)
            if header.config.method == method and real in (None, channels == 1):
                found.append(name)
    return found


def _is_bare(text: str) -> bool:
    return Path(text).name == text
