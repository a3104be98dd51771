"""Solvers: conjugate gradients, fixed-point iteration, and the model around them."""

import copy
import dataclasses

import pytest
import torch

from equipoise.equilibrium.equation import MonotoneEquation
from equipoise.equilibrium.fixed_point import SolverOptions, _Iteration
from equipoise.equilibrium.state import State
from equipoise.methods.data_weight import DataWeight, FixedWeight
from equipoise.methods.mol import MOL
from equipoise.networks.cnn import CNN
from equipoise.outcome import BadInputError, Outcome
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.least_squares import conjugate_gradient, tikhonov, tikhonov_path
from equipoise.vectors import norm
from problems import DOUBLE, TIGHT, dense_normal, model_of, random_complex, sense_problem

SHAPE = (10, 8)


def weights(*values):
    return torch.tensor(values, dtype=torch.float64)


def same(a, b):
    """Equal in every tensor, however deep."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, tuple) and len(a) == len(b):
        return all(same(u, v) for u, v in zip(a, b))
    return a == b


class TestConjugateGradient:
    def test_equals_a_dense_solve(self):
        operator, _ = sense_problem(batch=1)
        rhs = random_complex((1, *SHAPE), 3)
        system = 0.7 * torch.eye(80, dtype=DOUBLE) + 9.0 * dense_normal(operator, SHAPE)
        expected = torch.linalg.solve(system, rhs.flatten()).reshape(rhs.shape)
        result = conjugate_gradient(
            operator, rhs, weights(9.0), weights(0.7), rtol=1e-14, max_iter=500
        )
        assert float(norm(result.value - expected) / norm(expected)) < 1e-12

    def test_zero_right_hand_side_gives_zero_in_its_batch(self):
        operator, _ = sense_problem()
        rhs = random_complex((2, *SHAPE))
        rhs[1] = 0
        start = random_complex((2, *SHAPE), 7)
        for first in (None, start):
            result = conjugate_gradient(operator, rhs, weights(5, 5), weights(1, 1), start=first)
            assert float(result.value[1].abs().max()) == 0
            assert bool(torch.isfinite(result.value.abs()).all())

    @pytest.mark.parametrize("factor", [1e-12, 1e12])
    def test_the_tolerance_is_free_of_scale(self, factor):
        operator, _ = sense_problem()
        operator = SenseOp(operator.csm.to(torch.complex64), operator.mask)
        rhs = random_complex((2, *SHAPE)).to(torch.complex64)
        one = conjugate_gradient(operator, rhs, weights(5, 5), weights(1, 1), rtol=1e-4)
        other = conjugate_gradient(operator, rhs * factor, weights(5, 5), weights(1, 1), rtol=1e-4)
        assert one.iterations == other.iterations
        assert float((norm(other.value / factor - one.value) / norm(one.value)).max()) < 1e-5

    def test_finished_samples_are_frozen(self):
        operator, _ = sense_problem()
        rhs = random_complex((2, *SHAPE))
        together = conjugate_gradient(operator, rhs, weights(0.01, 500), weights(1, 1), rtol=1e-6)
        single = SenseOp(operator.csm, operator.mask[:1])
        alone = conjugate_gradient(single, rhs[:1], weights(0.01), weights(1), rtol=1e-6)
        assert alone.iterations < together.iterations
        assert torch.equal(alone.value[0], together.value[0])

    def test_a_warm_start_at_the_solution_takes_no_iteration(self):
        operator, _ = sense_problem()
        rhs = random_complex((2, *SHAPE))
        solved = conjugate_gradient(operator, rhs, weights(5, 5), weights(1, 1), rtol=1e-10)
        again = conjugate_gradient(
            operator, rhs, weights(5, 5), weights(1, 1), rtol=1e-9, start=solved.value
        )
        assert again.iterations == 0

    def test_tikhonov_minimises_its_objective(self):
        operator, data = sense_problem()
        x = tikhonov(operator, data, weights(4, 4), rtol=1e-12)
        gradient = 4 * operator.adjoint(operator.forward(x) - data) + x
        assert float(norm(gradient).max()) < 1e-9

    def test_a_path_of_weights_costs_one_and_equals_each(self):
        operator, data = sense_problem(batch=3)
        data[2] = 0
        lams = (300.0, 0.3, 5.0, 20.0)
        calls = []
        normal = SenseOp.normal
        counted = SenseOp(operator.csm, operator.mask)
        counted.normal = lambda x: (calls.append(1), normal(counted, x))[1]
        path = tikhonov_path(counted, data, lams, rtol=1e-10)
        for lam, x in zip(lams, path):
            lonely = tikhonov(operator, data, weights(lam, lam, lam), rtol=1e-13)
            assert float((norm(x - lonely) / norm(lonely).clamp(min=1e-30)).max()) < 1e-7
        assert bool((path[0][2] == 0).all())
        calls_of_path = len(calls)
        calls.clear()
        tikhonov(counted, data, weights(300, 300, 300), rtol=1e-10)
        assert calls_of_path <= len(calls) + 2


class TestFixedPoint:
    def test_picard_and_anderson_find_the_same_equilibrium_anderson_in_fewer_evaluations(self):
        operator, data = sense_problem()
        model = model_of(0.9, gain=0.9)
        solutions = {}
        for method in ("picard", "anderson"):
            options = SolverOptions(method, rtol=1e-6, max_iter=2000)
            with torch.no_grad():
                solutions[method] = model.solve(operator, data, options=options)
            assert solutions[method].converged
        picard, anderson = solutions["picard"], solutions["anderson"]
        assert float((norm(picard.value - anderson.value) / norm(picard.value)).max()) < 2e-6
        assert int(anderson.network_evaluations.max()) < int(picard.network_evaluations.max())

    def test_network_evaluations_are_counted_as_they_happen(self):
        operator, data = sense_problem(batch=1)
        model = model_of()
        calls = []
        model.network.register_forward_hook(lambda *_: calls.append(1))
        with torch.no_grad():
            solution = model.solve(operator, data, options=SolverOptions(rtol=1e-5))
        assert int(solution.network_evaluations[0]) == len(calls)
        assert len(solution.history) == len(calls)

    def test_each_sample_of_a_batch_ends_as_it_would_alone(self):
        operator, data = sense_problem(batch=3)
        data = data * torch.tensor([1.0, 1e-3, 30.0])[:, None, None, None]
        model, lam = model_of(0.9, gain=0.9), weights(0.01, 5, 3000)
        with torch.no_grad():
            together = model.solve(operator, data, lam=lam)
            for i in range(3):
                one = SenseOp(operator.csm, operator.mask[i : i + 1])
                alone = model.solve(one, data[i : i + 1], lam=lam[i : i + 1])
                assert alone.iterations[0] == together.iterations[i]
                bounds = (alone.distance_bound[0], together.distance_bound[i])
                assert bounds[0].item() == pytest.approx(bounds[1].item(), rel=1e-6)
                error = norm(alone.value - together.value[i : i + 1]) / norm(alone.value)
                assert float(error) < 1e-12
        assert len(set(together.iterations.tolist())) > 1

    def test_the_iteration_limit_is_named(self):
        operator, data = sense_problem()
        options = SolverOptions(rtol=1e-12, max_iter=3)
        with torch.no_grad():
            solution = model_of().solve(operator, data, options=options)
        assert solution.outcome == [Outcome.MAX_ITERATIONS] * 2
        assert not solution.converged
        assert solution.network_evaluations.tolist() == [3, 3]
        assert "max_iter" in solution.outcome[0].advice

    def test_an_expanding_network_is_not_passed_off_as_converged(self):
        operator, data = sense_problem()
        model = MOL(CNN(6, 3, gain=3.0).double(), FixedWeight(1.0), 0.1)
        with torch.no_grad():
            solution = model.solve(operator, data, options=SolverOptions(max_iter=300))
        assert not solution.converged
        assert all(o is not Outcome.CONVERGED for o in solution.outcome)

    def test_nan_from_the_network_is_divergence_not_a_value(self):
        operator, data = sense_problem()
        model = model_of()
        with torch.no_grad():
            model.network.convolutions[0].bias.fill_(torch.nan)
            solution = model.solve(operator, data)
        assert solution.outcome == [Outcome.DIVERGED] * 2
        assert bool(torch.isfinite(solution.value.abs()).all())

    def test_monotone_but_not_contractive_networks_converge_by_smaller_alpha(self):
        """H = -3 I: F = 4 I is monotone, T expands at alpha = 1."""
        operator, data = sense_problem()
        network = CNN(6, 2, gain=0.9).double()
        with torch.no_grad():
            network.convolutions[0].weight[4:] = 0
            network.convolutions[1].weight[:, 4:] = 0
            network.convolutions[1].weight *= -3 / 0.9
        model = MOL(network, FixedWeight(2.0), 0.5)
        options = SolverOptions("picard", rtol=1e-6, max_iter=500)
        with torch.no_grad():
            solution = model.solve(operator, data, options=options)
        assert solution.converged

    @pytest.mark.parametrize("bad", [{"method": "newton"}, {"rule": "x"}, {"rtol": 0.0}])
    def test_options_are_checked(self, bad):
        with pytest.raises((ValueError, TypeError)):
            SolverOptions(**bad)

    def test_every_solver_option_changes_something(self):
        operator, data = sense_problem()
        model = model_of(0.9, gain=0.9)

        def evaluations(**options):
            with torch.no_grad():
                solution = model.solve(operator, data, options=SolverOptions(**options))
            return solution.network_evaluations.tolist()

        base = evaluations(rtol=1e-6, max_iter=500)
        for change in (
            {"method": "picard"},
            {"rule": "step"},
            {"rtol": 1e-3},
            {"alpha": 0.2},
            {"window": 1},
        ):
            assert evaluations(**{"rtol": 1e-6, "max_iter": 500, **change}) != base

    @pytest.mark.parametrize("method", ["anderson", "picard"])
    def test_a_step_leaves_the_state_that_it_starts_from_as_it_was(self, method):
        model = model_of()
        operator, data = sense_problem()
        lam = weights(5.0, 5.0)
        constant = 5.0 * operator.adjoint(data)
        equation = MonotoneEquation(operator, lam, model.network, constant, model.m, single=False)
        iteration = _Iteration(equation, SolverOptions(method=method, rtol=1e-12))
        state = State.first(constant.detach(), 1.0, 3)
        with torch.no_grad():
            for _ in range(4):
                before = copy.deepcopy(state)
                following = iteration.step(state)
                assert same(state, before)
                assert not same(state, following)
                state = following


class TestModel:
    @pytest.mark.parametrize("factor", [1e-12, 1e12])
    def test_the_image_scales_with_the_data(self, factor):
        operator, data = sense_problem()
        model = model_of()
        with torch.no_grad():
            one = model.solve(operator, data, options=TIGHT).value
            other = model.solve(operator, data * factor, options=TIGHT).value
        assert float((norm(other / factor - one) / norm(one)).max()) < 1e-8

    def test_a_start_at_the_equilibrium_takes_one_evaluation(self):
        operator, data = sense_problem()
        model = model_of()
        with torch.no_grad():
            exact = model.solve(operator, data, options=TIGHT).value
            again = model.solve(operator, data, start=exact)
        assert again.network_evaluations.tolist() == [1, 1]

    def test_a_zero_start_and_zero_data_are_solved_like_others(self):
        operator, data = sense_problem()
        model = model_of()
        data[1] = 0
        with torch.no_grad():
            reference = model.solve(operator, data, options=TIGHT)
            solution = model.solve(operator, data, start=torch.zeros_like(reference.value))
        assert reference.converged
        assert solution.converged
        error = norm(solution.value - reference.value) / norm(reference.value)
        assert bool((error <= solution.distance_bound).all())

    def test_lam_falls_with_the_noise_and_is_positive(self):
        weight = DataWeight(lam=20.0, at=0.015)
        lam = weight(weights(0, 0.001, 0.01, 0.1, 1, 10))
        assert bool((lam > 0).all())
        assert bool((lam.diff() < 0).all())
        assert weight(weights(0.015)).item() == pytest.approx(20)

    def test_the_noise_level_sets_lam(self):
        operator, data = sense_problem()
        model = MOL(model_of().network, DataWeight(), 0.2)
        with torch.no_grad():
            quiet = model.solve(operator, data, noise_level=weights(0.001, 0.001)).lam
            loud = model.solve(operator, data, noise_level=weights(1.0, 1.0)).lam
        assert bool((quiet > loud).all())

    @pytest.mark.parametrize("lam", [0.0, -1.0, float("nan"), float("inf")])
    def test_lam_must_be_positive(self, lam):
        operator, data = sense_problem()
        with pytest.raises(BadInputError, match="lam"):
            model_of().solve(operator, data, lam=weights(lam, lam))

    def test_shift_adds_to_the_equation(self):
        operator, data = sense_problem()
        network = model_of().network
        model = MOL(network, FixedWeight(5.0), 0.2, shift=0.1)
        with torch.no_grad():
            ones = torch.ones(2, dtype=torch.float64)
            x = model.solve(operator, data, scale=ones, options=TIGHT).value
            misfit = operator.normal(x) - operator.adjoint(data)
            residual = 5 * misfit + 1.1 * x - network(x)
        assert float(norm(residual).max()) < 1e-7

    def test_a_network_starts_as_a_multiple_of_the_identity(self):
        x = random_complex((1, 12, 9)).to(torch.complex64)
        with torch.no_grad():
            difference = CNN(gain=0.9)(x) - 0.9 * x
        assert float(norm(difference) / norm(x)) < 0.1

    def test_a_real_image_is_refused_by_name(self):
        operator, _ = sense_problem()
        with pytest.raises(Exception, match="image"):
            operator.forward(torch.zeros(2, 10, 8))
