"""The refinement of a volume sees a plane and its neighbours, in phase."""

import pytest
import torch

from equipoise.networks.refinement import Refinement, RefinementConfig
from problems import random_complex


def block(place=0, seed=0):
    found = RefinementConfig(features=3, blocks=2).build(seed).double().blocks[place]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        found.last.weight.copy_(torch.randn(found.last.weight.shape, generator=generator))
    return found


def turned(image, seed=1):
    """A phase of the size of an image."""
    return torch.polar(torch.ones_like(image.real), 3 * random_complex(image.shape, seed).real)


@pytest.mark.parametrize("others", [0, 1])
def test_a_block_starts_as_the_identity(others):
    image = random_complex((2, 6, 5, 4))
    untrained = RefinementConfig(features=3, blocks=3).build().double().blocks[others]
    assert torch.equal(untrained(image, turned(image), *[turned(image)] * others), image)


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("voxels", [1, 60, 10_000])
def test_a_plane_follows_from_itself_and_its_neighbours_however_many_are_taken_at_once(
    voxels, others, monkeypatch
):
    monkeypatch.setattr("equipoise.networks.ridge_planes.AT_ONCE", voxels)
    image, found = random_complex((2, 6, 5, 7)), block(others)
    phase = turned(image)
    before = [random_complex(image.shape, 4)] * others
    with torch.no_grad():
        whole = found(image, phase, *before)
        # The first and the last plane of these are seen by others.
        part = found(*(one[..., 1:5] for one in (image, phase, *before)))
    assert torch.allclose(part[..., 1:3], whole[..., 2:4])
    assert not torch.allclose(part[..., 0], whole[..., 1])
    planes = (phase.conj() * image)[0].movedim(-1, 0)
    three = torch.stack([planes[[0, *range(6)]], planes, planes[[*range(1, 7), 6]]], 1)
    channels = [three.real, three.imag]
    for one in before:
        own = (phase.conj() * one)[0].movedim(-1, 0)[:, None]
        channels += [own.real, own.imag]
    with torch.no_grad():
        v = found.correction(torch.cat(channels, 1))
    expected = image[0] + phase[0] * torch.complex(v[:, 0], v[:, 1]).movedim(0, -1)
    assert torch.allclose(whole[0], expected)


def test_it_commutes_with_a_change_of_the_phase_and_learns():
    image, found = random_complex((1, 6, 5, 3)), block(1)
    phase, turn, before = turned(image), turned(image, 2), random_complex(image.shape, 5)
    expected = turn * found(image, phase, before)
    assert torch.allclose(found(turn * image, turn * phase, turn * before), expected)
    found(image, phase, before).abs().square().sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in found.parameters())


def test_its_weights_have_the_shapes_of_its_configuration():
    config = RefinementConfig(features=3, blocks=3)
    assert isinstance(config.build(), Refinement)
    assert {k: tuple(v.shape) for k, v in config.build().state_dict().items()} == config.shapes()
