"""Films of a series over time, or of a volume slice by slice: GIF and MP4."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.formats.header import Header
from equipoise.optional import need
from equipoise.outcome import BadInputError

FILMS = (".gif", ".mp4")

FRAME_MS, SLICE_MS = 50.0, 100.0
"""Time of a frame if the scan does not tell, and of a slice of a volume."""

CENTISECOND_MS, SHORTEST_MS = 10, 20
"""GIF counts in hundredths of a second, and viewers show frames of less than two of them slowly."""

LONGEST_MS = 10_000.0
"""Longest time of a frame: a scan of minutes is not watched at its own speed."""

COLUMNS = 8
"""Slices of a frame in a row; further slices begin a new row."""

MP4_QUALITY = 9
"""Of 10; blocks of a stronger compression look like structures."""

MACRO = 2
"""Sides of an MP4 are multiples of this, because it halves the resolution of its colours."""


def pictures(image: np.ndarray, header: Header) -> tuple[np.ndarray, float]:
    """Pictures (frame, y, x) uint8, and the time of each in ms.

    The images of one point in time form a frame, slices side by side. Without several points in
    time every image is a frame. White is the largest magnitude of the whole film.

    Parameters
    ----------
    image
        (images, y, x).
    header
        Its labels tell the time of each image, and ``frame_ms`` the speed.
    """
    magnitude = np.abs(image)
    shown = np.rint(magnitude * (WHITE / (float(magnitude.max()) or 1.0))).astype(np.uint8)
    moments = np.array(header.moments(len(image)))
    if not moments.any():
        return shown, SLICE_MS
    volumes = header.volumes(len(image))
    order = [i for indices in volumes for i in indices]
    groups = [[i for i in order if moments[i] == number] for number in np.unique(moments)]
    side = max(map(len, groups))
    frames = np.stack([_side_by_side(shown[group], side) for group in groups])
    return frames, min(header.frame_ms or FRAME_MS, LONGEST_MS)


WHITE = 255


def _side_by_side(planes: np.ndarray, count: int) -> np.ndarray:
    """Planes (n, y, x) in rows, filled up to a number of planes."""
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    missing = np.zeros((rows * columns - len(planes), *planes.shape[1:]), planes.dtype)
    grid = np.concatenate([planes, missing]).reshape(rows, columns, *planes.shape[1:])
    y, x = planes.shape[1:]
    return np.asarray(grid.transpose(0, 2, 1, 3).reshape(rows * y, columns * x))


def write_gif(path: Path, image: np.ndarray, header: Header) -> None:
    """A GIF that repeats; the durations of its frames add up to the time of the series."""
    from PIL import Image

    frames, time = pictures(image, header)
    ends = np.arange(len(frames) + 1) * max(time, SHORTEST_MS)
    durations = np.diff(np.rint(ends / CENTISECOND_MS)).astype(int) * CENTISECOND_MS
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(
        path,
        format="GIF",
        save_all=True,
        append_images=others,
        duration=durations.tolist(),
        loop=0,
        optimize=False,
    )


def write_mp4(path: Path, image: np.ndarray, header: Header) -> None:
    """An MP4 (H.264), padded with black to even sides.

    Raises
    ------
    BadInputError
        If no program encodes it.
    """
    encoder = encoder_of_mp4()
    frames, time = pictures(image, header)
    y, x = (-n % MACRO for n in frames.shape[1:])
    frames = np.pad(frames, ((0, 0), (0, y), (0, x)))
    with _encoding(encoder, path, frames.shape[1:], 1e3 / time) as send:
        for frame in frames:
            send(np.ascontiguousarray(frame))


def encoder_of_mp4() -> Any:
    """The library that encodes MP4.

    Raises
    ------
    BadInputError
        If it is not installed, or has no program for this machine.
    """
    encoder = need("imageio_ffmpeg", "film", "writing MP4")
    try:
        encoder.get_ffmpeg_exe()
    except RuntimeError as error:
        raise BadInputError(
            f"writing MP4 needs ffmpeg, and imageio_ffmpeg has none for this machine ({error}): "
            "install ffmpeg, or write a .gif"
        ) from error
    return encoder


@contextmanager
def _encoding(encoder: Any, path: Path, shape: tuple[int, ...], rate: float) -> Iterator[Any]:
    y, x = shape
    writer = encoder.write_frames(
        str(path),
        (x, y),
        pix_fmt_in="gray",
        fps=rate,
        codec="libx264",
        quality=MP4_QUALITY,
        macro_block_size=MACRO,
        ffmpeg_log_level="error",
        output_params=["-f", "mp4", "-movflags", "+faststart"],
    )
    writer.send(None)
    try:
        yield writer.send
    finally:
        writer.close()
