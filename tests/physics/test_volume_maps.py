"""Coil maps of a volume: slice by slice along the readout, with a phase that is smooth across."""

import pytest
import torch

from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_volume
from equipoise.physics.coils.readout import plane_of, slices_along_readout
from equipoise.physics.coils.volume import volume_csm
from equipoise.physics.fourier import image_to_kspace
from equipoise.physics.sampling.dynamic import volume_mask
from problems import random_complex

SHAPE = (24, 28, 10)


@pytest.fixture(scope="module")
def scan():
    """Known maps, an ellipsoid that they see, k-space of two thirds of its plane, and the mask."""
    csm = biot_savart_volume(SHAPE, 4, seed=3)
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    body = ((z**2 + y**2 + (0.5 * x) ** 2) < 0.6).to(torch.complex64)
    mask = volume_mask(SHAPE, 1.5, 10)
    return csm, body, SenseOp(csm, mask).forward(body[None])[0], mask[0]


def steps(maps, inside):
    """Mean change of the phase of maps from one slice to the next, in radians."""
    both = inside[..., 1:] & inside[..., :-1]
    turned = (maps[0, ..., 1:] * maps[0, ..., :-1].conj()).sum(0).angle().abs()
    return float(turned[both].mean())


def test_known_maps_have_sum_of_squares_one_and_vary_along_every_axis(scan):
    csm = scan[0]
    assert csm.shape == (1, 4, *SHAPE)
    assert torch.allclose(csm.abs().square().sum(1), torch.ones(1, *SHAPE), atol=1e-5)
    for axis in (2, 3, 4):
        assert 0 < float(csm.diff(dim=axis).abs().max()) < 0.6


def test_the_maps_of_every_slice_agree_with_the_known_ones(scan):
    csm, body, kspace, mask = scan
    found = volume_csm(kspace[None], mask[None])
    inside = (found != 0).any(1)[0] & (body != 0)
    agreement = (found.conj() * csm).sum(1).abs()[0]
    assert float(inside.double().sum() / (body != 0).sum()) > 0.9
    assert float(agreement[inside].median()) > 0.99


def test_their_phase_is_smooth_across_slices_and_does_not_follow_that_of_the_image(scan):
    _, body, kspace, mask = scan
    generator = torch.Generator().manual_seed(0)
    turns = torch.polar(torch.ones(SHAPE[2]), 6 * torch.rand(SHAPE[2], generator=generator))
    turned = slices_along_readout(kspace) * turns[:, None, None, None]
    found = volume_csm(kspace[None], mask[None])
    # Back to k-space: the image now has another phase in every slice, and the maps are the same.
    again = volume_csm(image_to_kspace(turned.movedim(0, -1), 1)[None], mask[None])
    inside = (found != 0).any(1)[0] & (body != 0)
    assert steps(found, inside) < 0.15
    assert float((found - again).abs().max()) < 1e-3


def test_a_mask_that_varies_along_the_readout_is_refused(scan):
    mask = scan[3]
    broken = mask.clone()
    broken[12, 14, 5] = False
    with pytest.raises(BadInputError, match="varies along x"):
        plane_of(broken)


def test_the_planes_of_an_operator_have_its_part_of_the_normal_operator(scan):
    operator = SenseOp(scan[0].to(torch.complex128), scan[3][None])
    image = random_complex((1, *SHAPE))
    expected, cut = operator.normal(image), slice(3, 7)
    part = operator.planes(cut)
    assert part.image_shape == (1, *SHAPE[:2], 4)
    assert torch.allclose(part.normal(image[..., cut]), expected[..., cut])
    support, known = part.support(), operator.support()
    assert (support is None) == (known is None)
    assert operator.image_shape == (1, *SHAPE)
    # Planes of air have an operator too, which sees nothing.
    operator.csm[..., :2] = 0
    assert float(operator.planes(slice(0, 2)).normal(image[..., :2]).abs().max()) == 0


def test_where_lines_along_the_readout_are_not_whole_there_are_no_planes(scan):
    mask = scan[3].clone()
    mask[..., 0] = True
    assert SenseOp(scan[0], mask[None]).planes(slice(0, 2)) is None
