"""What is computed in pieces, to save memory, is what the whole array gives."""

import pytest
import torch

from equipoise import vectors
from equipoise.equilibrium.anderson import RIDGE, AndersonHistory
from equipoise.physics import cartesian
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.espirit import normalize_csm
from equipoise.physics.dynamic import DynamicSenseOp
from equipoise.vectors import chosen, inner


def images(count, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, dtype=torch.complex128, generator=generator) for _ in range(count)]


def history(n=6):
    """Five iterates of a batch of two, of which the second sample dropped its past once."""
    found = AndersonHistory(4)
    for k, (x, d) in enumerate(zip(images(5, (2, n, n)), images(5, (2, n, n), 1))):
        found = found.pushed(x, d, reset=torch.tensor([False, k == 2]))
    return found


class TestPieces:
    def test_anderson_solves_the_ridge_least_squares_of_unit_differences(self, monkeypatch):
        found = history()
        direction = found.last[1]
        expected = torch.zeros(2, 4, dtype=torch.float64)
        for i in range(2):
            used = [j for j in range(4) if bool(found.valid[j][i])]
            columns = [torch.view_as_real(found.differences[j][1][i]).flatten() for j in used]
            matrix = torch.stack(columns, 1)
            length = matrix.norm(dim=0)
            matrix = matrix / length
            gram = matrix.T @ matrix + RIDGE * torch.eye(len(used), dtype=torch.float64)
            rhs = matrix.T @ torch.view_as_real(direction[i]).flatten()
            expected[i, used] = torch.linalg.solve(gram, rhs) / length
        assert sum(bool(v[1]) for v in found.valid) < 4
        for piece in (vectors.PIECE, 7):
            monkeypatch.setattr(vectors, "PIECE", piece)
            assert torch.allclose(found._coefficients(direction), expected, rtol=1e-10, atol=1e-12)

    def test_a_difference_without_length_or_with_nan_is_not_used(self):
        x, d = images(2, (1, 4, 4))
        nothing = AndersonHistory(3).pushed(x, d, torch.tensor([False]))
        same = nothing.pushed(x, d, torch.tensor([False]))
        assert torch.equal(same.combine(), x + d)
        lost = nothing.pushed(x, d * torch.nan, torch.tensor([False]))
        assert torch.equal(lost._coefficients(d), torch.zeros(1, 1, dtype=torch.float64))

    def test_an_inner_product_has_the_value_and_the_gradient_of_the_whole(self, monkeypatch):
        a, b = images(2, (2, 5, 5))
        a.requires_grad_()
        whole = inner(a, b)
        (gradient,) = torch.autograd.grad(whole.sum(), a)
        monkeypatch.setattr(vectors, "PIECE", 7)
        assert torch.allclose(inner(a, b), whole, rtol=1e-12)
        (in_pieces,) = torch.autograd.grad(inner(a, b).sum(), a)
        assert torch.allclose(in_pieces, gradient, rtol=1e-12)

    @pytest.mark.parametrize("axis", ["z", "time"])
    def test_an_operator_is_the_same_coil_by_coil(self, axis, monkeypatch):
        shape = (6, 8, 8)
        maps = normalize_csm(images(1, (1, 3, *(shape if axis == "z" else shape[1:])))[0])
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.6
        operator = SenseOp(maps, mask[None]) if axis == "z" else DynamicSenseOp(maps, mask)
        x, data = images(1, (1, *shape))[0], images(1, (1, 3, *shape), 3)[0]

        def found():
            of_scale = operator.intensity_scale(data)
            return operator.normal(x), operator.adjoint(data), of_scale

        whole = found()
        monkeypatch.setattr(cartesian, "CACHE_BYTES", 1)
        monkeypatch.setattr("equipoise.physics.dynamic.CACHE_BYTES", 1)
        assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(whole, found()))

    def test_one_sample_is_chosen_without_a_copy_and_several_one_by_one(self):
        one, other = images(2, (1, 3, 3))
        assert chosen(torch.tensor([True]), one, other) is one
        assert chosen(torch.tensor([False]), one, other) is other
        both = chosen(torch.tensor([True, False]), one.repeat(2, 1, 1), other.repeat(2, 1, 1))
        assert torch.equal(both, torch.cat([one, other]))
