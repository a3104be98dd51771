"""The calibration lines from which coil maps are estimated, if the images do not hold them.

A reference scan is measured once for all frames of a slice. Frames of a series that each leave out
different lines hold the calibration region together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import EllipsisType

import numpy as np
import torch
from torch import Tensor

from equipoise.outcome import BadInputError
from equipoise.physics.sampling.masks import calibration_region

SMALLEST, ENOUGH = 4, 16
"""Fewest samples along each axis from which coil maps can be estimated; and from which a frame of a
series has as good maps of its own as the mean of the series gives. Of one cine, frame by frame, own
maps had 6 dB less than those of the mean with 4 lines, 0.7 dB less with 12, and 0.05 dB more with
16."""


@dataclass(frozen=True)
class Calibration:
    """Fully sampled centres of k-space, and which of them belongs to each frame of a scan.

    Attributes
    ----------
    blocks
        (block, coil, y, x) or (block, coil, z, y, x), DC at index ``n // 2`` of each axis; its
        samples lie as far apart in k-space as those of the scan.
    of_frame
        The number of the block of each frame; None if the frame itself holds a calibration region.
    from_frames
        Whether the blocks are whole frames, zero where nothing was measured.
    maps
        Coil maps of the blocks that were estimated so far.
    """

    blocks: Tensor
    of_frame: tuple[int | None, ...]
    from_frames: bool = False
    maps: dict[int, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def lines(self, frame: int, matrix: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
        """K-space (1, coil, matrix) that is zero outside the block of a frame, and its mask.

        None if the frame itself holds a calibration region.
        """
        block = self.of_frame[frame]
        if block is None:
            return None
        own = self.blocks[block : block + 1]
        held = (own != 0).any(1) | (not self.from_frames)
        return embedded(own, matrix), embedded(held, matrix)

    def of(self, frames: list[int]) -> "Calibration":
        """The calibration of some of the frames."""
        return replace(self, of_frame=tuple(self.of_frame[i] for i in frames))

    def size(self, frame: int, matrix: tuple[int, ...]) -> tuple[int, ...] | None:
        """The size of the block of a frame in samples along each axis of the matrix."""
        block = self.of_frame[frame]
        if block is None:
            return None
        if self.from_frames:
            return calibration_region((self.blocks[block] != 0).any(0))
        return tuple(min(b, n) for b, n in zip(self.blocks.shape[2:], matrix))


NAMES = ("calibration", "calibration_of")
TAKEN = "calibration_from_frames"
"""Arrays of files: the blocks, for each frame the number of its block or -1, and whether the blocks
were taken from frames, which they were not if it is missing."""


def as_arrays(found: Calibration) -> dict[str, Tensor]:
    """The arrays that a file holds, under ``NAMES`` and ``TAKEN``."""
    found_in = [-1 if block is None else block for block in found.of_frame]
    numbers, taken = (
        torch.tensor(value, device=found.blocks.device) for value in (found_in, found.from_frames)
    )
    return dict(zip((*NAMES, TAKEN), (found.blocks, numbers, taken)))


def stored_calibration(
    arrays: Mapping[str, np.ndarray], shape: tuple[int, ...], source: str
) -> Calibration | None:
    """The inverse of :func:`as_arrays`, for k-space of a shape (frame, coil, matrix).

    None if a file does not hold both arrays.

    Raises
    ------
    BadInputError
        If the arrays do not belong to such k-space.
    """
    # One array without the other does not say which frames the blocks belong to.
    if not set(NAMES) <= set(arrays):
        return None
    blocks, numbers = (np.asarray(arrays[name]) for name in NAMES)
    fits = (
        np.iscomplexobj(blocks)
        and blocks.ndim == len(shape)
        and blocks.shape[1] == shape[1]
        and numbers.shape == shape[:1]
        and np.issubdtype(numbers.dtype, np.integer)
        and bool(((numbers >= -1) & (numbers < len(blocks))).all())
    )
    if not fits or not np.isfinite(blocks).all():
        raise BadInputError(
            f"{source}: calibration {blocks.shape} and calibration_of {numbers.shape} do not "
            f"belong to k-space {shape}: expected finite (blocks, coils, ...) and for each frame "
            "the number of its block or -1"
        )
    tensor = torch.from_numpy(np.require(blocks, np.complex64, ["C", "W"]))
    of_frame = tuple(None if n < 0 else int(n) for n in numbers)
    return Calibration(tensor, of_frame, from_frames=bool(np.any(arrays.get(TAKEN, False))))


def embedded(blocks: Tensor, matrix: tuple[int, ...]) -> Tensor:
    """Blocks (..., block axes) about DC of a matrix of zeros; what lies beyond it is cut off."""
    placed = blocks.new_zeros((*blocks.shape[: -len(matrix)], *matrix))
    into: list[EllipsisType | slice] = [...]
    out_of: list[EllipsisType | slice] = [...]
    for n, b in zip(matrix, blocks.shape[-len(matrix) :]):
        start = n // 2 - b // 2
        begin, end = max(start, 0), min(start + b, n)
        into.append(slice(begin, end))
        out_of.append(slice(begin - start, end - start))
    placed[tuple(into)] = blocks[tuple(out_of)]
    return placed


def stacked(blocks: Sequence[Tensor]) -> Tensor:
    """Blocks (coil, block) in one array, all cut to the region that each of them holds."""
    least = tuple(min(sizes) for sizes in zip(*(b.shape[1:] for b in blocks)))
    return torch.stack([embedded(b, least) for b in blocks])


def centre_of(kspace: Tensor, mask: Tensor) -> Tensor | None:
    """The fully sampled centre of k-space (coil, matrix); None if it is too small."""
    region = calibration_region(mask)
    if min(region) < SMALLEST:
        return None
    cut = tuple(slice(n // 2 - w // 2, n // 2 - w // 2 + w) for n, w in zip(mask.shape, region))
    return kspace[(slice(None), *cut)]


def holds_centre(mask: Tensor, size: int = SMALLEST) -> Tensor:
    """Whether each mask (frame, matrix) holds a calibration region of a size, (frame,)."""
    half = size // 2
    cut = tuple(slice(max(n // 2 - half, 0), n // 2 + half) for n in mask.shape[1:])
    large = all(n >= size for n in mask.shape[1:])
    return mask[(slice(None), *cut)].flatten(1).all(1) & large


def shared_calibration(
    samples: Tensor, mask: Tensor, labels: list[dict[str, int]]
) -> Calibration | None:
    """The calibration that frames without a calibration region take from other frames.

    It is that of the frame of the same slice with the largest region. Where none has
    :data:`ENOUGH` samples, it is the mean of the frames of one slice and contrast, if together they
    hold more, as in a series whose lines alternate.

    Parameters
    ----------
    samples, mask
        (frame, coil, matrix) and (1 or frame, matrix).
    labels
        What each frame is.

    Returns
    -------
    None if all frames hold their own region, or none can take one from others.
    """
    frames = len(samples)
    complete = holds_centre(mask).expand(frames).tolist()
    enough = holds_centre(mask, ENOUGH).expand(frames).tolist()
    if all(enough) or (all(complete) and len(mask) == 1):
        return None
    blocks: list[Tensor] = []
    places: dict[object, int | None] = {}
    of_frame = []
    for index in range(frames):
        key = None if enough[index] else _of(labels[index], BESIDES)
        # Once for each place: all frames of a slice share their block.
        if key is not None and key not in places:
            block = _taken(index, samples, mask, labels, complete)
            places[key] = None if block is None else len(blocks)
            blocks += [] if block is None else [block]
        of_frame.append(None if key is None else places[key])
    if not blocks:
        return None
    return Calibration(torch.stack(blocks), tuple(of_frame), from_frames=True)


PLACE, BESIDES = ("slice", "slab"), ("slice", "slab", "contrast", "set")
"""Labels that frames with the same coil maps share, and those that may be averaged."""


def _of(label: dict[str, int], names: tuple[str, ...]) -> tuple[int | None, ...]:
    return tuple(label.get(name) for name in names)


def _taken(
    index: int, samples: Tensor, mask: Tensor, labels: list[dict[str, int]], complete: list[bool]
) -> Tensor | None:
    """K-space (coil, matrix) for a frame that holds too little; None if there is no better one."""
    masks = mask.expand(len(samples), *mask.shape[1:])
    here = [i for i in range(len(samples)) if _of(labels[i], PLACE) == _of(labels[index], PLACE)]
    if len(here) == 1:
        return None
    alike = [i for i in here if _of(labels[i], BESIDES) == _of(labels[index], BESIDES)]
    count = masks[alike].sum(0)
    together = min(calibration_region(count > 0))
    found = [i for i in here if complete[i]]
    if found:
        same = [i for i in found if i in alike]
        region, best = max((min(calibration_region(masks[i])), -i) for i in same or found)
        # A frame with enough is better than a mean, in which motion would blur the maps.
        if region >= min(ENOUGH, together):
            return samples[-best]
    if together < SMALLEST:
        return None
    # Without a copy of all frames at once.
    total = sum((samples[i] for i in alike), torch.zeros_like(samples[0]))
    return total / count.clamp(min=1)
