"""Statements (1) to (9) of the theory, in double precision on small random problems."""

import pytest
import torch

from equipoise.equilibrium.bounds import perturbation_bound, tight_distance_bound
from equipoise.equilibrium.equation import MonotoneEquation
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.data_weight import FixedWeight
from equipoise.methods.mol import MOL
from equipoise.methods.mol_m import MOLM
from equipoise.networks.cnn import CNN
from equipoise.networks.measured import one_sided_lipschitz_lower
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.least_squares import conjugate_gradient
from equipoise.physics.linop import LinearOperator
from equipoise.vectors import inner, norm, per_sample
from problems import (
    DOUBLE,
    ONES,
    TIGHT,
    contractive_cnn,
    model_of,
    mol_map,
    random_complex,
    residual,
    sense_problem,
    solve,
)


class Scaled(LinearOperator):
    """``A = a I``."""

    image_shape = (1, 10, 8)

    def __init__(self, a):
        self.a = a

    def forward(self, image):
        return self.a * image

    def adjoint(self, data):
        return self.a * data


def test_1_the_equilibrium_satisfies_the_equilibrium_equation():
    operator, data = sense_problem()
    model = model_of()
    solution = solve(model, operator, data, options=TIGHT)
    assert solution.converged
    assert float((norm(residual(model, operator, data, solution.value))).max()) < 1e-8


def test_2_the_equilibrium_is_a_fixed_point_of_the_mol_map():
    operator, data = sense_problem()
    model = model_of()
    x = solve(model, operator, data, options=TIGHT).value
    moved = mol_map(model, operator, data, x, alpha=0.3)
    assert float((norm(moved - x) / norm(x)).max()) < 1e-9


def test_3_the_step_rule_stops_early_when_alpha_is_small():
    operator, data = sense_problem()
    model = model_of()
    exact = solve(model, operator, data, options=TIGHT).value
    paper = SolverOptions("picard", "step", rtol=1e-3, alpha=0.02, max_iter=500)
    solution = solve(model, operator, data, options=paper)
    assert solution.converged
    distance = norm(solution.value - exact) / norm(solution.value)
    assert float(distance.min()) > 1e-3
    assert bool((distance <= solution.distance_bound).all())


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0])
def test_4_the_equilibrium_does_not_depend_on_alpha(alpha):
    operator, data = sense_problem()
    model = model_of()
    reference = solve(model, operator, data, options=TIGHT).value
    options = SolverOptions(rtol=1e-9, max_iter=2000, alpha=alpha)
    value = solve(model, operator, data, options=options).value
    assert float((norm(value - reference) / norm(reference)).max()) < 2e-9


@pytest.mark.parametrize("seed", range(5))
def test_5_a_lipschitz_constant_below_one_makes_f_strongly_monotone(seed):
    model, m = model_of(0.8, seed=seed, gain=0.9), 0.2
    u, v = random_complex((2, 10, 8), seed), random_complex((2, 10, 8), seed + 50)
    for y in (v, u + 1e-3 * v):
        with torch.no_grad():
            difference = (u - model.network(u)) - (y - model.network(y))
        assert bool((inner(difference, u - y) >= m * norm(u - y) ** 2).all())


@pytest.mark.parametrize("alpha", [0.1, 1.0, 1.1])
def test_6_the_map_contracts_by_the_stated_factor(alpha):
    lipschitz = 0.8
    operator, data = sense_problem()
    model = model_of(lipschitz)
    m = 1 - lipschitz
    assert alpha < 2 / (2 - m)
    for seed in range(5):
        u, v = random_complex((2, 10, 8), seed), random_complex((2, 10, 8), seed + 100)
        moved = mol_map(model, operator, data, u, alpha) - mol_map(model, operator, data, v, alpha)
        factor = abs(1 - alpha) + alpha * (1 - m)
        assert bool((norm(moved) <= factor * norm(u - v) * (1 + 1e-12)).all())


@pytest.mark.parametrize("seed", range(9))
def test_7_the_residual_bounds_the_distance_to_the_equilibrium(seed):
    lipschitz = [0.5, 0.8, 0.95][seed % 3]
    lam = [0.5, 5.0, 500.0][seed % 3]
    operator, data = sense_problem(seed=seed)
    model = model_of(lipschitz, lam, seed, gain=0.9)
    m = 1 - lipschitz
    options = SolverOptions(rtol=1e-10, max_iter=2000)
    exact = solve(model, operator, data, options=options).value
    for size in (1.0, 1e-3):
        x = exact + size * random_complex(exact.shape, seed)
        r = residual(model, operator, data, x, lam)
        assert bool((norm(x - exact) <= norm(r) / m).all())


@pytest.mark.parametrize("seed", range(9))
def test_7b_the_tight_bound_holds_for_any_z_and_is_not_larger_for_the_best(seed):
    lipschitz, lam = 0.8, [1.0, 50.0, 1000.0][seed % 3]
    operator, data = sense_problem(seed=seed)
    model = model_of(lipschitz, lam, seed)
    m = 1 - lipschitz
    exact = solve(model, operator, data, options=SolverOptions(rtol=1e-10, max_iter=2000)).value
    x = exact + random_complex(exact.shape, seed)
    r = residual(model, operator, data, x, lam)
    weight, shift = torch.full((2,), lam).double(), torch.full((2,), m).double()
    best = conjugate_gradient(operator, r, weight, shift, rtol=1e-13, max_iter=500).value
    wrong = best + 0.05 * per_sample(norm(best), best) * random_complex(best.shape, seed) / 9
    distance = norm(x - exact)
    for z in (best, wrong, torch.zeros_like(best)):
        bound = tight_distance_bound(r, z, m * z + lam * operator.normal(z), m)
        assert bool((distance <= bound).all())
    tightest = tight_distance_bound(r, best, m * best + lam * operator.normal(best), m)
    assert bool((tightest <= norm(r) / m * (1 + 1e-9)).all())


@pytest.mark.parametrize(("lam", "shift", "alpha"), [(1.0, 0.0, 1.0), (1000.0, 0.1, 0.3)])
def test_7b_needs_no_transform_beside_those_of_the_inner_solve(lam, shift, alpha):
    operator, _ = sense_problem()
    weight = torch.full((2,), lam, dtype=torch.float64)
    r, x = random_complex((2, 10, 8), 1), random_complex((2, 10, 8), 2)
    equation = MonotoneEquation(operator, weight, lambda v: v, r, 0.2, shift, single=False)
    step = equation.step(r, torch.full((2,), alpha, dtype=torch.float64))
    free = equation.tight_bound(x, r, step)
    computed = equation.tight_bound(x, r, step._replace(data_part=None))
    assert torch.allclose(free, computed, rtol=1e-9)
    other = equation.tight_bound(x, r, step._replace(data_part=torch.zeros_like(r)))
    assert not torch.allclose(free, other, rtol=1e-3)


def test_8_the_perturbation_bound_holds_and_is_attained():
    lipschitz, lam = 0.8, 7.0
    operator, data = sense_problem()
    model = model_of(lipschitz, lam)
    m, weight = 1 - lipschitz, torch.full((2,), lam, dtype=torch.float64)
    exact = solve(model, operator, data, options=TIGHT).value
    for seed in range(5):
        delta = random_complex(data.shape, seed) * operator.mask[:, None]
        moved = solve(model, operator, data + delta, options=TIGHT).value
        assert bool((norm(moved - exact) <= perturbation_bound(weight, m, norm(delta))).all())


def test_8_the_perturbation_bound_is_attained():
    """By ``H = (1 - m) I`` and ``A = sqrt(m / lam) I``, found by the solver like any other."""
    lam, m = 7.0, 0.25
    model = MOL(CNN(6, 3, 3, gain=1 - m).double(), FixedWeight(lam), m)
    with torch.no_grad():
        model.network.convolutions[-1].weight[:, 4:] = 0
    operator, data = Scaled((m / lam) ** 0.5), random_complex((1, 10, 8))
    delta = random_complex(data.shape, 1)
    one = ONES[:1]
    x, y = (
        model.solve(operator, b, scale=one, options=SolverOptions(rtol=1e-12, max_iter=500)).value
        for b in (data, data + delta)
    )
    bound = perturbation_bound(lam * one, m, norm(delta))
    assert float((norm(y - x) / bound).detach()) == pytest.approx(1, abs=1e-9)


def test_7_the_bound_holds_for_single_precision_data_and_large_lam():
    operator, data = sense_problem()
    operator, data = SenseOp(operator.csm.to(torch.complex64), operator.mask), data.to(DOUBLE)
    single = data.to(torch.complex64)
    model = model_of(0.8, 1e4)
    options = SolverOptions(rtol=1e-7, max_iter=2000)
    exact = solve(model, operator, single.to(DOUBLE), options=SolverOptions(rtol=1e-11)).value
    solution = model.solve(operator, single, scale=ONES, options=options)
    with torch.no_grad():
        distance = norm(solution.value.to(DOUBLE) - exact) / norm(exact)
    rounding = 2 * torch.finfo(torch.float32).eps  # of the image that is returned
    assert bool((distance <= solution.distance_bound + rounding).all())


def test_18_lam_may_follow_the_scan_without_touching_the_network():
    operator, data = sense_problem()
    network = contractive_cnn(0.8)
    for lam in (0.5, 50.0):
        model = MOL(network, FixedWeight(lam), 0.2)
        assert solve(model, operator, data, options=SolverOptions(rtol=1e-8)).converged


def test_5_the_equilibrium_is_reached_where_f_is_monotone_and_h_is_no_contraction():
    """H = -3 I: F = 4 I is monotone, the plain map diverges, alpha is halved until it does not."""
    operator, data = sense_problem()
    network = CNN(6, 3, 3, gain=-3.0).double()
    with torch.no_grad():
        network.convolutions[-1].weight[:, 4:] = 0
    model = MOLM(network, FixedWeight(0.5), 0.9).double()
    x = random_complex((2, 10, 8))
    assert float(one_sided_lipschitz_lower(network, x).detach().max()) == pytest.approx(-3)
    picard = SolverOptions("picard", rtol=1e-8, max_iter=500)
    solution = solve(model, operator, data, options=picard)
    assert solution.converged
    assert float(norm(residual(model, operator, data, solution.value, 0.5)).max()) < 1e-6


def test_9_a_change_of_the_network_moves_the_equilibrium_by_at_most_the_change_over_m():
    operator, data = sense_problem()
    for seed in range(5):
        first, second = model_of(0.8, seed=seed), model_of(0.8, seed=seed)
        with torch.no_grad():
            for kernel in second.network.kernels():
                kernel *= 0.9
        x, y = (solve(model, operator, data, options=TIGHT).value for model in (first, second))
        with torch.no_grad():
            changed = norm(first.network(y) - second.network(y))
        assert bool((norm(x - y) <= changed / first.m).all())
        assert float((norm(x - y) / (changed / first.m)).max()) > 0.02
