"""Whether coil maps belong to a scan, measured on its calibration region."""

import itertools
import math

import torch
from torch import Tensor

from equipoise.physics.cartesian import hann_window
from equipoise.physics.coils.espirit import unexplained, usual_region
from equipoise.physics.fourier import kspace_to_image
from equipoise.physics.noise_level import noise_level
from equipoise.shapes import CoilMaps, KSpace, Mask

SMALLEST_REGION = 8
"""Side of the smallest centre that judges maps. They vary over the pixels of fewer samples, so that
correct maps leave 0.29 of 4 lines unexplained, 0.16 of 6 and 0.10 of 8."""


def misfit(kspace: KSpace, mask: Mask, csm: CoilMaps) -> float | None:
    """The part of the low-resolution coil images that maps do not explain, beyond their noise.

    It is ``sqrt(||(I - S S^H) c||^2 - n^2) / ||c||``, with c the images of the fully sampled centre
    under a Hann window w, and ``n^2 = sigma^2 sum(w^2) (coils - 1) share``. The latter is the noise
    expected in the ``coils - 1`` directions that the maps do not span, in the share of the image
    where there are maps. Correct maps leave less than 0.05 in simulated scans whose noise is a
    fifth of their low-resolution images. Two exchanged coils leave 0.1 to 0.6, and other mistakes
    more.

    Parameters
    ----------
    kspace, mask
        K-space and mask of one slice, (1, coil, y, x) and (1, y, x).
    csm
        Maps with sum of squares 1 over the coils, and 0 outside their support.

    Returns
    -------
    Between 0 and 1; None if there is no fully sampled centre, or no signal where there are maps.
    """
    window = _window(mask)
    if window is None:
        return None
    csm = csm * _away_from_border(mask)
    inside = (csm != 0).any(1, keepdim=True)
    if not bool(inside.any()):
        return None
    images = kspace_to_image(kspace * window * mask[:, None])
    energy = float((images * inside).abs().square().sum())
    if energy == 0:
        return None
    directions = (kspace.shape[1] - 1) * float(inside.double().mean())
    noise = float(noise_level(kspace, mask)) ** 2 * float(window.square().sum()) * directions
    left = float(unexplained(images, csm)) ** 2 - noise / energy
    return max(left, 0.0) ** 0.5


def _window(mask: Mask) -> Tensor | None:
    region = usual_region(mask[0])
    return (
        None if min(region) < SMALLEST_REGION else hann_window(mask.shape[1:], region, mask.device)
    )


def _away_from_border(mask: Mask) -> Tensor:
    """Where a pixel is farther from the border than the low-resolution images resolve, (y, x)."""
    inner = torch.zeros(mask.shape[1:], dtype=torch.bool, device=mask.device)
    y, x = (math.ceil(n / size) for n, size in zip(inner.shape, usual_region(mask[0])))
    inner[y:-y, x:-x] = True
    return inner


def fitting_order(kspace: KSpace, mask: Mask, csm: CoilMaps) -> list[int] | None:
    """The order of the maps that suits the coils best; map ``order[i]`` belongs to coil i.

    The magnitudes of low-resolution images and maps are compared, and the nearest pairs are matched
    first. :func:`misfit` must then decide whether the order is right.
    """
    window = _window(mask)
    if window is None:
        return None
    images = kspace_to_image(kspace * window * mask[:, None])[0].abs()
    weight = images.square().sum(0).sqrt()
    maps = csm[0].abs() * weight
    distance = torch.cdist(images.flatten(1).double(), maps.flatten(1).double())
    n = len(distance)
    order, free = [-1] * n, set(range(n))
    for place in distance.flatten().argsort(stable=True).tolist():
        coil, found = divmod(place, n)
        if order[coil] < 0 and found in free:
            order[coil] = found
            free.remove(found)
    return order


def fitting_turn(kspace: KSpace, mask: Mask, csm: CoilMaps, limit: float) -> str | None:
    """The change, in words, after which the maps leave less than ``limit``; None if none does."""
    changes = [
        ("conjugated", Tensor.conj),
        ("flipped along y", lambda s: s.flip(-2)),
        ("flipped along x", lambda s: s.flip(-1)),
        ("flipped along y and x", lambda s: s.flip(-2, -1)),
    ]
    if csm.shape[-1] == csm.shape[-2]:
        changes.append(("transposed (y and x exchanged)", lambda s: s.mT))
    shifts = [n // 2 for n in csm.shape[-2:]]
    changes.append(("moved by half the matrix", lambda s: s.roll(shifts, (-2, -1))))
    # Single changes come first: the simplest explanation is the likely mistake.
    for count in (1, 2):
        for chosen in itertools.combinations(changes, count):
            maps = csm
            for _, change in chosen:
                maps = change(maps)
            left = misfit(kspace, mask, maps.resolve_conj().contiguous())
            if left is not None and left < limit:
                return " and ".join(words for words, _ in chosen)
    return None
