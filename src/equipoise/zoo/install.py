"""Installing and copying model files."""

import shutil
from pathlib import Path

from equipoise.formats.replacing import replacing
from equipoise.formats.writers.target import check_files, input_files
from equipoise.outcome import BadInputError
from equipoise.zoo.find import SUFFIX, find_model, packaged_models, user_folder
from equipoise.zoo.model_file import load_model, verify


def install_model(path: Path, name: str | None = None, *, overwrite: bool = False) -> Path:
    """Verify a model file and copy it to the folder where models are found by name.

    Raises
    ------
    BadInputError
        If the file is not a model or is damaged, or the name is taken or not allowed.
    """
    path = find_model(path)
    # Loaded before it is copied, so that a bad file fails now and not when it is first used.
    load_model(path)
    verify(path)
    name = name or path.name.removesuffix(SUFFIX)
    target = user_folder() / f"{name}{SUFFIX}"
    # A name with a folder could escape the folder of models; a packaged name would never be found.
    if Path(name).name != name or name in packaged_models():
        raise BadInputError(
            f"{name!r} cannot be the name of an installed model: choose another name with --name"
        )
    if target.exists() and not overwrite:
        raise BadInputError(f"{target} exists: use another --name, or --overwrite")
    check_files([target], overwrite=overwrite, inputs=input_files(path))
    copy_model(path, target)
    return target


def copy_model(source: Path, target: Path) -> None:
    """Copy a model file atomically.

    Raises
    ------
    BadInputError
        If the target cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)
    except OSError as error:
        raise BadInputError(f"{target} cannot be written: {error.strerror}") from error
