"""The ridge in three dimensions: every constant, the plain convolutions, tiles and rounding."""

import copy
import math

import pytest
import torch

from equipoise.networks.jacobian import Jacobian, largest_symmetric_eigenvalue
from equipoise.networks.proved import filtered_norm_squared, one_input_norm_squared
from equipoise.networks.ridge import Ridge
from equipoise.networks.ridge_volume import RidgeVolume, differences
from equipoise.networks.tiles import Tiled
from equipoise.outcome import BadInputError
from equipoise.vectors import inner, norm
from pairs_of_images import scrambled
from problems import random_complex

SHAPE = (5, 8, 9)


def random_volume(seed, **given):
    settings = {"features": 4, "basis": 2, "filters": 2, "across": 3, **given}
    # The terms without kernels take part wherever there can be any.
    complex_series = given.get("axis", "time") == "time" and given.get("channels", 2) == 2
    settings = {"spectral": complex_series, "low_rank": complex_series, **settings}
    # Of every second network what does not move has the kernels, where there can be some.
    settings = {"still": complex_series and seed % 2 == 0, **settings}
    settings = {"grids": 1 + seed % 3 if complex_series else 1, **settings}
    return scrambled(RidgeVolume(seed=seed, **settings), seed)


def without_kernels(volume):
    for kernel in (volume.first, volume.second, volume.first_across, volume.second_across):
        kernel.zero_()
    return volume


def pair(seed, channels=2):
    x, y = random_complex((2, *SHAPE), seed), random_complex((2, *SHAPE), seed + 100)
    return (x, y) if channels == 2 else (x.real + 0j, y.real + 0j)


@pytest.fixture(autouse=True)
def _without_graph(request):
    """Values alone: a number of a tensor with a graph is a warning."""
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


SCALES = torch.tensor([0.03, 2.0], dtype=torch.float64)


class TestMonotone:
    @pytest.mark.parametrize("axis", ["time", "z"])
    @pytest.mark.parametrize("channels", [1, 2])
    def test_no_pair_is_below_m_and_h_contracts(self, axis, channels):
        for seed in range(6):
            volume = random_volume(seed, m=0.01, axis=axis, channels=channels)
            network, (x, y) = volume.at(SCALES), pair(seed, channels)
            d = x - y
            moved = network(x) - network(y)
            assert bool((inner(d - moved, d) >= 0.01 * (1 - 1e-9) * inner(d, d)).all())
            assert bool((norm(moved) <= 0.99 * (1 + 1e-12) * norm(d)).all())

    def test_the_same_pairs_find_a_share_below_zero(self):
        network, (x, y) = random_volume(0).at(10 * torch.ones(2).double()), pair(0)
        network._fixed = (*network._fixed[:-1], -network._fixed[-1])
        d = x - y
        assert bool((inner(d - network(x) + network(y), d) < 0).any())

    @pytest.mark.parametrize("axis", ["time", "z"])
    def test_the_local_constants_are_within_those_that_are_proved(self, axis):
        volume = random_volume(1, m=0.02, axis=axis)
        at = volume.at(torch.ones(1).double())
        jacobian = Jacobian(at, 1e-6 * random_complex((1, *SHAPE)))
        largest = largest_symmetric_eigenvalue(jacobian, random_complex((1, *SHAPE), 1), 12)
        assert float(largest.value) <= 0.98 + 1e-9
        assert float(largest.value) > 0.5

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_weights_that_prove_nothing_are_found(self, bad):
        for name in (
            "first",
            "taps",
            "second_across",
            "log_spectral",
            "log_low_rank",
            "log_threshold",
        ):
            volume = random_volume(2)
            assert volume.monotonicity().value == volume.m
            getattr(volume, name).flatten()[0] = bad
            assert volume.monotonicity().evidence == "none"

    def test_the_norm_is_proved_in_single_precision_too(self):
        for seed in range(4):
            volume = random_volume(seed).float()
            assert volume.lipschitz_upper() == 1 - volume.m


class TestNorm:
    def test_with_a_still_image_both_parts_have_the_largest_norm_that_is_allowed(self):
        volume = random_volume(4, m=0.02)
        taps, within, across, spectral, low_rank = volume.factors()
        sizes = float(spectral.square().sum() + low_rank.square().sum())
        rest = float(filtered_norm_squared(torch.zeros_like(within), across, taps)) + sizes
        assert rest == pytest.approx(2 * 0.98, rel=1e-5)
        assert float(one_input_norm_squared(within)) == pytest.approx(2 * 0.98, rel=1e-5)

    def test_the_bound_of_the_symbol_is_above_the_norm_and_near_it(self):
        """Against the dense matrix of U on a torus, whose frequencies are some of all."""
        volume = random_volume(3)
        taps, within, across, *_ = volume.factors()
        bound = float(filtered_norm_squared(within, across, taps))
        n = (12, 24, 24)
        planes = torch.fft.fft2(within[:, 0], s=n[1:]).abs().square().sum(0)
        others = torch.fft.fft2(across[:, :, 0], s=n[1:]).abs().square().sum(1)
        along = torch.fft.fft(taps, n=n[0]).abs().square()
        largest = float((planes + torch.einsum("gw,gyx->wyx", along, others)).max())
        assert largest <= bound <= 1.3 * largest

    def test_differences_have_mean_zero_and_norm_one(self):
        for taps in (2, 3, 5):
            found = differences(4, taps)
            assert float(found.sum(1).abs().max()) < 1e-6
            assert torch.allclose(found.norm(dim=1), torch.ones(4))


class TestEvaluation:
    @pytest.mark.parametrize("axis", ["time", "z"])
    def test_is_the_plain_convolutions_and_their_transposes(self, axis):
        volume = random_volume(4, clips=1, channels=1, axis=axis)
        x = random_complex((1, *SHAPE), 5).real
        taps, within, across, *_ = volume.factors()
        padded = torch.nn.functional.pad
        # One dense kernel (feature, tap, 9, 9) for each product of a filter and a plane.
        centre = torch.zeros(1, taps.shape[1], dtype=torch.float64)
        centre[0, taps.shape[1] // 2] = 1
        kernels = [torch.einsum("gk,fyx->gfkyx", centre, within[:, 0])]
        kernels.append(torch.einsum("gk,gfyx->gfkyx", taps, across[:, :, 0]))
        kernel = torch.cat([k.flatten(0, 1) for k in kernels])[:, None]
        kind = "circular" if axis == "time" else "constant"

        def analysis(image):
            wide = padded(image[:, None], (0, 0, 0, 0, 2, 2), mode=kind)
            return torch.nn.functional.conv3d(padded(wide, (4, 4, 4, 4)), kernel)

        z = analysis(x)
        size = kernel.square().sum((1, 2, 3, 4)).sqrt()
        tau = (volume.log_threshold.exp() * size)[0].reshape(1, -1, 1, 1, 1)
        shrunk = z * (tau / z.abs()).clamp(max=1)
        _, back = torch.autograd.functional.vjp(analysis, x, shrunk)
        expected = (1 - volume.m) * x - back
        found = volume(x + 0j)
        assert float((found.real - expected).abs().max()) < 1e-12
        assert float(found.imag.abs().max()) == 0

    def test_temporal_frequencies_are_those_of_a_unitary_fourier_transform(self):
        """Alone in F, where the kernels are zero, and with one clip."""
        volume = without_kernels(random_volume(5, clips=1, low_rank=False))
        x = random_complex((1, *SHAPE), 6)
        z = torch.fft.fft(x, dim=1, norm="ortho") * volume.factors().spectral
        z[:, 0] = 0
        harmonic = torch.tensor([1, 1, 2, 2, 1])[:, None, None]
        tau = float(volume.used().thresholds[0, -1]) * harmonic
        back = torch.fft.ifft(z * (tau / z.abs()).clamp(max=1), dim=1, norm="ortho")
        expected = (1 - volume.m) * x - volume.factors().spectral * back
        assert float(norm(volume(x) - expected)) < 1e-10
        assert float(norm(back)) > 0.1

    def test_blocks_that_change_alike_are_those_of_the_change_in_time(self):
        """Alone in F; the whole image is one block, filled with zeros."""
        volume = without_kernels(random_volume(5, clips=1, spectral=False, grids=1))
        x = 30 * random_complex((1, 5, 8, 7), 6)
        size = volume.factors().low_rank
        change = size * (x - x.mean(1, keepdim=True))
        u, s, v = torch.linalg.svd(change.flatten(2), full_matrices=False)
        tau = float(volume.used().thresholds[0, -1]) * (8 + math.sqrt(5))
        shrunk = (u * s.clamp(max=tau)[:, None]) @ v
        expected = (1 - volume.m) * x - size * shrunk.reshape(x.shape)
        assert float(norm(volume(x) - expected)) < 1e-10
        assert float(norm(shrunk)) > 0.1
        assert float((s - tau).clamp(min=0).max()) > 0.1

    def test_of_several_grids_it_is_the_mean_over_shifted_blocks(self):
        """Zeros beside an image move it within the blocks of one grid."""
        settings = {"clips": 1, "spectral": False, "still": False}
        several, one = (
            without_kernels(random_volume(5, grids=grids, **settings)) for grids in (4, 1)
        )
        x = 30 * random_complex((1, 5, 11, 13), 6)
        y = torch.zeros(1, 5, 24, 24, dtype=x.dtype)
        found = []
        for down, right in ((0, 0), (4, 4), (4, 0), (0, 4)):
            inside = (..., slice(down, down + 11), slice(right, right + 13))
            moved = y.clone()
            moved[inside] = x
            found.append(one(moved)[inside])
        assert float(norm(several(x) - torch.stack(found).mean(0))) < 1e-10
        assert float(norm(found[0] - found[1])) > 0.1

    def test_a_ridge_of_one_frame_starts_it_and_is_it_where_nothing_is_across(self):
        ridge = scrambled(Ridge(m=0.02, features=4, basis=2), 7)
        volume = RidgeVolume(m=0.02, features=4, basis=2, filters=2, across=3).double()
        volume.start_from(ridge)
        volume.second_across.zero_()
        x = random_complex((2, *SHAPE), 3)
        scale = torch.tensor([0.5, 1.5], dtype=torch.float64)
        expected = torch.stack([ridge.at(scale)(x[:, t]) for t in range(SHAPE[0])], 1)
        assert float(norm(volume.at(scale)(x) - expected).max()) < 1e-10

    def test_what_does_not_move_has_the_ridge_of_one_image(self):
        """The rest acts on the change in time alone, and has a norm of its own."""
        volume = random_volume(8, m=0.02)
        ridge = Ridge(m=0.02, features=4, basis=2).double()
        for name in ("first", "second"):
            getattr(ridge, name).copy_(getattr(volume, name))
        for name in ("log_threshold", "share"):
            getattr(ridge, name).copy_(getattr(volume, name)[:, :4])
        x, scale = random_complex((1, *SHAPE), 3), torch.tensor([1.5], dtype=torch.float64)
        mean = x.mean(1, keepdim=True)
        moved = ridge.at(scale)(mean[:, 0] * math.sqrt(SHAPE[0])) / math.sqrt(SHAPE[0])
        found = volume.at(scale)(x)
        assert float(norm(found.mean(1) - moved)) < 1e-12
        within = volume.second.clone()
        volume.second.zero_()
        alone = volume.at(scale)(x - mean)
        assert float(norm(found - moved[:, None] - alone)) < 1e-12
        volume.second.copy_(1e3 * within)
        assert volume.lipschitz_upper() == pytest.approx(0.98, abs=1e-9)

    @pytest.mark.parametrize("seed", [5, 6])
    def test_its_jacobian_is_symmetric_and_that_of_autograd(self, seed):
        volume = random_volume(seed)
        at = volume.at(torch.ones(1).double())
        x, d, e = (random_complex((1, *SHAPE), s) for s in (1, 2, 3))
        product = at.linearised(x)
        assert at.symmetric
        assert float((inner(product(d), e) - inner(d, product(e))).abs()) < 1e-10
        difference = (at(x + 1e-6 * d) - at(x - 1e-6 * d)) / 2e-6
        assert float(norm(difference - product(d)) / norm(d)) < 1e-7

    def test_time_is_periodic_and_a_volume_is_not(self):
        x = random_complex((1, *SHAPE), 3)
        for axis, alike in (("time", True), ("z", False)):
            at = random_volume(6, axis=axis).at(torch.ones(1).double())
            moved = at(x.roll(2, 1)).roll(-2, 1)
            assert (float(norm(moved - at(x))) < 1e-12) == alike

    @pytest.mark.parametrize("frames", [1, 2, 3])
    def test_fewer_frames_than_taps_are_enough(self, frames):
        volume, x = random_volume(6), random_complex((1, frames, 8, 8))
        value = volume(x)
        assert value.shape == x.shape
        assert float(norm(value)) <= float(norm(x))

    @pytest.mark.parametrize("tile", [4, 7])
    def test_tiles_are_exact(self, tile):
        at = random_volume(7, grids=4).at(torch.ones(1).double())
        x = random_complex((1, 4, 21, 18))
        assert float(norm(Tiled(at, tile)(x) - at(x))) < 1e-11

    def test_scales_with_the_threshold_and_turns_with_the_phase(self):
        volume, x = random_volume(8), random_complex((1, *SHAPE))
        one = torch.ones(1).double()
        turned = volume.at(3 * one)(3j * x)
        assert float(norm(turned - 3j * volume.at(one)(x))) < 1e-11

    def test_sizes_beyond_the_limits_are_refused(self):
        with pytest.raises(BadInputError, match="taps"):
            RidgeVolume(taps=1)

    @pytest.mark.parametrize("given", [{"axis": "z"}, {"channels": 1}])
    @pytest.mark.parametrize("term", ["spectral", "low_rank", "still"])
    def test_only_complex_images_in_time_have_terms_of_time(self, given, term):
        with pytest.raises(BadInputError, match=f"{term} is set"):
            RidgeVolume(**{term: True, **given})


class TestRounding:
    def test_24_single_precision_stays_within_its_bound(self):
        for seed in range(3):
            volume = random_volume(seed).float()
            exact = copy.deepcopy(volume.at(torch.ones(1))).double()
            x = random_complex((1, *SHAPE), seed).to(torch.complex64)
            error = norm(volume(x).to(torch.complex128) - exact(x.to(torch.complex128)))
            assert 0 < float(error) <= float(volume.rounding(x))

    def test_that_of_double_precision_is_small_enough_to_certify(self):
        x = random_complex((1, *SHAPE))
        assert float(random_volume(1).rounding(x) / norm(x)) < 1e-9


@pytest.mark.parametrize("seed", [9, 10])
def test_every_weight_has_the_gradient_of_the_function(seed):
    volume, x = random_volume(seed), random_complex((1, 3, 6, 6))
    target = random_complex((1, 3, 6, 6), 1)

    def loss():
        return inner(volume(x), target).sum()

    loss().backward()
    for name, weight in volume.named_parameters():
        direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).double()
        with torch.no_grad():
            values = []
            for step in (1e-6, -2e-6):
                weight += step * direction
                values.append(loss().item())
            weight += 1e-6 * direction
        expected = (values[0] - values[1]) / 2e-6
        found = float((weight.grad * direction).sum())
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-7), name
