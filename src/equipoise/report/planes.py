"""What a page shows of a series or a volume: planes, a loop over time, a profile."""

import base64
import io
from collections.abc import Sequence

import numpy as np

SERIES, VOLUME = ("time", "y", "x"), ("z", "y", "x")
PROFILE_HEIGHT = 96
"""Least height of an x-t profile in pixels; frames are repeated to reach it."""

LOOP_MS, SHORTEST_MS = 60, 20
"""Milliseconds that a loop shows each frame where the scan does not tell, and the fewest that
browsers show."""

LARGEST_LOOP, QUALITY = 256, 70
"""Pixels along the longer side of a loop, and the quality of its frames."""


def middle_plane(array: np.ndarray) -> np.ndarray:
    """A plane (y, x) of (y, x) or (time or z, y, x)."""
    return array if array.ndim == len(("y", "x")) else array[len(array) // 2]


def planes_of(image: np.ndarray, axes: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """The pictures of an image with their captions: one plane, or three of a volume."""
    if tuple(axes) == SERIES:
        return [(f"frame {len(image) // 2} of {len(image)}", middle_plane(image))]
    if tuple(axes) != VOLUME:
        return [("", image)]
    z, y, x = (n // 2 for n in image.shape)
    return [(f"z = {z}", image[z]), (f"y = {y}", image[:, y]), (f"x = {x}", image[:, :, x])]


def profile_of(series: np.ndarray) -> np.ndarray:
    """The line across x at the y that changes most over time, one row a frame, (time, x)."""
    magnitude = np.abs(series)
    row = int(magnitude.std(0).sum(1).argmax())
    repeats = -(-PROFILE_HEIGHT // len(series))
    return np.asarray(magnitude[:, row].repeat(repeats, 0))


def sampled_plane(mask: np.ndarray) -> np.ndarray:
    """The sampling pattern across the axis along which it is constant, else its middle plane."""
    if mask.ndim == len(("y", "x")):
        return mask
    for axis in (1, 2, 0):
        if bool((mask == mask.take([0], axis)).all()):
            return np.asarray(mask.take(0, axis))
    return middle_plane(mask)


def loop(series: np.ndarray, white: float, frame_ms: float | None) -> str:
    """Frames (time, y, x) as an animated WebP in a data URL."""
    from PIL import Image

    block = -(-max(series.shape[1:]) // LARGEST_LOOP)
    shown = np.clip(np.abs(series[:, ::block, ::block]) / white, 0, 1)
    frames = [Image.fromarray(frame) for frame in np.rint(shown * 255).astype(np.uint8)]
    content = io.BytesIO()
    frames[0].save(
        content,
        format="WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=max(SHORTEST_MS, round(frame_ms or LOOP_MS)),
        loop=0,
        quality=QUALITY,
    )
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()
