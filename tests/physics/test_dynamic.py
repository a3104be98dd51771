"""Series in time and volumes: operators, masks, maps and noise."""

import numpy as np
import pytest
import torch

from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import CACHE_BYTES, SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.dynamic import (
    DynamicSenseOp,
    dynamic_csm,
    dynamic_noise_level,
    shared_views,
)
from equipoise.physics.linop import adjoint_error, operator_norm
from equipoise.physics.noise_level import complex_noise
from equipoise.physics.sampling.dynamic import kt_mask, volume_mask
from equipoise.physics.sampling.masks import calibration_region
from equipoise.vectors import norm
from problems import DOUBLE, random_complex


def series(shape=(5, 8, 12), n_coils=3, batch=2, acceleration=3.0):
    csm = biot_savart_maps(shape[1:], n_coils).to(DOUBLE)
    masks = [kt_mask(shape, acceleration, 2, seed) for seed in range(batch)]
    return DynamicSenseOp(csm, torch.cat(masks))


class TestOperator:
    @pytest.mark.parametrize("shape", [(5, 8, 12), (1, 7, 16), (4, 9, 11)])
    def test_adjoint_in_double_precision(self, shape):
        assert adjoint_error(series(shape)) < 1e-12

    def test_its_norm_is_at_most_the_proved_bound_of_one(self):
        operator = series()
        bound = operator.norm_bound()
        assert bound.proved
        assert float(bound.value.max()) == pytest.approx(1, abs=1e-6)
        assert bool((operator_norm(operator) <= bound.value).all())

    def test_each_frame_is_that_of_the_operator_of_one_frame(self):
        operator, x = series(batch=1), random_complex((1, 5, 8, 12))
        frames = operator.frames()
        assert torch.allclose(operator.forward(x)[0].movedim(1, 0), frames.forward(x[0]))
        assert torch.allclose(operator.normal(x)[0], frames.normal(x[0]))

    @pytest.mark.parametrize("cache", [1, CACHE_BYTES])
    def test_the_normal_operator_is_the_same_for_any_number_of_frames_at_a_time(
        self, cache, monkeypatch
    ):
        monkeypatch.setattr("equipoise.physics.dynamic.CACHE_BYTES", cache)
        operator, x = series(), random_complex((2, 5, 8, 12))
        expected = operator.adjoint(operator.forward(x))
        assert float(norm(operator.normal(x) - expected).max()) < 1e-12

    def test_its_intensity_scale_is_that_of_the_image_and_scales_with_the_data(self):
        operator = series((6, 32, 32), acceleration=4.0, batch=1)
        image = torch.full((1, 6, 32, 32), 2.0, dtype=DOUBLE)
        data = operator.forward(image)
        scale = operator.intensity_scale(data)
        assert float(scale) == pytest.approx(2.0, rel=0.1)
        assert float(operator.intensity_scale(3 * data) / scale) == pytest.approx(3)

    def test_maps_of_several_axes_and_masks_without_time_are_refused(self):
        with pytest.raises(BadInputError, match="needs maps"):
            DynamicSenseOp(np.ones((2, 8, 8)), np.ones((8, 8)))
        with pytest.raises(BadInputError, match="several series"):
            series().frames()


class TestMasks:
    @pytest.mark.parametrize("acceleration", [3.0, 4.0, 8.0, 12.0])
    def test_every_frame_has_the_requested_number_of_columns(self, acceleration):
        mask = kt_mask((20, 4, 96), acceleration, 4, seed=3)[0]
        assert bool((mask == mask[:, :1]).all())
        assert set(mask[:, 0].sum(1).tolist()) == {round(96 / acceleration)}
        assert bool(mask[:, :, 46:50].all())

    def test_frames_interleave_where_repeated_frames_would_not(self):
        columns = kt_mask((16, 1, 96), 8.0, 4, seed=0)[0, :, 0]
        assert int(columns.any(0).sum()) > 70
        gaps = (~columns.any(0)).float()
        assert float(gaps[40:56].sum()) == 0

    @pytest.mark.parametrize(("frames", "width"), [(15, 100), (21, 95), (30, 256)])
    def test_all_frames_together_leave_no_gap_about_the_centre(self, frames, width):
        for seed in range(8):
            columns = kt_mask((frames, 1, width), 12.0, 4, seed)[0].any(0)
            assert calibration_region(columns)[1] >= 24

    def test_the_density_falls_towards_the_edge(self):
        columns = kt_mask((64, 1, 96), 6.0, 4, seed=0)[0, :, 0].double().mean(0)
        assert columns[30:66].mean() > 2 * columns[:18].mean()

    def test_seeds_differ_and_repeat(self):
        one, other = (kt_mask((5, 4, 64), 4.0, seed=s) for s in (0, 1))
        assert not bool((one == other).all())
        assert bool((one == kt_mask((5, 4, 64), 4.0, seed=0)).all())

    def test_a_calibration_beyond_the_acceleration_is_refused(self):
        with pytest.raises(BadInputError, match="calibration region alone"):
            kt_mask((5, 4, 64), 16.0, 8)
        with pytest.raises(BadInputError, match=r"\(time, y, x\)"):
            kt_mask((4, 64), 2.0)

    def test_a_volume_is_sampled_along_whole_lines_inside_an_ellipse(self):
        mask = volume_mask((40, 56, 6), 5.0, 10, seed=0)[0]
        assert bool((mask == mask[..., :1]).all())
        assert mask.numel() / int(mask.sum()) == pytest.approx(5.0, rel=1e-3)
        z, y = (torch.arange(n) - n // 2 for n in (40, 56))
        outside = (z[:, None] / 20) ** 2 + (y / 28) ** 2 > 1
        assert not bool(mask[..., 0][outside].any())
        assert min(calibration_region(mask)[:2]) >= 10
        assert bool(volume_mask((40, 56, 6), 2.0, 10, elliptical=False)[0, ..., 0][outside].any())

    def test_an_ellipse_with_too_few_points_is_refused(self):
        with pytest.raises(BadInputError, match="left by the ellipse"):
            volume_mask((40, 40, 4), 1.1, 10)

    def test_a_volume_operator_has_an_exact_adjoint_and_no_transform_along_its_readout(self):
        csm = random_complex((1, 2, 6, 8, 5))
        csm = csm / csm.abs().square().sum(1, keepdim=True).sqrt()
        operator = SenseOp(csm, volume_mask((6, 8, 5), 2.0, 2))
        assert adjoint_error(operator) < 1e-12
        x = random_complex((1, 6, 8, 5))
        assert torch.allclose(operator.normal(x), operator.adjoint(operator.forward(x)))
        assert operator._axes == (-3, -2)


class TestPartialFourier:
    def test_a_volume_leaves_out_the_first_lines_of_both_directions(self):
        mask = volume_mask((40, 56, 3), 5.0, 8, partial=(0.75, 0.625))[0, ..., 0]
        assert not bool(mask[:10].any())
        assert not bool(mask[:, :21].any())
        assert bool(mask[10].any())
        assert bool(mask[:, 21].any())
        assert mask.numel() / int(mask.sum()) == pytest.approx(5.0, rel=1e-3)
        assert min(calibration_region(mask)) >= 8

    def test_no_frame_of_a_series_holds_the_first_columns(self):
        mask = kt_mask((9, 4, 64), 4.0, 4, partial=0.75)[0]
        assert not bool(mask[..., :16].any())
        assert bool(mask[:, 0, 16].any())
        assert set(mask[:, 0].sum(1).tolist()) == {16}
        assert torch.equal(kt_mask((9, 4, 64), 4.0, 4), kt_mask((9, 4, 64), 4.0, 4, partial=1.0))

    def test_adjoints_are_exact(self):
        csm = random_complex((1, 2, 8, 10, 3))
        csm = csm / csm.abs().square().sum(1, keepdim=True).sqrt()
        whole = SenseOp(csm, volume_mask((8, 10, 3), 2.5, 2, partial=(0.75, 0.7)))
        mask = kt_mask((4, 8, 10), 2.0, 2, partial=0.7)[0]
        series = DynamicSenseOp(csm[..., 0], mask)
        assert adjoint_error(whole) < 1e-12
        assert adjoint_error(series) < 1e-12

    @pytest.mark.parametrize("share", [0.0, 0.5, 1.2, float("nan")])
    def test_a_share_that_cuts_into_the_centre_or_is_none_is_refused(self, share):
        with pytest.raises(BadInputError, match="partial Fourier"):
            kt_mask((4, 8, 32), 4.0, 4, partial=share)
        with pytest.raises(BadInputError, match="partial Fourier"):
            volume_mask((32, 32, 4), 4.0, 8, partial=(1.0, share))

    def test_too_few_columns_are_refused(self):
        with pytest.raises(BadInputError, match=r"partial Fourier 0\.75 leaves"):
            kt_mask((4, 8, 32), 1.1, 4, partial=0.75)


class TestMapsAndNoise:
    def test_maps_come_from_the_mean_although_no_frame_holds_a_calibration_region(self):
        shape = (12, 48, 48)
        csm = biot_savart_maps(shape[1:], 4)
        mask = kt_mask(shape, 4.0, 2, seed=0)[0]
        assert min(calibration_region(mask[0])) < 4
        y, x = (torch.linspace(-1, 1, 48) for _ in range(2))
        disc = ((y[:, None] ** 2 + x**2) < 0.6).to(torch.complex64)
        kspace = DynamicSenseOp(csm, mask).forward(disc.expand(1, *shape))[0]
        found = dynamic_csm(kspace, mask)
        inside = (found != 0).any(1)[0] & (disc.abs() > 0)
        # The phase of a map is arbitrary in each pixel, the modulus of the product is not.
        agreement = (found.conj() * csm).sum(1).abs()[0][inside]
        assert float(agreement.median()) > 0.99

    def test_the_noise_level_is_found_among_frames(self):
        rng = np.random.default_rng(0)
        mask = kt_mask((6, 96, 96), 4.0, seed=0)[0]
        noise = 0.3 * complex_noise((4, 6, 96, 96), rng) * mask
        assert float(dynamic_noise_level(noise, mask)) == pytest.approx(0.3, rel=0.08)


def test_a_frame_that_lacks_a_sample_takes_that_of_the_nearest_frame():
    """One sample, measured in frames 1 and 4 of 7; another in none."""
    mask = torch.zeros(1, 7, 1, 2, dtype=torch.bool)
    mask[0, [1, 4], 0, 0] = True
    kspace = torch.arange(14.0).reshape(1, 1, 7, 1, 2) + 0j
    shared, filled = shared_views(kspace, mask)
    assert shared[0, 0, :, 0, 0].real.tolist() == [2, 2, 2, 8, 8, 8, 8]
    assert bool(filled[..., 0].all())
    assert not bool(filled[..., 1].any())
    assert float(shared[..., 1].abs().max()) == 0


def test_of_two_frames_that_are_equally_near_the_earlier_one_is_taken():
    mask = torch.tensor([True, False, True]).reshape(1, 3, 1, 1)
    shared, _ = shared_views(torch.tensor([5.0, 0, 7]).reshape(1, 1, 3, 1, 1) + 0j, mask)
    assert shared.flatten().real.tolist() == [5, 5, 7]
