"""The constants and the rounding that a network reports, computed from its current weights."""

import math

import pytest
import torch

from equipoise.methods.data_weight import FixedWeight
from equipoise.methods.mol import MOL
from equipoise.networks.cnn import CNN
from equipoise.networks.network import monotonicity_of, rounding_of
from equipoise.networks.proved import convolution_norm_upper
from equipoise.networks.spectral import SpectralCNN
from equipoise.networks.tiles import Tiled
from equipoise.networks.unet import ResidualUNet
from equipoise.vectors import norm
from equipoise.zoo.model_file import load_model
from problems import contractive_cnn, new_method, random_complex


def dense_symbol_norm(kernel, points=200):
    """The largest singular value of the symbol on a much finer grid than the bound uses."""
    symbol = torch.fft.fft2(kernel.double(), s=(points, points)).flatten(2).permute(2, 0, 1)
    return float(torch.linalg.matrix_norm(symbol, 2).max())


@pytest.mark.parametrize("shape", [(2, 5, 3, 3), (5, 2, 3, 3), (4, 4, 5, 5), (3, 3, 1, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_13_the_bound_of_a_convolution_is_above_its_symbol_and_close(shape, seed):
    kernel = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    exact = dense_symbol_norm(kernel)
    upper = convolution_norm_upper(kernel)
    slack = 1 / math.cos((shape[-1] - 1) * math.pi / 64)
    assert exact * (1 - 1e-12) <= upper <= exact * slack * (1 + 1e-3)


def test_13_the_bound_follows_the_weights_and_not_their_name():
    kernel = torch.randn((3, 3, 3, 3), generator=torch.Generator().manual_seed(0))
    before = convolution_norm_upper(kernel)
    kernel.data.mul_(2)  # not seen by the version counter of the tensor
    assert convolution_norm_upper(kernel) == pytest.approx(2 * before)
    assert convolution_norm_upper(torch.zeros(2, 2, 3, 3)) == 0


def test_5_a_network_is_monotone_where_the_product_of_its_norms_is_below_one():
    network = contractive_cnn(0.7)
    found = network.monotonicity()
    assert found.evidence == "proved"
    assert found.value == pytest.approx(1 - network.lipschitz_upper())
    assert 0.15 < found.value <= 0.3  # the norms on small images are a little smaller
    network.scale(2.0)
    assert network.monotonicity().value is None
    assert "proves nothing" in network.monotonicity().reason


def test_15_an_unbaked_spectral_network_is_given_the_bound_of_the_kernels_that_it_uses():
    network = SpectralCNN(0.9, features=6, layers=3, seed=1)
    with torch.no_grad():
        for kernel in network.kernels():
            kernel *= 0.1
    raw = math.prod(convolution_norm_upper(k) for k in network.kernels())
    used = network.lipschitz_upper()
    assert raw < 2e-3
    assert used > 0.05
    x, y = random_complex((1, 16, 16), 0), random_complex((1, 16, 16), 1)
    with torch.no_grad():
        ratio = float(norm(network(x) - network(x + 0.01 * y)) / norm(0.01 * y))
    assert raw < ratio <= used


def test_evidence_is_computed_from_the_weights_and_never_read():
    model = load_model("mol-sn-brain-4x")
    assert model.m_evidence == "proved"
    with torch.no_grad():
        model.network.kernels()[-1].mul_(1.5)
    assert model.m_evidence == "claimed"
    claims = MOL(CNN(6, 3, 3, gain=0.9), FixedWeight(5.0), 0.2)
    assert claims.m_evidence == "claimed"


def test_a_network_that_proves_nothing_says_so():
    for network in (ResidualUNet(4), torch.nn.Identity()):
        found = monotonicity_of(network)
        assert (found.value, found.evidence) == (None, "none")
        assert found.reason
        assert rounding_of(network, random_complex((1, 8, 8))) is None


def in_double(network):
    copy = type(network)(**network.config.model_dump(), gain=0.0).double()
    copy.load_state_dict({k: v.double() for k, v in network.state_dict().items()})
    return copy


@pytest.mark.parametrize("name", ["mol-sn-brain-4x", "mol-lr-brain-4x"])
@pytest.mark.parametrize("size", [1.0, 1e-3, 1e3])
def test_24_the_rounding_of_an_evaluation_is_below_its_bound(name, size):
    network = load_model(name).network
    x = size * random_complex((2, 40, 36), 3)
    with torch.no_grad():
        error = norm(network(x) - in_double(network)(x))
        tiled = Tiled(network, 16)
        error_of_tiles = norm(tiled(x) - in_double(network)(x))
    assert bool((error > 0).all())
    assert bool((error <= network.rounding(x)).all())
    assert bool((error_of_tiles <= tiled.rounding(x)).all())
    in_single = network.rounding(x) / network.double().rounding(x)
    assert bool((in_single > 1e8).all())


def test_24_the_precision_is_that_of_the_network_and_not_of_the_data():
    network = load_model("mol-sn-brain-4x").network
    x = random_complex((1, 24, 24), 1)
    of_double_data = network.rounding(x)
    of_single_data = network.rounding(x.to(torch.complex64))
    assert float(of_double_data) == pytest.approx(float(of_single_data), rel=0.05)


def test_evidence_of_an_untrained_spectral_method_needs_no_claim():
    settings = {"lam": 20.0, "m": 0.2, "iterations": 2, "seed": 0}
    network = {"features": 6, "layers": 3, "kernel_size": 3}
    model = new_method("mol-sn", network=network, **settings)
    assert model.for_inference().m_evidence == "proved"
    assert new_method("mol-lr", network=network, **settings).m_evidence == "claimed"
