"""Where model files are stored, and how they are found by name."""

import os
from contextlib import suppress
from importlib import resources
from pathlib import Path

from equipoise.methods.method import SERIES, VOLUME
from equipoise.methods.registry import METHODS
from equipoise.methods.variational import UNTRAINED
from equipoise.outcome import BadInputError
from equipoise.zoo.header import opened

SUFFIX = ".safetensors"
DEFAULT_MODEL = "mol-guided-universal"
USUAL_MODELS = (DEFAULT_MODEL, "modl-brain-4x", "unet-brain-4x")
"""Of several models of a method, the one that is meant by its name."""
MODELS_OF: dict[tuple[str, ...], str] = {SERIES: "mol-ridge-cine", VOLUME: "mol-guided-volume"}
"""The models of the package for images of other axes than (y, x)."""


def packaged_models() -> list[str]:
    """Names of the models that come with the package."""
    return _names(_packaged())


def available_models() -> list[str]:
    """Names of the models that come with the package or were installed."""
    return sorted({*packaged_models(), *_names(user_folder())})


def user_folder() -> Path:
    """The folder of installed models: ``EQUIPOISE_MODELS``, or the user's data folder."""
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
    """The path of a model, given its name, the name of a method with one model, or its path.

    A value that contains a folder is always a path. A name is looked up in the package, then among
    the installed models, then as a method, then in the working folder.

    Raises
    ------
    BadInputError
        If there is no such model, or a method has several models.
    """
    text = chosen_model(str(name))
    # A path must not be shadowed by a model of the package.
    if _is_bare(text):
        for folder in (_packaged(), user_folder()):
            if (folder / f"{text}{SUFFIX}").is_file():
                return folder / f"{text}{SUFFIX}"
    if Path(text).is_file():
        return Path(text)
    # Named in the message only: a file of the working folder must not replace a model silently.
    nearby = Path(f"{text}{SUFFIX}")
    hint = f", but {nearby} is one" if nearby.is_file() else ""
    raise BadInputError(
        f"there is no model {text!r}: it is not a file{hint}; the package has "
        f"{', '.join([*available_models(), *UNTRAINED])}"
    )


def chosen_model(name: str, *, real: bool | None = None) -> str:
    """The name of the model if a method is given; any other name unchanged.

    Of several models of the method it is the one of :data:`USUAL_MODELS`.

    Parameters
    ----------
    name
        Name, method or path.
    real
        Whether the model must be for real images (True) or complex images (False); any if None.

    Raises
    ------
    BadInputError
        If the method has no model, or several models and none of them is the usual one.
    """
    # A model or file that has the name of a method was named so by its user.
    if name not in METHODS or name in available_models() or Path(name).is_file():
        return name
    names = models_of(name, real)
    for usual in USUAL_MODELS:
        if usual in names:
            return usual
    if len(names) == 1:
        return names[0]
    images = {None: "", True: " for real images", False: " for complex images"}[real]
    if not names:
        raise BadInputError(
            f"there is no model of {name}{images}: train one with `equipoise train`, or choose "
            f"from {', '.join(available_models())}"
        )
    raise BadInputError(
        f"there are {len(names)} models of {name}{images}: choose from {', '.join(names)}"
    )


def models_of(method: str, real: bool | None = None) -> list[str]:
    """Names of the available models of a method; files that cannot be read are skipped."""
    found = []
    for name in available_models():
        with suppress(BadInputError), opened(find_model(name)) as (header, _):
            channels = getattr(header.config.network, "channels", 2)
            if header.config.method == method and real in (None, channels == 1):
                found.append(name)
    return found


def _is_bare(text: str) -> bool:
    return Path(text).name == text
