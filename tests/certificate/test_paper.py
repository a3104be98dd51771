"""Each statement of the theory is a test, in double precision on small random problems."""

import math
import weakref
from dataclasses import replace

import pytest
import torch

from equipoise.certificate.attack import worst_case
from equipoise.certificate.linear_response import LinearResponse
from equipoise.certificate.noise import agreement, noise_map
from equipoise.certificate.statements import Constants, statements
from equipoise.equilibrium.bounds import perturbation_bound, tight_distance_bound
from equipoise.equilibrium.equation import MonotoneEquation
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.formats.sample_head import head_slice
from equipoise.methods.data_weight import FixedWeight
from equipoise.methods.mol import MOL
from equipoise.methods.mol_m import MOLM
from equipoise.networks.cnn import CNN
from equipoise.networks.jacobian import (
    Jacobian,
    largest_singular_value,
    largest_symmetric_eigenvalue,
)
from equipoise.networks.measured import lipschitz_lower, one_sided_lipschitz_lower
from equipoise.networks.network import OnSupport
from equipoise.networks.proved import lipschitz_upper
from equipoise.networks.spectral import SpectralCNN
from equipoise.networks.tiles import Tiled
from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.least_squares import conjugate_gradient, tikhonov
from equipoise.physics.linop import LinearOperator
from equipoise.physics.noise_level import noise_level
from equipoise.physics.sampling.masks import make_mask
from equipoise.training.loss import log_barrier
from equipoise.vectors import inner, norm, per_sample
from equipoise.zoo.model_file import load_model
from problems import (
    DOUBLE,
    TIGHT,
    contractive_cnn,
    dense_norm,
    dense_normal,
    model_of,
    new_method,
    random_complex,
    sense_problem,
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


ONES = torch.ones(2, dtype=torch.float64)


def solve(model, operator, data, **options):
    with torch.no_grad():
        return model.solve(operator, data, scale=ONES[: len(data)], cg_rtol=1e-3, **options)


def residual(model, operator, data, x, lam=5.0):
    misfit = operator.normal(x) - operator.adjoint(data)
    with torch.no_grad():
        return lam * misfit + x - model.network(x)


def mol_map(model, operator, data, x, alpha, lam=5.0):
    """T of (2), its linear solve to machine precision."""
    weight = torch.full((len(x),), alpha * lam, dtype=torch.float64)
    with torch.no_grad():
        rhs = (1 - alpha) * x + alpha * model.network(x) + alpha * lam * operator.adjoint(data)
    ones = torch.ones_like(weight)
    return conjugate_gradient(operator, rhs, weight, ones, rtol=1e-14, max_iter=500).value


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


@pytest.mark.parametrize("seed", range(20))
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


@pytest.mark.parametrize("seed", range(20))
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


# ---- (10), (11): the gradient ------------------------------------------------------------------


def gradients(model, operator, data, lam, target, **options):
    """Loss and its gradients for theta, lam and b."""
    data = data.detach().requires_grad_()
    lam = lam.detach().requires_grad_()
    solution = model.solve(operator, data, lam=lam, scale=ONES, cg_rtol=1e-3, **options)
    loss = (solution.value - target).abs().square().sum()
    parameters = list(model.network.parameters())
    return loss.detach(), torch.autograd.grad(loss, [*parameters, lam, data]), solution


def unrolled_gradients(model, operator, data, lam, target, steps=400):
    """Gradients by autograd through the iterations, every linear solve dense."""
    data = data.detach().requires_grad_()
    lam = lam.detach().requires_grad_()
    batch, *shape = target.shape
    n = shape[0] * shape[1]
    eye = torch.eye(n, dtype=DOUBLE)
    columns = torch.stack(
        [operator.normal(e.reshape(1, *shape).expand(batch, *shape)) for e in eye], dim=-1
    ).reshape(batch, n, n)
    system = eye + lam[:, None, None] * columns
    adjoint_image = operator.adjoint(data)
    x = torch.zeros_like(target)
    for _ in range(steps):
        rhs = model.network(x) + lam[:, None, None] * adjoint_image
        x = torch.linalg.solve(system, rhs.reshape(batch, n, 1)).reshape(target.shape)
    loss = (x - target).abs().square().sum()
    gradients = torch.autograd.grad(loss, [*model.network.parameters(), lam, data])
    return loss.detach(), gradients


@pytest.mark.parametrize("adjoint", ["adjoint", "algorithm2"])
def test_10_the_implicit_gradient_equals_the_unrolled_gradient(adjoint):
    operator, data = sense_problem()
    model = model_of(0.6)
    lam = torch.tensor([3.0, 8.0], dtype=torch.float64)
    target = random_complex((2, 10, 8), 5)
    loss, implicit, solution = gradients(
        model, operator, data, lam, target, options=TIGHT, adjoint=adjoint
    )
    reference_loss, reference = unrolled_gradients(model, operator, data, lam, target)
    assert float(loss) == pytest.approx(float(reference_loss), rel=1e-9)
    for got, expected in zip(implicit, reference):
        assert float((got - expected).abs().max() / expected.abs().max()) < 1e-8
    assert solution.backward is not None
    assert solution.backward.converged


def test_10_the_implicit_gradient_equals_finite_differences():
    operator, data = sense_problem()
    model = model_of(0.6)
    lam = torch.tensor([3.0, 8.0], dtype=torch.float64)
    target = random_complex((2, 10, 8), 5)
    _, implicit, _ = gradients(model, operator, data, lam, target, options=TIGHT)
    *theta_gradient, lam_gradient, data_gradient = implicit

    def loss_at(lam, data):
        value = solve(model, operator, data, lam=lam, options=TIGHT).value
        return float((value - target).abs().square().sum())

    h = 1e-5
    d_lam = torch.tensor([1.0, -0.5], dtype=torch.float64)
    difference = loss_at(lam + h * d_lam, data) - loss_at(lam - h * d_lam, data)
    assert difference / (2 * h) == pytest.approx(float((lam_gradient * d_lam).sum()), rel=1e-6)
    d_data = random_complex(data.shape, 9)
    difference = loss_at(lam, data + h * d_data) - loss_at(lam, data - h * d_data)
    expected = float((data_gradient.conj() * d_data).real.sum())
    assert difference / (2 * h) == pytest.approx(expected, rel=1e-6)
    weight = model.network.convolutions[1].weight
    direction = torch.randn(weight.shape, dtype=torch.float64)
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * h * direction
            losses.append(loss_at(lam, data))
            weight -= sign * h * direction
    expected = float((theta_gradient[2] * direction).sum())
    assert (losses[0] - losses[1]) / (2 * h) == pytest.approx(expected, rel=1e-5)


def test_11_the_adjoint_residual_bounds_the_error_of_the_adjoint_solution():
    operator, data = sense_problem()
    model = model_of(0.8)
    lam, target = torch.full((2,), 5.0, dtype=torch.float64), random_complex((2, 10, 8), 5)
    _, _, exact = gradients(model, operator, data, lam, target, options=TIGHT)
    _, _, rough = gradients(model, operator, data, lam, target, options=TIGHT, backward_rtol=0.1)
    p, bound = rough.backward.value, rough.backward.distance_bound
    distance = norm(p - exact.backward.value) / norm(p)
    assert bool((bound <= 0.1).all())
    assert bool((distance <= bound).all())
    assert float(distance.max()) > 1e-6


def test_10_the_gradient_for_the_data_runs_through_the_intensity_scale():
    operator, data = sense_problem()
    model = model_of(0.6)
    direction = random_complex(data.shape, 9) * operator.mask[:, None]
    lam = torch.full((2,), 5.0, dtype=torch.float64)

    def loss_at(b):
        value = model.solve(operator, b, lam=lam, options=TIGHT, cg_rtol=1e-3).value
        return value.abs().square().sum()

    data.requires_grad_()
    (gradient,) = torch.autograd.grad(loss_at(data), data)
    h = 1e-6
    with torch.no_grad():
        difference = (loss_at(data + h * direction) - loss_at(data - h * direction)) / (2 * h)
    expected = (gradient.conj() * direction).real.sum()
    assert difference.item() == pytest.approx(expected.item(), rel=1e-5)


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


def test_a_solution_is_freed_when_it_is_no_longer_used():
    operator, data = sense_problem()
    model = model_of()
    for backward in (False, True):
        solution = model.solve(operator, data, scale=ONES)
        if backward:
            solution.value.abs().sum().backward()
            assert solution.backward is not None
        reference = weakref.ref(solution)
        del solution
        assert reference() is None


def test_gradients_for_the_operator_are_refused():
    operator, data = sense_problem()
    wanting = SenseOp(operator.csm.clone().requires_grad_(), operator.mask)
    with pytest.raises(BadInputError, match="csm"):
        model_of().solve(wanting, data, scale=ONES)


def test_gradients_exist_in_eval_mode():
    operator, data = sense_problem()
    model = model_of().eval()
    data.requires_grad_()
    model.solve(operator, data, scale=ONES).value.abs().sum().backward()
    assert float(data.grad.abs().sum()) > 0


def test_nothing_of_the_iteration_is_kept_for_backward():
    operator, data = sense_problem()
    model = model_of()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.numel() * t.element_size()) or t, lambda t: t
    ):
        value = model.solve(operator, data, scale=ONES, options=TIGHT).value
    assert value.requires_grad
    image_bytes = data[:, 0].numel() * 16
    assert sum(saved) < 12 * image_bytes


# ---- (12), (14), (18) --------------------------------------------------------------------------


def test_12_the_measured_estimate_reaches_the_norm_of_a_linear_network():
    matrix = random_complex((20, 20), 3)
    largest = float(torch.linalg.matrix_norm(matrix, 2))

    def network(x):
        return (x.flatten(1) @ matrix.T).reshape(x.shape)

    x = random_complex((3, 4, 5), 1)
    estimate = lipschitz_lower(network, x, steps=40)
    assert bool((estimate <= largest * (1 + 1e-9)).all())
    assert float(estimate.min()) > (1 - 1e-9) * largest


def test_12_the_estimate_is_below_the_product_of_the_layer_norms():
    network = contractive_cnn(0.8)
    with torch.no_grad():
        estimate = lipschitz_lower(network, random_complex((2, 10, 8)), steps=50)
    assert bool((estimate <= 0.8).all())
    assert float(estimate.min()) > 0.05


def test_14_the_barrier_is_continuous_with_a_continuous_slope():
    threshold, margin = 0.9, 1e-2
    edge = threshold - margin
    points = torch.tensor([edge - 1e-9, edge + 1e-9], dtype=torch.float64, requires_grad=True)
    values = log_barrier(points, threshold, margin)
    (slopes,) = torch.autograd.grad(values.sum(), points)
    assert float(values[1].detach() - values[0].detach()) == pytest.approx(0, abs=1e-6)
    assert slopes.tolist() == pytest.approx([1 / margin] * 2, rel=1e-5)
    inside = log_barrier(torch.tensor([0.5], dtype=torch.float64), threshold, margin)
    assert float(inside) == pytest.approx(-torch.log(torch.tensor(0.4, dtype=torch.float64)).item())


def test_18_lam_may_follow_the_scan_without_touching_the_network():
    operator, data = sense_problem()
    network = contractive_cnn(0.8)
    for lam in (0.5, 50.0):
        model = MOL(network, FixedWeight(lam), 0.2)
        assert solve(model, operator, data, options=SolverOptions(rtol=1e-8)).converged


# ---- (5), (12): the Jacobian -------------------------------------------------------------------


def dense_jacobian(product, shape):
    """Columns of a product with J for the first sample, in real coordinates."""
    n = 2 * shape[0] * shape[1]
    columns = torch.view_as_complex(torch.eye(n, dtype=torch.float64).reshape(n, *shape, 2))
    found = [torch.view_as_real(product(column[None])[0]).flatten() for column in columns]
    return torch.stack(found, dim=1)


@pytest.fixture(scope="module")
def jacobian_problem():
    network, shape = contractive_cnn(0.8, gain=0.9), (5, 4)
    x = random_complex((1, *shape), 1)
    jacobian = Jacobian(network, x)
    return network, x, jacobian, dense_jacobian(jacobian.forward, shape)


def test_12_the_products_are_those_of_the_jacobian(jacobian_problem):
    network, x, jacobian, dense = jacobian_problem
    transposed = dense_jacobian(jacobian.transposed, x.shape[1:])
    assert float((dense.T - transposed).abs().max()) < 1e-14
    direction, h = random_complex(x.shape, 7), 1e-6
    with torch.no_grad():
        difference = (network(x + h * direction) - network(x - h * direction)) / (2 * h)
    assert float((jacobian.forward(direction) - difference).abs().max()) < 1e-8


@pytest.mark.parametrize("kind", ["plain", "skip", "one channel", "spectral", "support", "tiles"])
def test_12_a_network_knows_its_own_jacobian(kind):
    options = {"features": 6, "layers": 3, "seed": 2}
    body = {
        "skip": lambda: CNN(**options, skip=0.8),
        "one channel": lambda: CNN(**options, channels=1, skip=0.8),
        "spectral": lambda: SpectralCNN(0.9, **options),
    }.get(kind, lambda: CNN(**options))().double()
    support = torch.rand((1, 9, 8), generator=torch.Generator().manual_seed(0)) > 0.3
    network = {
        "support": OnSupport(body, support),
        "tiles": OnSupport(Tiled(body, 4), support),
    }.get(kind, body)
    x, direction = random_complex((2, 9, 8), 1), random_complex((2, 9, 8), 2)
    found = {}
    for name, function in (("own", network), ("autograd", lambda image: network(image))):
        jacobian = Jacobian(function, x)
        product = jacobian.forward(direction, create_graph=True)
        weights = [c.weight for c in body.convolutions]
        gradients = torch.autograd.grad(norm(product).sum(), weights)
        found[name] = [product.detach(), jacobian.transposed(direction), *gradients]
    for own, expected in zip(found["own"], found["autograd"]):
        assert float((own - expected).abs().max()) < 1e-12 * float(expected.abs().max())


def test_12_lanczos_reaches_the_norm_of_the_jacobian(jacobian_problem):
    _, x, jacobian, dense = jacobian_problem
    exact = float(torch.linalg.matrix_norm(dense, 2))
    found = largest_singular_value(jacobian, random_complex(x.shape, 3), 40)
    assert float(found.value) == pytest.approx(exact, rel=1e-10)
    assert float(norm(jacobian.forward(found.vector))) == pytest.approx(exact, rel=1e-10)


def test_5_lanczos_reaches_the_largest_eigenvalue_of_the_symmetric_part(jacobian_problem):
    _, x, jacobian, dense = jacobian_problem
    exact = float(torch.linalg.eigvalsh((dense + dense.T) / 2)[-1])
    values = [
        float(largest_symmetric_eigenvalue(jacobian, random_complex(x.shape, 3), k).value)
        for k in (1, 4, 12, 40)
    ]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(exact, rel=1e-10)
    vector = largest_symmetric_eigenvalue(jacobian, random_complex(x.shape, 3), 40).vector
    assert float(norm(vector)) == pytest.approx(1)


def test_5_the_one_sided_constant_is_measured_below_the_lipschitz_constant():
    network = contractive_cnn(0.8, gain=0.9)
    x = random_complex((2, 10, 8))
    one_sided = one_sided_lipschitz_lower(network, x, steps=20).detach()
    both_sided = lipschitz_lower(network, x, steps=20).detach()
    assert bool((one_sided <= both_sided * 1.01).all())
    assert bool((one_sided > 0.3 * both_sided).all())
    negative = one_sided_lipschitz_lower(lambda v: -0.9 * v, x).detach()
    assert bool((negative < -0.89).all())


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


# ---- (16), (17): noise and attacks ---------------------------------------------------------------


def test_16_the_linear_response_is_the_derivative_and_its_transpose():
    operator, data = sense_problem(batch=1)
    model = model_of(0.8)
    solution = solve(model, operator, data, options=TIGHT)
    response = LinearResponse(model, operator, solution, rtol=1e-9)
    noise = random_complex(data.shape, 4) * operator.mask[:, None]
    h = 1e-6
    plus, minus = (solve(model, operator, data + s * noise, options=TIGHT).value for s in (h, -h))
    difference = (plus - minus) / (2 * h)
    assert float((response(noise) - difference).abs().max()) < 1e-6
    image = random_complex(solution.value.shape, 8)
    left = float((image.conj() * response(noise)).real.sum())
    right = float((response.transposed(image).conj() * noise).real.sum())
    assert left == pytest.approx(right, rel=1e-7)


def coils_of(operator):
    """The mask of the measurements, in the shape of the data."""
    return operator.mask[:, None].expand(-1, operator.csm.shape[1], -1, -1)


def test_16_the_noise_map_of_sense_is_the_analytic_one():
    operator, _ = sense_problem(batch=1)
    shape, lam, sigma = (10, 8), 4.0, 0.3
    normal = dense_normal(operator, shape)
    inverse = torch.linalg.inv(torch.eye(len(normal), dtype=DOUBLE) + lam * normal)
    covariance = sigma**2 * lam**2 * inverse @ normal @ inverse
    exact = covariance.diagonal().real.sqrt().reshape(shape)

    def respond(noise):
        weights = torch.full((len(noise),), lam, dtype=torch.float64)
        return tikhonov(operator, noise.to(DOUBLE), weights, rtol=1e-10)

    found = noise_map(respond, coils_of(operator), sigma, probes=2000, batch=100)
    deviation = (found.std - exact) / found.error
    assert float(deviation.abs().mean()) == pytest.approx((2 / torch.pi) ** 0.5, rel=0.3)
    assert agreement(found.std, exact, exact > 0).ratio == pytest.approx(1, abs=0.01)
    with pytest.raises(BadInputError, match="at least 2"):
        noise_map(respond, coils_of(operator), sigma, probes=1)


def test_16_the_noise_map_of_an_equilibrium_agrees_with_pseudo_replicas():
    operator, data = sense_problem(batch=1)
    model, sigma = model_of(0.8), 0.05
    solution = solve(model, operator, data, options=TIGHT)
    response = LinearResponse(model, operator, solution, batch=50)
    linear = noise_map(response, coils_of(operator), sigma, probes=400, batch=50)

    def replica(noise):
        options = SolverOptions(rtol=1e-6, max_iter=200)
        moved = [solve(model, operator, data + n[None], options=options).value for n in noise]
        return torch.cat(moved) - solution.value

    replicas = noise_map(replica, coils_of(operator), sigma, probes=400, batch=50, seed=1)
    found = agreement(linear.std, replicas.std, linear.std > 0)
    assert found.ratio == pytest.approx(1, abs=0.05)
    assert found.correlation > 0.9


def test_16_shrinkage_makes_a_smooth_map_more_exact_and_says_by_how_much():
    y, x = torch.meshgrid(torch.linspace(0, 3, 48), torch.linspace(0, 3, 48), indexing="ij")
    std = 2 + torch.sin(2 * x) * torch.cos(y)
    std[:, :5] = 0
    measured = torch.ones((1, 48, 48))
    deviation, error = {}, {}
    for shrink in (True, False):
        found = noise_map(lambda n: std * n, measured, 0.1, probes=64, shrink=shrink)
        inside = std > 0
        assert not found.std[~inside].any()
        deviation[shrink] = (found.std / (0.1 * std) - 1)[inside]
        error[shrink] = (found.error / (0.1 * std))[inside]
        z = deviation[shrink] / error[shrink]
        assert float(z.square().mean().sqrt()) == pytest.approx(1, abs=0.1)
        assert abs(float(deviation[shrink].mean())) < 0.01
    assert float(deviation[True].std()) < 0.6 * float(deviation[False].std())


def test_16_the_noise_map_of_unregularised_sense_is_the_g_factor():
    """Pruessmann et al. 1999: regular 2-fold undersampling, ``std = sigma sqrt(R) g``."""
    shape, sigma = (12, 10), 0.4
    csm = biot_savart_maps(shape, 6, 0).to(DOUBLE)
    mask = torch.zeros(1, *shape, dtype=torch.bool)
    mask[:, ::2] = True
    operator = SenseOp(csm, mask)
    g = torch.empty(shape, dtype=torch.float64)
    for y in range(shape[0]):
        for x in range(shape[1]):
            folded = csm[0][:, [y, (y + shape[0] // 2) % shape[0]], x]
            gram = folded.mH @ folded
            g[y, x] = (torch.linalg.inv(gram)[0, 0].real * gram[0, 0].real).sqrt()

    def respond(noise):
        weights = torch.full((len(noise),), 1e6, dtype=torch.float64)
        return tikhonov(operator, noise.to(DOUBLE), weights, rtol=1e-12, max_iter=500)

    found = noise_map(respond, mask.expand(6, *shape)[None], sigma, probes=2000, batch=200)
    deviation = (found.std - sigma * 2**0.5 * g) / found.error
    assert float(g.max()) > 1.05
    assert float(deviation.square().mean().sqrt()) == pytest.approx(1, abs=0.2)


def test_8_no_perturbation_exceeds_the_bound_on_random_problems():
    """40 problems here, hundreds in the benchmark; the largest share of the bound is not tiny."""
    shares = []
    for seed in range(40):
        lipschitz, lam = [0.5, 0.8, 0.95][seed % 3], [1.0, 30.0][seed % 2]
        operator, data = sense_problem(seed=seed, batch=1)
        model = model_of(lipschitz, lam, seed, gain=0.9)
        one = ONES[:1]

        def reconstruct(b, model=model, operator=operator):
            return model.solve(operator, b, scale=ONES[:1], options=TIGHT, cg_rtol=1e-3).value

        attack = worst_case(reconstruct, data, operator.mask[:, None], 0.1, steps=6, starts=1)
        bound = perturbation_bound(one * lam, 1 - lipschitz, one)
        shares.append(float(attack.amplification / bound))
    assert max(shares) <= 1
    assert max(shares) > 0.2


def test_the_statements_say_what_they_rest_on():
    def found(distance=1e-3, **changes):
        known = {"m": 0.1, "m_proved": True, "m_local": 0.2, "lam": 10.0, "contraction": 0.9}
        known |= {"contraction_proved": True}
        return statements(Constants(**{**known, **changes}), distance, 0.05)

    proved = found()
    evidence = {name: statement.evidence for name, statement in proved.items()}
    assert evidence.pop("noise_bound") == "measured"
    assert set(evidence.values()) == {"proved"}
    assert proved["perturbation_bound"].value == pytest.approx(5.0)
    assert proved["paper_bound"].value == pytest.approx(100.0)
    assert proved["noise_bound"].value == pytest.approx(0.25)
    assert proved["contraction"].value == pytest.approx(0.9)
    unproved = found(m_proved=False, contraction_proved=False)
    assert {s.evidence for s in unproved.values()} == {"measured"}
    assert found(contraction=None)["contraction"].evidence == "not available"
    assert "Lipschitz" in found(contraction=None)["contraction"].meaning
    for changes, word in (
        ({"m_local": 0.05}, "0.05"),
        ({"m_proved": False, "m_local": None}, "was not measured"),
        ({"m": None}, "no equilibrium"),
        ({"diverged": True}, "diverged"),
    ):
        nothing = found(**changes)
        assert {s.value for s in nothing.values()} == {None}
        assert {s.evidence for s in nothing.values()} == {"not available"}
        assert word in nothing["distance_bound"].meaning


def test_8_is_about_one_equation_not_about_a_pipeline_that_reads_lam_off_the_data():
    """If the noise is removed where it is measured, lam rises and the image moves."""
    operator, data = head_acquisition(sigma=0.1)
    model = load_model("mol-sn-brain-4x")
    axis = torch.linspace(-1, 1, 96)
    radius = torch.hypot(axis[:, None], axis)
    quiet = torch.where(radius > 0.6, 0.02, 1.0) * data

    def image(b, solution=None):
        level = noise_level(b, operator.mask)
        held = {} if solution is None else {"lam": solution.lam, "scale": solution.scale}
        with torch.no_grad():
            return model.solve(operator, b, noise_level=level, **held)

    clean = image(data)
    change = norm(quiet - data)
    bound = perturbation_bound(clean.lam, model.m, change)
    held = norm(image(quiet, clean).value - clean.value)
    free = norm(image(quiet).value - clean.value)
    assert float(held) <= float(bound)
    assert float(free) > 1.5 * float(held)


# ---- trained networks: the same statements, and those that need weights ------------------------


@pytest.fixture(scope="module")
def head():
    """A patch of the demo head as a 4-coil acquisition, at the scale of the models."""
    return head_acquisition((24, 20), 0.02, DOUBLE)


def head_acquisition(shape=(96, 96), sigma=0.02, dtype=torch.complex64):
    image = head_slice()[0][None, 80 : 80 + shape[0], 80 : 80 + shape[1]].to(DOUBLE)
    operator = SenseOp(
        biot_savart_maps(shape, 4, 0).to(DOUBLE), make_mask("uniform", shape, 2.0, 6, 0)
    )
    data = operator.forward(image / image.abs().max())
    noise = sigma * random_complex(data.shape) * operator.mask[:, None]
    return SenseOp(operator.csm.to(dtype), operator.mask), (data + noise).to(dtype)


def trained(name):
    return load_model(f"{name}-brain-4x").double()


def solve_trained(model, head, options=TIGHT, **settings):
    """To a bound in exact arithmetic; rounding is bounded by 1e-9 to 1e-7 here, above TIGHT."""
    operator, data = head
    options = replace(options, exact=False)
    lam = torch.full((1,), 5.0, dtype=torch.float64)
    with torch.no_grad():
        solution = model.solve(
            operator, data, lam=lam, scale=ONES[:1], options=options, cg_rtol=1e-3, **settings
        )
    assert solution.converged
    return solution.value


@pytest.mark.parametrize("name", ["mol-sn", "mol-lr"])
def test_4_trained_the_equilibrium_does_not_depend_on_alpha(name, head):
    model = trained(name)
    reference = solve_trained(model, head)
    value = solve_trained(model, head, SolverOptions(rtol=1e-9, max_iter=2000, alpha=0.3))
    assert float(norm(value - reference) / norm(reference)) < 2e-9


def test_5_6_13_15_trained_mol_sn_is_monotone_and_contracts_by_its_proved_bound(head):
    model, (operator, data) = trained("mol-sn"), head
    upper = lipschitz_upper(model.network.kernels())
    assert upper <= 1 - model.m
    x = solve_trained(model, head)
    start = random_complex(x.shape)
    jacobian = Jacobian(model.network, x)
    top = float(largest_symmetric_eigenvalue(jacobian, start, 40).value)
    norm_at_x = float(largest_singular_value(jacobian, start, 40).value)
    assert top <= norm_at_x * (1 + 1e-9)
    assert norm_at_x <= upper
    for size in (1.0, 0.01):
        u = x + size * start
        with torch.no_grad():
            difference = (u - model.network(u)) - (x - model.network(x))
        assert float(inner(difference, u - x)) >= model.m * float(norm(u - x)) ** 2
        for alpha in (0.1, 1.0):
            a, b = (mol_map(model, operator, data, point, alpha) for point in (u, x))
            factor = 1 - alpha + alpha * upper
            assert float(norm(a - b)) <= factor * float(norm(u - x))


def test_7_8_9_trained_the_bounds_of_mol_sn_hold(head):
    model, (operator, data) = trained("mol-sn"), head
    x, m = solve_trained(model, head), model.m
    lam = torch.full((1,), 5.0, dtype=torch.float64)
    for seed, size in enumerate((1.0, 1e-2, 1e-4)):
        near = x + size * random_complex(x.shape, seed)
        r = residual(model, operator, data, near)
        z = conjugate_gradient(operator, r, lam, m * ONES[:1], rtol=1e-10, max_iter=500).value
        tight = tight_distance_bound(r, z, m * z + 5 * operator.normal(z), m)
        assert float(norm(near - x)) <= float(tight) <= float(norm(r)) / m * (1 + 1e-9)
        delta = size * random_complex(data.shape, seed) * operator.mask[:, None]
        moved = solve_trained(model, (operator, data + delta))
        assert float(norm(moved - x)) <= float(perturbation_bound(lam, m, norm(delta)))
    coarse = trained("mol-sn")
    coarse.load_state_dict({k: v.bfloat16().double() for k, v in model.state_dict().items()})
    other = solve_trained(coarse, head)
    with torch.no_grad():
        changed = norm(coarse.network(other) - model.network(other))
    assert 0 < float(norm(other - x)) <= float(changed) / m


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


@pytest.mark.parametrize("name", ["mol-sn", "mol-lr"])
def test_11_16_trained_the_linear_response_is_the_derivative_within_its_bound(name, head):
    model, (operator, data) = trained(name), head
    lam = torch.full((1,), 5.0, dtype=torch.float64)
    with torch.no_grad():
        options = replace(TIGHT, exact=False)
        solution = model.solve(
            operator, data, lam=lam, scale=ONES[:1], options=options, cg_rtol=1e-3
        )
    noise = random_complex(data.shape, 4) * operator.mask[:, None]
    exact = LinearResponse(model, operator, solution, rtol=1e-9)(noise)
    h = 1e-7
    plus, minus = (solve_trained(model, (operator, data + s * noise)) for s in (h, -h))
    difference = (plus - minus) / (2 * h)
    assert float(norm(exact - difference) / norm(exact)) < 1e-3
    rough = LinearResponse(model, operator, solution, rtol=0.05)(noise)
    assert 0 < float(norm(rough - exact) / norm(rough)) <= 0.05


# ---- (13), (15): what is proved of a network ---------------------------------------------------


def test_13_the_proved_bound_is_never_below_the_dense_norm_of_the_network():
    for seed in range(5):
        network = contractive_cnn(0.8, seed, gain=0.9)
        dense = math.prod(dense_norm(convolution) for convolution in network.convolutions)
        assert dense <= lipschitz_upper(network.kernels())
        with_skip = CNN(6, 3, 3, skip=0.9, seed=seed).double()
        jacobian = Jacobian(with_skip, random_complex((1, 5, 4), seed))
        norm_of_j = torch.linalg.matrix_norm(dense_jacobian(jacobian.forward, (5, 4)), 2)
        assert norm_of_j <= lipschitz_upper(with_skip.kernels(), skip=with_skip.skip)


def test_15_spectral_normalisation_proves_the_constant_that_was_asked_for():
    for m in (0.02, 0.3):
        network = {"features": 6, "layers": 3, "kernel_size": 3}
        model = new_method("mol-sn", network=network, lam=5.0, m=m, iterations=1, seed=1)
        upper = lipschitz_upper(model.for_inference().network.kernels())
        assert (1 - m) * 0.98 < upper <= 1 - m
