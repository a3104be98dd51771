"""A series that is pulled to its still image: the image, the equation, and what is proved of it."""

import copy
from dataclasses import replace

import pytest
import torch

from equipoise.certificate.attack import Attackable
from equipoise.certificate.linear_response import LinearResponse
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.mol_ridge_3d import MolRidge3D, MolRidge3DConfig
from equipoise.networks.ridge_volume import RidgeVolume
from equipoise.outcome import BadInputError
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.dynamic import DynamicSenseOp, StaticOp, StillImage
from equipoise.physics.least_squares import tikhonov
from equipoise.physics.linop import adjoint_error, operator_norm
from equipoise.physics.sampling.dynamic import kt_mask
from equipoise.settings import checked
from equipoise.vectors import inner, norm
from equipoise.zoo.model_file import load_model, save_model
from problems import DOUBLE, random_complex

SHAPE = (4, 6, 8)
LAM = 20.0
EXACT = SolverOptions(rtol=1e-9, max_iter=400, window=10, exact=False)
HELD = {"lam": 3.0, "scale": 1.0, "threshold": 0.3, "options": EXACT}
SMALL = {"features": 3, "basis": 2, "filters": 2, "across": 2, "taps": 3}
SMALL |= {"spectral": True, "low_rank": True, "still": True}


def series():
    csm = biot_savart_maps(SHAPE[1:], 3).to(DOUBLE)
    operator = DynamicSenseOp(csm, kt_mask(SHAPE, 2.0, 2, seed=0))
    return operator, random_complex(operator.data_shape) * operator.mask[:, None]


def model_of(m=0.3, reference=LAM):
    network = RidgeVolume("time", m, **SMALL)
    config = MolRidge3DConfig(network=network.config, reference=reference)
    return MolRidge3D.around(network, config).double()


@pytest.fixture(autouse=True)
def exact_still_images(monkeypatch):
    monkeypatch.setattr("equipoise.physics.dynamic.STATIC_RTOL", 1e-11)


class TestStillImage:
    def test_its_operator_has_its_adjoint_its_normal_operator_and_a_norm_of_at_most_one(self):
        operator = StaticOp(series()[0])
        assert adjoint_error(operator) < 1e-12
        x = random_complex(operator.image_shape)
        assert torch.allclose(operator.normal(x), operator.adjoint(operator.forward(x)))
        assert float(operator_norm(operator)) <= float(operator.norm_bound().value) <= 1 + 1e-6

    def test_it_is_the_tikhonov_image_of_what_does_not_move(self):
        operator, data = series()
        still = StillImage(operator, LAM)
        found = still(data)
        assert torch.equal(found, found[:, :1].expand_as(found))
        expected = tikhonov(
            StaticOp(operator), data, torch.tensor([LAM], dtype=torch.float64), rtol=1e-12
        )
        assert torch.allclose(found[:, 0] * SHAPE[0] ** 0.5, expected)

    def test_it_is_the_truth_where_all_frames_together_measure_everything(self):
        csm = biot_savart_maps(SHAPE[1:], 3).to(DOUBLE)
        mask = torch.zeros(SHAPE, dtype=torch.bool)
        for t in range(SHAPE[0]):
            mask[t, :, t :: SHAPE[0]] = True
        operator = DynamicSenseOp(csm, mask)
        truth = random_complex((1, *SHAPE[1:]))[:, None].expand(-1, SHAPE[0], -1, -1)
        found = StillImage(operator, 1e6)(operator.forward(truth))
        assert float(norm(found - truth) / norm(truth)) < 1e-4

    def test_its_gradient_is_its_transpose_and_its_norm_is_bounded(self):
        operator, data = series()
        still = StillImage(operator, LAM)
        image = random_complex((1, *SHAPE), 3)
        left = inner(still.of(data), image)
        assert float(inner(data, still.transposed(image))) == pytest.approx(float(left))
        b = data.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(inner(still(b), image).sum(), b)
        assert torch.allclose(gradient, still.transposed(image))
        assert float(norm(still.of(data))) <= LAM**0.5 / 2 * float(norm(data))


class TestNetwork:
    def test_it_moves_by_m_times_the_image_in_tiles_too_and_copies_stay_as_they_are(self):
        network = RidgeVolume("time", 0.3, **SMALL).double()
        scale = torch.tensor([0.5], dtype=torch.float64)
        x, y = (random_complex((1, 4, 12, 16), seed) for seed in range(2))
        pulled = network.at(scale, reference=y)
        expected = network.at(scale)(x) + 0.3 * y
        assert torch.equal(pulled(x), expected)
        part = (slice(0, 12), slice(0, 8))
        assert torch.equal(
            pulled.part(*part)(x[..., :8]), network.at(scale)(x[..., :8]) + 0.3 * y[..., :8]
        )
        copied = copy.deepcopy(pulled)
        y.zero_()
        assert torch.equal(copied(x), expected)

    def test_a_tile_in_double_precision_has_the_kernels_of_single_precision(self):
        network = RidgeVolume("time", 0.3, **SMALL)
        x, y = (random_complex((1, 4, 16, 16), seed) for seed in range(2))
        whole = network.at(torch.ones(1, dtype=torch.float64), reference=y).double()
        part = (slice(0, 16), slice(0, 12))
        with torch.no_grad():
            inside = whole.part(*part)(x[..., :12])[..., :4] - whole(x)[..., :4]
        assert float(norm(inside)) < 1e-12

    def test_its_rounding_is_bounded(self):
        network = RidgeVolume("time", 0.3, **SMALL)
        scale = torch.ones(1, dtype=torch.float64)
        x, y = (random_complex((1, 4, 12, 16), s).to(torch.complex64) for s in range(2))
        single = network.at(scale, reference=1e3 * y)
        double = copy.deepcopy(single).double()
        with torch.no_grad():
            error = norm(single(x).to(DOUBLE) - double(x.to(DOUBLE)))
        assert float(error) <= float(single.rounding(x))
        # A large reference is most of the rounding here, so that leaving it out would be seen.
        assert float(error) > float(network.at(scale).rounding(x)) / 100


class TestMethod:
    def test_the_equilibrium_is_pulled_to_the_still_image(self):
        operator, data = series()
        model = model_of()
        with torch.no_grad():
            solution = model.solve(operator, data, **HELD)
            x, y = solution.value, StillImage(operator, LAM)(data)
            pull = 3.0 * operator.adjoint(operator.forward(x) - data) - 0.3 * y
            residual = pull + x - model.network.at(torch.tensor([0.3], dtype=torch.float64))(x)
        # The still image is held in the precision of the weights.
        assert float(norm(residual) / norm(x)) < 1e-7
        assert model.m_evidence == "proved"

    def test_23_bounds_how_far_the_series_moves_with_its_data(self):
        operator, data = series()
        model = model_of(m=0.02)
        with torch.no_grad():
            first = model.solve(operator, data, **HELD)
            bound = model.amplification(first)
            for seed in range(5):
                move = random_complex(data.shape, seed + 4) * operator.mask[:, None]
                other = model.solve(operator, data + move, **HELD)
                ratio = float(norm(other.value - first.value) / norm(move))
                assert ratio <= bound.end_to_end
        assert bound.end_to_end == pytest.approx(bound.first_held + LAM**0.5 / 2)

    def test_the_response_and_the_gradient_are_those_of_the_whole_map(self):
        operator, data = series()
        model = model_of()
        move = random_complex(data.shape, 4) * operator.mask[:, None]
        image = random_complex(operator.image_shape, 5)
        with torch.no_grad():
            solution = model.solve(operator, data, **HELD)
            step = 1e-5
            ends = [model.solve(operator, data + s * step * move, **HELD).value for s in (1, -1)]
            response = LinearResponse(model, operator, solution, rtol=1e-7)
            found, back = response(move), response.transposed(image)
        expected = (ends[0] - ends[1]) / (2 * step)
        assert float(norm(found - expected) / norm(expected)) < 1e-5
        assert float(inner(found, image)) == pytest.approx(float(inner(move, back)), rel=1e-5)
        attackable = Attackable(operator, model, solution, replace(EXACT), noise_level=None)
        b = data.clone().requires_grad_()
        # Along the response itself, because the product with a random image is close to zero.
        (gradient,) = torch.autograd.grad(inner(attackable(b), found).sum(), b)
        slope = float(inner(gradient, move))
        assert slope == pytest.approx(float(inner(expected, found)), rel=0.01)

    def test_a_file_keeps_its_weight_and_a_volume_has_no_still_image(self, tmp_path):
        save_model(tmp_path / "a.safetensors", model_of(), {"data": "none"})
        again = load_model(tmp_path / "a.safetensors")
        assert (again.reference, again.frozen) == (LAM, True)
        wrong = {"reference": 5.0, "network": {"axis": "z"}}
        with pytest.raises(BadInputError, match="only a series in time has a still image"):
            checked(MolRidge3DConfig, "volume", wrong)
