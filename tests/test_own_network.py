"""A module of your own as H: its equilibrium, its gradient, and what is said of it."""

import pytest
import torch
from torch import nn

import equipoise as eq
from equipoise.networks.cnn import CNN
from equipoise.networks.network import Monotonicity
from equipoise.networks.own import OwnNetwork, name_of
from equipoise.outcome import BadInputError
from problems import TIGHT, contractive_cnn, random_complex, sense_problem


class Half(nn.Module):
    """``0.5 x``, without weights."""

    def forward(self, image):
        return 0.5 * image


class Plain(nn.Module):
    """The convolutions of a network of the package, and nothing else of it."""

    def __init__(self, network):
        super().__init__()
        self.inner = network.convolutions

    def forward(self, channels):
        for layer in self.inner[:-1]:
            channels = torch.relu(layer(channels))
        return self.inner[-1](channels)


@pytest.fixture(scope="module")
def pair():
    """A network of the package, and the same map as a plain module."""
    network = contractive_cnn(0.8)
    return network, eq.TwoChannels(Plain(network))


def model_with(network, m=0.2):
    return eq.MOL(network, eq.FixedWeight(5.0), m).eval()


def test_a_plain_module_has_the_equilibrium_and_gradient_of_the_same_network(pair):
    operator, data = sense_problem()
    found = []
    for network in pair:
        model, leaf = model_with(network), data.clone().requires_grad_()
        network.zero_grad()
        image = model.solve(operator, leaf, options=TIGHT).value
        image.abs().square().sum().backward()
        found.append((image.detach(), leaf.grad, pair[0].convolutions[0].weight.grad.clone()))
    for one, other in zip(*found):
        assert torch.allclose(one, other, atol=1e-8)


def test_a_claimed_constant_is_claimed_until_a_certificate_measures_it(pair):
    operator, data = sense_problem(batch=1)
    model = model_with(pair[1])
    assert model.m_evidence == "claimed"
    assert "m 0.2 (claimed)" in repr(model)
    certificate = eq.certify_slice(eq.Problem(operator, data, 0.1), model).certificate
    assert certificate.m_evidence == "measured"
    assert certificate.lipschitz_upper is None
    assert min(certificate.m_local) >= 0.2
    assert certificate.statements["perturbation_bound"].evidence == "measured"
    too_much = model_with(Half(), m=0.6)
    refuted = eq.certify_slice(eq.Problem(operator, data, 0.1), too_much).certificate
    assert refuted.m_evidence == "refuted"
    assert refuted.statements["perturbation_bound"].value is None


def test_a_module_that_brings_a_proof_is_asked_for_it():
    class Proved(Half):
        def monotonicity(self):
            return Monotonicity(0.5, "proved", "H = 0.5 x")

        def lipschitz_upper(self):
            return 0.5

    model = model_with(Proved(), m=0.5)
    assert model.m_evidence == "proved"
    assert model.network.lipschitz_upper() == 0.5
    model.network.scale(0.9)
    assert model.network.lipschitz_upper() == pytest.approx(0.45)
    assert model.m_evidence == "claimed"  # its proof is of N, not of 0.9 N


def test_a_module_without_weights_runs_in_double_precision():
    operator, data = sense_problem(batch=1)
    model = model_with(Half(), m=0.5)
    assert model.network.dtype == torch.float64
    solution = model.solve(operator, data, options=TIGHT, scale=1.0)
    residual = 5.0 * operator.normal(solution.value) + 0.5 * solution.value
    assert torch.allclose(residual, 5.0 * operator.adjoint(data), atol=1e-8)


def test_scaling_scales_the_map_and_its_derivative():
    network = OwnNetwork(eq.TwoChannels(nn.Conv2d(2, 2, 3, padding=1).double()))
    image, direction = random_complex((1, 6, 6)), random_complex((1, 6, 6), 1)
    before = network(image), network.linearised(image)(direction)
    network.scale(0.5)
    after = network(image), network.linearised(image)(direction)
    for one, other in zip(before, after):
        assert torch.allclose(0.5 * one, other)
    assert torch.equal(OwnNetwork(Half()).linearised(image)(direction), 0.5 * direction)


def test_what_a_module_cannot_do_is_refused_by_name():
    operator, data = sense_problem(batch=1)
    with pytest.raises(BadInputError, match=r"Conv2d cannot be evaluated at an image \(1, 10, 8\)"):
        model_with(nn.Conv2d(2, 2, 3, padding=1)).solve(operator, data)
    with pytest.raises(BadInputError, match=r"gives \(1, 10, 7\) torch.complex128 for an image"):
        model_with(Cut()).solve(operator, data)
    with pytest.raises(BadInputError, match="must keep the shape and be real"):
        model_with(eq.TwoChannels(Cut())).solve(operator, data)
    with pytest.raises(BadInputError, match="leave tile out"):
        model_with(Half()).solve(operator, data, options=eq.SolverOptions(tile=4))
    with pytest.raises(BadInputError, match="leave rough out"):
        model_with(Half()).solve(operator, data, options=eq.SolverOptions(rough=1))


class Cut(nn.Module):
    """The image without its last column."""

    def forward(self, image):
        return image[..., :-1]


def test_a_module_that_says_how_far_it_reaches_is_tiled_exactly(pair):
    operator, data = sense_problem(batch=1)
    model = model_with(pair[1])
    pair[1].reach = pair[0].reach
    try:
        whole, tiled = (
            model.solve(operator, data, options=eq.SolverOptions(rtol=1e-8, tile=tile)).value
            for tile in (None, 4)
        )
    finally:
        del pair[1].reach
    assert torch.allclose(whole, tiled, atol=1e-9)


def test_names_and_networks_of_the_package():
    assert name_of(eq.TwoChannels(Half())) == "TwoChannels(Half)"
    network = CNN(4, 2)
    assert model_with(network, 0.05).network is network
    own = model_with(Half(), 0.05)
    assert own.network.module.__class__ is Half
    assert eq.MOL(own.network, own.data_weight, 0.05).network is own.network
    assert own.network(random_complex((1, 4, 4)).to(torch.complex64)).dtype == torch.complex64
