"""Blocks of pixels that change alike: shrunk singular values, their derivative and their proof."""

import copy
import math

import pytest
import torch

from equipoise.networks.low_rank import (
    accuracy,
    clipped,
    clipping_rounding,
    decomposed,
    image_of,
    matrices_of,
)
from equipoise.vectors import inner, norm
from problems import random_complex

THRESHOLDS = torch.tensor([1.5, 4.0], dtype=torch.float64)
SHARES = torch.tensor([0.3, 0.7], dtype=torch.float64)
ONE = torch.ones(1).double()


def matrices(seed, rows=4, columns=6, count=40):
    """Of every size, some without full rank and some with equal singular values."""
    found = random_complex((1, count, 1, rows, columns), seed)
    found = found * torch.logspace(-2, 1, count, dtype=torch.float64)[:, None, None, None]
    found[:, :5, :, 0] = found[:, :5, :, 1]
    found[:, 5] = 0
    found[:, 6] = 3 * torch.eye(rows, columns)
    return found


def at(given, scale=ONE):
    return clipped(given, THRESHOLDS, SHARES, scale)


class TestValue:
    @pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
    def test_singular_values_are_shrunk(self, shape):
        given = matrices(1, *shape)
        u, s, v = torch.linalg.svd(given, full_matrices=False)
        shrunk = sum(a * s.clamp(max=2 * t) for a, t in zip(SHARES, THRESHOLDS))
        expected = (u * shrunk[..., None, :]) @ v
        assert torch.allclose(at(given, 2 * ONE).value, expected, atol=1e-12)

    def test_is_the_gradient_of_a_convex_function_and_does_not_expand(self):
        """``<P(a) - P(b), a - b> >= ||P(a) - P(b)||^2`` of each pair."""
        for seed in range(20):
            near = random_complex((1, 40, 1, 4, 6), seed + 100)
            first = matrices(seed)
            second = first + near * torch.logspace(-4, 1, 40).double()[:, None, None, None]
            moved = (at(first).value - at(second).value).flatten(2)
            d = (first - second).flatten(2)
            assert bool(((moved.conj() * (d - moved)).real.sum(-1) >= -1e-12).all())

    def test_an_image_has_one_block_for_each_pixel(self):
        image = random_complex((2, 3, 17, 9))
        found = matrices_of(image)
        assert found.shape == (2, 3, 2, 3, 64)
        assert bool((image_of(found, image.shape) == image).all())
        assert float(norm(found)[0]) == pytest.approx(float(norm(image)[0]))


class TestDerivative:
    @pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
    def test_is_that_of_differences(self, shape):
        given, v = matrices(2, *shape), matrices(3, *shape)
        step = 1e-6
        difference = (at(given + step * v).value - at(given - step * v).value) / (2 * step)
        assert torch.allclose(at(given).change(v), difference, atol=1e-5)

    def test_is_symmetric_and_has_no_slope_below_zero_or_above_one(self):
        given, v, w = matrices(4), matrices(5), matrices(6)
        product = at(given).change
        assert float((inner(product(v), w) - inner(v, product(w))).abs()) < 1e-9
        along = (v.conj() * product(v)).real.sum((-2, -1))
        assert bool((along >= -1e-12).all())
        assert bool((along <= v.abs().square().sum((-2, -1)) * (1 + 1e-12)).all())

    def test_of_autograd_is_the_same_in_matrices_thresholds_and_shares(self):
        given = matrices(7).requires_grad_()
        thresholds, shares = (w.clone().requires_grad_() for w in (THRESHOLDS, SHARES))
        v = matrices(8)
        value = clipped(given, thresholds, shares, ONE).value
        gradients = torch.autograd.grad(inner(value, v).sum(), (given, thresholds, shares))
        assert torch.allclose(gradients[0], at(given.detach()).change(v))
        for gradient, weight, place in zip(gradients[1:], (THRESHOLDS, SHARES), (0, 1)):
            for k in range(len(weight)):
                values = []
                for step in (1e-6, -1e-6):
                    moved = [THRESHOLDS.clone(), SHARES.clone()]
                    moved[place][k] += step
                    values.append(inner(clipped(given.detach(), *moved, ONE).value, v).sum())
                expected = float(values[0] - values[1]) / 2e-6
                assert float(gradient[k]) == pytest.approx(expected, rel=1e-6)


class TestRounding:
    @pytest.mark.parametrize("kind", [torch.float32, torch.float64])
    @pytest.mark.parametrize("rows", [2, 30, 80])
    def test_a_decomposition_is_well_within_the_accuracy_that_it_must_have(self, kind, rows):
        given = random_complex((4, rows, 64), rows).to(kind.to_complex())
        given = given.mT if rows > 64 else given
        given[0, 1:] = given[0, :1] * 1e-3
        u, s, v = decomposed(given)
        assert bool(torch.isfinite(s).all())
        error = norm(given - u @ (s[..., None] * v)) / norm(given)
        assert float(error.max()) < 0.5 * accuracy(min(rows, 64), kind)

    def test_single_precision_stays_within_its_bound(self):
        for seed in range(5):
            exact = matrices(seed, 30, 64, 12)
            given = exact.to(torch.complex64)
            found = clipped(given, THRESHOLDS.float(), SHARES.float(), ONE.float()).value
            expected = at(given.to(torch.complex128)).value
            error = torch.linalg.vector_norm(found - expected, dim=(-2, -1))
            size = torch.linalg.vector_norm(exact, dim=(-2, -1))
            assert bool((error <= clipping_rounding(30, 64, torch.float32) * size).all())
            assert float(error.max()) > 0

    def test_numbers_that_are_not_finite_stay_and_harm_no_other_block(self):
        given = matrices(9)
        given[0, 3, 0, 1, 1] = math.nan
        given[0, 4, 0, 0, 2] = math.inf
        found, others = at(given).value, copy.deepcopy(matrices(9))
        assert bool(torch.isnan(found[0, 3:5].real).all())
        kept = [k for k in range(40) if k not in (3, 4)]
        assert torch.allclose(found[0, kept], at(others).value[0, kept])

    def test_a_decomposition_of_another_matrix_is_found(self, monkeypatch):
        svd = torch.linalg.svd
        off = lambda given, full_matrices: svd(given + 1e-4, full_matrices=full_matrices)  # noqa: E731
        monkeypatch.setattr(torch.linalg, "svd", off)
        assert bool(torch.isnan(decomposed(random_complex((2, 3, 8)))[1]).all())
