"""MOL of series and volumes: the equilibrium, its bounds, its gradient and its file."""

from dataclasses import replace

import pytest
import torch

from equipoise.certificate.linear_response import LinearResponse
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.mol_ridge import MolRidge
from equipoise.methods.mol_ridge_3d import MolRidge3D, MolRidge3DConfig
from equipoise.networks.ridge import Ridge
from equipoise.networks.ridge_volume import RidgeVolume, RidgeVolumeConfig
from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.dynamic import DynamicSenseOp
from equipoise.physics.sampling.dynamic import kt_mask, volume_mask
from equipoise.vectors import norm, per_sample
from equipoise.zoo.model_file import load_model, save_model
from problems import DOUBLE, random_complex, sense_problem

SHAPE = (3, 6, 8)
TIGHT = SolverOptions(rtol=1e-8, max_iter=300, window=10, exact=False)
NOISE = torch.tensor([0.05], dtype=torch.float64)
SMALL = {"features": 3, "basis": 2, "filters": 2, "across": 2, "taps": 3}


def series():
    csm = biot_savart_maps(SHAPE[1:], 3).to(DOUBLE)
    operator = DynamicSenseOp(csm, kt_mask(SHAPE, 2.0, 2, seed=0))
    return operator, random_complex(operator.data_shape) * operator.mask[:, None]


def volume():
    plane = biot_savart_maps(SHAPE[1:], 3).to(DOUBLE)
    csm = plane[:, :, None].expand(1, 3, *SHAPE)
    operator = SenseOp(csm, volume_mask(SHAPE, 2.0, 2, seed=0))
    return operator, random_complex(operator.data_shape) * operator.mask[:, None]


def model_of(axis="time", seed=0):
    return MolRidge3D(RidgeVolume(axis, 0.3, **SMALL, seed=seed)).double()


CASES = {"time": series, "z": volume}


class TestEquation:
    @pytest.mark.parametrize("axis", CASES)
    def test_the_equilibrium_solves_it_within_its_bound(self, axis):
        operator, data = CASES[axis]()
        model = model_of(axis)
        with torch.no_grad():
            solution = model.solve(operator, data, noise_level=NOISE, options=TIGHT)
            x = solution.value / per_sample(solution.scale, solution.value)
            b = data / per_sample(solution.scale, data)
            residual = per_sample(solution.lam, x) * operator.adjoint(operator.forward(x) - b)
            residual = residual + x - solution.network(x)
            loose = model.solve(operator, data, noise_level=NOISE, options=SolverOptions(rtol=0.05))
        assert solution.converged
        assert float(norm(residual) / norm(x)) < 1e-7
        off = norm(loose.value - solution.value) / norm(loose.value)
        assert float(off) <= float(loose.distance_bound) + 1e-9
        assert model.m_evidence == "proved"

    @pytest.mark.parametrize("axis", CASES)
    def test_a_model_in_single_precision_is_certified_with_its_rounding(self, axis):
        double, data = CASES[axis]()
        csm = double.csm.to(torch.complex64)
        single = (
            DynamicSenseOp(csm[:, :, 0], double.mask)
            if axis == "time"
            else SenseOp(csm, double.mask)
        )
        model = MolRidge3D(RidgeVolume(axis, 0.05, **SMALL))
        options = SolverOptions(rtol=1e-4, window=10)
        with torch.no_grad():
            found = model.solve(single, data.to(torch.complex64), noise_level=0.05, options=options)
        assert found.converged
        assert 0 < float(found.rounding) < 1e-4
        assert float(found.distance_bound) <= 1e-4

    def test_8_bounds_how_far_the_series_moves_with_its_data(self):
        operator, data = series()
        model = model_of()
        given = {"lam": 3.0, "scale": 1.0, "threshold": 0.3, "options": TIGHT}
        with torch.no_grad():
            first = model.solve(operator, data, **given)
            move = 0.1 * random_complex(data.shape, 4) * operator.mask[:, None]
            other = model.solve(operator, data + move, **given)
        ratio = norm(other.value - first.value) / norm(move)
        assert float(ratio) <= model.amplification(first).end_to_end

    def test_the_response_to_noise_is_the_derivative_and_has_its_transpose(self):
        operator, data = series()
        model = model_of()
        given = {"lam": 3.0, "scale": 1.0, "threshold": 0.3, "options": TIGHT}
        move = random_complex(data.shape, 4) * operator.mask[:, None]
        image = random_complex(operator.image_shape, 5)
        with torch.no_grad():
            solution = model.solve(operator, data, **given)
            response = LinearResponse(model, operator, solution, rtol=1e-7)
            step = 1e-5
            ends = [model.solve(operator, data + s * step * move, **given).value for s in (1, -1)]
            found = response(move)
            back = response.transposed(image)
        difference = (ends[0] - ends[1]) / (2 * step)
        assert float(norm(found - difference) / norm(difference)) < 1e-2
        left, right = (found.conj() * image).sum().real, (move.conj() * back).sum().real
        assert float((left - right).abs() / left.abs()) < 1e-5

    def test_tiles_change_nothing(self):
        operator, data = series()
        model = model_of()
        with torch.no_grad():
            whole, tiled = (
                model.solve(
                    operator,
                    data,
                    noise_level=NOISE,
                    options=replace(TIGHT, tile=tile),
                ).value
                for tile in (None, 4)
            )
        assert float(norm(whole - tiled) / norm(whole)) < 1e-7


class TestAxes:
    def test_images_of_other_axes_are_refused_by_their_names(self):
        frame, frame_data = sense_problem(batch=1)
        with pytest.raises(BadInputError, match=r"\(y, x\), and mol-ridge-3d.*\(time, y, x\)"):
            model_of().solve(frame, frame_data)
        operator, data = volume()
        with pytest.raises(BadInputError, match=r"\(z, y, x\), and mol-ridge-3d.*\(time, y, x\)"):
            model_of("time").solve(operator, data)
        plane = MolRidge(Ridge(0.05, features=3, basis=2)).double()
        with pytest.raises(BadInputError, match="frame by frame"):
            plane.solve(*series())


class TestStart:
    def test_a_trained_frame_starts_it_and_gives_its_images_where_nothing_is_across(self):
        frame = MolRidge(Ridge(0.05, features=3, basis=2)).double()
        asked = MolRidge3DConfig(network=RidgeVolumeConfig(m=0.05))
        model = MolRidge3D.after(frame, asked).double()
        assert (model.network.features, model.m) == (3, 0.05)
        with torch.no_grad():
            model.network.second_across.zero_()
        operator, data = series()
        given = {"lam": 5.0, "scale": 1.0, "threshold": 0.2, "options": TIGHT}
        with torch.no_grad():
            whole = model.solve(operator, data, **given).value[0]
            frames = operator.frames()
            data = data[0].movedim(1, 0)
            one_by_one = frame.solve(frames, data, **{**given, "lam": [5.0] * 3}).value
        assert float(norm(whole - one_by_one).max()) < 1e-6


class TestGradient:
    def test_of_weights_and_both_rules_is_that_of_differences(self):
        operator, data = series()
        model = model_of()
        target = random_complex(operator.image_shape, 9)

        def loss():
            options = replace(TIGHT, rtol=1e-9)
            solution = model.solve(operator, data, noise_level=NOISE, options=options)
            return (solution.value - target).abs().square().sum()

        loss().backward()
        found, expected = 0.0, 0.0
        parameters = list(model.parameters())
        directions = [
            torch.randn(p.shape, generator=torch.Generator().manual_seed(i)).double()
            for i, p in enumerate(parameters)
        ]
        found = sum(float((p.grad * d).sum()) for p, d in zip(parameters, directions))
        values = []
        with torch.no_grad():
            for step in (1e-5, -2e-5):
                for parameter, direction in zip(parameters, directions):
                    parameter.add_(step * direction)
                values.append(loss().item())
        expected = (values[0] - values[1]) / 2e-5
        assert found == pytest.approx(expected, rel=1e-3)


class TestFile:
    def test_is_the_same_model_when_it_is_read(self, tmp_path):
        model = MolRidge3D(RidgeVolume("time", 0.05, **SMALL))
        save_model(tmp_path / "a.safetensors", model, {"data": "none"})
        again = load_model(tmp_path / "a.safetensors")
        assert isinstance(again, MolRidge3D)
        assert (again.m, again.m_evidence) == (0.05, "proved")
        assert again.axes == ("time", "y", "x")
        operator, data = series()
        with torch.no_grad():
            values = [m.solve(operator, data, noise_level=NOISE).value for m in (model, again)]
        assert torch.equal(*values)
