"""ESPIRiT on a larger field of view, where tissue reaches the border of the image."""

import numpy as np
import pytest
import torch

from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.coils.espirit import estimate_csm, unexplained
from equipoise.physics.coils.fit import misfit
from equipoise.physics.coils.wide import SMALLEST, wide_csm
from equipoise.physics.fourier import image_to_kspace
from equipoise.physics.noise_level import complex_noise
from equipoise.recon.maps_check import DOUBTFUL

SHAPE, COILS = (60, 64), 5


def coil_images(shape: tuple[int, int] = SHAPE) -> torch.Tensor:
    """Of smooth tissue that fills the image up to its border, (coil, y, x)."""
    rng = np.random.default_rng(3)
    coarse = torch.from_numpy(rng.uniform(0.3, 1.0, (1, 1, 9, 9)))
    tissue = torch.nn.functional.interpolate(coarse, shape, mode="bicubic", align_corners=True)
    csm = biot_savart_maps(shape, COILS, 1)[0]
    return (csm * tissue[0, 0]).to(torch.complex64)


def central(columns: int) -> torch.Tensor:
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    first = SHAPE[1] // 2 - columns // 2
    mask[:, first : first + columns] = True
    return mask


@pytest.mark.parametrize(("columns", "gain"), [(SMALLEST, 1.1), (24, 1.8), (64, 10)])
def test_maps_hold_at_a_border_that_cuts_through_tissue(columns, gain):
    images, mask = coil_images(), central(columns)
    kspace = image_to_kspace(images) * mask
    usual = estimate_csm(kspace[None], mask[None])
    found = wide_csm(kspace, mask)
    assert found is not None
    assert float(unexplained(images[None], found[None])) * gain < float(
        unexplained(images[None], usual)
    )
    size = found.abs().square().sum(0)
    assert bool(torch.isclose(size, torch.ones(()), atol=1e-4).logical_or(size == 0).all())
    assert float((size > 0).double().mean()) > 0.85


@pytest.mark.parametrize("shape", [(61, 64), (60, 65), (61, 65)])
def test_a_matrix_with_odd_sides_has_its_centre_where_it_belongs(shape):
    images = coil_images(shape)
    mask = torch.ones(shape, dtype=torch.bool)
    found = wide_csm(image_to_kspace(images), mask)
    assert found is not None
    assert float(unexplained(images[None], found[None])) < 0.03


@pytest.mark.parametrize("level", [0.05, 0.2])
def test_noise_is_not_fitted(level):
    """Although all of k-space calibrates, most of which is noise."""
    images, mask = coil_images(), torch.ones(SHAPE, dtype=torch.bool)
    noise = level * complex_noise(tuple(images.shape), np.random.default_rng(0))
    kspace = image_to_kspace(images) + noise
    found = wide_csm(kspace, mask)
    assert found is not None
    left = float(unexplained(images[None], found[None]))
    assert 2 * left < float(unexplained(images[None], estimate_csm(kspace[None], mask[None])))


def test_the_phase_is_that_of_a_virtual_coil():
    images, mask = coil_images(), central(32)
    found = wide_csm(image_to_kspace(images) * mask, mask)
    assert found is not None
    turns = (found[:, :, 1:] * found[:, :, :-1].conj()).sum(0).angle().abs()
    assert float(turns.median()) < 0.1


def test_right_maps_are_not_doubted_at_such_a_border():
    images, mask = coil_images(), central(24)
    csm = images / images.abs().square().sum(0).sqrt()
    kspace = image_to_kspace(images) * mask
    left = misfit(kspace[None], mask[None], csm[None])
    swapped = misfit(kspace[None], mask[None], csm[None, [1, 0, *range(2, COILS)]])
    assert left is not None
    assert left < DOUBTFUL / 2
    assert swapped is not None
    assert swapped > DOUBTFUL


def test_what_it_is_not_for_is_left_to_others():
    kspace = image_to_kspace(coil_images())
    narrow, whole = central(SMALLEST - 1), torch.ones(SHAPE, dtype=torch.bool)
    assert wide_csm(kspace * narrow, narrow) is None
    assert wide_csm(kspace[:1], whole) is None
    assert wide_csm(0 * kspace, whole) is None
    inside = coil_images()
    inside[:, :12] = inside[:, -12:] = 0
    assert wide_csm(image_to_kspace(inside), whole) is not None
    inside[..., :12] = inside[..., -12:] = 0
    assert wide_csm(image_to_kspace(inside), whole) is None
