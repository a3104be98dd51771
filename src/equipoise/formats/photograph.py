"""Photographs (PNG, JPEG, TIFF and BMP) as luminance, chroma and transparency."""

import struct
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.formats.inputs import check_regular, kind_of
from equipoise.formats.replacing import replacing
from equipoise.formats.writers.target import Inputs, check_target
from equipoise.outcome import BadInputError

PHOTOGRAPHS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
WRITTEN = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}

TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
"""ITU-R BT.601 in full range, as in JPEG."""

READ = ("PNG", "JPEG", "TIFF", "BMP")
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError)
"""Exceptions that Pillow raises for damaged files."""

JPEG_QUALITY, JPEG_SIDE = 95, 65500
GRAY_16 = ("I;16", "I;16B", "I;16L", "I")
WHITE_8, WHITE_16 = 2**8 - 1, 2**16 - 1
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
"""The TIFF tag that defines the meaning of 0, and its value for film that was scanned as a
negative. Pillow inverts such images with 8 bits, but not those with 16."""

DEPTHS = (8, 10, 12, 14)
"""Bits that cameras and scanners store in 16."""

MAX_PIXELS = 25_000_000
"""Most pixels of a photograph that is read. Each takes about 25 bytes, and the result has nine
times as many."""


@dataclass
class Photograph:
    """An image as luminance, chroma and transparency.

    Attributes
    ----------
    luminance
        (y, x), from 0 (black) to 1 (white), in the encoding of the file (not linear light).
    chroma
        Cb and Cr, (2, y, x) about 0; None for a grey image.
    alpha
        (y, x), from 0 to 1, or None.
    bits
        Bits of each channel, 8 or 16.
    profile
        ICC profile, if the file has one.
    notes
        What reading ignored or assumed.
    white
        The value of white in 16 bits. It is smaller where a file stores fewer bits in 16, and the
        same in the file that is written.
    """

    luminance: np.ndarray
    chroma: np.ndarray | None = None
    alpha: np.ndarray | None = None
    bits: int = 8
    profile: bytes | None = None
    notes: list[str] = field(default_factory=list)
    white: int = WHITE_16


def read_photograph(path: Path) -> Photograph:
    """Read a photograph, turned upright according to its EXIF tag.

    Raises
    ------
    BadInputError
        If the file does not exist, is not an image, is too large, or is damaged.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    check_regular(path)
    try:
        with warnings.catch_warnings():
            # Pillow only warns up to twice its limit, and a warning would not stop the decoder.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Pillow warns of damaged tags and ignores them; those that matter raise an error.
            warnings.filterwarnings("ignore", category=UserWarning)
            with Image.open(path, formats=READ) as file:
                _check_pixels(file.size, path)
                notes = _ignored(file)
                negative = getattr(file, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
                image: Any = file
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
    except UnidentifiedImageError as error:
        raise BadInputError(f"{path} {_why_not(kind_of(path))}") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadInputError(f"{path} is too large: {error}") from error
    except (*DAMAGE, struct.error) as error:
        raise BadInputError(f"{path} cannot be read as an image: {error}") from error
    # convert() would clip 16 bits to 8 without a word.
    if image.mode in GRAY_16:
        return _split_16(image, negative, notes)
    return _split(image, notes)


def _why_not(kind: str | None) -> str:
    """The reason why a file cannot be read as a photograph, and advice."""
    if kind in PICTURES:
        return f"begins as {kind}, but is damaged or truncated: copy or export it again"
    what = "is not an image that is known" if kind is None else f"is {kind}"
    # Some descriptions already contain their advice.
    if ":" in what:
        return what
    return f"{what}: convert it to {', '.join(READ[:-1])} or {READ[-1]}"


PICTURES = ("a PNG picture", "a JPEG picture")


def _check_pixels(size: tuple[int, int], path: Path) -> None:
    """Refuse too many pixels before they are unpacked, because a small file can hold many."""
    if size[0] * size[1] > MAX_PIXELS:
        raise BadInputError(
            f"{path} is too large: it has {size[0]} x {size[1]} pixels, and at most "
            f"{MAX_PIXELS / 1e6:g} million can be read: cut it into parts, or scale it down"
        )


def _ignored(file: Any) -> list[str]:
    notes = []
    frames = getattr(file, "n_frames", 1)
    if frames > 1:
        notes.append(f"the first of {frames} frames is used")
    rawmode = file.tile[0][3] if file.tile else ""
    if file.mode in ("RGB", "RGBA", "LA") and "16" in str(rawmode):
        notes.append("channels of 16 bits are read with 8")
        clear = file.info.get("transparency")
        # The transparent colour must be reduced to 8 bits like the pixels that it is compared with.
        if isinstance(clear, tuple):
            file.info["transparency"] = tuple(v >> 8 for v in clear)
    return notes


def _split_16(image: Any, negative: bool, notes: list[str]) -> Photograph:
    values = np.asarray(image, np.float32)
    low, high = float(values.min()), float(values.max())
    # Mode I holds 32 bits, and the scale of larger values is not in the file.
    if low < 0 or high > WHITE_16:
        raise BadInputError(
            f"the image has values from {low:g} to {high:g}: convert it to integers of at most 16 "
            "bits"
        )
    clear, profile = image.info.get("transparency"), image.info.get("icc_profile")
    alpha = None
    if isinstance(clear, int):
        alpha = (values != clear).astype(np.float32)
        notes = [*notes, "grey of 16 bits with transparency is written with 8"]
    white = WHITE_16 if negative else _white(high)
    if white < WHITE_16:
        depth = white.bit_length()
        notes = [*notes, f"the values reach {high:g}: taken as {depth} bits stored in 16, of which "
                         f"{white} is white; a result of 16 bits has the same scale"]  # fmt: skip
    luminance = (white - values if negative else values) / white
    bits = 16 if alpha is None else 8
    return Photograph(luminance, None, alpha, bits, profile, notes, white)


def _white(high: float) -> int:
    """The white of the fewest bits that hold the largest value; the noise is relative to it."""
    depths = (bits for bits in DEPTHS if 0 < high < 2**bits)
    return 2 ** next(depths, WHITE_16.bit_length()) - 1


def _split(image: Any, notes: list[str]) -> Photograph:
    profile = image.info.get("icc_profile")
    if image.mode == "F":
        raise BadInputError("the image holds floating-point values: convert it to 16-bit integers")
    # A palette or grey image can have a transparent value instead of a channel.
    has_alpha = image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info
    grey = image.mode in ("1", "L", "LA", "La")
    wanted = ("LA" if grey else "RGBA") if has_alpha else ("L" if grey else "RGB")
    # The profile of a CMYK image does not apply to the RGB values that it is converted to.
    if image.mode == "CMYK":
        profile = None
    array = np.atleast_3d(np.asarray(image if image.mode == wanted else image.convert(wanted)))
    alpha = array[..., -1] / np.float32(255) if has_alpha else None
    if grey:
        luminance = array[..., 0] / np.float32(255)
        return Photograph(luminance, None, alpha, profile=profile, notes=notes)
    ycc = np.zeros((3, *array.shape[:2]), np.float32)
    for i, row in enumerate(TO_YCC.astype(np.float32) / np.float32(255)):
        # Channel by channel, because a matrix product would first need all channels in single
        # precision.
        for channel, weight in enumerate(row):
            ycc[i] += weight * array[..., channel]
    return Photograph(ycc[0], ycc[1:], alpha, profile=profile, notes=notes)


def check_photograph_target(
    path: Path,
    photograph: Photograph,
    factor: int,
    *,
    overwrite: bool,
    inputs: Inputs | None = None,
) -> None:
    """Check that :func:`write_photograph` will be able to write, before the work begins.

    Raises
    ------
    BadInputError
        If the format is unknown or cannot hold the image, or the file exists or is one of
        ``inputs``, the files that are read.
    """
    known = [suffix for suffix in (*WRITTEN, path.suffix) if suffix.lower() in WRITTEN]
    check_target(path, overwrite=overwrite, suffixes=known, inputs=inputs)
    if photograph.alpha is not None and WRITTEN[path.suffix.lower()] == "JPEG":
        raise BadInputError(
            f"{path}: the image has an alpha channel, and JPEG cannot store it: use .png"
        )
    side = factor * max(photograph.luminance.shape)
    if side > JPEG_SIDE and WRITTEN[path.suffix.lower()] == "JPEG":
        raise BadInputError(f"{path}: a side of {side} pixels is too long for JPEG: use .png")


def write_photograph(path: Path, photograph: Photograph) -> None:
    """Write a photograph atomically, clipped to the range 0 to 1, with the bits of the format.

    Raises
    ------
    BadInputError
        If the file cannot be written.
    """
    from PIL import Image

    kind = WRITTEN[path.suffix.lower()]
    if photograph.bits == 16 and kind != "JPEG":
        image = Image.fromarray(_integers(photograph.luminance, photograph.white, np.uint16))
    else:
        image = Image.fromarray(_integers(_channels(photograph), WHITE_8, np.uint8).squeeze())
    # Without subsampling, because the chroma was interpolated to full resolution.
    options = {"quality": JPEG_QUALITY, "subsampling": 0} if kind == "JPEG" else {}
    if photograph.profile:
        options["icc_profile"] = photograph.profile  # type: ignore[assignment]
    try:
        with replacing(path) as temporary:
            image.save(temporary, format=kind, **options)
    except OSError as error:
        raise BadInputError(f"{path} cannot be written: {error.strerror or error}") from error


def _channels(photograph: Photograph) -> np.ndarray:
    if photograph.chroma is None:
        colours = photograph.luminance[..., None]
    else:
        ycc = np.concatenate([photograph.luminance[None], photograph.chroma])
        colours = np.moveaxis(ycc, 0, -1) @ np.linalg.inv(TO_YCC).T.astype(ycc.dtype)
    if photograph.alpha is None:
        return colours
    return np.concatenate([colours, photograph.alpha[..., None]], -1)


def _integers(values: np.ndarray, white: int, kind: Any) -> np.ndarray:
    return np.rint(np.clip(values, 0, 1) * white).astype(kind)
