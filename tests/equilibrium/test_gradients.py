"""Statements (10) and (11): the gradient at an equilibrium, and what it keeps in memory."""

import weakref

import pytest
import torch

from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.vectors import norm
from problems import DOUBLE, ONES, TIGHT, model_of, random_complex, sense_problem, solve


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
