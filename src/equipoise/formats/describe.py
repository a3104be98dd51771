"""What a reader understood of a scan: the content of ``equipoise info``."""

from typing import Any

import numpy as np
import torch

from equipoise.formats.acquisition import Acquisition
from equipoise.physics.noise_level import noise_level
from equipoise.physics.sampling.masks import calibration_region

DRAWN_ROWS, DRAWN_COLUMNS = 32, 64
"""Pixels of the drawn mask: 16 lines of text, two pixels above each other in a character."""


def describe(acquisition: Acquisition) -> dict[str, Any]:
    """Shapes, sampling, noise, centre and orientation of a scan, for JSON.

    ``centre_by_energy`` is the sample of most energy over slices and coils, ``centre`` where the
    package takes DC to be; both are (y, x). ``noise_level`` is the standard deviation of a complex
    k-space sample, the median over slices.
    """
    kspace, header = acquisition.kspace, acquisition.header
    n_slices, n_coils, y, x = kspace.shape
    energy = kspace.abs().square().sum((0, 1))
    peak = divmod(int(energy.argmax()), x)
    geometry = header.geometry
    return {
        "file": acquisition.source,
        "format": acquisition.layout,
        "images": n_slices,
        "coils": n_coils,
        "matrix": [y, x],
        "image_matrix": list(header.crop or (y, x)),
        "labels": _ranges(header.labels),
        "acceleration": acquisition.acceleration,
        "calibration_region": list(calibration_region(acquisition.mask[0])),
        "masks": len(acquisition.mask) if _masks_differ(acquisition.mask) else 1,
        "noise_level": float(noise_level(kspace, acquisition.mask).median()),
        "whitened": header.whitening is not None,
        "centre": [y // 2, x // 2],
        "centre_by_energy": list(peak),
        "centre_in_file": None if header.centre is None else list(header.centre),
        "pixel_mm": None if geometry is None else [float(v) for v in geometry.spacing],
        "field_of_view_mm": None
        if geometry is None
        else [n * d for n, d in zip((y, x), geometry.spacing[1:])],
        "plane": geometry.plane if geometry is not None and geometry.oriented else None,
        "coil_maps": acquisition.csm is not None,
        "target": acquisition.target is not None,
        "system": header.system,
        "assumed": acquisition.notes,
        "ignored": header.ignored,
    }


def _masks_differ(mask: torch.Tensor) -> bool:
    return bool((mask != mask[:1]).any())


def _ranges(labels: list[dict[str, int]]) -> dict[str, int]:
    """How many values each label takes."""
    names = sorted({name for label in labels for name in label})
    return {name: len({label.get(name) for label in labels}) for name in names}


def draw_mask(mask: torch.Tensor) -> list[str]:
    """The sampling pattern (y, x) in characters: the darker, the fewer samples of a cell."""
    fraction = np.asarray(_shrink(mask.double().numpy()))
    rows = []
    for top, bottom in zip(fraction[::2], fraction[1::2]):
        rows.append("".join(_cell(a, b) for a, b in zip(top, bottom)))
    return rows


def _shrink(mask: np.ndarray) -> np.ndarray:
    """Mean of the mask over the cells of a grid that a terminal can show."""
    rows, columns = min(DRAWN_ROWS, mask.shape[0]), min(DRAWN_COLUMNS, mask.shape[1])
    mean = np.stack([part.mean(0) for part in np.array_split(mask, rows + rows % 2 or 2)])
    return np.stack([part.mean(1) for part in np.array_split(mean, columns, axis=1)], 1)


SHADES = " ░▒▓█"


def _cell(top: float, bottom: float) -> str:
    """Two cells above each other: half blocks where they differ, shades where they do not."""
    if top >= 0.5 > bottom:
        return "▀"
    if bottom >= 0.5 > top:
        return "▄"
    return SHADES[round((top + bottom) / 2 * (len(SHADES) - 1))]
