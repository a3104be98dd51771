"""The ridge is m-strongly monotone and H a contraction for every weight, in double precision."""

import copy
import math

import pytest
import torch

from equipoise.networks.jacobian import Jacobian, largest_symmetric_eigenvalue
from equipoise.networks.ridge import Ridge
from equipoise.networks.tiles import Tiled
from equipoise.vectors import norm
from pairs_of_images import BATCH, SHAPE, margins, pairs, scales, scrambled
from problems import random_complex


def random_ridge(seed, **configuration):
    """Weights of every size, so that thresholds lie far below, among and far above the data."""
    return scrambled(Ridge(seed=seed, features=6, basis=3, **configuration), seed)


class TestMonotone:
    @pytest.mark.parametrize("clips", [1, 3])
    @pytest.mark.parametrize("channels", [1, 2])
    @pytest.mark.parametrize("m", [0.001, 0.01, 0.3])
    def test_no_pair_is_below_m_and_h_contracts(self, m, channels, clips):
        for seed in range(8):
            ridge = random_ridge(seed, m=m, channels=channels, clips=clips)
            x, y = pairs(seed)
            if channels == 1:
                x, y = x.real + 0j, y.real + 0j
            monotone, lipschitz = margins(ridge.at(scales(seed)), x, y)
            assert float(monotone.min()) >= m * (1 - 1e-9)
            assert float(lipschitz.max()) <= (1 - m) * (1 + 1e-12)

    def test_a_share_below_zero_is_found(self):
        """The same pairs see a network that is not monotone."""
        ridge = random_ridge(0, m=0.01)
        network = ridge.at(torch.full((BATCH,), 10.0, dtype=torch.float64))
        used = network._fixed
        network._fixed = used._replace(shares=-used.shares)
        monotone, _ = margins(network, *pairs(0))
        assert float(monotone.min()) < 0

    def test_m_is_reached_so_nothing_is_hidden_in_the_bound(self):
        """On a large constant image U x vanishes inside, F is m x there."""
        ridge = random_ridge(1, m=0.05)
        x = torch.ones((1, 41, 41), dtype=torch.complex128)
        value = ridge.at(torch.ones(1).double())(x)[0, 20, 20]
        assert abs(value - 0.95) < 1e-12

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_weights_that_prove_nothing_are_found(self, bad):
        for name in ("first", "second", "log_threshold", "share"):
            ridge = random_ridge(2)
            assert ridge.monotonicity().value == 0.01
            assert ridge.monotonicity().evidence == "proved"
            with torch.no_grad():
                getattr(ridge, name).flatten()[0] = bad
            assert ridge.monotonicity().value is None
            assert ridge.monotonicity().evidence == "none"

    @pytest.mark.parametrize("m", [0.0, -0.1, 1.0])
    def test_an_m_outside_0_and_1_is_none(self, m):
        ridge = random_ridge(2)
        ridge.m = m
        assert ridge.monotonicity().evidence == "none"

    def test_the_norm_is_proved_in_single_precision_too(self):
        for seed in range(5):
            ridge = random_ridge(seed).float()
            assert ridge.lipschitz_upper() == 1 - ridge.m


class TestEvaluation:
    @pytest.mark.parametrize("shape", [(16, 12), (13, 10)])
    def test_is_the_plain_convolution_and_its_transpose(self, shape):
        ridge = random_ridge(3, clips=1, channels=1)
        x = random_complex((1, *shape), 5).real
        kernel = ridge.kernel()
        z = torch.nn.functional.conv2d(x[:, None], kernel, padding=4)
        size = kernel.flatten(1).norm(dim=1)[:, None, None]
        threshold = ridge.log_threshold.exp()[0][:, None, None] * size * 0.7
        clipped = torch.maximum(torch.minimum(z, threshold), -threshold)
        gradient = torch.nn.functional.conv_transpose2d(clipped, kernel, padding=4)[:, 0]
        value = ridge.at(torch.tensor([0.7], dtype=torch.float64))(x + 0j)
        assert float((value - ((1 - ridge.m) * x - gradient)).abs().max().detach()) < 1e-12

    @pytest.mark.parametrize("channels", [1, 2])
    def test_its_jacobian_is_symmetric_and_that_of_autograd(self, channels):
        network = random_ridge(4, channels=channels).at(scales(4, 3))
        x, d = random_complex((3, *SHAPE), 1), random_complex((3, *SHAPE), 2)
        if channels == 1:
            x, d = x.real + 0j, d.real + 0j
        jacobian = Jacobian(network, x)
        forward, transposed = jacobian.forward(d), jacobian.transposed(d)
        assert float((norm(forward - transposed) / norm(d)).max()) < 1e-13
        step = 1e-6 * d
        with torch.no_grad():
            change = (network(x + step) - network(x - step)) / 2e-6
        assert float((norm(forward - change) / norm(d)).max()) < 1e-6

    def test_the_local_constant_is_not_below_m(self):
        network = random_ridge(5, m=0.02).at(scales(5, 4))
        x = random_complex((4, *SHAPE), 3)
        start = random_complex((4, *SHAPE), 4)
        pair = largest_symmetric_eigenvalue(Jacobian(network, x), start, 40)
        assert float(pair.value.max()) <= 0.98 + 1e-12

    def test_scales_with_the_threshold_and_turns_with_the_phase(self):
        ridge = random_ridge(6)
        x, s = random_complex((3, *SHAPE), 7), scales(6, 3)
        with torch.no_grad():
            value = ridge.at(s)(x)
            scaled = ridge.at(5 * s)(5 * x)
            turned = ridge.at(s)(x * torch.exp(torch.tensor(0.9j, dtype=torch.complex128)))
        assert float((norm(scaled - 5 * value) / norm(value)).max()) < 1e-12
        rotated = value * torch.exp(torch.tensor(0.9j, dtype=torch.complex128))
        assert float((norm(turned - rotated) / norm(value)).max()) < 1e-12

    def test_the_threshold_scale_changes_what_is_removed(self):
        ridge = Ridge().double()
        x = random_complex((1, 20, 20), 8)
        with torch.no_grad():
            kept = [float(norm(ridge.at(torch.tensor([s]).double())(x))) for s in (1e-3, 1.0, 1e3)]
        assert kept[0] > kept[1] > kept[2]
        assert kept[0] > 0.98 * float(norm(x))

    @pytest.mark.parametrize("tile", [3, 8, 100])
    def test_tiles_are_exact(self, tile):
        network = random_ridge(7).at(scales(7, 2))
        x = random_complex((2, 26, 19), 9)
        with torch.no_grad():
            difference = norm(Tiled(network, tile)(x) - network(x)) / norm(x)
        assert float(difference.max()) < 1e-13

    def test_samples_do_not_know_each_other(self):
        ridge, s = random_ridge(8), scales(8, 3)
        x = random_complex((3, *SHAPE), 10)
        with torch.no_grad():
            alone = torch.cat([ridge.at(s[i : i + 1])(x[i : i + 1]) for i in range(3)])
            assert float(norm(ridge.at(s)(x) - alone).max()) < 1e-13


class TestRounding:
    @pytest.mark.parametrize("channels", [1, 2])
    def test_single_precision_stays_within_its_bound(self, channels):
        for seed in range(6):
            ridge = random_ridge(seed, channels=channels).float()
            single = ridge.at(scales(seed, 3).float())
            exact = copy.deepcopy(single).double()
            x = random_complex((3, 17, 14), seed)
            x = x.real + 0j if channels == 1 else x
            with torch.no_grad():
                off = norm(single(x) - exact(x))
            assert bool((off <= ridge.rounding(x)).all())
            assert float(off.max()) > 0

    def test_that_of_double_precision_is_small_enough_to_certify(self):
        ridge = random_ridge(1)
        x = random_complex((2, 17, 14), 3)
        assert float((ridge.rounding(x) / norm(x)).max()) < 1e-10

    def test_the_double_one_is_the_same_function(self):
        single = Ridge(features=6).at(torch.tensor([0.5, 2.0]))
        exact = copy.deepcopy(single).double()
        x = random_complex((2, 17, 14), 3)
        with torch.no_grad():
            difference = norm(single(x) - exact(x)) / norm(x)
        assert exact.dtype == torch.float64
        assert float(difference.max()) < 1e-6
