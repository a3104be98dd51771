"""Calibration lines of accelerated scans are used, wherever the file keeps them."""

import ismrmrd
import numpy as np
import pytest
import torch

import layouts
from equipoise.formats import as_slices, read
from equipoise.formats.calibration import embedded
from equipoise.formats.describe import describe
from equipoise.formats.writers.kspace import write_kspace
from equipoise.outcome import BadInputError, InputWarning
from equipoise.physics.fourier import image_to_kspace, kspace_to_image
from equipoise.recon.coil_maps import calibrate_maps
from equipoise.recon.problems import slice_problem

Y, X = layouts.SHAPE
ACS = 16
CENTRE = slice(Y // 2 - ACS // 2, Y // 2 + ACS // 2)
REGION = range(CENTRE.start, CENTRE.stop)
CALIBRATION = ismrmrd.ACQ_IS_PARALLEL_CALIBRATION
BOTH = ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING
PHASECORR, REVERSE = ismrmrd.ACQ_IS_PHASECORR_DATA, ismrmrd.ACQ_IS_REVERSE
LIMITS = {"kspace_encoding_step_1": (Y - 1, Y // 2)}
SPACE = ((X, Y, 1), (layouts.FOV[1], layouts.FOV[0], layouts.THICKNESS))


@pytest.fixture(scope="module")
def scan():
    """Image, maps and k-space of one slice."""
    return layouts.multicoil(n_slices=1)


def on_grid(line):
    return line % 2 == 0


def imaging(kspace, **counters):
    """Every second line, none of them flagged."""
    return [layouts.readout(kspace[0, :, n], n, **counters) for n in range(Y) if on_grid(n)]


def reference(kspace, first=0, flags=(CALIBRATION,), **counters):
    """The lines about the centre, numbered from ``first`` as line 0."""
    return [layouts.readout(kspace[0, :, n], n - first, flags=flags, **counters) for n in REGION]


def write(path, acquisitions, mode=None, second=None):
    xml = layouts.header_xml(SPACE, SPACE, LIMITS, mode=mode)
    if second is not None:
        space, limits = second
        xml = layouts.with_encoding(xml, layouts.header_xml(space, space, limits))
    layouts.write_acquisitions(path, xml, acquisitions)
    return read(path)


def explained(acquisition, csm, index=0):
    """The share of the true maps that the estimated ones miss, where the estimates are not zero."""
    found = slice_problem(acquisition, index).operator.csm[0].numpy()
    true = csm[0] / np.sqrt((np.abs(csm[0]) ** 2).sum(0))
    inside = found.any(0)
    left = true - found * (found.conj() * true).sum(0)
    return float(np.linalg.norm(left * inside) / np.linalg.norm(true * inside))


class TestIsmrmrd:
    @pytest.mark.parametrize("mode", ["separate", "external"])
    def test_a_separate_scan_gives_the_maps_and_no_sample(self, mode, scan, tmp_path):
        found = write(tmp_path / "s.h5", reference(scan[2]) + imaging(scan[2]), mode)
        assert found.acceleration == 2
        assert describe(found)["calibration_region"] == [ACS, X]
        lines, mask = found.calibration_lines(0)
        assert torch.allclose(lines[0, :, CENTRE], torch.from_numpy(scan[2][0][:, CENTRE]))
        assert bool(mask[0, CENTRE].all())
        assert int(mask.sum()) == ACS * X
        assert explained(found, scan[1]) < 0.05

    @pytest.mark.parametrize("mode", [None, "other"])
    def test_undeclared_lines_that_repeat_those_of_the_image_are_separate(
        self, mode, scan, tmp_path
    ):
        brighter = reference(3 * scan[2])
        found = write(tmp_path / "s.h5", brighter + imaging(scan[2]), mode)
        kept = found.kspace[0, :, ::2].numpy()
        assert found.acceleration == 2
        assert np.allclose(kept, scan[2][0, :, ::2], atol=1e-6)
        assert found.calibration is not None

    @pytest.mark.parametrize("mode", [None, "other", "embedded"])
    def test_integrated_lines_are_samples_too(self, mode, scan, tmp_path):
        lines = []
        for n in range(Y):
            if on_grid(n) or n in REGION:
                flags = () if n not in REGION else (BOTH,) if on_grid(n) else (CALIBRATION,)
                lines.append(layouts.readout(scan[2][0, :, n], n, flags=flags))
        found = write(tmp_path / "s.h5", lines, mode)
        assert bool(found.mask[0, CENTRE].all())
        assert found.calibration is None
        assert describe(found)["calibration_region"] == [ACS, X]

    @pytest.mark.parametrize("other", [{"contrast": 1}, {"set": 1}, {"repetition": 5}])
    def test_calibration_in_another_contrast_is_no_image(self, other, scan, tmp_path):
        found = write(tmp_path / "s.h5", reference(scan[2], **other) + imaging(scan[2]))
        assert len(found.kspace) == 1
        assert found.labels == [{"slice": 0}]
        assert explained(found, scan[1]) < 0.05

    @pytest.mark.parametrize("mode", [None, "separate"])
    def test_calibration_in_a_second_encoding(self, mode, scan, tmp_path):
        """Counted from 0 with the centre 8, of the matrix 48 x 16."""
        lines = reference(scan[2], REGION.start, encoding_space_ref=1)
        second = ((X, ACS, 1), SPACE[1]), {"kspace_encoding_step_1": (ACS - 1, ACS // 2)}
        found = write(tmp_path / "s.h5", lines + imaging(scan[2]), mode, second)
        block = found.calibration_lines(0)[0][0, :, CENTRE]
        assert torch.allclose(block, torch.from_numpy(scan[2][0][:, CENTRE]))

    def test_the_images_may_be_the_second_encoding(self, scan, tmp_path):
        """The first encoding holds only the reference scan."""
        lines = reference(scan[2], REGION.start)
        first = ((X, ACS, 1), SPACE[1]), {"kspace_encoding_step_1": (ACS - 1, ACS // 2)}
        xml = layouts.header_xml(first[0], first[0], first[1])
        own = layouts.header_xml(SPACE, SPACE, LIMITS)
        layouts.write_acquisitions(
            tmp_path / "s.h5",
            layouts.with_encoding(xml, own),
            lines + imaging(scan[2], encoding_space_ref=1),
        )
        found = read(tmp_path / "s.h5")
        assert tuple(found.kspace.shape[2:]) == (Y, X)
        assert explained(found, scan[1]) < 0.05

    @pytest.mark.parametrize("images", [0, 1])
    def test_an_echo_planar_encoding_beside_the_images(self, images, scan, tmp_path):
        """Its readouts in both directions and its navigators are no part of the images."""
        space = ((X, ACS, 1), SPACE[1])
        other = layouts.header_xml(
            space, space, {"kspace_encoding_step_1": (ACS - 1, ACS // 2)}, trajectory="epi"
        )
        own = layouts.header_xml(SPACE, SPACE, LIMITS)
        xml = layouts.with_encoding(*((own, other) if images == 0 else (other, own)))
        numbers = {"encoding_space_ref": 1 - images}
        navigators = [
            layouts.readout(scan[2][0, :, Y // 2], 0, flags=(PHASECORR, *back), **numbers)
            for back in ((), (REVERSE,))
        ]
        lines = reference(scan[2], REGION.start, **numbers)
        layouts.write_acquisitions(
            tmp_path / "s.h5", xml, navigators + lines + imaging(scan[2], encoding_space_ref=images)
        )
        found = read(tmp_path / "s.h5")
        assert tuple(found.kspace.shape[2:]) == (Y, X)
        assert explained(found, scan[1]) < 0.05

    def test_echo_planar_images_beside_a_cartesian_reference_are_warned_about(self, scan, tmp_path):
        own = layouts.header_xml(SPACE, SPACE, LIMITS, trajectory="epi")
        space = ((X, ACS, 1), SPACE[1])
        other = layouts.header_xml(space, space, {"kspace_encoding_step_1": (ACS - 1, ACS // 2)})
        lines = reference(scan[2], REGION.start, encoding_space_ref=1)
        layouts.write_acquisitions(
            tmp_path / "s.h5", layouts.with_encoding(own, other), lines + imaging(scan[2])
        )
        with pytest.warns(InputWarning, match="Nyquist ghosts are not corrected"):
            assert explained(read(tmp_path / "s.h5"), scan[1]) < 0.05

    @pytest.mark.parametrize("ratio", [1.25, 0.8])
    def test_a_reference_of_another_field_of_view(self, ratio, scan, tmp_path):
        """The images are cut, or surrounded by zeros, to the field of view of the scan."""
        tall = round(Y * ratio)
        image = torch.from_numpy(scan[0][:, None] * scan[1])
        pad = embedded(image, (tall, X))
        wide = image_to_kspace(pad).numpy()
        middle = slice(tall // 2 - ACS // 2, tall // 2 + ACS // 2)
        lines = [
            layouts.readout(wide[0, :, n], i, flags=[CALIBRATION], encoding_space_ref=1)
            for i, n in enumerate(range(middle.start, middle.stop))
        ]
        fov = (layouts.FOV[1], layouts.FOV[0] * ratio, layouts.THICKNESS)
        second = ((X, ACS, 1), fov), {"kspace_encoding_step_1": (ACS - 1, ACS // 2)}
        found = write(tmp_path / "s.h5", lines + imaging(scan[2]), "separate", second)
        assert explained(found, scan[1]) < 0.1

    def test_one_calibration_serves_all_repetitions_and_contrasts(self, scan, tmp_path):
        lines = reference(scan[2])
        for repetition in range(2):
            for contrast in range(2):
                lines += imaging(scan[2], repetition=repetition, contrast=contrast)
        found = write(tmp_path / "s.h5", lines, "separate")
        assert len(found.kspace) == 4
        assert found.calibration.of_frame == (0, 0, 0, 0)
        assert explained(found, scan[1], 3) < 0.05

    def test_integrated_lines_of_the_first_repetition_serve_the_others(self, scan, tmp_path):
        first = [
            layouts.readout(scan[2][0, :, n], n, flags=[BOTH if on_grid(n) else CALIBRATION])
            for n in range(Y)
            if on_grid(n) or n in REGION
        ]
        later = [r for i in (1, 2) for r in imaging(scan[2], repetition=i)]
        found = write(tmp_path / "s.h5", first + later)
        assert found.calibration.of_frame == (None, 0, 0)
        assert explained(found, scan[1], 2) < 0.05

    def test_frames_whose_lines_alternate_hold_a_calibration_together(self, scan, tmp_path):
        lines = [
            layouts.readout(scan[2][0, :, n], n, repetition=r)
            for r in range(4)
            for n in range(r % 2, Y, 2)
        ]
        found = write(tmp_path / "s.h5", lines, "interleaved")
        assert found.calibration.of_frame == (0, 0, 0, 0)
        assert describe(found)["calibration_region"] == [Y, X]
        assert explained(found, scan[1], 1) < 0.05

    def test_a_scan_without_any_says_how_to_go_on(self, scan, tmp_path):
        found = write(tmp_path / "s.h5", imaging(scan[2]))
        assert found.calibration is None
        with pytest.raises(BadInputError, match="give coil maps with --csm"):
            slice_problem(found, 0)

    def test_other_coils_or_slices_are_left_out_with_a_note(self, scan, tmp_path):
        for name, lines in (
            ("coils", reference(scan[2][:, :3])),
            ("slices", reference(scan[2], slice=1)),
        ):
            found = write(tmp_path / f"{name}.h5", lines + imaging(scan[2]), "separate")
            assert found.calibration is None
            assert any(f"other {name}: left out" in note for note in found.notes)


PATREF, PATREF_AND_IMAGE = 1 << 22, 1 << 23


class TestTwix:
    def blocks(self, kspace, choose, **counters):
        """Readouts of a slice with the flags that ``choose`` gives, None for those left out."""
        wide = layouts.oversampled(kspace).conj()
        place = {"lines_centre": Y // 2, "position": layouts.twix_position(0, 1), **counters}
        flags = {n: choose(n) for n in range(Y)}
        return [
            layouts.twix_block(wide[0, :, n], n, X, mask=mask, **place)
            for n, mask in flags.items()
            if mask is not None
        ]

    def imaging(self, n):
        return 0 if on_grid(n) else None

    def integrated(self, n):
        if n not in REGION:
            return 0 if on_grid(n) else None
        return PATREF | (PATREF_AND_IMAGE if on_grid(n) else 0)

    @pytest.mark.parametrize("mode", ["0x2", 2, None])
    def test_integrated_reference_lines_are_samples(self, mode, scan, tmp_path):
        more = {} if mode is None else {"sPat.ucRefScanMode": mode}
        blocks = self.blocks(scan[2], self.integrated)
        layouts.write_twix_blocks(tmp_path / "s.dat", blocks, (Y, X), **more)
        found = read(tmp_path / "s.dat")
        assert bool(found.mask[0, CENTRE].all())
        assert describe(found)["calibration_region"] == [ACS, X]
        assert found.header.ignored == []
        assert explained(found, scan[1]) < 0.05

    @pytest.mark.parametrize("mode", ["0x4", 4, None])
    def test_a_separate_reference_scan_serves_all_repetitions(self, mode, scan, tmp_path):
        more = {} if mode is None else {"sPat.ucRefScanMode": mode}
        blocks = self.blocks(2 * scan[2], lambda n: PATREF if n in REGION else None)
        for repetition in range(2):
            blocks += self.blocks(scan[2], self.imaging, repetition=repetition)
        layouts.write_twix_blocks(tmp_path / "s.dat", blocks, (Y, X), **more)
        found = read(tmp_path / "s.dat")
        assert found.acceleration == 2
        assert found.calibration.of_frame == (0, 0)
        assert np.allclose(found.kspace[0, :, ::2].numpy(), scan[2][0, :, ::2], atol=1e-5)
        assert explained(found, scan[1], 1) < 0.05

    def test_an_echo_planar_scan_is_warned_about(self, scan, tmp_path):
        wide = layouts.oversampled(scan[2]).conj()
        place = {"lines_centre": Y // 2, "position": layouts.twix_position(0, 1)}
        navigator, reflect = 1 << 21, 1 << 24
        turned = [0, reflect]
        blocks = [
            layouts.twix_block(wide[0, :, Y // 2], 0, X, mask=navigator | turned[i], **place)
            for i in range(2)
        ] + [layouts.twix_block(wide[0, :, n], n, X, mask=turned[n % 2], **place) for n in range(Y)]
        layouts.write_twix_blocks(tmp_path / "s.dat", blocks, (Y, X))
        with pytest.warns(InputWarning, match=r"Nyquist ghosts are not corrected, .* \d+% of"):
            read(tmp_path / "s.dat")


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_converted_kspace_keeps_its_calibration(suffix, scan, tmp_path):
    lines = reference(scan[2]) + imaging(scan[2]) + imaging(scan[2], repetition=1)
    original = write(tmp_path / "s.h5", lines, "separate")
    write_kspace(tmp_path / f"k{suffix}", original)
    again = read(tmp_path / f"k{suffix}")
    assert again.calibration.of_frame == (0, 0)
    assert torch.equal(again.calibration.blocks, original.calibration.blocks)


def test_calibration_of_another_scan_is_refused(scan, tmp_path):
    arrays = {"kspace": scan[2], "calibration": scan[2][:, :2], "calibration_of": np.zeros(1, int)}
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(BadInputError, match="do not belong to k-space"):
        read(tmp_path / "s.npz")


def test_maps_of_a_volume_are_those_of_its_slices(scan, tmp_path):
    """The reference block is transformed along the readout, as the volume is."""
    volume = np.repeat(scan[2][:, :, None], 8, 2)
    lines = [
        layouts.readout(volume[0, :, z, n], n, kspace_encode_step_2=z, flags=flags)
        for z in range(8)
        for n in range(Y)
        for flags, wanted in (((), on_grid(n)), ((CALIBRATION,), n in REGION))
        if wanted
    ]
    space = ((X, Y, 8), (layouts.FOV[1], layouts.FOV[0], 32.0))
    limits = LIMITS | {"kspace_encoding_step_2": (7, 4)}
    xml = layouts.header_xml(space, space, limits, mode="separate")
    layouts.write_acquisitions(tmp_path / "s.h5", xml, lines)
    slices = as_slices(read(tmp_path / "s.h5"))
    assert len(slices.kspace) == X
    found, mask = slices.calibration_lines(20)
    hybrid = kspace_to_image(torch.from_numpy(volume), 1)[0, ..., 20]
    assert torch.allclose(found[0][:, mask[0]], hybrid[:, mask[0]], atol=1e-5)
    assert int(mask.sum()) == ACS * 8


def test_the_command_calib_uses_them(scan, tmp_path):
    noisy = layouts.multicoil(n_slices=1, noise=1e-3)[2]
    found = write(tmp_path / "s.h5", reference(noisy) + imaging(noisy), "separate")
    result = calibrate_maps(found, virtual=3)
    assert result.slices[0].calibration == (ACS, 24)
    assert result.slices[0].unexplained < 0.1
