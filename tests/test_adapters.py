"""Operators of other packages: the same numbers both ways, and a reconstruction through them."""

import pytest
import torch

from equipoise.methods.data_weight import FixedWeight
from equipoise.methods.mol import MOL
from equipoise.networks.cnn import CNN
from equipoise.outcome import BadInputError
from equipoise.physics import adapters
from equipoise.physics.linop import adjoint_error
from equipoise.physics.superres import BlurDownsampleOp
from equipoise.vectors import as_channels, as_image

SHAPE, SMALL = (24, 21), (8, 7)
# What the other packages warn of while they are imported is theirs.
pytestmark = pytest.mark.filterwarnings("ignore::Warning")


@pytest.fixture
def operator():
    return BlurDownsampleOp(SHAPE, 3)


@pytest.fixture
def image():
    generator = torch.Generator().manual_seed(0)
    return torch.randn((1, *SHAPE), dtype=torch.complex128, generator=generator)


def assert_equal_operators(one, other, image):
    assert adjoint_error(one) < 1e-12
    data = other.forward(image)
    assert torch.allclose(one.forward(image), data, atol=1e-12)
    assert torch.allclose(one.adjoint(data), other.adjoint(data), atol=1e-12)


class TestSigpy:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("sigpy")

    def test_there_and_back(self, operator, image):
        linop = adapters.to_sigpy(operator, SMALL)
        assert (linop.oshape, linop.ishape) == (list(SMALL), list(SHAPE))
        assert_equal_operators(adapters.from_sigpy(linop), operator, image)

    def test_gradients_pass_through(self, operator, image):
        theirs = adapters.from_sigpy(adapters.to_sigpy(operator, SMALL))
        found = []
        for one in (operator, theirs):
            x = image.clone().requires_grad_()
            one.adjoint(one.forward(x)).abs().square().sum().backward()
            found.append(x.grad)
        assert torch.allclose(*found, atol=1e-12)

    def test_an_operator_of_sigpy_is_reconstructed(self):
        import sigpy

        operator = adapters.from_sigpy(sigpy.linop.Resize([12, 12], [16, 16]), batch=2)
        model = MOL(CNN(features=4, layers=2, gain=0.5), FixedWeight(5.0), 0.4).eval()
        data = torch.ones((2, 12, 12), dtype=torch.complex64)
        with torch.no_grad():
            solution = model.solve(operator, data)
        assert solution.converged
        assert solution.value.shape == (2, 16, 16)

    def test_the_algorithms_of_sigpy_run_on_our_operator(self, operator, image):
        import sigpy.app

        linop = adapters.to_sigpy(operator, SMALL)
        data = operator.forward(image)[0].numpy()
        found = sigpy.app.LinearLeastSquares(
            linop, data, lamda=0.1, max_iter=300, show_pbar=False
        ).run()
        one = torch.ones(1, dtype=torch.float64)
        rhs = operator.adjoint(torch.from_numpy(data)[None])
        exact = operator.regularized_inverse(rhs, one, 0.1 * one)[0]
        assert torch.allclose(torch.from_numpy(found), exact, atol=1e-8)


class TestPylops:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("pylops")

    def test_there_and_back(self, operator, image):
        there = adapters.to_pylops(operator, SMALL)
        assert there.shape == (SMALL[0] * SMALL[1], SHAPE[0] * SHAPE[1])
        assert_equal_operators(adapters.from_pylops(there), operator, image)

    def test_an_operator_of_pylops(self):
        import pylops

        derivative = pylops.Gradient((10, 12), kind="forward", dtype="complex128")
        operator = adapters.from_pylops(derivative, batch=2)
        assert adjoint_error(operator) < 1e-12
        assert operator.forward(torch.ones((2, 10, 12), dtype=torch.complex64)).shape[0] == 2


class TestDeepinv:
    class Physics:
        """The two methods of ``deepinv.physics.LinearPhysics`` that are used."""

        def __init__(self, operator):
            self.operator = operator

        def A(self, x):
            return as_channels(self.operator.forward(as_image(x)))

        def A_adjoint(self, y):
            return as_channels(self.operator.adjoint(as_image(y)))

    def test_the_channels_are_real_and_imaginary_part(self, operator, image):
        seen = []

        class Spy(self.Physics):
            def A(self, x):
                seen.append(x)
                return super().A(x)

        ours = adapters.from_deepinv(Spy(operator), (1, 2, *SHAPE))
        ours.forward(image)
        assert torch.equal(seen[-1], torch.stack([image.real, image.imag], 1))
        with pytest.raises(BadInputError, match="3 channels"):
            adapters.from_deepinv(Spy(operator), (1, 3, *SHAPE))

    def test_physics_with_two_channels(self, operator, image):
        physics = self.Physics(operator)
        assert_equal_operators(adapters.from_deepinv(physics, (1, 2, *SHAPE)), operator, image)

    def test_physics_of_real_images(self, operator, image):
        class Real:
            def A(self, x):
                return operator.forward(x[:, 0].to(torch.complex128)).real[:, None]

            def A_adjoint(self, y):
                return operator.adjoint(y[:, 0].to(torch.complex128)).real[:, None]

        ours = adapters.from_deepinv(Real(), (1, 1, *SHAPE))
        assert adjoint_error(ours) < 1e-12
        assert torch.allclose(ours.forward(image)[:, 0], operator.forward(image), atol=1e-12)

    def test_deepinv_itself(self, operator, image):
        pytest.importorskip("deepinv", reason="deepinv does not install beside this torch")
        physics = adapters.to_deepinv(operator)
        assert_equal_operators(adapters.from_deepinv(physics, (1, 2, *SHAPE)), operator, image)


def test_what_is_not_installed_is_said(monkeypatch, operator):
    import sys

    monkeypatch.setitem(sys.modules, "pylops", None)
    with pytest.raises(BadInputError, match=r"pip install 'equipoise\[pylops\]'"):
        adapters.to_pylops(operator, SMALL)
