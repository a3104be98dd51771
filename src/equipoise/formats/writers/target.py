"""Checks of the files that a command will write, before the work begins, so that nothing is lost.

Every command that writes passes the files that it reads. A file that is read is never overwritten,
whatever name leads to it (a link, the ``.cfl`` of a ``.hdr``, maps, masks, models).
"""

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from equipoise.formats.replacing import temporary_name
from equipoise.formats.writers import dicom
from equipoise.formats.writers.film import FILMS, encoder_of_mp4
from equipoise.optional import need
from equipoise.outcome import BadInputError

IMAGES = (".h5", ".npy", ".cfl", ".nii.gz", ".nii", ".dcm", ".mrd", ".png", *FILMS)
"""Formats of reconstructed images."""

NIFTI = (".nii.gz", ".nii")

BESIDE = (".cfl", ".npy", ".png", *FILMS)
"""Formats without a place for how an image was made, which a file beside them records."""

MODELS = (".safetensors",)

LIBRARIES = {
    ".dcm": ("pydicom", "dicom", "writing DICOM"),
    ".mrd": ("ismrmrd", "mrd", "writing ISMRMRD images"),
}
"""What the writers of images need beyond what every user has, as arguments of :func:`need`."""

Identity: TypeAlias = tuple[int, int]
"""Device and inode of a file, which are the same under all of its names."""

Inputs: TypeAlias = Mapping[Identity, Path]
"""Files that are read, by identity."""


def input_files(*paths: Path | str | None) -> dict[Identity, Path]:
    """The files that a command reads, with the files of a folder and both files of a BART pair.

    Names without a file, such as those of packaged models, are left out.
    """
    found: dict[Identity, Path] = {}
    for path in (Path(p) for p in paths if p is not None):
        pair = [path.with_suffix(s) for s in (".hdr", ".cfl") if path.suffix in (".hdr", ".cfl")]
        # The current folder has no name.
        stem = [path.with_name(path.name + s) for s in (".hdr", ".cfl") if path.name]
        for one in (path, *pair, *stem, *(path.iterdir() if path.is_dir() else ())):
            identity = identity_of(one)
            if identity is not None and not one.is_dir():
                found[identity] = one
    return found


def identity_of(path: Path) -> Identity | None:
    """The identity of a file; None if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def companions(path: Path) -> list[Path]:
    """The other files that are written with a target, such as phase and sidecar for NIfTI."""
    suffix = suffix_of(path)
    if suffix in NIFTI:
        stem = path.name.removesuffix(suffix)
        return [path.with_name(f"{stem}_phase{suffix}"), path.with_name(f"{stem}.json")]
    beside = [path.with_suffix(".hdr")] if suffix == ".cfl" else []
    return [*beside, sidecar_of(path)] if suffix in BESIDE else beside


def sidecar_of(path: Path) -> Path:
    """The file that records how an image was made, for formats without a place for it."""
    return path.with_name(f"{path.name}.json")


def check_sidecar(path: Path) -> None:
    """Refuse to overwrite the sidecar of another image, whether or not files may be replaced.

    ``x.nii`` and ``x.nii.gz`` would share ``x.json``, which can record only one of them.

    Raises
    ------
    BadInputError
        If the other image exists.
    """
    suffix = suffix_of(path)
    if suffix not in NIFTI:
        return
    stem = path.name.removesuffix(suffix)
    for other in (path.with_name(f"{stem}{kind}") for kind in NIFTI if kind != suffix):
        if os.path.lexists(other):
            raise BadInputError(
                f"{other} exists, and {path} would share its sidecar {stem}.json: use another "
                "name with -o, or move that image and its sidecar away"
            )


def suffix_of(path: Path) -> str:
    """The suffix of a path, with ``.nii.gz`` as one suffix."""
    return ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix


def check_target(
    path: Path,
    *,
    overwrite: bool,
    suffixes: Collection[str] | None = None,
    inputs: Inputs | None = None,
) -> None:
    """Refuse, before the work begins, a target that could not be written after it.

    Parameters
    ----------
    path
        The target; the companions of its format are checked with it.
    overwrite
        Whether files that exist may be replaced.
    suffixes
        The formats that can be written; those of images if not given.
    inputs
        The files that the command reads, from :func:`input_files`.

    Raises
    ------
    BadInputError
        If the suffix is unknown, its library is not installed, a file exists and must not be
        replaced, a file that is read would be replaced, another image has the same sidecar, or the
        folder cannot be written.
    """
    known = IMAGES if suffixes is None else suffixes
    if suffix_of(path) not in known:
        raise BadInputError(
            f"{path}: the suffix has no known format; the known suffixes are {', '.join(known)}"
        )
    # Found out before the scan is solved, not after it.
    if suffix_of(path) == ".mp4":
        encoder_of_mp4()
    elif suffixes is None and suffix_of(path) in LIBRARIES:
        need(*LIBRARIES[suffix_of(path)])
    check_sidecar(path)
    check_files([path, *companions(path)], overwrite=overwrite, inputs=inputs)
    # A DICOM series replaces a whole folder, which must hold nothing else.
    if path.is_dir() and (suffix_of(path) != ".dcm" or not dicom.is_series(path)):
        raise BadInputError(f"{path} is a folder with other files: use another name with -o")
    _check_folder(path.parent)


def check_files(paths: Iterable[Path], *, overwrite: bool, inputs: Inputs | None = None) -> None:
    """Refuse to overwrite files that are read, or pipes, and without ``overwrite`` any other file.

    Raises
    ------
    BadInputError
        If there is such a file, or a path cannot be one; the message names the first.
    """
    paths = list(paths)
    for path in paths:
        _check_name(path)
        # The files of a folder would go with it.
        inside = path.iterdir() if path.is_dir() else ()
        read = next((i for p in (path, *inside) if (i := _input_at(p, inputs or {}))), None)
        if read is not None:
            raise BadInputError(
                f"{read} is read and would be overwritten as {path}: use another name with -o"
            )
    for path in paths:
        if not overwrite and os.path.lexists(path):
            raise BadInputError(f"{path} exists: use another name with -o, or --overwrite")
        # Something else waits at a pipe or a device, and a rename would take it away.
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise BadInputError(f"{path} is not a file but a pipe or a device: use another name")


def _input_at(path: Path, inputs: Inputs) -> Path | None:
    identity = identity_of(path)
    return None if identity is None else inputs.get(identity)


def _check_name(path: Path) -> None:
    """Refuse a name that is too long, leads through a file or in a circle, or may not be seen."""
    try:
        path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        through = isinstance(error, NotADirectoryError)
        why = "a part of its path is not a folder" if through else error.strerror
        raise BadInputError(f"{path} cannot be written: {why}: use another name with -o") from error


def check_new_folder(folder: Path) -> None:
    """Refuse, before the work begins, a folder for results that could not be made after it.

    Raises
    ------
    BadInputError
        If the folder, or the nearest one above it that exists, cannot be written.
    """
    _check_name(folder)
    _check_folder(next(p for p in (folder, *folder.parents) if os.path.lexists(p)))


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise BadInputError(f"{folder} is not a folder: create it first, or use another with -o")
    # Only an attempt tells: the administrator may write everywhere, but not on every file system.
    try:
        temporary = temporary_name(folder / "try")
        temporary.mkdir()
        temporary.rmdir()
    except OSError as error:
        raise BadInputError(
            f"{folder} cannot be written to ({error.strerror}): use another folder with -o"
        ) from error
