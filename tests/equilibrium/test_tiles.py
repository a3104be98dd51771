"""Tiles save memory and rough first evaluations save time; neither changes the result."""

import pytest
import torch

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.networks.cnn import CNN, in_bfloat16
from equipoise.networks.tiles import Tiled
from equipoise.outcome import Outcome
from equipoise.vectors import norm
from equipoise.zoo.model_file import load_model
from problems import DOUBLE, model_of, random_complex, sense_problem


def relative(a, b):
    return float((norm(a - b) / norm(b)).max())


def widest_input(network, run):
    """The most pixels that one evaluation of the network saw while ``run`` ran."""
    seen = []
    hook = network.register_forward_pre_hook(
        lambda _, arguments: seen.append(arguments[0].shape[-2:].numel())
    )
    result = run()
    hook.remove()
    return max(seen), result


class TestTiles:
    @pytest.mark.parametrize("shape", [(23, 17), (8, 40), (5, 5)])
    @pytest.mark.parametrize(("layers", "kernel"), [(3, 3), (2, 5), (5, 3)])
    @pytest.mark.parametrize("tile", [1, 4, 9, 100])
    def test_give_the_output_of_the_whole_image(self, shape, layers, kernel, tile):
        network = CNN(4, layers, kernel, gain=0.0, seed=1).double()
        x = random_complex((2, *shape))
        with torch.no_grad():
            assert relative(Tiled(network, tile)(x), network(x)) < 1e-14

    def test_a_halo_one_pixel_short_would_be_seen(self):
        class Short(CNN):
            reach = 2

        network = Short(4, 3, gain=0.0, seed=1).double()
        x = random_complex((1, 20, 20))
        with torch.no_grad():
            assert relative(Tiled(network, 6)(x), network(x)) > 1e-6

    def test_the_trained_network_is_the_same_in_tiles(self):
        network = load_model("mol-lr-brain-4x").network.double()
        x = random_complex((1, 70, 61))
        with torch.no_grad():
            assert relative(Tiled(network, 32)(x), network(x)) < 1e-13

    @pytest.mark.parametrize("recompute", [False, True])
    def test_solve_and_gradient_are_those_of_the_whole_image(self, recompute):
        operator, data = sense_problem((24, 20))
        results = {}
        for tile in (None, 6):
            model = model_of(0.9, gain=0.9)
            options = SolverOptions(rtol=1e-10, max_iter=500, tile=tile, recompute=recompute)

            def run(model=model, options=options):
                value = model.solve(operator, data, options=options).value
                value.abs().square().sum().backward()
                return value.detach()

            pixels, value = widest_input(model.network, run)
            gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
            results[tile] = (value, gradient)
            reach = 2 * model.network.reach
            assert pixels == (24 * 20 if tile is None else (6 + reach) * (5 + reach))
        assert relative(results[6][0], results[None][0]) < 1e-9
        assert torch.allclose(results[6][1], results[None][1], rtol=1e-6, atol=1e-9)

    def test_recomputing_keeps_no_activations(self):
        x = random_complex((1, 32, 32)).requires_grad_()
        network = CNN(16, 5).double()
        saved = {}
        for recompute in (False, True):
            kept = []

            def pack(tensor, kept=kept):
                kept.append(tensor.numel())
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                image = Tiled(network, 16, recompute)(x)
            saved[recompute] = sum(kept)
            (gradient,) = torch.autograd.grad(image, x, image.detach())
            saved[recompute, "gradient"] = gradient
        assert saved[True] < 0.1 * saved[False]
        assert relative(saved[True, "gradient"], saved[False, "gradient"]) < 1e-13


class TestRoughEvaluations:
    def counted(self, model):
        calls = {"rough": 0, "full": 0}
        forward = CNN.forward

        def count(network, image):
            calls["rough" if network.dtype == torch.bfloat16 else "full"] += 1
            return forward(network, image)

        return calls, count

    def test_are_as_many_as_asked_for_and_leave_the_result(self, monkeypatch):
        operator, data = sense_problem((24, 20))
        model = model_of(0.9, gain=0.9)
        with torch.no_grad():
            exact = model.solve(operator, data, options=SolverOptions(rtol=1e-10, max_iter=500))
            calls, count = self.counted(model)
            monkeypatch.setattr(CNN, "forward", count)
            solution = model.solve(operator, data, options=SolverOptions(rtol=1e-4, rough=3))
        assert solution.converged
        assert calls["rough"] == 3
        assert calls["rough"] + calls["full"] == int(solution.network_evaluations.max())
        error = norm(solution.value - exact.value) / norm(exact.value)
        assert bool((error <= solution.distance_bound).all())
        assert bool((solution.distance_bound <= 1e-4).all())

    def test_bound_nothing(self):
        operator, data = sense_problem()
        with torch.no_grad():
            options = SolverOptions(rtol=1.0, rough=2)
            solution = model_of().solve(operator, data, options=options)
        assert solution.network_evaluations.tolist() == [3, 3]
        assert torch.isinf(torch.stack(solution.history)[:2, 1]).all()

    def test_nan_stays_divergence(self):
        operator, data = sense_problem()
        model = model_of()
        with torch.no_grad():
            model.network.convolutions[0].bias.fill_(torch.nan)
            solution = model.solve(operator, data, options=SolverOptions(rough=2))
        assert solution.outcome == [Outcome.DIVERGED] * 2
        assert bool(torch.isfinite(solution.value.abs()).all())

    def test_a_network_in_bfloat16_is_near_the_network_and_not_equal(self):
        network = load_model("mol-lr-brain-4x").network
        x = random_complex((1, 40, 40)).to(torch.complex64)
        with torch.no_grad():
            difference = relative(in_bfloat16(network)(x), network(x))
        assert 1e-4 < difference < 3e-2
        assert in_bfloat16(network)(x.to(DOUBLE)).dtype == DOUBLE

    @pytest.mark.parametrize("bad", [{"rough": -1}, {"rough": 5, "max_iter": 5}, {"tile": 0}])
    def test_impossible_options_are_refused(self, bad):
        with pytest.raises(ValueError, match=r"rough|tile"):
            SolverOptions(**bad)
