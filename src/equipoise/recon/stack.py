"""The images of all problems of a scan as one stack (images, y, x), the form in which files go."""

from collections.abc import Sequence

import torch
from torch import Tensor

from equipoise.methods.method import PLANE, SERIES, VOLUME

KINDS = {PLANE: "slice", SERIES: "series", VOLUME: "volume"}
"""What one problem is called, by the axes of its image."""


def kind_of(axes: tuple[str, ...]) -> str:
    """What one problem is called: slice, series or volume."""
    return KINDS.get(axes, "image")


def planes(image: Tensor) -> Tensor:
    """The images (y, x) of an image (1, y, x), (1, time, y, x) or (1, z, y, x), (images, y, x)."""
    return image[0] if image.ndim > len(("batch", *PLANE)) else image


def stacked(images: Sequence[Tensor], places: Sequence[tuple[int, ...]]) -> Tensor:
    """The images of several problems, each at its place in the stack (images, y, x)."""
    every_place = [place for own in places for place in own]
    order = torch.argsort(torch.tensor(every_place, device=images[0].device))
    # A large volume should not be in memory twice for nothing.
    every = planes(images[0]) if len(images) == 1 else torch.cat([*map(planes, images)])
    return every if bool((order[1:] > order[:-1]).all()) else every[order]


def stacked_maps(
    maps: Sequence[Tensor], places: Sequence[tuple[int, ...]], axes: tuple[str, ...]
) -> Tensor:
    """Maps (1 or images, coil, y, x) of the stack; a single series has one for all its frames."""
    if axes == SERIES:
        of_series = [csm[:, :, 0] for csm in maps]
        if len(of_series) == 1:
            return of_series[0]
        number = {place: i for i, own in enumerate(places) for place in own}
        return torch.cat(of_series)[[number[place] for place in sorted(number)]]
    if axes == PLANE:
        return torch.cat([*maps])
    return torch.cat([csm[0].movedim(1, 0) for csm in maps])


def maps_at(csm: Tensor, places: tuple[int, ...], axes: tuple[str, ...]) -> Tensor:
    """The maps of one problem from those of the stack: the inverse of :func:`stacked_maps`."""
    if len(csm) == 1 and axes in (PLANE, SERIES):
        return csm
    if axes in (PLANE, SERIES):
        return csm[places[0] : places[0] + 1]
    return csm[list(places)].movedim(0, 1)[None]
