"""Two passes: what stays proved, what follows from the first image, and what is not promised."""

import numpy as np
import pytest
import torch

from conftest import small_head
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.mol_guided import MolGuided
from equipoise.methods.mol_ridge import MolRidge
from equipoise.methods.solving import amplification_bound
from equipoise.metrics import psnr
from equipoise.networks.adaptation import LARGEST, AdaptationConfig, Units
from equipoise.networks.jacobian import Jacobian
from equipoise.networks.ridge import Ridge
from equipoise.networks.tiles import Tiled
from equipoise.outcome import BadInputError
from equipoise.training.sources.simulated import Simulation
from equipoise.vectors import inner, norm
from equipoise.zoo.model_file import load_model, save_model
from problems import TIGHT, random_complex, sense_problem

NO_UNITS = Units(torch.ones(4), torch.ones(4), torch.ones(1))
NOISE = torch.tensor([0.02, 0.1], dtype=torch.float64)


LIMIT = 0.3
LIMITS = pytest.mark.parametrize("limit", [None, LIMIT])


def guided(m=0.05, seed=0, trained=True, limit=None):
    ridges = [Ridge(m, features=5, basis=3, seed=seed) for _ in range(2)]
    adaptation = AdaptationConfig(features=5, hidden=6, limit=limit).build(seed)
    if trained:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            adaptation.last.copy_(torch.randn(adaptation.last.shape, generator=generator))
            adaptation.last_offset.copy_(torch.randn(5, generator=generator))
    return MolGuided(ridges[1], MolRidge(ridges[0]), adaptation).double()


def conditioned_network(model, operator, data):
    with torch.no_grad():
        return model.solve(operator, data, noise_level=NOISE, options=TIGHT).network


class TestFactors:
    @LIMITS
    def test_are_one_before_training_so_the_second_pass_is_the_first_with_a_pull(self, limit):
        """(23) with factors of 1: ``lam A^H (A x - b) + F(x) = m y``, F that of the first pass."""
        operator, data = sense_problem()
        model = guided(trained=False, limit=limit)
        held = {"noise_level": NOISE, "scale": torch.ones(2), "options": TIGHT}
        with torch.no_grad():
            found = model.solve(operator, data, **held)
            x, y, lam = found.value, found.first.value, found.lam[:, None, None]
            first = model.guide.network.at(found.first.network.threshold)
            pull = lam * operator.adjoint(operator(x) - data) + x - first(x)
        assert float((norm(pull - model.m * y) / norm(pull)).max()) < 1e-6

    def test_are_positive_and_bounded_for_any_weights_and_image(self):
        for seed in range(10):
            generator = torch.Generator().manual_seed(seed)
            adaptation = AdaptationConfig(features=4, hidden=5).build(seed)
            with torch.no_grad():
                for weight in adaptation.parameters():
                    weight.add_(3 * torch.randn(weight.shape, generator=generator))
                c = torch.rand((2, 4, 9, 7), generator=generator)
                factors = adaptation(c * 10.0**seed, NO_UNITS)
            limit = torch.exp(torch.tensor(LARGEST)) * 1.001
            assert float(factors.max()) <= limit
            assert float(factors.min()) >= 1 / limit

    @pytest.mark.parametrize("limit", [0.01, 1.0])
    def test_23_a_limit_holds_for_any_weights_and_coefficients(self, limit):
        """Of what the factors become: thresholds in units of the image."""
        drawn = torch.rand((2, 4), generator=torch.Generator().manual_seed(0)) + 0.1
        units = Units(*drawn, torch.tensor([0.5, 3.0]))
        sizes, reached = units.threshold[:, None, None] * units.ratio[:, None, None, None], []
        for seed in range(20):
            generator = torch.Generator().manual_seed(seed)
            adaptation = AdaptationConfig(features=4, hidden=5, limit=limit).build(seed).double()
            with torch.no_grad():
                for weight in adaptation.parameters():
                    change = torch.randn(weight.shape, generator=generator)
                    weight.add_(10.0 ** (seed % 4 - 2) * change)
                c = torch.rand((2, 4, 9, 7), generator=generator).double() * 10.0 ** (seed % 3)
                d = torch.randn(c.shape, generator=generator).double() * 10.0 ** (seed % 5 - 4)
                unit = units.coefficient[:, None, None]
                one, two = (sizes * adaptation(one / unit, units) for one in (c, c + d))
            each = (two - one).flatten(1).norm(dim=1) / d.flatten(1).norm(dim=1)
            reached.append(float(each.max()))
            assert reached[-1] <= adaptation.lipschitz_upper(units) * (1 + 1e-9)
            assert adaptation.lipschitz_upper(units) <= limit
        assert max(reached) > 0.02 * limit

    @LIMITS
    def test_do_not_know_the_scale_of_the_data(self, limit):
        operator, data = sense_problem()
        model = guided(limit=limit)
        with torch.no_grad():
            one = model.solve(operator, data, noise_level=NOISE, options=TIGHT).value
            many = model.solve(operator, 1e5 * data, noise_level=1e5 * NOISE, options=TIGHT).value
        assert float((norm(many / 1e5 - one) / norm(one)).max()) < 1e-7

    @LIMITS
    def test_change_the_image(self, limit):
        operator, data = sense_problem()
        with torch.no_grad():
            both, one = (
                model.solve(operator, data, noise_level=NOISE, options=TIGHT).value
                for model in (guided(limit=limit), guided(limit=limit, trained=False))
            )
        assert float((norm(both - one) / norm(one)).min()) > 1e-3


class TestProof:
    @LIMITS
    def test_no_pair_is_below_m_once_the_factors_are_fixed(self, limit):
        operator, data = sense_problem()
        for seed in range(5):
            model = guided(m=0.02, seed=seed, limit=limit)
            network = conditioned_network(model, operator, data)
            for pair in range(20):
                x = random_complex((2, 10, 8), pair)
                y = x + random_complex((2, 10, 8), pair + 100) * 10.0 ** (pair % 5 - 3)
                with torch.no_grad():
                    h = network(x) - network(y)
                d = x - y
                assert float((inner(d - h, d) / norm(d) ** 2).min()) >= 0.02 * (1 - 1e-9)
                assert float((norm(h) / norm(d)).max()) <= 0.98 * (1 + 1e-12)

    def test_one_scan_serves_a_batch_of_images(self):
        """A certificate looks at several images of one scan at once."""
        operator, data = sense_problem(batch=1)
        with torch.no_grad():
            solution = guided().solve(operator, data, noise_level=NOISE[:1], options=TIGHT)
            x = random_complex((3, 10, 8), 4)
            alone = torch.cat([solution.network(one[None]) for one in x])
            assert float(norm(solution.network(x) - alone).max()) < 1e-13

    def test_the_jacobian_is_that_of_autograd(self):
        operator, data = sense_problem()
        network = conditioned_network(guided(), operator, data)
        x, d = random_complex((2, 10, 8), 1), random_complex((2, 10, 8), 2)
        jacobian = Jacobian(network, x)
        difference = norm(jacobian.forward(d) - jacobian.transposed(d)) / norm(d)
        assert float(difference.max()) < 1e-13

    @pytest.mark.parametrize("tile", [3, 5])
    def test_tiles_are_exact(self, tile):
        operator, data = sense_problem(shape=(22, 19))
        network = conditioned_network(guided(), operator, data)
        x, d = random_complex((2, 22, 19), 1), random_complex((2, 22, 19), 2)
        with torch.no_grad():
            tiled = Tiled(network, tile)
            assert float((norm(tiled(x) - network(x)) / norm(x)).max()) < 1e-13
            difference = tiled.linearised(x)(d) - network.linearised(x)(d)
            assert float((norm(difference) / norm(d)).max()) < 1e-13

    def test_the_distance_is_certified_and_both_amplifications_are_told(self):
        operator, data = sense_problem(batch=1)
        model = guided()
        options = SolverOptions(rtol=0.01, window=10)
        with torch.no_grad():
            solution = model.solve(operator, data, noise_level=NOISE[:1], options=options)
        assert solution.converged
        assert model.m_evidence == "proved"
        both = amplification_bound(model, solution)
        assert both.first_held == pytest.approx(0.5 * float(solution.lam / model.m) ** 0.5)
        assert both.end_to_end > both.first_held
        one = amplification_bound(model.guide, solution.first)
        assert one.first_held == one.end_to_end

    @LIMITS
    def test_23_no_change_of_the_data_moves_the_image_by_more_than_both_passes_allow(self, limit):
        """Of the second number of (23): with the factors moving, the first one may be exceeded."""
        operator, data = sense_problem(batch=1)
        for seed in range(3):
            model = guided(m=0.2, seed=seed, limit=limit)
            with torch.no_grad():
                before = model.solve(operator, data, noise_level=NOISE[:1], options=TIGHT)
                held = {**before.held, "noise_level": NOISE[:1], "options": TIGHT}
                bound = model.amplification(before)
                for size in (1e-2, 1e-5):
                    d = size * random_complex(data.shape, seed) * operator.mask[:, None]
                    moved = norm(model.solve(operator, data + d, **held).value - before.value)
                    slack = before.scale * 2 * model._first_lipschitz(before) / model.m
                    loose = slack * 0.06 * norm(before.first.value)  # the first pass is a guide
                    assert float(moved) <= bound.end_to_end * float(norm(d)) + float(loose)
                y = before.first.value
                z = y + 0.1 * random_complex(y.shape, seed + 9)
                networks = [model.of_first(before)(image) for image in (y, z)]
                x = random_complex(y.shape, seed + 5)
                change = norm(networks[0](x) - networks[1](x)) / norm(y - z)
                assert 0 < float(change) <= model._first_lipschitz(before)

    def test_23_with_a_limit_the_bound_is_a_few_times_that_of_the_first_pass(self):
        """``||U||^2 <= 2 (1 - m)``, so ``l <= m + 2 limit``, whatever was learned."""
        operator, data = sense_problem(batch=1)
        model = guided(m=0.2, limit=LIMIT)
        with torch.no_grad():
            model.adaptation.last.mul_(1e4)
            solution = model.solve(operator, data, noise_level=NOISE[:1], options=TIGHT)
        bound = model.amplification(solution)
        first = model.guide.amplification(solution.first).end_to_end
        most = bound.first_held + (1 + 2 * LIMIT / model.m) * first
        assert 0.7 * most < bound.end_to_end < most

    def test_evaluations_of_both_passes_are_counted(self):
        operator, data = sense_problem()
        model = guided(trained=False)
        with torch.no_grad():
            solution = model.solve(operator, data, noise_level=NOISE)
        assert bool((solution.network_evaluations > solution.iterations + 1).all())


class TestGradient:
    @LIMITS
    def test_goes_through_the_first_pass(self, monkeypatch, limit):
        """The derivative for the data is that of differences of the whole reconstruction."""
        operator, data = sense_problem(shape=(6, 5), batch=1)
        model = guided(m=0.2, limit=limit)
        weight = random_complex((1, 6, 5), 5)
        change = random_complex(data.shape, 6) * operator.mask[:, None]
        options = SolverOptions(rtol=1e-10, max_iter=200, window=10, exact=False)

        def image(b):
            return model.solve(operator, b, noise_level=NOISE[:1], scale=1.0, options=options).value

        monkeypatch.setattr("equipoise.methods.mol_guided.FIRST_RTOL", 1e-10)
        model.guide.options = options
        b = data.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(inner(image(b), weight).sum(), b)
        found = float(inner(gradient, change).sum())
        with torch.no_grad():
            ahead, behind = (image(data + step * change) for step in (1e-5, -1e-5))
        expected = float(inner(ahead - behind, weight).sum()) / 2e-5
        assert abs(found - expected) < 1e-4 * abs(expected)


@pytest.mark.parametrize("name", ["mol-guided-universal", "mol-guided-sharp"])
class TestInTheBox:
    def test_is_proved_for_its_fixed_first_image_and_better_than_that(self, name):
        """On an image of the package's demo that no training saw."""
        model = load_model(name)
        source = Simulation(acceleration=3.0, mask="uniform", coils=(8, 8), zoom=(1.0, 1.0))
        scan = source.sample(small_head((96, 96))[0], np.random.default_rng(1))
        noise = scan.noise_level
        with torch.no_grad():
            first = model.guide.solve(scan.operator, scan.data, noise_level=noise).value
            solution = model.solve(scan.operator, scan.data, noise_level=noise)
        assert isinstance(model, MolGuided)
        assert model.m_evidence == model.guide.m_evidence == "proved"
        assert solution.converged
        assert float(psnr(solution.value, scan.target)) > float(psnr(first, scan.target))

    def test_its_first_pass_is_the_ridge_in_the_box(self, name):
        guide, ridge = load_model(name).guide, load_model("mol-ridge-universal")
        for ours, theirs in zip(guide.parameters(), ridge.parameters()):
            assert torch.equal(ours, theirs)


@LIMITS
def test_a_first_image_that_is_known_is_not_solved_for_again(limit):
    operator, data = sense_problem()
    model = guided(limit=limit)
    with torch.no_grad():
        whole = model.solve(operator, data, noise_level=NOISE, options=TIGHT)
        again = model.after_first(whole)
        found = again.solve(operator, data, noise_level=NOISE, options=TIGHT, lam=3 * whole.lam)
        expected = model.solve(operator, data, noise_level=NOISE, options=TIGHT, lam=3 * whole.lam)
    assert torch.equal(found.first.value, whole.first.value)
    spared = expected.network_evaluations - expected.first.network_evaluations
    assert torch.equal(found.network_evaluations, spared)
    assert float((norm(found.value - expected.value) / norm(expected.value)).max()) < 1e-6
    assert model.first is None


def test_the_default_bounds_a_change_of_the_data_for_every_scan():
    model = load_model()
    assert isinstance(model, MolGuided)
    assert model.robust
    assert not load_model("mol-guided-sharp").robust
    assert (model.m, model.adaptation.config.limit) == (0.1, 0.2)


@pytest.mark.parametrize("part", ["network", "guide.network"])
def test_kernels_of_either_pass_that_cannot_be_normalised_are_refused(part, tmp_path):
    model = guided()
    with torch.no_grad():
        model.get_submodule(part).first.zero_()
    save_model(tmp_path / "model.safetensors", model, {})
    with pytest.raises(BadInputError, match=r"not for these: .*inf"):
        load_model(tmp_path / "model.safetensors")
