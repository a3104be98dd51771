"""What a certificate measures of two passes is the whole map from the data to the second image."""

import pytest
import torch

from equipoise.certificate.attack import Attackable, Probe, krylov_start
from equipoise.certificate.linear_response import LAST_STEP, LinearResponse
from equipoise.certificate.noise_map import replica_noise_map
from equipoise.certificate.noise_response import measured_noise
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.mol_guided import MolGuided
from equipoise.methods.mol_ridge import MolRidge
from equipoise.networks.adaptation import AdaptationConfig
from equipoise.networks.ridge import Ridge
from equipoise.physics.problem import Problem
from equipoise.vectors import inner, norm
from problems import random_complex, sense_problem

EXACT = SolverOptions(rtol=1e-9, max_iter=400, window=10, exact=False)
NOISE = torch.tensor([0.05], dtype=torch.float64)
STEP = 1e-5


def two_passes(limit):
    """Two passes whose factors follow the first image: it carries a tenth of the response."""
    ridges = [Ridge(0.2, features=5, basis=3, seed=seed) for seed in range(2)]
    adaptation = AdaptationConfig(features=5, hidden=6, limit=limit).build(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        adaptation.last.copy_(3 * torch.randn(adaptation.last.shape, generator=generator))
    return MolGuided(ridges[1], MolRidge(ridges[0]), adaptation, options=EXACT).double()


class Whole:
    """Both passes solved exactly, and the two-sided difference of the map from data to image."""

    def __init__(self, model):
        self.model = model
        model.guide.options = EXACT
        self.operator, self.data = sense_problem(batch=1)
        with torch.no_grad():
            self.solution = model.solve(self.operator, self.data, noise_level=NOISE, options=EXACT)
        self.change = random_complex(self.data.shape, 6) * self.operator.mask[:, None]
        self.moved = self.difference(self.change)

    def image(self, data):
        held = {**self.solution.held, "noise_level": NOISE}
        with torch.no_grad():
            return self.model.solve(self.operator, data, options=EXACT, **held).value

    def difference(self, change):
        ahead, behind = (self.image(self.data + step * change) for step in (STEP, -STEP))
        return (ahead - behind) / (2 * STEP)


@pytest.fixture(scope="module", params=[None, 1.0])
def whole(request):
    with pytest.MonkeyPatch.context() as exact:
        exact.setattr("equipoise.methods.mol_guided.FIRST_RTOL", EXACT.rtol)
        exact.setattr("equipoise.certificate.attack.BACKWARD_RTOL", EXACT.rtol)
        yield Whole(two_passes(request.param))


class TestResponse:
    def test_23_is_the_derivative_of_both_passes_and_its_transpose(self, whole):
        response = LinearResponse(whole.model, whole.operator, whole.solution, rtol=1e-6)
        moved, expected = response(whole.change), whole.moved
        assert float(norm(moved - expected) / norm(expected)) < 1e-5
        image = random_complex(expected.shape, 8)
        left = float(inner(image, expected).sum())
        assert float(inner(response.transposed(image), whole.change).sum()) == pytest.approx(
            left, rel=1e-4
        )

    def test_23_with_the_first_image_held_it_is_another_one(self, whole):
        """The test above would not pass without the first pass, which moves much of the image."""
        response = LinearResponse(whole.model, whole.operator, whole.solution, rtol=1e-6)
        expected = whole.moved
        held = response.pass_.forward(response.pass_.weighted(whole.operator.adjoint(whole.change)))
        assert float(norm(held - expected) / norm(expected)) > 0.1


class TestAttack:
    def test_17_the_gradient_is_that_of_differences_of_both_passes(self, whole):
        attackable = Attackable(
            whole.operator, whole.model, whole.solution, EXACT, noise_level=NOISE
        )
        weight = random_complex(whole.solution.value.shape, 5)
        b = whole.data.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(inner(attackable(b), weight).sum(), b)
        found = float(inner(gradient, whole.change).sum())
        expected = float(inner(whole.moved, weight).sum())
        assert found == pytest.approx(expected, rel=1e-4)

    def test_17_lanczos_steps_begin_where_both_passes_move_most(self, whole):
        """The gain that they state is that of the image, by differences."""
        response = LinearResponse(whole.model, whole.operator, whole.solution, until=LAST_STEP)
        measured = whole.operator.mask[:, None].expand(whole.data.shape)
        noise = whole.change.to(torch.complex64)  # the precision of probes
        known = Probe(noise, response(noise))
        begin = krylov_start(response, whole.data, measured, steps=3, known=known)
        gain = float(norm(whole.difference(begin.direction)) / norm(begin.direction))
        assert gain == pytest.approx(begin.gain, rel=0.03)
        random = float(norm(whole.moved) / norm(whole.change))
        assert gain > 1.2 * random


def test_16_the_noise_map_of_two_passes_is_that_of_pseudo_replicas(whole, monkeypatch):
    """From equal probes, pixel by pixel: no pixel may differ by more than the curvature."""
    problem = Problem(whole.operator, whole.data, noise_level=NOISE)
    found = measured_noise(
        problem, whole.model, whole.solution, probes=4, until=SolverOptions(rtol=1e-3), shrink=False
    )
    for one in (whole.model, whole.model.guide):
        monkeypatch.setattr(one, "options", SolverOptions(rtol=1e-5, exact=False))
    replicas = replica_noise_map(problem, whole.model, whole.solution, probes=4)
    assert found.map.probes == replicas.probes == 4
    difference = float((found.map.std - replicas.std).norm() / replicas.std.norm())
    assert difference < 0.03  # the curvature of thresholds that follow the noise
