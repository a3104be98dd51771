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
from equipoise.networks.adaptation import LARGEST, Adaptation
from equipoise.networks.jacobian import Jacobian
from equipoise.networks.ridge import Ridge
from equipoise.networks.tiles import Tiled
from equipoise.outcome import BadInputError
from equipoise.training.sources.simulated import Simulation
from equipoise.vectors import inner, norm
from equipoise.zoo.model_file import load_model, save_model
from problems import TIGHT, random_complex, sense_problem

NOISE = torch.tensor([0.02, 0.1], dtype=torch.float64)


def guided(m=0.05, seed=0, trained=True):
    ridges = [Ridge(m, features=5, basis=3, seed=seed) for _ in range(2)]
    adaptation = Adaptation(5, 6, seed=seed)
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
    def test_are_one_before_training_so_both_passes_agree(self):
        operator, data = sense_problem()
        model = guided(trained=False)
        with torch.no_grad():
            both = model.solve(operator, data, noise_level=NOISE, options=TIGHT).value
            one = model.guide.solve(operator, data, noise_level=NOISE, options=TIGHT).value
        assert float((norm(both - one) / norm(one)).max()) < 1e-8

    def test_are_positive_and_bounded_for_any_weights_and_image(self):
        for seed in range(10):
            generator = torch.Generator().manual_seed(seed)
            adaptation = Adaptation(4, 5, seed=seed)
            with torch.no_grad():
                for weight in adaptation.parameters():
                    weight.add_(3 * torch.randn(weight.shape, generator=generator))
                factors = adaptation(torch.rand((2, 4, 9, 7), generator=generator) * 10.0**seed)
            limit = torch.exp(torch.tensor(LARGEST)) * 1.001
            assert float(factors.max()) <= limit
            assert float(factors.min()) >= 1 / limit

    def test_do_not_know_the_scale_of_the_data(self):
        operator, data = sense_problem()
        model = guided()
        with torch.no_grad():
            one = model.solve(operator, data, noise_level=NOISE, options=TIGHT).value
            many = model.solve(operator, 1e5 * data, noise_level=1e5 * NOISE, options=TIGHT).value
        assert float((norm(many / 1e5 - one) / norm(one)).max()) < 1e-7

    def test_change_the_image(self):
        operator, data = sense_problem()
        model = guided()
        with torch.no_grad():
            both = model.solve(operator, data, noise_level=NOISE, options=TIGHT).value
            one = model.guide.solve(operator, data, noise_level=NOISE, options=TIGHT).value
        assert float((norm(both - one) / norm(one)).min()) > 1e-3


class TestProof:
    def test_no_pair_is_below_m_once_the_factors_are_fixed(self):
        operator, data = sense_problem()
        for seed in range(5):
            model = guided(m=0.02, seed=seed)
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

    def test_23_no_change_of_the_data_moves_the_image_by_more_than_both_passes_allow(self):
        """Of the second number of (23): with the factors moving, the first one may be exceeded."""
        operator, data = sense_problem(batch=1)
        for seed in range(3):
            model = guided(m=0.2, seed=seed)
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

    def test_evaluations_of_both_passes_are_counted(self):
        operator, data = sense_problem()
        model = guided(trained=False)
        with torch.no_grad():
            solution = model.solve(operator, data, noise_level=NOISE)
        assert bool((solution.network_evaluations > solution.iterations + 1).all())


class TestGradient:
    def test_goes_through_the_first_pass(self, monkeypatch):
        """The derivative for the data is that of differences of the whole reconstruction."""
        operator, data = sense_problem(shape=(6, 5), batch=1)
        model = guided(m=0.2)
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


class TestInTheBox:
    def test_is_proved_for_its_fixed_first_image_and_better_than_that(self):
        """On an image of the package's demo that no training saw."""
        model = load_model("mol-guided-universal")
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

    def test_its_first_pass_is_the_ridge_in_the_box(self):
        guide, ridge = load_model("mol-guided-universal").guide, load_model("mol-ridge-universal")
        for ours, theirs in zip(guide.parameters(), ridge.parameters()):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("part", ["network", "guide.network"])
def test_kernels_of_either_pass_that_cannot_be_normalised_are_refused(part, tmp_path):
    model = guided()
    with torch.no_grad():
        model.get_submodule(part).first.zero_()
    save_model(tmp_path / "model.safetensors", model, {})
    with pytest.raises(BadInputError, match=r"not for these: .*inf"):
        load_model(tmp_path / "model.safetensors")
