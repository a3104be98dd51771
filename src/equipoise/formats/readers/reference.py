"""Calibration lines of accelerated scans: which are samples of the images, and which are not.

Integrated lines belong to the images, whose grid they fill about the centre. Those of a separate
scan have another contrast, field of view or resolution: coil maps are estimated from them, once for
all frames of a slice.
"""

import numpy as np
import torch

from equipoise.formats.calibration import SMALLEST, Calibration, centre_of, embedded, stacked
from equipoise.formats.readers.readouts import Readouts, Stack, assemble, kept_field
from equipoise.formats.readers.xml_header import XmlHeader
from equipoise.physics.fourier import image_to_kspace, kspace_to_image

SAME_FIELD = 0.01
"""Relative difference of two fields of view whose samples lie on one grid."""


def are_separate(lines: Readouts, reference: np.ndarray, declared: bool | None) -> np.ndarray:
    """Which readouts belong to a separate reference scan.

    Parameters
    ----------
    lines
        All readouts.
    reference
        Which of them are flagged for calibration only.
    declared
        Whether the file says that its reference lines are a separate scan; None if it does not
        say. They then count as separate if no readout of an image has their counters, or if they
        repeat a line of an image.
    """
    if declared or not reference.any():
        return reference
    images = {tuple(key) for key in lines.frames()[~reference]}
    elsewhere = np.array([tuple(key) not in images for key in lines.frames()])
    separate = reference & elsewhere
    # A line is measured once for an image, so a repetition belongs to another scan.
    if declared is None and _repeats(lines, reference & ~elsewhere, ~reference):
        return reference
    return np.asarray(separate)


def _repeats(lines: Readouts, some: np.ndarray, others: np.ndarray) -> bool:
    """Whether some of the readouts have frame, line and partition of others."""
    keys = np.column_stack([lines.frames(), lines.lines, lines.partitions])
    known = {tuple(key) for key in keys[others]}
    return any(tuple(key) in known for key in keys[some])


def calibration_of(
    lines: Readouts, own: XmlHeader, stack: Stack, xml: XmlHeader, source: str, notes: list[str]
) -> Calibration | None:
    """The calibration of a stack, from the readouts of a separate reference scan.

    Parameters
    ----------
    lines, own
        The readouts, whitened like those of the images, and the header of their own encoding.
    stack, xml
        The images, and the header of their encoding.
    source, notes
        The file, and the list that receives notes.

    Returns
    -------
    None, with a note, if they cannot be used.
    """
    count = len(lines.samples)
    if {s.shape[0] for s in lines.samples} != {stack.kspace.shape[1]}:
        notes.append("the separate calibration scan has other coils: left out")
        return None
    reference = assemble(lines, own, source, [])
    blocks = [centre_of(*parts) for parts in zip(*reference.tensors())]
    # Maps need the same number of dimensions as the images, and a few lines about DC.
    if reference.volumetric != stack.volumetric or any(b is None for b in blocks):
        what = "is 3D and the images are not, or the other way round"
        if reference.volumetric == stack.volumetric:
            what = f"holds less than {SMALLEST} lines about the centre of k-space"
        notes.append(f"the separate calibration scan of {count} readouts {what}: left out")
        return None
    found = stacked([b for b in blocks if b is not None])
    fields = zip(kept_field(xml), kept_field(own))
    ratios = [wanted / has if min(wanted, has) > 0 else 1.0 for wanted, has in fields]
    for axis in range(2, found.ndim):
        found = _in_field(found, axis, ratios[axis - found.ndim])
    slices = [label["slice"] for label in reference.labels]
    if not all(label["slice"] in slices for label in stack.labels):
        notes.append("the separate calibration scan covers other slices: left out")
        return None
    notes.append(f"coil maps are from {count} readouts of a separate calibration scan")
    return Calibration(found, tuple(slices.index(label["slice"]) for label in stack.labels))


def _in_field(blocks: torch.Tensor, axis: int, ratio: float) -> torch.Tensor:
    """K-space of another field of view along an axis: its images cut, or surrounded by zeros."""
    n = blocks.shape[axis]
    wanted = max(round(n * ratio), 1)
    if abs(ratio - 1) < SAME_FIELD or wanted == n:
        return blocks
    images = kspace_to_image(blocks.movedim(axis, -1), 1)
    return image_to_kspace(embedded(images, (wanted,)), 1).movedim(-1, axis)
