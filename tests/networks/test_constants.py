"""Statements (5) and (12) to (15): constants of networks, measured and proved."""

import math

import pytest
import torch

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
from equipoise.training.loss import log_barrier
from equipoise.vectors import norm
from problems import (
    contractive_cnn,
    dense_norm,
    new_method,
    random_complex,
)


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
