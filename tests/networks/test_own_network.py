"""A module of your own as H: its equilibrium, its gradient, and its evidence."""

import numpy as np
import pytest
import torch
from torch import nn

import equipoise as eq
from equipoise.networks.cnn import CNN
from equipoise.networks.network import Monotonicity
from equipoise.networks.own import OwnNetwork, name_of
from equipoise.outcome import BadInputError
from equipoise.zoo.model_file import load_model, save_model
from problems import TIGHT, contractive_cnn, random_complex, sense_problem


class Half(nn.Module):
    """``0.5 x``, without weights."""

    def forward(self, image):
        return 0.5 * image


class Plain(nn.Module):
    """Only the convolutions of a network of the package."""

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
    with pytest.raises(BadInputError, match=r"returns \(1, 10, 7\) torch.complex128 for an image"):
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


def trained(folder, network, **changes):
    """A short run on two small images."""
    y, x = np.mgrid[-1:1:24j, -1:1:24j]
    for name, width in (("train", 0.5), ("validation", 0.6)):
        np.save(folder / f"{name}.npy", ((y**2 + x**2 < width) * (1 + 0.3 * x)).astype(complex))
    content = {
        "name": "mine",
        "data": {"train": [folder / "train.npy"], "validation": [folder / "validation.npy"]},
        "model": {"method": "mol-lr", "m": 0.05, "data_weight": {"lam": 5.0}},
        "crop": None,
        "validation_crop": None,
        "warmup_steps": 1,
        "steps": 3,
        "validate_every": 3,
    }
    config = eq.TrainConfig.model_validate({**content, **changes})
    return eq.train(config, folder / "run", source=Inpainting(), network=network)


class Inpainting(eq.Source):
    """Pixels are lost, at random."""

    def sample(self, image, rng, crop=None):
        known = torch.from_numpy(rng.random(tuple(image.shape)) < 0.6)
        operator = eq.FunctionOp(lambda x: known * x, lambda b: known * b, (1, *image.shape))
        return eq.Sample(operator, operator(image), image, noise_level=0.01)


class Mix(nn.Module):
    """``0.7 x`` and a learned part."""

    def __init__(self, features=3):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(2, features, 3, padding=1)
        self.last = nn.Conv2d(features, 2, 3, padding=1)

    def forward(self, channels):
        return 0.7 * channels + 0.1 * self.last(torch.relu(self.first(channels)))


def test_an_own_network_trains_on_an_own_source_and_comes_back_from_its_file(tmp_path):
    network = eq.TwoChannels(Mix())
    before = network.module.last.weight.clone()
    path = trained(tmp_path, network)
    assert not torch.equal(before, network.module.last.weight)
    with pytest.raises(BadInputError, match=r"weights of TwoChannels\(Mix\).*network=TwoChannels"):
        eq.load_model(path)
    with pytest.raises(BadInputError, match="the network is Half"):
        eq.load_model(path, network=Half())
    with pytest.raises(BadInputError, match=r"this TwoChannels\(Mix\).*first.bias is \(3,\)"):
        eq.load_model(path, network=eq.TwoChannels(Mix(features=5)))
    again = eq.load_model(path, network=eq.TwoChannels(Mix()))
    assert again.m_evidence == "claimed"
    assert (again.m, again.name) == (0.05, "mol-lr")
    operator = eq.FunctionOp(lambda x: x, lambda b: b, (1, 12, 12))
    image = random_complex((12, 12)).to(torch.complex64)
    trained_model = eq.MOL(network, again.data_weight, 0.05)
    with torch.no_grad():
        assert torch.equal(again(operator, image), trained_model(operator, image))


def test_every_weight_of_an_own_network_comes_back_in_its_precision(tmp_path):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.full((), 0.5, dtype=torch.float64))
            self.register_buffer("calls", torch.tensor(3))

        def forward(self, image):
            return self.scale * image

    model = model_with(Mixed())
    model.network.scale(0.9)
    save_model(tmp_path / "m.safetensors", model, {})
    fresh = Mixed()
    fresh.scale.data = torch.zeros((), dtype=torch.float32)
    again = load_model(tmp_path / "m.safetensors", network=fresh)
    assert again.network.module.scale.dtype == torch.float64
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    assert again.config == model.config


def test_a_network_that_a_file_or_method_has_itself_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="leave network out"):
        eq.load_model("mol-sn-brain-4x", network=Half())
    with pytest.raises(BadInputError, match="mol-sn, which needs its particular network"):
        trained(tmp_path, Half(), model={"method": "mol-sn"})
