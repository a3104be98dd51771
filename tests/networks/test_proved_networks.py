"""Layered (20) and composed (21) networks: m-strongly monotone for every weight, in double."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from equipoise.networks.composed import Composed
from equipoise.networks.jacobian import Jacobian, largest_symmetric_eigenvalue
from equipoise.networks.layered import Layered
from equipoise.networks.proved import convolution_norm, convolution_norm_upper
from equipoise.networks.tiles import Tiled
from equipoise.vectors import inner, norm
from pairs_of_images import SHAPE, margins, pairs, scales, scrambled
from problems import random_complex

KINDS = ("two layers", "four layers", "composed")


def random_network(kind, seed, **configuration):
    """Weights of every size: norms at their limits, thresholds below, among and above the data."""
    small = {"clips": 2, "seed": seed, **configuration}
    if kind == "composed":
        network = Composed(width=5, features=6, layers=4, **small)
    else:
        network = Layered(
            features=4, basis=3, layers={"two": 2, "four": 4}[kind.split()[0]], **small
        )
    return scrambled(network, seed)


def with_kernels(network, change):
    """The network with kernels beyond its limits."""
    broken = copy.deepcopy(network)
    found = broken.used()
    broken.used = lambda: change(found)
    return broken


class TestMonotone:
    @pytest.mark.parametrize("m", [0.001, 0.3])
    @pytest.mark.parametrize("channels", [1, 2])
    @pytest.mark.parametrize("kind", KINDS)
    def test_no_pair_is_below_m_and_h_contracts(self, kind, channels, m):
        for seed in range(8):
            network = random_network(kind, seed, m=m, channels=channels)
            x, y = pairs(seed)
            if channels == 1:
                x, y = x.real + 0j, y.real + 0j
            monotone, lipschitz = margins(network.at(scales(seed)), x, y)
            assert float(monotone.min()) >= m * (1 - 1e-9)
            assert float(lipschitz.max()) <= (1 - m) * (1 + 1e-12)

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_local_constants_at_the_limit_of_the_norms_are_not_below_m(self, kind):
        network = random_network(kind, 5, m=0.02).at(scales(5, 4))
        x, start = random_complex((4, *SHAPE), 3), random_complex((4, *SHAPE), 4)
        pair = largest_symmetric_eigenvalue(Jacobian(network, x), start, 15)
        assert float(pair.value.max()) <= 0.98 + 1e-12

    @pytest.mark.parametrize("delta", [0.05, 0.9])
    def test_20_holds_for_every_share_of_the_kernels_between_layers(self, delta):
        for seed in range(5):
            network = random_network("four layers", seed, m=0.01, delta=delta)
            allowed = (1 - delta) / math.cos(math.pi / 5)
            found = [convolution_norm_upper(w) for w in network.used()[1].detach()]
            assert 0.99 * allowed < max(found) <= allowed
            monotone, _ = margins(network.at(scales(seed)), *pairs(seed))
            assert float(monotone.min()) >= 0.01 * (1 - 1e-9)

    @pytest.mark.parametrize("kind", KINDS)
    def test_what_is_proved_is_m(self, kind):
        for seed in range(3):
            network = random_network(kind, seed, m=0.05).float()
            assert network.monotonicity().evidence == "proved"
            assert network.monotonicity().value == 0.05
            assert network.lipschitz_upper() == pytest.approx(0.95, rel=1e-12)


class TestBroken:
    def test_kernels_between_layers_above_their_limit_are_found(self):
        """Layers that subtract three times what the first one adds."""
        network = random_network("two layers", 0, m=0.01)
        with torch.no_grad():
            network.second[4:] = network.second[:4]
        minus = torch.zeros((1, 4, 4, 3, 3), dtype=torch.float64)
        minus[0, range(4), range(4), 1, 1] = -3
        broken = with_kernels(network, lambda used: (used[0], minus, used[2] + 1e9, used[3]))
        monotone, _ = margins(broken.at(scales(0)), *pairs(0))
        assert float(monotone.min()) < 0
        assert broken.monotonicity().evidence == "none"
        assert "norm 3" in broken.monotonicity().reason
        assert broken.lipschitz_upper() == math.inf

    def test_a_layer_that_expands_is_found(self):
        network = random_network("composed", 0, m=0.01)
        broken = with_kernels(network, lambda used: (3 * used[0], used[1] + 1e9, used[2]))
        monotone, lipschitz = margins(broken.at(scales(0)), *pairs(0))
        assert float(monotone.min()) < 0
        assert float(lipschitz.max()) > 1
        assert broken.monotonicity().evidence == "none"
        assert "squared norm 18" in broken.monotonicity().reason

    @pytest.mark.parametrize("kind", KINDS)
    def test_weights_that_are_not_finite_are_found(self, kind):
        for name, _ in random_network(kind, 2).named_parameters():
            network = random_network(kind, 2)
            with torch.no_grad():
                getattr(network, name).flatten()[0] = math.nan
            assert network.monotonicity().evidence == "none"
            assert network.lipschitz_upper() == math.inf


class TestEvaluation:
    @pytest.mark.parametrize("shape", [(16, 12), (13, 10)])
    def test_20_is_the_plain_convolutions_and_their_transposes(self, shape):
        network = random_network("two layers", 3, channels=1, clips=1)
        x = random_complex((1, *shape), 5).real
        with torch.no_grad():
            u, (_, between, thresholds, _) = network.analysis(), network.used()
            tau = 0.7 * thresholds[0][:, None, None]
            v = F.conv2d(x[:, None], u, padding=4)
            first = torch.maximum(torch.minimum(v[:, :4], tau[:4]), -tau[:4])
            v = v[:, 4:] + F.conv2d(first, between[0], padding=1)
            second = torch.maximum(torch.minimum(v, tau[4:]), -tau[4:])
            back = F.conv_transpose2d(torch.cat([first, second], 1), u, padding=4)[:, 0]
            value = network.at(torch.tensor([0.7], dtype=torch.float64))(x + 0j)
        assert float((value - ((1 - network.m) * x - back)).abs().max()) < 1e-12

    @pytest.mark.parametrize("channels", [1, 2])
    @pytest.mark.parametrize("kind", KINDS)
    def test_its_jacobian_and_the_transpose_are_those_of_the_function(self, kind, channels):
        network = random_network(kind, 4, channels=channels).at(scales(4, 3))
        x, d, v = (random_complex((3, *SHAPE), seed) for seed in (1, 2, 3))
        if channels == 1:
            x, d, v = (image.real + 0j for image in (x, d, v))
        jacobian = Jacobian(network, x)
        forward = jacobian.forward(d)
        assert torch.allclose(inner(v, forward), inner(jacobian.transposed(v), d), rtol=1e-10)
        step = 1e-6 * d
        with torch.no_grad():
            change = (network(x + step) - network(x - step)) / 2e-6
        assert float((norm(forward - change) / norm(d)).max()) < 1e-6

    @pytest.mark.parametrize("kind", KINDS)
    def test_scales_with_the_threshold_and_turns_with_the_phase(self, kind):
        network = random_network(kind, 6)
        x, s = random_complex((3, *SHAPE), 7), scales(6, 3)
        turn = torch.exp(torch.tensor(0.9j, dtype=torch.complex128))
        with torch.no_grad():
            value = network.at(s)(x)
            assert float(norm(network.at(5 * s)(5 * x) - 5 * value).max()) < 1e-10
            assert float(norm(network.at(s)(x * turn) - value * turn).max()) < 1e-10

    @pytest.mark.parametrize("tile", [5, 8, 100])
    @pytest.mark.parametrize("kind", KINDS)
    def test_tiles_are_exact(self, kind, tile):
        network = random_network(kind, 7).at(scales(7, 2))
        x = random_complex((2, 61, 19), 9)
        with torch.no_grad():
            difference = norm(Tiled(network, tile)(x) - network(x)) / norm(x)
        assert float(difference.max()) < 1e-13

    @pytest.mark.parametrize("kind", KINDS)
    def test_its_reach_is_as_far_as_it_says(self, kind):
        network = random_network(kind, 8)
        x = random_complex((1, 91, 91), 10)
        other = x.clone()
        other[0, 45, 45] += 1
        at = network.at(torch.full((1,), 0.5, dtype=torch.float64))
        with torch.no_grad():
            moved = (at(other) - at(x))[0].abs() > 0
        rows = moved.any(1).nonzero().flatten() - 45
        assert int(rows.abs().max()) <= network.reach
        assert int(rows.abs().max()) >= network.reach - 3

    @pytest.mark.parametrize("kind", KINDS)
    def test_24_single_precision_stays_within_its_bound(self, kind):
        for seed in range(3):
            single = random_network(kind, seed).float().at(scales(seed, 3).float())
            exact = copy.deepcopy(single).double()
            x = random_complex((3, 17, 14), seed)
            with torch.no_grad():
                off = norm(single(x) - exact(x))
            assert bool((off <= single.rounding(x)).all())
            assert float(off.max()) > 0
            assert float((exact.rounding(x) / norm(x)).max()) < 1e-10


class TestGradient:
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_weight_has_that_of_the_function(self, kind):
        """Gradients of the norms too, by differences, on a grid whose bound is nearly the norm."""
        network = random_network(kind, 9, m=0.1)
        x, v = random_complex((1, *SHAPE), 1), random_complex((1, *SHAPE), 2)
        s = torch.full((1,), 2.0, dtype=torch.float64)
        inner(v, network.at(s)(x)).sum().backward()
        for weight in network.parameters():
            d = torch.randn(
                weight.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
            )
            values = []
            for step in (1e-5, -1e-5):
                moved = copy.deepcopy(network)
                place = [w is weight for w in network.parameters()].index(True)
                with torch.no_grad():
                    list(moved.parameters())[place].add_(step * d)
                    values.append(float(inner(v, moved.at(s)(x)).sum()))
            found = float((weight.grad * d).sum())
            assert found == pytest.approx((values[0] - values[1]) / 2e-5, rel=0.2, abs=2e-3)

    def test_13_the_differentiable_bound_is_the_proved_one(self):
        kernel = random_complex((5, 4, 3, 3), 1).real.requires_grad_()
        value = convolution_norm(kernel)
        assert float(value.detach()) == pytest.approx(convolution_norm_upper(kernel), rel=1e-12)
        value.backward()
        # The norm is homogeneous of degree one.
        assert float((kernel.grad * kernel).sum().detach()) == pytest.approx(float(value.detach()))
