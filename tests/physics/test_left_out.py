"""Samples that are left out, and samples that never are."""

import pytest
import torch

from equipoise.physics.sampling.dynamic import kt_mask
from equipoise.physics.sampling.left_out import (
    FEWEST,
    FEWEST_OF_SERIES,
    PROTECTED,
    density_weights_of_series,
    leave_out,
)
from equipoise.physics.sampling.masks import calibration_region, centre_block, make_mask

KINDS = ("variable-density-2d", "poisson-disc", "variable-density-1d", "uniform")


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_falls_into_two_parts_and_keeps_its_centre(kind):
    mask = make_mask(kind, (120, 96), 2.0, 16, seed=1)[0]
    found = leave_out(mask, 0.1, seed=0)
    assert torch.equal(found.kept | found.left_out, mask)
    assert not bool((found.kept & found.left_out).any())
    region = zip(calibration_region(mask), mask.shape)
    size = tuple(min(n, round(PROTECTED * whole)) for n, whole in region)
    block = torch.from_numpy(centre_block(tuple(mask.shape), size))
    assert not bool((found.left_out & block).any())
    assert 0.02 < float(found.left_out.sum() / mask.sum()) < 0.3


@pytest.mark.parametrize(("kind", "along"), list(zip(KINDS, (None, None, 0, 0))))
def test_lines_are_left_out_as_a_whole(kind, along):
    mask = make_mask(kind, (120, 96), 2.0, 16, seed=1)[0]
    found = leave_out(mask, 0.1, seed=0)
    assert found.along == along
    power = torch.rand(mask.shape, dtype=torch.float64)
    units = found.by_unit(power)
    assert float(units.sum()) == pytest.approx(float(power[found.left_out].sum()))
    if along is not None:
        columns = found.left_out.any(0)
        assert torch.equal(found.left_out[:, columns], mask[:, columns])
        assert len(units) == int(columns.sum()) >= FEWEST
    assert found.unit == ("sample" if along is None else "line")


def test_rows_are_lines_too():
    mask = make_mask("uniform", (96, 120), 3.0, 16, seed=1)[0].mT.contiguous()
    found = leave_out(mask, 0.1, seed=0)
    assert found.along == 1
    assert bool(found.left_out.any(1).sum() == found.left_out[:, 0].sum())


def test_a_fully_sampled_mask_leaves_out_single_samples():
    found = leave_out(torch.ones(64, 60, dtype=torch.bool), 0.1, seed=0)
    assert found.along is None
    assert 0.07 < float(found.left_out.double().mean()) < 0.1


def test_too_little_is_nothing_to_predict():
    only_calibration = torch.from_numpy(centre_block((64, 60), (6, 6)))
    assert leave_out(only_calibration, 0.1, seed=0) is None
    few = only_calibration.clone()
    few[3, :2] = True
    assert leave_out(few, 0.1, seed=0) is None


def test_the_seed_decides_the_draw():
    mask = make_mask("poisson-disc", (80, 80), 4.0, 12, seed=0)[0]
    first, again, other = (leave_out(mask, 0.1, seed).left_out for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_lines_of_a_series_are_left_out_of_single_frames_but_not_those_of_every_frame():
    mask = kt_mask((12, 40, 48), 6.0, 4, seed=0)[0]
    found = leave_out(mask, 0.1, seed=0)
    assert found.along == 1
    assert found.unit == "line"
    assert torch.equal(found.kept | found.left_out, mask)
    assert not bool((found.kept & found.left_out).any())
    lines = found.left_out.any(1)
    assert bool((found.left_out == (lines[:, None] & mask)).all())
    assert not bool(lines[:, mask.all(0).any(0)].any())
    # Of several frames, and as many as can be compared.
    candidates = int((mask.any(1) & ~mask.all(0).any(0)).sum())
    assert int(lines.any(1).sum()) > 3
    assert int(lines.sum()) == min(FEWEST_OF_SERIES, candidates // 3) > 0.1 * candidates
    power = torch.rand(mask.shape)
    assert float(found.by_unit(power).sum()) == pytest.approx(float(power[found.left_out].sum()))


def test_of_a_long_series_no_more_lines_are_left_out_than_asked_for():
    mask = kt_mask((40, 24, 128), 6.0, 4, seed=0)[0]
    candidates = int((mask.any(1) & ~mask.all(0).any(0)).sum())
    lines = leave_out(mask, 0.1, seed=0).left_out.any(1)
    assert int(lines.sum()) == round(0.1 * candidates) > FEWEST_OF_SERIES


def test_the_weights_of_a_series_are_one_over_the_density_of_all_frames():
    """Eight frames, each with half of the left columns and one in eight of the right ones."""
    t, x = torch.arange(8)[:, None], torch.arange(64)
    columns = torch.where(x < 32, (x + t) % 2 == 0, (x + t) % 8 == 0)
    mask = columns[:, None].expand(8, 64, 64)
    weights = density_weights_of_series(mask, mask)
    assert float(weights.sum()) == pytest.approx(1)
    left, right = (weights[..., part][mask[..., part]].mean() for part in (x < 28, x >= 36))
    assert float(right / left) == pytest.approx(4, rel=0.05)
