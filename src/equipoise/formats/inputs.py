"""What is looked at before a file is opened: whether it is one, and whether its kind is read."""

from pathlib import Path

from equipoise.outcome import BadInputError

BEGINNING = 144
"""Bytes that are enough to tell the kinds apart: DICOM's mark ends at byte 132."""

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
"""Where the mark of a kind that is not read stands, the mark, and what to say."""


def check_regular(path: Path) -> None:
    """Refuse what is not a regular file: opening a pipe or a device could wait for ever.

    Raises
    ------
    BadInputError
        If the file is missing, or is a folder, pipe, socket or device.
    """
    try:
        if path.is_file():
            return
        missing, folder = not path.exists(), path.is_dir()
    except (OSError, ValueError) as error:  # a name that is too long, or holds a zero byte
        raise BadInputError(f"{str(path)[:200]} cannot be opened: {error}") from error
    if missing:
        raise BadInputError(f"{path} does not exist")
    if folder:
        raise BadInputError(f"{path} is a folder; name one file")
    raise BadInputError(
        f"{path} is a pipe, socket or device, not a file: write its content to a file first"
    )


def kind_of(path: Path) -> str | None:
    """What a file is, in words, if it is of a known kind that is not read here."""
    with path.open("rb") as file:
        beginning = file.read(BEGINNING)
    for start, mark, words in KINDS:
        if beginning[start : start + len(mark)] == mark:
            return words
    return None
