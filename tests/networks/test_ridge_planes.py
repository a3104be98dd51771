"""The ridge of planes: monotone with any factors, the ridge of each plane, tiles and rounding."""

import copy
import math

import pytest
import torch

from equipoise.networks import ridge
from equipoise.networks.ridge import Ridge
from equipoise.networks.ridge_planes import PlanarRidge, planes_of
from equipoise.networks.tiles import Tiled
from equipoise.vectors import inner, norm
from pairs_of_images import scrambled
from problems import random_complex

SHAPE = (7, 9, 5)
SCALES = torch.tensor([0.03, 2.0], dtype=torch.float64)


def planar(seed=0, **given):
    settings = {"features": 4, "basis": 2, "m": 0.05, **given}
    return scrambled(PlanarRidge(seed=seed, **settings), seed)


def at(ridge, seed=0, shape=SHAPE, scales=SCALES):
    """With random factors of every plane."""
    z, y, x = shape
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn((len(scales), x, ridge.features, z, y), generator=generator).exp()
    return ridge.at(scales, factors.double())


@pytest.fixture(autouse=True)
def _without_graph():
    with torch.no_grad():
        yield


class TestMonotone:
    @pytest.mark.parametrize("channels", [1, 2])
    def test_no_pair_is_below_m_and_h_contracts(self, channels):
        for seed in range(6):
            network = at(planar(seed, channels=channels), seed)
            x, y = random_complex((2, *SHAPE), seed), random_complex((2, *SHAPE), seed + 100)
            d = x - y if channels == 2 else (x - y).real + 0j
            moved = network(y + d) - network(y)
            assert bool((inner(d - moved, d) >= 0.05 * (1 - 1e-9) * inner(d, d)).all())
            assert bool((norm(moved) <= 0.95 * (1 + 1e-12) * norm(d)).all())

    @pytest.mark.parametrize("name", ["first", "log_threshold"])
    def test_weights_that_prove_nothing_are_found(self, name):
        ridge = planar(2)
        getattr(ridge, name).flatten()[0] = math.nan
        assert ridge.monotonicity().evidence == "none"


class TestEvaluation:
    def test_every_plane_is_that_of_a_ridge(self):
        ridge = scrambled(Ridge(m=0.05, features=4, basis=2), 3)
        volume = PlanarRidge(m=0.05, features=4, basis=2).double()
        volume.load_state_dict(ridge.state_dict())
        x = random_complex((2, *SHAPE))
        planes = ridge.at(SCALES.repeat_interleave(SHAPE[-1]))(planes_of(x))
        assert torch.equal(planes_of(volume.at(SCALES)(x)), planes)
        factors = at(volume).factors
        alone = ridge.at(SCALES.repeat_interleave(SHAPE[-1]), factors.flatten(0, 1))
        assert torch.equal(planes_of(at(volume)(x)), alone(planes_of(x)))

    def test_its_jacobian_is_symmetric_and_that_of_differences(self):
        network = at(planar(5))
        x, d, e = (random_complex((2, *SHAPE), s) for s in (1, 2, 3))
        product = network.linearised(x)
        assert network.symmetric
        assert float((inner(product(d), e) - inner(d, product(e))).abs().max()) < 1e-10
        difference = (network(x + 1e-6 * d) - network(x - 1e-6 * d)) / 2e-6
        assert float((norm(difference - product(d)) / norm(d)).max()) < 1e-6

    @pytest.mark.parametrize("voxels", [1, 130])
    def test_some_planes_at_a_time_are_exact(self, voxels, monkeypatch):
        network, x = at(planar(6)), random_complex((2, *SHAPE))
        whole = network(x)
        monkeypatch.setattr("equipoise.networks.ridge_planes.AT_ONCE", voxels)
        sizes = []
        analysed = ridge.analysed
        seen = lambda image, *rest: (sizes.append(len(image)), analysed(image, *rest))[1]  # noqa: E731
        monkeypatch.setattr(ridge, "analysed", seen)
        assert float(norm(network(x) - whole).max()) < 1e-12
        assert max(sizes) == 2 * max(voxels // (7 * 9), 1)

    @pytest.mark.parametrize("tile", [4, 7])
    def test_tiles_are_exact(self, tile):
        network = at(planar(6), shape=(5, 21, 18))
        x, d = random_complex((2, 5, 21, 18)), random_complex((2, 5, 21, 18), 1)
        tiled = Tiled(network, tile)
        assert float(norm(tiled(x) - network(x)).max()) < 1e-11
        assert float(norm(tiled.linearised(x)(d) - network.linearised(x)(d)).max()) < 1e-11

    def test_one_scan_serves_a_batch_of_images(self):
        network = at(planar(7), scales=SCALES[1:])
        x = random_complex((3, *SHAPE), 4)
        alone = torch.cat([network(one[None]) for one in x])
        assert float(norm(network(x) - alone).max()) < 1e-13


class TestRounding:
    def test_24_single_precision_stays_within_its_bound(self):
        for seed in range(3):
            ridge = planar(seed).float()
            network = at(ridge, scales=SCALES[1:])
            exact = copy.deepcopy(network).double()
            x = random_complex((1, *SHAPE), seed).to(torch.complex64)
            error = norm(network(x).to(torch.complex128) - exact(x.to(torch.complex128)))
            assert 0 < float(error) <= float(network.rounding(x))
            assert float(exact.rounding(x.to(torch.complex128)) / norm(x)) < 1e-9
