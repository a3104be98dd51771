"""A sampling pattern drawn with characters."""

import numpy as np
import torch

DRAWN_ROWS, DRAWN_COLUMNS = 32, 64
"""Pixels of the drawn mask: 16 lines of text, with two pixels above each other in a character."""

SHADES = " ░▒▓█"


def draw_mask(mask: torch.Tensor) -> list[str]:
    """The lines of a sampling pattern (y, x) between 0 and 1; dark cells have few samples."""
    fraction = np.asarray(_shrink(mask.double().numpy()))
    rows = []
    for top, bottom in zip(fraction[::2], fraction[1::2]):
        rows.append("".join(_cell(a, b) for a, b in zip(top, bottom)))
    return rows


def _shrink(mask: np.ndarray) -> np.ndarray:
    """The mean of the mask over the cells of a grid that fits a terminal."""
    rows, columns = min(DRAWN_ROWS, mask.shape[0]), min(DRAWN_COLUMNS, mask.shape[1])
    mean = np.stack([part.mean(0) for part in np.array_split(mask, rows + rows % 2 or 2)])
    return np.stack([part.mean(1) for part in np.array_split(mean, columns, axis=1)], 1)


def _cell(top: float, bottom: float) -> str:
    """One character for two cells: a half block if they differ, else a shade."""
    # Half blocks double the vertical resolution where a line is sampled and its neighbour is not.
    if top >= 0.5 > bottom:
        return "▀"
    if bottom >= 0.5 > top:
        return "▄"
    return SHADES[round((top + bottom) / 2 * (len(SHADES) - 1))]
