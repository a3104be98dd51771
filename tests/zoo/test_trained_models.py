"""The statements of the theory hold for the models of the package too."""

from dataclasses import replace

import pytest
import torch

from equipoise.certificate.linear_response import LinearResponse
from equipoise.equilibrium.bounds import perturbation_bound, tight_distance_bound
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.formats.sample_head import head_slice
from equipoise.networks.jacobian import (
    Jacobian,
    largest_singular_value,
    largest_symmetric_eigenvalue,
)
from equipoise.networks.proved import lipschitz_upper
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.least_squares import conjugate_gradient
from equipoise.physics.noise_level import noise_level
from equipoise.physics.sampling.masks import make_mask
from equipoise.vectors import inner, norm
from equipoise.zoo.model_file import load_model
from problems import DOUBLE, ONES, TIGHT, mol_map, random_complex, residual


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
