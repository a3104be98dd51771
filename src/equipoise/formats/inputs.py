"""Checks before a file is opened: that it is a regular file, and of a kind that can be read."""

from pathlib import Path

from equipoise.outcome import BadInputError

BEGINNING = 144
"""Number of bytes that tell the kinds apart; DICOM's mark ends at byte 132."""

KINDS = (
    (0, b"MATLAB 5.0", "a MATLAB 5 file: save it again with `save(..., '-v7.3')`"),
    (0, b"GIF8", "a GIF picture"),
    (8, b"WEBP", "a WebP picture"),
    (4, b"ftyp", "a HEIC, AVIF or MP4 file"),
    (0, b"\x00\x00\x00\x0cjP", "a JPEG 2000 picture"),
    (0, b"%PDF", "a PDF document"),
    (128, b"DICM", "a DICOM file: its image was reconstructed already"),
    (0, b"\x1f\x8b", "a file compressed with gzip: unpack it first"),
    (0, b"PK\x03\x04", "a zip archive: unpack it first"),
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
)
"""Kinds of files that are not read: offset of the mark, the mark, and the words for the message."""


def check_regular(path: Path) -> None:
    """Refuse anything but a regular file, because opening a pipe or a device could wait forever.

    Raises
    ------
    BadInputError
        If the file is missing, or is a folder, pipe, socket or device.
    """
    try:
        if path.is_file():
            return
        missing, folder = not path.exists(), path.is_dir()
    # A name that is too long, or contains a zero byte, cannot even be looked up.
    except (OSError, ValueError) as error:
        raise BadInputError(f"{str(path)[:200]} cannot be opened: {error}") from error
    if missing:
        raise BadInputError(f"{path} does not exist")
    if folder:
        raise BadInputError(f"{path} is a folder: give one file")
    raise BadInputError(
        f"{path} is a pipe, socket or device, not a file: write its content to a file first"
    )


def kind_of(path: Path) -> str | None:
    """The kind of a file in words, if it is a known kind that cannot be read; else None."""
    with path.open("rb") as file:
        beginning = file.read(BEGINNING)
    for start, mark, words in KINDS:
        if beginning[start : start + len(mark)] == mark:
            return words
    return None
