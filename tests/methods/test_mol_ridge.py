"""The method of the ridge: its equation, rules, gradient, file and certificate."""

import numpy as np
import pytest
import torch

from conftest import small_head
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.data_weight import ScanRule, ScanRuleConfig
from equipoise.methods.mol_ridge import MolRidge
from equipoise.methods.sense import best_sense
from equipoise.metrics import psnr
from equipoise.networks.ridge import Ridge
from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.training.sources.simulated import Simulation
from equipoise.vectors import norm, per_sample
from equipoise.zoo.model_file import load_model, provenance, save_model
from problems import TIGHT, model_of, random_complex, sense_problem

NOISE = torch.tensor([0.02, 0.1], dtype=torch.float64)


def ridge_model(m=0.05, seed=0):
    return MolRidge(Ridge(m, features=5, basis=3, seed=seed).double()).double()


def value_of(model, operator, data, **options):
    with torch.no_grad():
        return model.solve(operator, data, noise_level=NOISE, options=TIGHT, **options)


class TestScanRule:
    def test_is_its_value_at_a_typical_scan(self):
        typical = torch.tensor([0.015], dtype=torch.float64)
        rule = ScanRule(7.0, rising=True, floor=1e-6)
        four = torch.tensor([4.0], dtype=torch.float64)
        assert abs(float(rule(typical, four).detach()) - 7) < 1e-6
        assert float(rule(typical).detach()) == float(rule(typical, four).detach())

    @pytest.mark.parametrize("rising", [True, False])
    def test_rises_or_falls_with_the_noise_whatever_is_learned(self, rising):
        noise = torch.logspace(-4, 0, 20, dtype=torch.float64)
        rule = ScanRule(3.0, rising=rising)
        for seed in range(10):
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                rule.coefficients.copy_(torch.randn(4, generator=generator).double() * 3)
                values = rule(noise, torch.full((20,), 6.0, dtype=torch.float64))
            steps = values.diff() if rising else -values.diff()
            assert float(values.min()) > 0
            assert float(steps.min()) >= 0

    def test_the_acceleration_counts_where_it_is_known(self):
        rule = ScanRule(3.0, rising=True)
        with torch.no_grad():
            rule.coefficients[2] = 1.0
        one = torch.tensor([0.015], dtype=torch.float64)
        ratio = rule(one, torch.tensor([8.0]).double()) / rule(one, torch.tensor([4.0]).double())
        assert abs(float(ratio.detach()) - 2) < 1e-9

    def test_what_the_coils_encode_counts_where_the_rule_asks_for_it(self):
        operator, _ = sense_problem()
        found = []
        for encoding in (False, True):
            rule = ScanRuleConfig(value=3.0, encoding=encoding).build()
            shapes = {name: tuple(value.shape) for name, value in rule.named_parameters()}
            assert shapes == rule.config.shapes()
            with torch.no_grad():
                rule.coefficients[4:] = 2.0
                found.append(rule.of(operator, NOISE))
        assert torch.allclose(found[1] / found[0], (operator.encoding() / 0.4) ** 2)


class TestEquation:
    def test_the_equilibrium_solves_it_within_its_bound(self):
        operator, data = sense_problem()
        model = ridge_model()
        solution = value_of(model, operator, data)
        x = solution.value / per_sample(solution.scale, solution.value)
        b = data / per_sample(solution.scale, data)
        with torch.no_grad():
            residual = per_sample(solution.lam, x) * operator.adjoint(operator.forward(x) - b)
            residual = residual + x - solution.network(x)
        assert solution.converged
        assert float((norm(residual) / norm(x)).max()) < 1e-9
        loose = model.solve(operator, data, noise_level=NOISE, options=SolverOptions(rtol=0.05))
        off = norm(loose.value - solution.value) / norm(loose.value)
        assert bool((off <= loose.distance_bound + 1e-9).all())

    def test_the_bound_of_a_single_precision_model_includes_rounding(self):
        operator, data = sense_problem()
        single = SenseOp(operator.csm.to(torch.complex64), operator.mask)
        model = MolRidge(Ridge(0.05, features=5, basis=3))
        options = SolverOptions(rtol=1e-4, window=10)
        with torch.no_grad():
            solution = model.solve(single, data, noise_level=NOISE, options=options)
        assert solution.converged
        assert solution.rounding is not None
        assert bool((solution.rounding > 0).all())
        assert bool((solution.distance_bound <= 1e-4).all())

    def test_the_equilibrium_minimises_a_convex_function(self):
        """The gradient of the data term plus F is zero at x*, and F is a gradient: symmetric J."""
        operator, data = sense_problem(batch=1)
        solution = ridge_model().solve(operator, data, noise_level=NOISE[:1], options=TIGHT)
        d, e = random_complex(solution.value.shape, 1), random_complex(solution.value.shape, 2)
        with torch.no_grad():
            product = solution.network.linearised(solution.value.detach())
            left = (product(d).conj() * e).sum().real
            right = (d.conj() * product(e)).sum().real
        assert abs(float(left - right)) < 1e-10

    def test_the_image_scales_with_the_data(self):
        operator, data = sense_problem()
        model = ridge_model()
        one = value_of(model, operator, data).value
        with torch.no_grad():
            many = model.solve(operator, 1e-6 * data, noise_level=1e-6 * NOISE, options=TIGHT)
        assert float((norm(many.value * 1e6 - one) / norm(one)).max()) < 1e-8

    def test_thresholds_follow_the_scan_and_may_be_given(self):
        operator, data = sense_problem()
        model = ridge_model()
        own = value_of(model, operator, data)
        relative = NOISE / own.scale
        with torch.no_grad():
            threshold = model.threshold_for(operator, relative)
        same = value_of(model, operator, data, threshold=threshold)
        other = value_of(model, operator, data, threshold=5 * threshold)
        assert float(norm(same.value - own.value).max()) < 1e-9
        assert float((norm(other.value - own.value) / norm(own.value)).min()) > 1e-3

    def test_more_acceleration_asks_for_another_lam(self):
        model = ridge_model()
        with torch.no_grad():
            model.data_weight.coefficients[2] = 1.0
        lams = []
        for acceleration in (1.5, 3.0):
            operator, data = sense_problem(acceleration=acceleration)
            lams.append(value_of(model, operator, data, scale=[1.0, 1.0]).lam)
        assert bool((lams[1] > 1.5 * lams[0]).all())

    def test_a_threshold_is_refused_where_it_makes_no_sense(self):
        operator, data = sense_problem()
        with pytest.raises(BadInputError, match="must be positive"):
            ridge_model().solve(operator, data, threshold=0.0)
        with pytest.raises(BadInputError, match="mol-lr has no thresholds"):
            model_of().solve(operator, data, threshold=1.0)


class TestGradient:
    def test_of_weights_and_both_rules_is_that_of_differences(self):
        operator, data = sense_problem(shape=(6, 5), batch=1)
        model = MolRidge(Ridge(0.2, features=3, basis=2, seed=0)).double()
        target = random_complex((1, *operator.image_shape[1:]), 9)
        options = SolverOptions(rtol=1e-10, max_iter=200, window=10, exact=False)
        step = 1e-4

        def solve(start=None):
            solution = model.solve(
                operator, data, noise_level=NOISE[:1], options=options, start=start
            )
            return solution.value, (solution.value - target).abs().square().sum()

        image, loss = solve()
        loss.backward()
        for parameter in model.parameters():
            direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
            direction = direction.double()
            found = float((parameter.grad * direction).sum())
            with torch.no_grad():
                parameter.add_(step * direction)
                ahead = float(solve(image)[1])
                parameter.sub_(2 * step * direction)
                behind = float(solve(image)[1])
                parameter.add_(step * direction)
            expected = (ahead - behind) / (2 * step)
            assert abs(found - expected) < 1e-4 * max(abs(expected), 1e-2)


class TestFile:
    def test_is_the_same_model_when_it_is_read(self, tmp_path):
        model = MolRidge(Ridge(0.05, features=5, basis=3))
        with torch.no_grad():
            model.threshold_rule.coefficients.add_(0.3)
            model.data_weight.coefficients.sub_(0.2)
        save_model(tmp_path / "a.safetensors", model, {"data": "none"})
        again = load_model(tmp_path / "a.safetensors")
        double, data = sense_problem()
        operator = SenseOp(double.csm.to(torch.complex64), double.mask)
        assert isinstance(again, MolRidge)
        assert (again.m, again.m_evidence) == (0.05, "proved")
        values = [m.solve(operator, data, noise_level=NOISE).value for m in (model, again)]
        assert torch.equal(*values)

    def test_what_the_weights_do_not_prove_is_not_proved(self):
        model = ridge_model()
        with torch.no_grad():
            model.network.share[0, 0] = torch.nan
        assert model.m_evidence == "claimed"


def test_groups_hold_every_parameter_once():
    model = ridge_model()
    held = [p for group in model.parameter_groups() for p in group.parameters]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    assert len(held) == len(list(model.parameters()))


class TestInTheBox:
    """The trained ridge is proved by its weights, as any other weights would be."""

    def test_is_proved_small_and_says_what_it_was_trained_on(self):
        model = load_model("mol-ridge-universal")
        assert isinstance(model, MolRidge)
        assert model.m_evidence == "proved"
        assert model.network.lipschitz_upper() <= 1 - model.m
        assert sum(p.numel() for p in model.parameters()) < 10_000
        data = provenance("mol-ridge-universal")["config"]["data"]
        assert set(data["validation"]).isdisjoint(data["train"])
        assert len(data["held_out"]) == 12

    def test_is_better_than_regularised_least_squares_on_every_kind_of_mask(self):
        """On an image of the package's demo that no training saw."""
        image = small_head((96, 96))[0]
        model = load_model("mol-ridge-universal")
        for kind in ("variable-density-2d", "poisson-disc", "variable-density-1d", "uniform"):
            source = Simulation(acceleration=3.0, mask=kind, coils=(8, 8), zoom=(1.0, 1.0))
            scan = source.sample(image, np.random.default_rng(1))
            with torch.no_grad():
                solution = model.solve(scan.operator, scan.data, noise_level=scan.noise_level)
            sense = best_sense(scan.operator, scan.data, scan.target).image
            assert solution.converged
            assert int(solution.network_evaluations) < 60
            assert float(psnr(solution.value, scan.target)) > float(psnr(sense, scan.target)) + 0.5
