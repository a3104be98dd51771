"""Operators, masks, coil maps, noise."""

import math

import numpy as np
import pytest
import torch

from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import CACHE_BYTES, SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.coils.espirit import estimate_csm, normalize_csm
from equipoise.physics.fourier import image_to_kspace, kspace_to_image
from equipoise.physics.linop import LinearOperator, adjoint_error, operator_norm
from equipoise.physics.noise_level import noise_level
from equipoise.physics.sampling.masks import MASKS, calibration_region, make_mask
from equipoise.vectors import inner, norm
from problems import DOUBLE, random_complex


def operator_of(shape, n_coils=4, batch=2, dtype=DOUBLE):
    csm = random_complex((1, n_coils, *shape)).to(dtype)
    csm = csm / csm.abs().square().sum(1, keepdim=True).sqrt()
    mask = torch.rand((batch, *shape), generator=torch.Generator().manual_seed(0)) < 0.4
    return SenseOp(csm, mask)


class TestFourier:
    @pytest.mark.parametrize("shape", [(8, 6), (7, 9), (4, 5, 6)])
    def test_is_unitary_and_centred(self, shape):
        image = random_complex((2, *shape))
        kspace = image_to_kspace(image, len(shape))
        assert float((norm(kspace) / norm(image) - 1).abs().max()) < 1e-14
        assert float(norm(kspace_to_image(kspace, len(shape)) - image).max()) < 1e-13
        flat = image_to_kspace(torch.ones((1, *shape), dtype=DOUBLE), len(shape))
        centre = tuple(n // 2 for n in shape)
        assert flat[(0, *centre)].real.item() == pytest.approx(math.sqrt(math.prod(shape)))


class TestSense:
    @pytest.mark.parametrize("shape", [(8, 6), (7, 9), (12, 5), (4, 5, 6)])
    def test_adjoint_in_double_precision(self, shape):
        assert adjoint_error(operator_of(shape)) < 1e-12

    def test_the_adjoint_test_catches_a_wrong_adjoint(self):
        class Wrong(LinearOperator):
            image_shape = (1, 8, 6)

            def forward(self, image):
                return image_to_kspace(image)

            def adjoint(self, data):
                return image_to_kspace(data)

        assert adjoint_error(Wrong()) > 0.1

    @pytest.mark.parametrize("shape", [(8, 6), (7, 9), (5, 4, 3)])
    def test_the_normal_operator_without_shifts_is_the_normal_operator(self, shape):
        operator = operator_of(shape)
        x = random_complex((2, *shape))
        difference = operator.normal(x) - operator.adjoint(operator.forward(x))
        assert float((norm(difference) / norm(x)).max()) < 1e-14

    @pytest.mark.parametrize("kind", ["all", "lines", "columns", "one point missing"])
    def test_the_normal_operator_skips_only_transforms_that_cancel(self, kind):
        """Maps in single, image in double precision, more coils than are transformed at once."""
        mask = torch.rand((2, 180, 176), generator=torch.Generator().manual_seed(0)) < 0.4
        mask = {
            "all": torch.ones_like(mask),
            "lines": mask[:, :1].expand_as(mask),
            "columns": mask[:, :, :1].expand_as(mask),
            "one point missing": torch.arange(mask[0].numel()).reshape(1, *mask.shape[1:]) != 77,
        }[kind]
        csm = biot_savart_maps((180, 176), 5)
        operator = SenseOp(csm, mask)
        x = random_complex((len(mask), 180, 176))
        assert 1 < CACHE_BYTES // (x.numel() * x.element_size()) < 5
        expected = operator.adjoint(operator.forward(x))
        assert float((norm(operator.normal(x) - expected) / norm(expected)).max()) < 1e-12

    @pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
    def test_precision_is_kept(self, dtype):
        operator = operator_of((8, 6), dtype=dtype)
        x = random_complex((2, 8, 6)).to(dtype)
        assert operator.forward(x).dtype == operator.normal(x).dtype == dtype

    def test_norm_is_at_most_one_for_normalised_maps(self):
        norms = operator_norm(operator_of((16, 12), dtype=torch.complex64), iterations=60)
        assert bool((norms <= 1 + 1e-6).all())
        assert float(norms.min()) > 0.5

    def test_maps_and_mask_must_fit(self):
        csm = torch.ones((1, 2, 4, 4), dtype=DOUBLE)
        with pytest.raises(Exception, match="mask"):
            SenseOp(csm, torch.ones((1, 4, 5), dtype=torch.bool))
        with pytest.raises(BadInputError, match="empty"):
            SenseOp(csm, torch.zeros((1, 4, 4), dtype=torch.bool))
        with pytest.raises(BadInputError, match="zero everywhere"):
            SenseOp(csm * 0, torch.ones((1, 4, 4), dtype=torch.bool))

    @pytest.mark.parametrize("calibration", [12, 0])
    def test_the_intensity_scale_follows_the_data(self, calibration, scan_arrays):
        kspace = torch.from_numpy(scan_arrays["kspace"])
        csm = torch.from_numpy(scan_arrays["csm"])
        mask = make_mask("uniform", tuple(kspace.shape[2:]), 2, calibration)
        operator = SenseOp(csm, mask)
        scale = operator.intensity_scale(kspace)
        assert float(operator.intensity_scale(kspace * 7) / scale) == pytest.approx(7, rel=1e-5)
        assert 0.3 < float(scale) < 1.5


class TestEncoding:
    def test_of_one_coil_is_the_share_of_samples(self):
        for n in (1, 2, 4, 8):
            mask = (torch.arange(64) % n == 0).expand(64, 64)
            one = SenseOp(torch.ones((1, 64, 64), dtype=torch.complex64), mask)
            assert float(one.encoding()) == pytest.approx(1 / n, rel=3 * n**0.5 / 64)

    def test_coils_that_separate_aliases_raise_it(self):
        mask = (torch.arange(64) % 4 == 0).expand(64, 64)
        few, more = (
            float(SenseOp(biot_savart_maps((64, 64), n, seed=0), mask).encoding()) for n in (2, 8)
        )
        assert 0.25 < few < more < 1

    def test_it_depends_on_nothing_but_the_operator_up_to_its_scale(self):
        operator = operator_of((20, 24))
        one, again = operator.encoding(), operator.encoding()
        smaller = SenseOp(operator.csm / 3, operator.mask).encoding()
        assert torch.equal(one, again)
        assert one.shape == (2,)
        assert torch.allclose(one, smaller)

    def test_a_sample_has_the_same_alone_and_in_a_batch(self):
        both = operator_of((20, 24))
        alone = SenseOp(both.csm, both.mask[1:])
        assert float(alone.encoding()) == pytest.approx(float(both.encoding()[1]))

    def test_of_zero_is_one(self):
        class Nothing(LinearOperator):
            image_shape = data_shape = (1, 4, 4)

            def forward(self, image):
                return 0 * image

            adjoint = forward

        assert float(Nothing().encoding()) == 1


class TestMasks:
    @pytest.mark.parametrize("kind", MASKS)
    @pytest.mark.parametrize("shape", [(256, 256), (230, 180), (101, 145)])
    @pytest.mark.parametrize("acceleration", [2.0, 4.0, 6.0])
    def test_hit_the_acceleration_and_keep_the_calibration_region(self, kind, shape, acceleration):
        if kind == "poisson-disc" and shape != (101, 145):
            pytest.skip("dart throwing on a large grid takes seconds; the small one shows the same")
        mask = make_mask(kind, shape, acceleration, 16, seed=3)
        assert mask.shape == (1, *shape)
        assert mask.numel() / float(mask.sum()) == pytest.approx(acceleration, rel=0.02)
        assert min(calibration_region(mask[0])) >= 16

    @pytest.mark.parametrize("kind", MASKS)
    def test_are_reproducible_and_follow_the_seed(self, kind):
        one, again, other = (make_mask(kind, (48, 40), 3, 8, seed) for seed in (1, 1, 2))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)

    def test_two_dimensional_sampling_undersamples_both_directions(self):
        mask = make_mask("variable-density-2d", (64, 64), 4, 8)[0]
        assert not bool(mask.all(0).any())
        assert not bool(mask.all(1).any())

    def test_density_falls_with_the_distance_from_the_centre(self):
        mask = make_mask("variable-density-2d", (128, 128), 4, 8)[0].double()
        middle = (mask[40:88, 40:88].sum() - 64) / (48**2 - 64)
        assert float(middle) > 2 * float(mask[:24].mean())

    def test_poisson_disc_keeps_its_distance(self):
        """Fewer direct neighbours than independent sampling of the same density has."""

        def pairs(mask):
            outer = mask.clone()
            outer[36:60, 36:60] = False
            return int((outer[:, 1:] & outer[:, :-1]).sum())

        disc = pairs(make_mask("poisson-disc", (96, 96), 6, 16)[0])
        independent = pairs(make_mask("variable-density-2d", (96, 96), 6, 16)[0])
        assert disc < 0.3 * independent

    def test_uniform_is_equispaced_outside_the_calibration_region(self):
        lines = make_mask("uniform", (8, 96), 4, 8)[0, 0]
        left = torch.nonzero(lines[:40]).flatten()
        gaps = left.diff()
        assert int(gaps.max() - gaps.min()) <= 1

    def test_bad_requests_say_what_to_change(self):
        with pytest.raises(BadInputError, match="calibration region"):
            make_mask("variable-density-2d", (32, 32), 8, 24)
        with pytest.raises(BadInputError, match="acceleration"):
            make_mask("uniform", (32, 32), 0.5)
        with pytest.raises(BadInputError, match="no mask called"):
            make_mask("spiral", (32, 32), 2)

    def test_calibration_region_of_known_masks(self):
        assert calibration_region(torch.ones((9, 8), dtype=torch.bool)) == (9, 8)
        assert calibration_region(torch.zeros((9, 8), dtype=torch.bool)) == (0, 0)
        block = torch.zeros((20, 30), dtype=torch.bool)
        block[6:14, 9:21] = True
        assert calibration_region(block) == (8, 12)


class TestCoilMaps:
    def test_explain_the_coil_images(self, scan_arrays):
        kspace = torch.from_numpy(scan_arrays["kspace"])
        mask = make_mask("variable-density-2d", tuple(kspace.shape[2:]), 3, 24)
        csm = estimate_csm(kspace * mask[:, None], mask)
        coil_images = kspace_to_image(kspace)
        combined = (csm.conj() * coil_images).sum(1, keepdim=True)
        error = norm(coil_images - csm * combined) / norm(coil_images)
        assert float(error) < 0.06

    def test_agree_with_the_true_maps_up_to_a_phase(self, scan_arrays):
        kspace = torch.from_numpy(scan_arrays["kspace"])
        full = torch.ones((1, *kspace.shape[2:]), dtype=torch.bool)
        csm, true = estimate_csm(kspace, full), torch.from_numpy(scan_arrays["csm"])
        bright = torch.from_numpy(np.abs(scan_arrays["image"])) > 0.15
        overlap = (csm.conj() * true).sum(1).abs()[bright]
        assert float(overlap.median()) > 0.999

    def test_have_unit_sum_of_squares_on_the_support(self, scan_arrays):
        kspace = torch.from_numpy(scan_arrays["kspace"])
        full = torch.ones((1, *kspace.shape[2:]), dtype=torch.bool)
        energy = estimate_csm(kspace, full).abs().square().sum(1)
        inside = energy > 0.5
        assert float((energy[inside] - 1).abs().max()) < 1e-5
        assert float(energy[~inside].abs().max() if bool((~inside).any()) else 0) < 1e-6

    def test_one_coil_has_the_map_one(self):
        kspace = random_complex((1, 1, 16, 16)).to(torch.complex64)
        csm = estimate_csm(kspace, torch.ones((1, 16, 16), dtype=torch.bool))
        assert torch.equal(csm, torch.ones_like(csm))

    def test_a_small_calibration_region_is_refused(self):
        kspace = random_complex((1, 4, 32, 32)).to(torch.complex64)
        mask = torch.zeros((1, 32, 32), dtype=torch.bool)
        mask[:, ::4, ::4] = True
        with pytest.raises(BadInputError, match="--csm"):
            estimate_csm(kspace * mask[:, None], mask)

    def test_simulated_maps_are_normalised_smooth_and_follow_the_seed(self):
        one, other = biot_savart_maps((40, 32), 8, 0), biot_savart_maps((40, 32), 8, 1)
        assert one.shape == (1, 8, 40, 32)
        assert float((one.abs().square().sum(1) - 1).abs().max()) < 1e-5
        assert not torch.equal(one, other)
        assert float(one.diff(dim=-1).abs().max()) < 0.3

    def test_normalisation_keeps_zero(self):
        csm = torch.zeros((1, 2, 3, 3), dtype=torch.complex64)
        csm[:, :, 0] = 3 + 4j
        normal = normalize_csm(csm)
        assert float(normal[:, :, 1:].abs().max()) == 0
        assert float((normal[:, :, 0].abs().square().sum(1) - 1).abs().max()) < 1e-6


class TestNoiseLevel:
    @pytest.mark.parametrize("sigma", [0.02, 0.1])
    def test_finds_the_noise_under_a_head(self, sigma, scan_arrays):
        csm, image = (torch.from_numpy(scan_arrays[k]) for k in ("csm", "image"))
        generator = torch.Generator().manual_seed(1)
        noise = sigma * torch.randn(csm.shape, dtype=torch.complex64, generator=generator)
        mask = make_mask("variable-density-2d", tuple(image.shape[1:]), 3, 12)
        kspace = (image_to_kspace(csm * image[:, None]) + noise) * mask[:, None]
        estimate = float(noise_level(kspace, mask))
        assert sigma * 0.85 < estimate < sigma * 1.5

    def test_padding_is_no_measurement(self):
        kspace = random_complex((1, 8, 64, 64))
        kspace[..., :20] = kspace[..., -20:] = 0
        mask = torch.ones((1, 64, 64), dtype=torch.bool)
        assert float(noise_level(kspace, mask)) == pytest.approx(1, abs=0.1)

    def test_is_exact_for_pure_noise_and_scales(self):
        kspace = random_complex((1, 8, 64, 64))
        mask = torch.ones((1, 64, 64), dtype=torch.bool)
        level = float(noise_level(kspace, mask))
        assert level == pytest.approx(1, abs=0.03)
        assert float(noise_level(kspace * 1e-9, mask)) == pytest.approx(level * 1e-9)


def test_inner_products_are_real_and_per_sample():
    a, b = random_complex((3, 4, 5), 1), random_complex((3, 4, 5), 2)
    expected = (a.conj() * b).real.sum((1, 2))
    assert torch.allclose(inner(a, b), expected)
    assert torch.allclose(inner(a.conj(), b), (a * b).real.sum((1, 2)))
