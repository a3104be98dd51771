"""Every trained method: its equation, its gradient, its bound, its file."""

import pytest
import torch
from torch import nn

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.feed_forward import data_consistency
from equipoise.networks.proved import convolution_norm_upper, lipschitz_upper
from equipoise.networks.spectral import NormEstimate, SpectralCNN
from equipoise.outcome import Outcome
from equipoise.physics.cartesian import SenseOp
from equipoise.vectors import inner
from equipoise.zoo.model_file import load_model, save_model
from problems import (
    DOUBLE,
    OF_PLANES,
    contractive_cnn,
    dense_norm,
    dense_normal,
    new_method,
    random_complex,
    sense_problem,
)

NETWORK = {"features": 6, "layers": 3, "kernel_size": 3}
EXACT = SolverOptions(rtol=1e-11, max_iter=800, exact=False)


def method_of(name, seed=0):
    method = new_method(name, network=NETWORK, lam=5.0, m=0.1, iterations=4, seed=seed).double()
    if name == "mol-lr":
        method.network = contractive_cnn(0.85, seed)
    if name == "mol-guided":
        method.guide.options = EXACT
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # away from the special start
        for parameter in method.network.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.003 * noise)
    method.refresh(exact=True)
    return method


def image_of(method, data, operator, noise=0.1):
    options = EXACT if method.m is not None else None
    level = torch.full((len(data),), noise, dtype=torch.float64)
    return method.solve(operator, data, noise_level=level, options=options).value


@pytest.mark.parametrize("name", OF_PLANES)
def test_a_method_scales_exactly_with_its_data(name):
    operator, data = sense_problem()
    method = method_of(name)
    with torch.no_grad():
        image, large = (image_of(method, c * data, operator, 0.1 * c) for c in (1.0, 1e6))
    assert torch.allclose(large / 1e6, image, rtol=0, atol=1e-6 * float(image.abs().max()))


@pytest.mark.parametrize("name", OF_PLANES)
def test_the_gradient_of_every_method_is_that_of_finite_differences(name, monkeypatch):
    monkeypatch.setattr("equipoise.methods.mol_guided.FIRST_RTOL", 1e-9)
    operator, data = sense_problem(shape=(8, 6))
    method = method_of(name)
    target = random_complex(operator.image_shape, 3)
    parameters = [p for p in method.parameters() if p.requires_grad]
    leaf = data.clone().requires_grad_()
    loss = (image_of(method, leaf, operator) - target).abs().square().sum()
    loss.backward()
    directions = [random_real(p, i) for i, p in enumerate(parameters)]
    move = random_complex(data.shape, 5) * (data != 0)
    expected = sum(float((p.grad * d).sum()) for p, d in zip(parameters, directions))
    expected += float((leaf.grad.conj() * move).real.sum())
    step = 1e-6
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, directions):
                p.add_(sign * step * d)
            moved = image_of(method, data + sign * step * move, operator)
            values.append(float((moved - target).abs().square().sum()))
            for p, d in zip(parameters, directions):
                p.sub_(sign * step * d)
    measured = (values[0] - values[1]) / (2 * step)
    assert measured == pytest.approx(expected, rel=2e-5)


def random_real(like, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, dtype=like.dtype, generator=generator)


def test_modl_and_admm_net_are_their_written_iterations():
    """Dense matrices instead of conjugate gradients."""
    operator, data = sense_problem(shape=(8, 6), batch=1)
    data = data / operator.intensity_scale(data)
    normal = dense_normal(operator, (8, 6))
    for name in ("modl", "admm-net"):
        method = method_of(name)
        solution = method.solve(operator, data, lam=torch.tensor([3.0], dtype=torch.float64))
        solve = lambda rhs: torch.linalg.solve(  # noqa: E731
            torch.eye(48, dtype=DOUBLE) + 3.0 * normal, rhs.flatten()
        ).reshape(1, 8, 6)
        start = operator.adjoint(data)
        x = solve(3.0 * start)
        u = torch.zeros_like(x)
        for _ in range(4):
            if name == "modl":
                x = solve(x - method.network(x) + 3.0 * start)
            else:
                z = (x - u) - method.network(x - u)
                x = solve(z + u + 3.0 * start)
                u = u + z - x
        assert torch.allclose(solution.value, x, atol=1e-10)
        assert solution.outcome == [Outcome.FEED_FORWARD]
        assert torch.isinf(solution.distance_bound).all()


def test_a_gradient_of_data_consistency_has_a_gradient_itself():
    operator, _ = sense_problem()
    lam = torch.tensor([2.0, 5.0], dtype=torch.float64)
    rhs, weight, change = (random_complex(operator.image_shape, seed) for seed in (1, 2, 3))

    def gradient(at, create_graph=False):
        at = at.clone().requires_grad_()
        value = data_consistency(operator, at, lam).abs().pow(3).sum()
        return torch.autograd.grad(value, at, create_graph=create_graph)[0], at

    first, at = gradient(rhs, create_graph=True)
    (second,) = torch.autograd.grad(inner(first, weight).sum(), at)
    (ahead, _), (behind, _) = gradient(rhs + 1e-5 * change), gradient(rhs - 1e-5 * change)
    expected = float(inner(ahead - behind, weight).sum()) / 2e-5
    assert float(inner(second, change).sum()) == pytest.approx(expected, rel=1e-5)


def test_de_grad_reaches_by_its_own_step_what_the_resolvent_reaches():
    operator, data = sense_problem()
    method = method_of("de-grad").eval()
    lam = torch.full((2,), 5.0, dtype=torch.float64)
    by_resolvent = method.solve(operator, data, lam=lam, options=EXACT)
    own = SolverOptions(step="gradient", rtol=1e-8, max_iter=2000)
    by_gradient = method.solve(operator, data, lam=lam, options=own)
    assert by_resolvent.converged
    assert by_gradient.converged
    assert torch.allclose(by_resolvent.value, by_gradient.value, atol=1e-6)
    assert by_gradient.cg_iterations == 0
    assert method.options.step == "gradient"


@pytest.mark.parametrize(("shape", "kernel"), [((5, 4), 3), ((3, 6), 5), ((2, 2), 1)])
def test_the_bound_of_a_convolution_is_above_its_dense_norm_and_close(shape, kernel):
    weights = torch.randn(
        (*shape, kernel, kernel),
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(kernel),
    )
    upper = convolution_norm_upper(weights)
    for size in ((4, 5), (9, 9), (16, 12)):
        layer = nn.Conv2d(shape[1], shape[0], kernel, padding=kernel // 2).double()
        layer.weight.data = weights
        exact = dense_norm_of(layer, size)
        assert exact <= upper
    assert upper < 1.25 * exact
    frequencies = torch.fft.fft2(weights, s=(200, 200)).permute(2, 3, 0, 1)
    on_a_finer_grid = float(torch.linalg.matrix_norm(frequencies, 2).max())
    assert on_a_finer_grid <= upper < 1.02 * on_a_finer_grid


def dense_norm_of(layer, size):
    n = layer.in_channels * size[0] * size[1]
    eye = torch.eye(n, dtype=torch.float64).reshape(n, layer.in_channels, *size)
    columns = nn.functional.conv2d(eye, layer.weight.detach(), padding=layer.padding)
    return float(torch.linalg.matrix_norm(columns.reshape(n, -1), 2))


def test_the_bound_between_the_grid_points_is_needed():
    """A kernel whose symbol peaks between the points of a coarse grid."""
    frequency = 3.5 * 2 * torch.pi / 16
    weights = torch.cos(frequency * torch.arange(-2, 3, dtype=torch.float64))
    weights = torch.outer(weights, weights)[None, None]
    coarse = torch.fft.fft2(weights, s=(16, 16)).abs().max()
    fine = torch.fft.fft2(weights, s=(1024, 1024)).abs().max()
    assert fine > coarse
    assert convolution_norm_upper(weights, 16) >= float(fine)


def test_a_grid_too_coarse_for_the_kernel_is_refused():
    with pytest.raises(ValueError, match="grid is 8"):
        convolution_norm_upper(torch.randn(1, 1, 5, 5), 8)


def test_a_zero_kernel_has_the_bound_zero():
    assert convolution_norm_upper(torch.zeros(2, 3, 3, 3)) == 0


def test_the_estimate_of_a_norm_has_the_gradient_of_the_norm():
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3, padding=1).double()
    estimate = NormEstimate(tuple(layer.weight.shape), 10).double()
    estimate.update(layer.weight, 2000)
    value = estimate(layer.weight)
    assert float(value.detach()) == pytest.approx(dense_norm(layer, (10, 10)), rel=1e-2)
    value.backward()
    direction = random_real(layer.weight, 1)
    norms = []
    for sign in (1, -1):
        moved = nn.Conv2d(2, 3, 3, padding=1).double()
        moved.weight.data = layer.weight.detach() + sign * 1e-5 * direction
        norms.append(dense_norm(moved, (10, 10)))
    slope = (norms[0] - norms[1]) / 2e-5
    assert float((layer.weight.grad * direction).sum()) == pytest.approx(slope, rel=1e-2)


def test_a_spectral_network_starts_close_to_the_identity_and_below_its_bound():
    network = SpectralCNN(0.98, **{**NETWORK, "features": 16})
    image = random_complex((1, 24, 24)).to(torch.complex64) * 0.3
    response = (network(image) - network(0 * image)) / image
    response = response.detach()
    inside = response[..., 6:-6, 6:-6]
    assert 0.4 < float(inside.real.median()) < 0.98
    baked = network.baked()
    assert 0.9 < lipschitz_upper(baked.kernels(), 96) <= 0.98
    assert torch.allclose(baked(image), network(image), atol=1e-4)


@pytest.mark.parametrize("name", OF_PLANES)
def test_a_saved_method_reconstructs_the_same_image(name, tmp_path):
    operator, data = sense_problem()
    single = SenseOp(operator.csm.to(torch.complex64), operator.mask)
    method = new_method(name, network=NETWORK, lam=5.0, m=0.1, iterations=4, seed=1).eval()
    path = tmp_path / "model.safetensors"
    save_model(path, method, {"by": "test"})
    loaded = load_model(path)
    assert type(loaded) is type(method)
    assert type(loaded.network) is type(method.for_inference().network)
    assert loaded.m == method.m
    with torch.no_grad():
        images = [m(data.to(torch.complex64), single) for m in (method.for_inference(), loaded)]
    assert torch.equal(*images)


def test_a_saved_mol_sn_is_proved(tmp_path):
    path = tmp_path / "model.safetensors"
    model = new_method("mol-sn", network=NETWORK, lam=5.0, m=0.1, iterations=4, seed=1)
    save_model(path, model, {})
    loaded = load_model(path)
    assert loaded.m_evidence == "proved"
    assert 0.85 < lipschitz_upper(loaded.network.kernels(), 96) <= 1 - loaded.m


def test_a_network_with_skip_does_not_see_the_mean_intensity(tmp_path):
    options = {"network": NETWORK, "lam": 5.0, "m": 0.02, "iterations": 1, "seed": 0}
    model = new_method("mol-lr", **options, skip=0.9)
    with torch.no_grad():
        for kernel in model.network.kernels():
            kernel += 0.1 * torch.randn(kernel.shape, generator=torch.Generator().manual_seed(0))
    model.refresh()
    save_model(tmp_path / "m.safetensors", model, {})
    network = load_model(tmp_path / "m.safetensors").network.double()
    image, offset = random_complex((1, 20, 20)), 0.3 - 0.2j
    difference = (network(image + offset) - network(image))[..., 3:-3, 3:-3]
    assert network.skip == 0.9
    assert torch.allclose(difference, torch.full_like(difference, 0.9 * offset), atol=1e-6)
