"""The methods with deeper proved networks: their equation, gradient, file and evidence."""

import pytest
import torch

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.mol_layered import MolComposed, MolLayered
from equipoise.methods.registry import METHODS as METHODS_BY_NAME
from equipoise.networks.composed import Composed
from equipoise.networks.layered import Layered
from equipoise.outcome import BadInputError
from equipoise.vectors import norm, per_sample
from equipoise.zoo.model_file import load_model, save_model
from problems import TIGHT, random_complex, sense_problem

NOISE = torch.tensor([0.02, 0.1], dtype=torch.float64)


def layered(**changes):
    shape = {"m": 0.05, "features": 3, "basis": 2, "layers": 3}
    return MolLayered(Layered(**{**shape, **changes}))


def composed(**changes):
    shape = {"m": 0.05, "width": 5, "features": 4, "layers": 2}
    return MolComposed(Composed(**{**shape, **changes}))


METHODS = [layered, composed]


@pytest.mark.parametrize("method", METHODS)
class TestEquation:
    def test_two_starts_end_in_one_equilibrium_that_solves_it(self, method):
        model = method(m=0.3).double()
        operator, data = sense_problem()
        start = 10 * random_complex((2, *operator.image_shape[1:]), 3)
        with torch.no_grad():
            one, other = (
                model.solve(operator, data, noise_level=NOISE, options=TIGHT, start=s)
                for s in (None, start)
            )
            x = one.value / per_sample(one.scale, one.value)
            b = data / per_sample(one.scale, data)
            residual = per_sample(one.lam, x) * operator.adjoint(operator.forward(x) - b)
            residual = residual + x - one.network(x)
        assert float((norm(one.value - other.value) / norm(one.value)).max()) < 1e-9
        assert float((norm(residual) / norm(x)).max()) < 1e-9

    def test_a_single_precision_model_is_certified_with_its_rounding(self, method):
        operator, data = sense_problem()
        options = SolverOptions(rtol=1e-3, window=10)
        with torch.no_grad():
            found = method().solve(operator, data, noise_level=NOISE, options=options)
            exact = method().double().solve(operator, data, noise_level=NOISE, options=TIGHT)
        assert found.converged
        assert found.rounding is not None
        off = norm(found.value - exact.value) / norm(found.value)
        assert bool((off <= found.distance_bound).all())

    def test_the_gradient_for_rules_thresholds_and_kernels_is_that_of_the_image(self, method):
        model = method(m=0.5).double()
        operator, data = sense_problem()
        v = random_complex((2, *operator.image_shape[1:]), 5)
        generator = torch.Generator().manual_seed(1)

        def value():
            options = SolverOptions(rtol=1e-8, exact=False)
            image = model.solve(operator, data, noise_level=NOISE, options=options).value
            return (image.conj() * v).real.sum()

        value().backward()
        weights = list(model.parameters())
        directions = [torch.randn(w.shape, generator=generator).double() for w in weights]
        values = []
        for step in (1e-4, -2e-4):
            with torch.no_grad():
                for weight, d in zip(weights, directions):
                    weight.add_(step * d)
                values.append(float(value()))
        found = sum(float((w.grad * d).sum()) for w, d in zip(weights, directions))
        # That of the norms is taken on a coarse grid.
        assert found == pytest.approx((values[0] - values[1]) / 2e-4, rel=0.05)


@pytest.mark.parametrize("method", METHODS)
class TestFile:
    def test_holds_every_setting(self, method, tmp_path):
        model = method(clips=3, seed=4)
        with torch.no_grad():
            model.network.log_threshold.add_(1.0)
        save_model(tmp_path / "model.safetensors", model, {})
        again = load_model(tmp_path / "model.safetensors")
        assert again.config == model.config
        assert (again.name, again.m, again.m_evidence) == (model.name, 0.05, "proved")
        operator, data = sense_problem()
        with torch.no_grad():
            images = [m.solve(operator, data, noise_level=NOISE).value for m in (model, again)]
        assert torch.equal(*images)

    def test_weights_of_any_size_prove_m(self, method, tmp_path):
        model = method()
        with torch.no_grad():
            for weight in model.network.kernels():
                weight.mul_(1e15)
        save_model(tmp_path / "model.safetensors", model, {})
        assert load_model(tmp_path / "model.safetensors").m_evidence == "proved"


@pytest.mark.parametrize("name", ["mol-ridge", "mol-layered"])
def test_kernels_that_cannot_be_normalised_are_refused(name, tmp_path):
    model = METHODS_BY_NAME[name].new(METHODS_BY_NAME[name].Config())
    with torch.no_grad():
        model.network.first.zero_()
    save_model(tmp_path / "model.safetensors", model, {})
    with pytest.raises(BadInputError, match=r"not for these: .*inf"):
        load_model(tmp_path / "model.safetensors")
