"""The conventions of each scanner and data set are undone: all give the same phantom."""

import shutil
import subprocess
import sys

import h5py
import ismrmrd
import numpy as np
import pytest
import torch

import layouts
from equipoise.formats import as_slices, read
from equipoise.formats.readers.mrd_flags import is_flag_set
from equipoise.outcome import BadInputError, InputWarning
from equipoise.physics.fourier import kspace_to_image
from equipoise.physics.noise_level import noise_level
from equipoise.recon.problems import slice_problem

Y, X = layouts.SHAPE


@pytest.fixture(scope="module")
def scan():
    """Image, maps and k-space of three slices."""
    return layouts.multicoil()


def close(found, expected, tolerance=1e-4):
    found, expected = np.asarray(found), np.asarray(expected)
    return np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_every_layout_gives_the_same_kspace(layout, scan, tmp_path):
    name, write = layouts.LAYOUTS[layout]
    write(tmp_path / name, scan[2])
    found = read(tmp_path / name)
    assert found.layout == ("npz" if layout == "npy" else layout)
    assert close(found.kspace, scan[2])
    assert bool(found.mask.all())


class TestIsmrmrd:
    LIMITS = {"kspace_encoding_step_1": (Y - 1, Y // 2)}  # noqa: RUF012

    def spaces(self, nx=X, y=Y, z=1, fx=layouts.FOV[1], fz=layouts.THICKNESS):
        whole = ((nx, y, z), (fx, layouts.FOV[0], fz))
        return whole, whole

    def test_flags_are_numbered_from_one(self):
        flags = np.array([1 << 18, 19, 1 << 21], np.uint64)
        assert is_flag_set(flags, ismrmrd.ACQ_IS_NOISE_MEASUREMENT).tolist() == [True, False, False]
        assert is_flag_set(flags, ismrmrd.ACQ_IS_REVERSE, 19).tolist() == [True, False, True]

    def test_geometry_of_an_oblique_stack(self, scan, tmp_path):
        layouts.write_mrd(tmp_path / "s.mrd", scan[2])
        geometry = read(tmp_path / "s.mrd").header.geometry
        assert geometry.spacing == (4.0, 2.0, 2.5)
        assert np.allclose(geometry.x_dir, layouts.OBLIQUE["read_dir"])
        assert np.allclose(geometry.y_dir, layouts.OBLIQUE["phase_dir"])
        assert np.allclose(geometry.centres, [layouts.slice_position(s, 3) for s in range(3)])
        assert np.allclose(geometry.step([0, 1, 2]), 5 * np.array(layouts.OBLIQUE["slice_dir"]))
        assert geometry.plane == "coronal"

    @pytest.mark.parametrize("centred_as", ["stored", "k-space"])
    def test_reversed_readouts_are_turned(self, centred_as, scan, tmp_path):
        kspace = scan[2][:1]
        centre = X - 1 - X // 2 if centred_as == "stored" else X // 2
        lines = []
        for line in range(Y):
            if line % 2:
                turned = kspace[0, :, line, ::-1]
                flags = [ismrmrd.ACQ_IS_REVERSE]
                lines.append(layouts.readout(turned, line, flags=flags, centre=centre))
            else:
                lines.append(layouts.readout(kspace[0, :, line], line))
        xml = layouts.header_xml(*self.spaces(), self.LIMITS)
        layouts.write_acquisitions(tmp_path / "s.h5", xml, lines)
        found = read(tmp_path / "s.h5")
        assert close(found.kspace, kspace)
        assert any("20 reversed" in note for note in found.notes)

    def test_partial_fourier_and_partial_echo_lie_about_the_centre(self, scan, tmp_path):
        kspace = scan[2][:1]
        first_line, first_sample = 13, 9
        limits = {"kspace_encoding_step_1": (Y - 1 - first_line, Y // 2 - first_line)}
        xml = layouts.header_xml(*self.spaces(), limits)
        lines = [
            layouts.readout(
                kspace[0, :, line, first_sample:], line - first_line, centre=X // 2 - first_sample
            )
            for line in range(first_line, Y)
        ]
        layouts.write_acquisitions(tmp_path / "s.h5", xml, lines)
        found = read(tmp_path / "s.h5")
        expected = kspace.copy()
        expected[:, :, :first_line], expected[..., :first_sample] = 0, 0
        assert close(found.kspace, expected)
        measured = np.zeros((Y, X), bool)
        measured[first_line:, first_sample:] = True
        assert np.array_equal(found.mask[0].numpy(), measured)
        assert found.header.centre == (Y // 2 - first_line, X // 2 - first_sample)

    def test_a_partial_echo_with_oversampling_measures_the_same_part_of_kspace(
        self, scan, tmp_path
    ):
        wide = layouts.oversampled(scan[2][:1])
        cut = 20
        whole, _ = self.spaces(2 * X, fx=2 * layouts.FOV[1])
        xml = layouts.header_xml(whole, self.spaces()[0], self.LIMITS)
        lines = [layouts.readout(wide[0, :, line, cut:], line, centre=X - cut) for line in range(Y)]
        layouts.write_acquisitions(tmp_path / "s.h5", xml, lines)
        found = read(tmp_path / "s.h5")
        assert found.kspace.shape[2:] == (Y, X)
        assert np.array_equal(found.mask[0, 0].numpy(), np.arange(X) >= cut // 2)
        inner = slice(cut // 2 + 8, X)  # next to the cut the oversampled neighbours are missing
        assert close(found.kspace[..., inner], scan[2][:1, ..., inner], 0.02)

    def test_slices_repetitions_and_contrasts_are_kept_apart(self, tmp_path):
        _, _, kspace = layouts.multicoil((8, 8), 8)
        keys = [(s, c, r) for r in range(2) for c in range(2) for s in range(2)]
        lines = [
            layouts.readout(kspace[i, :, line], line, slice=s, contrast=c, repetition=r)
            for line in range(8)
            for i, (s, c, r) in enumerate(keys)
        ]
        whole = ((8, 8, 1), (80.0, 80.0, 5.0))
        xml = layouts.header_xml(whole, whole, {"kspace_encoding_step_1": (7, 4)})
        layouts.write_acquisitions(tmp_path / "s.h5", xml, lines)
        found = read(tmp_path / "s.h5")
        assert found.header.labels == [
            {"repetition": r, "contrast": c, "slice": s} for s, c, r in keys
        ]
        assert close(found.kspace, kspace)
        assert found.header.volumes(8) == [[0, 1], [2, 3], [4, 5], [6, 7]]

    def test_averages_are_averaged(self, scan, tmp_path):
        kspace = scan[2][:1]
        lines = [
            layouts.readout((1 + 0.5 * (-1) ** a) * kspace[0, :, line], line, average=a)
            for a in range(2)
            for line in range(Y)
        ]
        xml = layouts.header_xml(*self.spaces(), self.LIMITS)
        layouts.write_acquisitions(tmp_path / "s.h5", xml, lines)
        assert close(read(tmp_path / "s.h5").kspace, kspace)

    @pytest.mark.parametrize("twice", [[], [20, 21]], ids=["apart", "overlapping"])
    def test_segments_are_parts_of_one_k_space(self, scan, tmp_path, twice):
        """Interleaved and not in order; only a line that two of them hold is averaged."""
        kspace = scan[2][:2]
        held = [(line, line % 3) for line in range(Y)]
        held += [(line, (line + 1) % 3) for line in twice]
        lines = [
            layouts.readout(
                # The two values of a line that is measured twice have the right mean.
                (1 + (line in twice) * (0.5 if line % 3 == segment else -0.5)) * kspace[s, :, line],
                line,
                slice=s,
                segment=segment,
            )
            for s in range(2)
            for line, segment in sorted(held, key=lambda one: -one[1])
        ]
        xml = layouts.header_xml(*self.spaces(), self.LIMITS)
        layouts.write_acquisitions(tmp_path / "s.h5", xml, lines)
        found = read(tmp_path / "s.h5")
        assert found.header.labels == [{"slice": 0}, {"slice": 1}]
        assert close(found.kspace, kspace)
        assert found.mask.all()
        notes = [note for note in found.notes if "averaged" in note]
        assert notes == (["2 lines that were measured up to 2 times are averaged"] if twice else [])

    def test_noise_readouts_whiten(self, tmp_path):
        rng = np.random.default_rng(1)
        mixing = rng.standard_normal((3, 3)) + 1j * rng.standard_normal((3, 3)) + 3 * np.eye(3)

        def noise(n):
            draws = rng.standard_normal((2, 3, n)) / np.sqrt(2)
            return mixing @ (draws[0] + 1j * draws[1])

        scans = [layouts.readout(noise(4096), 0, flags=[ismrmrd.ACQ_IS_NOISE_MEASUREMENT])]
        scans += [layouts.readout(noise(64), line) for line in range(64)]
        scans += [layouts.readout(1e6 * noise(64), 3, flags=[ismrmrd.ACQ_IS_NAVIGATION_DATA])]
        whole = ((64, 64, 1), (64.0, 64.0, 5.0))
        xml = layouts.header_xml(whole, whole, {"kspace_encoding_step_1": (63, 32)})
        layouts.write_acquisitions(tmp_path / "s.h5", xml, scans)
        found = read(tmp_path / "s.h5")
        flat = found.kspace[0].flatten(1).numpy()
        assert np.abs(flat @ flat.conj().T / flat.shape[1] - np.eye(3)).max() < 0.08
        assert noise_level(found.kspace, found.mask)[0] == pytest.approx(1, abs=0.05)
        expected = mixing @ mixing.conj().T
        assert np.abs(found.header.noise_covariance - expected).max() < 0.1 * np.abs(expected).max()
        assert "1 navigator readouts are left out" in found.notes

    @pytest.mark.parametrize(("bandwidth", "used"), [(0.793, 0.793), (0.0, 1.0), (50.0, 1.0)])
    def test_a_noise_scan_of_another_dwell_time_whitens_to_variance_1(
        self, tmp_path, bandwidth, used
    ):
        """The noise scan passes the share ``bandwidth`` of the noise, the image all of it."""
        rng = np.random.default_rng(2)

        def noise(variance, n):
            draws = rng.standard_normal((2, 3, n)) * np.sqrt(variance / 2)
            return draws[0] + 1j * draws[1]

        flags = [ismrmrd.ACQ_IS_NOISE_MEASUREMENT]
        slow = noise(0.5 * used, 8192)  # twice the dwell time: half the variance
        scans = [layouts.readout(slow, 0, flags=flags, sample_time_us=10.0)]
        scans += [layouts.readout(noise(1, 64), line) for line in range(64)]
        whole = ((64, 64, 1), (64.0, 64.0, 5.0))
        xml = layouts.header_xml(*(whole, whole), {"kspace_encoding_step_1": (63, 32)})
        text = xml if isinstance(xml, str) else xml.decode()
        said = f"<relativeReceiverNoiseBandwidth>{bandwidth}</relativeReceiverNoiseBandwidth>"
        head, rest = text.split("<encoding>", 1)
        said = f"<acquisitionSystemInformation>{said}</acquisitionSystemInformation>"
        layouts.write_acquisitions(tmp_path / "s.h5", f"{head}{said}<encoding>{rest}", scans)
        power = read(tmp_path / "s.h5").kspace.abs().square().mean()
        assert float(power) == pytest.approx(1, abs=0.04)

    def test_partial_fourier_without_limits_has_its_centre_where_the_energy_is(
        self, scan, tmp_path
    ):
        kspace, missing = scan[2], Y // 4
        lines = [layouts.readout(kspace[0, :, line], line - missing) for line in range(missing, Y)]
        text = layouts.header_xml(*self.spaces(), self.LIMITS)
        text = text if isinstance(text, str) else text.decode()
        start, end = text.index("<encodingLimits>"), text.index("</encodingLimits>")
        layouts.write_acquisitions(tmp_path / "s.h5", text[:start] + text[end + 17 :], lines)
        found = read(tmp_path / "s.h5")
        assert close(found.kspace[:, :, missing:], kspace[:1, :, missing:])
        assert not found.mask[:, :missing].any()
        assert any("has the most energy" in note for note in found.notes)

    @pytest.mark.parametrize("phase", [0.0, 0.5])
    def test_an_echo_planar_scan_is_warned_about_with_the_level_of_its_ghosts(
        self, scan, tmp_path, phase
    ):
        kspace = scan[2][0]
        reverse, flag = [ismrmrd.ACQ_IS_REVERSE], [ismrmrd.ACQ_IS_PHASECORR_DATA]
        navigator = kspace[:, Y // 2]
        lines = [
            layouts.readout(navigator, 0, flags=flag),
            layouts.readout(navigator[:, ::-1] * np.exp(1j * phase), 0, flags=flag + reverse,
                            centre=X - 1 - X // 2),
        ]  # fmt: skip
        for line in range(Y):
            back = line % 2 == 1
            samples = kspace[:, line, ::-1] * np.exp(1j * phase) if back else kspace[:, line]
            more = {"flags": reverse, "centre": X - 1 - X // 2} if back else {}
            lines.append(layouts.readout(samples, line, **more))
        xml = layouts.header_xml(*self.spaces(), self.LIMITS)
        layouts.write_acquisitions(tmp_path / "s.h5", xml, lines)
        share = f"{np.sin(phase / 2):.0%} of the signal"
        with pytest.warns(InputWarning, match=f"Nyquist ghosts are not corrected.*{share}"):
            read(tmp_path / "s.h5")

    def test_maps_from_elsewhere_are_whitened_like_the_data(self, scan, tmp_path):
        from equipoise.recon.experiment import load_experiment
        from equipoise.recon.problems import slice_problem

        rng = np.random.default_rng(1)
        mixing = rng.standard_normal((4, 4)) + 1j * rng.standard_normal((4, 4)) + 3 * np.eye(4)
        draws = rng.standard_normal((2, 4, 4096))
        noise = mixing @ (draws[0] + 1j * draws[1])
        scans = [layouts.readout(noise, 0, flags=[ismrmrd.ACQ_IS_NOISE_MEASUREMENT])]
        scans += [layouts.readout(scan[2][0, :, line], line) for line in range(Y)]
        xml = layouts.header_xml(*self.spaces(), self.LIMITS)
        layouts.write_acquisitions(tmp_path / "s.h5", xml, scans)
        np.save(tmp_path / "csm.npy", scan[1][0])
        acquisition = load_experiment(tmp_path / "s.h5", csm=tmp_path / "csm.npy").acquisition
        problem = slice_problem(acquisition, 0)
        image = problem.operator.adjoint(problem.data)
        again = problem.operator.forward(image)
        assert close(again, problem.data, 0.01)

    def test_a_volume_becomes_slices_along_the_readout(self, tmp_path):
        rng = np.random.default_rng(0)
        images = (rng.standard_normal((2, 4, 6, 8)) + 1j).astype(np.complex64)  # coil z y x
        from equipoise.physics.fourier import image_to_kspace

        kspace = image_to_kspace(torch.from_numpy(images), 3).numpy()
        lines = [
            layouts.readout(kspace[:, z, y], y, kspace_encode_step_2=z, **layouts.OBLIQUE)
            for z in range(4)
            for y in range(6)
        ]
        whole = ((8, 6, 4), (16.0, 18.0, 20.0))
        limits = {"kspace_encoding_step_1": (5, 3), "kspace_encoding_step_2": (3, 2)}
        layouts.write_acquisitions(
            tmp_path / "s.h5", layouts.header_xml(whole, whole, limits), lines
        )
        found = as_slices(read(tmp_path / "s.h5"))
        assert found.kspace.shape == (8, 2, 4, 6)
        back = kspace_to_image(found.kspace).numpy()
        assert close(back, np.moveaxis(images, -1, 0))
        geometry = found.header.geometry
        assert geometry.spacing == (2.0, 5.0, 3.0)
        assert np.allclose(geometry.slice_dir, layouts.OBLIQUE["read_dir"])
        assert np.allclose(geometry.step(list(range(8))), 2 * np.array(geometry.slice_dir))
        assert np.allclose(geometry.centres[4], 0, atol=1e-6)

    def test_phase_oversampling_is_cut_from_the_images(self, scan, tmp_path):
        encoded = ((X, Y, 1), (120.0, 80.0, 4.0))
        recon = ((X, Y - 8, 1), (120.0, 64.0, 4.0))
        xml = layouts.header_xml(encoded, recon, self.LIMITS)
        lines = [layouts.readout(scan[2][0, :, line], line) for line in range(Y)]
        layouts.write_acquisitions(tmp_path / "s.h5", xml, lines)
        assert read(tmp_path / "s.h5").header.crop == (Y - 8, X)

    def test_a_separate_calibration_scan_gives_maps_and_no_samples(self, tmp_path):
        _, csm, kspace = layouts.multicoil(noise=1e-3)
        lines = [layouts.readout(kspace[0, :, line], line) for line in range(0, Y, 2)]
        lines += [
            layouts.readout(
                9 * kspace[0, :, line], line, flags=[ismrmrd.ACQ_IS_PARALLEL_CALIBRATION]
            )
            for line in range(8, 32)
        ]
        xml = layouts.header_xml(*self.spaces(), self.LIMITS, mode="separate")
        layouts.write_acquisitions(tmp_path / "s.h5", xml, lines)
        found = read(tmp_path / "s.h5")
        assert found.acceleration == 2
        assert close(found.kspace[0, :, ::2], kspace[0, :, ::2])
        support = (np.abs(layouts.phantom()[0]) > 0)[None]
        maps = slice_problem(found, 0).operator.csm.numpy()
        overlap = np.abs((maps * csm.conj()).sum(1)) * support
        assert overlap[support].min() > 0.95 * np.linalg.norm(csm, axis=1)[support].min()

    def test_siemens_data_are_conjugated(self, scan, tmp_path):
        xml = layouts.header_xml(*self.spaces(), self.LIMITS, vendor="SIEMENS")
        lines = [layouts.readout(scan[2][0, :, line].conj(), line) for line in range(Y)]
        layouts.write_acquisitions(tmp_path / "s.h5", xml, lines)
        assert close(read(tmp_path / "s.h5").kspace, scan[2][:1])

    def test_contradictions_are_named(self, scan, tmp_path):
        lines = [layouts.readout(scan[2][0, :, line], line + 30) for line in range(Y)]
        xml = layouts.header_xml(*self.spaces(), self.LIMITS)
        layouts.write_acquisitions(tmp_path / "s.h5", xml, lines)
        with pytest.raises(BadInputError, match=r"kspace_encoding_step_1 40 .* outside"):
            read(tmp_path / "s.h5")
        radial = layouts.header_xml(*self.spaces(), self.LIMITS, trajectory="radial")
        layouts.write_acquisitions(tmp_path / "r.h5", radial, lines)
        with pytest.raises(BadInputError, match="trajectory is radial"):
            read(tmp_path / "r.h5")
        huge = ((10**9, 10**9, 1), (80.0, 80.0, 4.0))
        xml = layouts.header_xml(huge, huge, {})
        layouts.write_acquisitions(tmp_path / "h.h5", xml, lines[:2])
        with pytest.raises(BadInputError, match=r"declares .* TB but"):
            read(tmp_path / "h.h5")

    @pytest.mark.skipif(
        shutil.which("ismrmrd_generate_cartesian_shepp_logan") is None,
        reason="needs Debian's ismrmrd-tools: apt-get install ismrmrd-tools",
    )
    @pytest.mark.parametrize("options", ["-r 2", "-a 2 -w 16 -C -n 0.01"])
    def test_the_phantom_of_the_reference_tools(self, options, tmp_path):
        command = ["ismrmrd_generate_cartesian_shepp_logan", "-m", "64", "-c", "4", "-o", "s.h5"]
        subprocess.run([*command, *options.split()], cwd=tmp_path, check=True, capture_output=True)
        found = read(tmp_path / "s.h5")
        assert found.layout == "ISMRMRD"
        with h5py.File(tmp_path / "s.h5") as file:
            truth, csm = (file[f"dataset/{n}"][0] for n in ("phantom", "csm"))
        truth, csm = (v["real"] + 1j * v["imag"] for v in (truth, csm))
        if found.header.whitening is not None:
            csm = np.einsum("ij,jyx->iyx", found.header.whitening, csm)
        image = np.abs((csm.conj() * kspace_to_image(found.kspace[0]).numpy()).sum(0))
        truth = np.abs(truth)
        flips = [truth, truth.T, truth[::-1], truth[:, ::-1]]
        scores = [np.corrcoef(image.ravel(), v.ravel())[0, 1] for v in flips]
        assert scores[0] > 0.9
        assert max(scores[1:]) < 0.75


class TestFastMri:
    def test_the_header_gives_pixels_crop_and_padding(self, scan, tmp_path):
        kspace = scan[2].copy()
        kspace[..., :6], kspace[..., 43:] = 0, 0
        layouts.write_fastmri(tmp_path / "s.h5", kspace, recon=(20, 30), limits=(36, 18))
        found = read(tmp_path / "s.h5")
        assert found.header.geometry.spacing == (4.0, 2.0, 2.5)
        assert not found.header.geometry.oriented
        assert found.header.crop == (20, 30)
        assert np.array_equal(found.mask[0, 0].numpy(), (np.arange(X) >= 6) & (np.arange(X) < 43))
        assert "attribute acquisition" in found.header.ignored

    def test_padding_that_is_not_exactly_zero_is_no_sample(self, scan, tmp_path):
        kspace = scan[2].copy()
        kspace[..., :6] = 1e-4 * np.abs(kspace).max()
        layouts.write_fastmri(tmp_path / "s.h5", kspace, limits=(41, 18))
        found = read(tmp_path / "s.h5")
        assert not found.mask[..., :6].any()
        assert float(found.kspace[..., :6].abs().max()) == 0

    def test_a_header_that_calls_signal_padding_is_not_believed(self, scan, tmp_path):
        layouts.write_fastmri(tmp_path / "s.h5", scan[2], limits=(9, 9))
        found = read(tmp_path / "s.h5")
        assert bool(found.mask.all())
        assert any("they hold signal" in note for note in found.notes)

    def test_the_mask_of_a_test_file(self, scan, tmp_path):
        columns = np.arange(X) % 2 == 0
        layouts.write_fastmri(tmp_path / "s.h5", scan[2] * columns, limits=(41, 18))
        with h5py.File(tmp_path / "s.h5", "r+") as file:
            file["mask"] = columns.astype(np.float32)
        found = read(tmp_path / "s.h5")
        assert np.array_equal(found.mask[0, 0].numpy(), columns & (np.arange(X) >= 6))

    def test_narrow_files_keep_their_width(self, scan, tmp_path):
        layouts.write_fastmri(tmp_path / "s.h5", scan[2], recon=(36, 64))
        assert read(tmp_path / "s.h5").header.crop == (36, X)

    def test_the_matrix_of_the_stored_reconstruction_wins(self, scan, tmp_path):
        layouts.write_fastmri(tmp_path / "s.h5", scan[2], recon=(36, 36))
        with h5py.File(tmp_path / "s.h5", "r+") as file:
            file["reconstruction_rss"] = np.ones((3, 32, 32), np.float32)
        assert read(tmp_path / "s.h5").header.crop == (32, 32)

    M4RAW = b"""<?xml version="1.0"?><ismrmrdHeader><encoding><encodedSpace><matrixSize><x>40</x>
    <y>48</y><z>1</z></matrixSize><fieldOfView_mm><x>80</x><y>120</y><z>5</z></fieldOfView_mm>
    </encodedSpace><reconSpace><matrixSize><x>40</x><y>40</y></matrixSize></reconSpace></encoding>
    <unknown/></ismrmrdHeader>"""

    def test_a_header_that_no_schema_accepts_is_read(self, scan, tmp_path):
        with h5py.File(tmp_path / "m4raw_T101.h5", "w") as file:
            file["kspace"], file["ismrmrd_header"] = scan[2], self.M4RAW
        header = read(tmp_path / "m4raw_T101.h5").header
        assert header.geometry.spacing == (5.0, 2.0, 2.5)
        assert header.crop == (40, 40)

    @pytest.mark.parametrize(
        "xml", [b"<a", b"", b"\xff\xfe", b"<!DOCTYPE x [<!ENTITY a 'b'>]><x/>"]
    )
    def test_a_header_that_is_none_is_left_out_with_a_note(self, xml, scan, tmp_path):
        with h5py.File(tmp_path / "s.h5", "w") as file:
            file["kspace"], file["ismrmrd_header"] = scan[2], np.void(xml or b" ")
        with h5py.File(tmp_path / "t.h5", "w") as file:
            file["kspace"], file["ismrmrd_header"] = scan[2], xml
        for name in ("s.h5", "t.h5"):
            found = read(tmp_path / name)
            assert found.header.geometry is None
            assert any("header is ignored" in note for note in found.notes)


class TestTwix:
    def test_geometry_and_directions(self, scan, tmp_path):
        layouts.write_twix(tmp_path / "meas.dat", scan[2])
        found = read(tmp_path / "meas.dat")
        geometry = found.header.geometry
        assert geometry.spacing == (4.0, 2.0, 2.5)
        for direction, name in zip(
            (geometry.slice_dir, geometry.y_dir, geometry.x_dir), ("slice", "phase", "read")
        ):
            assert np.allclose(direction, layouts.TWIX_DIRECTIONS[name], atol=1e-6)
        assert np.allclose(geometry.centres, [layouts.twix_position(s, 3) for s in range(3)])
        assert found.header.system["systemVendor"] == "SIEMENS"
        assert found.header.centre == (Y // 2, X)

    def test_noise_readouts_whiten(self, scan, tmp_path):
        rng = np.random.default_rng(0)
        draws = 3 * rng.standard_normal((2, 4, 512)) / np.sqrt(2)
        layouts.write_twix(tmp_path / "meas.dat", scan[2], noise=draws[0] + 1j * draws[1])
        found = read(tmp_path / "meas.dat")
        assert np.allclose(np.diag(found.header.noise_covariance).real, 9, rtol=0.2)
        assert np.abs(found.header.whitening - np.eye(4) / 3).max() < 0.05

    @pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
    def test_a_truncated_file_is_named(self, keep, scan, tmp_path):
        path = tmp_path / "meas.dat"
        layouts.write_twix(path, scan[2])
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])
        with pytest.raises(BadInputError, match=r"meas\.dat is truncated"):
            read(path)

    def test_a_chain_of_readouts_that_stands_still_is_refused(self, scan, tmp_path):
        import struct

        path = tmp_path / "meas.dat"
        layouts.write_twix(path, scan[2])
        content = bytearray(path.read_bytes())
        header = struct.unpack_from("<I", content, 10240)[0]
        struct.pack_into("<I", content, 10240 + header, 1)
        struct.pack_into("<Q", content, 10240 + header + 40, 1 << 5)
        path.write_bytes(bytes(content))
        with pytest.raises(BadInputError, match="has no length"):
            read(path)

    def test_the_missing_library_is_named(self, scan, tmp_path, monkeypatch):
        layouts.write_twix(tmp_path / "meas.dat", scan[2])
        monkeypatch.setitem(sys.modules, "mapvbvd", None)
        with pytest.raises(BadInputError, match=r"pip install 'equipoise\[twix\]'"):
            read(tmp_path / "meas.dat")

    def test_the_matrix_of_the_protocol_zero_fills(self, scan, tmp_path):
        layouts.write_twix(tmp_path / "meas.dat", scan[2], protocol_lines=Y + 8)
        found = read(tmp_path / "meas.dat")
        assert found.kspace.shape[2:] == (Y + 8, X)
        assert not bool(found.mask[:, :4].any())
        assert close(found.kspace[:, :, 4:-4], scan[2])


class TestCmrxRecon:
    def test_times_and_slices_are_labelled(self, scan, tmp_path):
        layouts.write_cmrxrecon(tmp_path / "s.mat", scan[2], "kspace_sub04", times=2)
        found = read(tmp_path / "s.mat")
        assert found.kspace.shape == (6, 4, Y, X)
        assert found.header.labels[4] == {"slice": 1, "time": 1}
        assert found.layout == "CMRxRecon"

    def test_a_mask_beside_it_is_used(self, scan, tmp_path):
        layouts.write_cmrxrecon(tmp_path / "s.mat", scan[2], "kspace_sub04")
        mask = np.broadcast_to((np.arange(Y) % 4 == 0)[:, None], (Y, X)).astype(np.float32)
        with h5py.File(tmp_path / "s.mat", "r+") as file:
            file["mask04"] = mask
        assert np.array_equal(read(tmp_path / "s.mat").mask[0].numpy(), mask > 0)


class TestNumpy:
    def test_an_npz_that_declares_more_than_it_holds(self, tmp_path, scan):
        import zipfile

        layouts.write_npy(tmp_path / "s.npy", scan[2])
        content = (tmp_path / "s.npy").read_bytes().replace(b"(3, 4, 40, 48)", b"(3, 4, 40,4800)")
        (tmp_path / "huge.npy").write_bytes(content)
        with pytest.raises(BadInputError, match=r"declares \(3, 4, 40, 4800\)"):
            read(tmp_path / "huge.npy")
        with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            header = b"{'descr': '<c8', 'fortran_order': False, 'shape': (1, 16, 1024, 1024), }"
            head = b"\x93NUMPY\x01\x00" + (128 - 10).to_bytes(2, "little") + header.ljust(118)
            archive.writestr("kspace.npy", head + bytes(16 * 2**23))
        with pytest.raises(BadInputError, match="declares 134 MB but the file stores"):
            read(tmp_path / "bomb.npz")

    def test_fortran_order_and_other_arrays(self, tmp_path, scan):
        np.savez(tmp_path / "s.npz", kspace=np.asfortranarray(scan[2]), extra=np.ones(2))
        found = read(tmp_path / "s.npz")
        assert np.array_equal(found.kspace.numpy(), scan[2])
        assert found.header.ignored == ["extra"]


def test_an_hdf5_dataset_that_only_declares_its_size_is_refused(tmp_path):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        shape, chunks = (200, 32, 640, 640), (1, 1, 640, 640)
        file.create_dataset("kspace", shape, np.complex64, chunks=chunks, compression="gzip")
    with pytest.raises(BadInputError, match="declares 21 GB but the file stores 0 bytes"):
        read(tmp_path / "s.h5")
