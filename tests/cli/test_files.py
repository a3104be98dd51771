"""``equipoise info`` and ``equipoise convert``."""

import json

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

import layouts
from equipoise.cli.app import app


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def scan():
    """Image, maps and k-space of three slices."""
    return layouts.multicoil()


class TestInfo:
    def found(self, path):
        result = run("info", path, "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    def test_says_what_was_understood(self, scan, tmp_path):
        layouts.write_mrd(tmp_path / "s.mrd", scan[2])
        found = self.found(tmp_path / "s.mrd")
        assert found["format"] == "ISMRMRD"
        assert (found["images"], found["coils"], found["matrix"]) == (3, 4, [40, 48])
        assert found["pixel_mm"] == [4.0, 2.0, 2.5]
        assert found["field_of_view_mm"] == [80.0, 120.0]
        assert found["plane"] == "coronal"
        assert found["labels"] == {"slice": 3}
        assert found["acceleration"] == 1
        assert found["calibration_region"] == [40, 48]
        assert found["centre_in_file"] == [20, 48]
        text = run("info", tmp_path / "s.mrd").stdout
        assert "40 x 48" in text
        assert "4 x 2 x 2.5 mm" in text
        assert "readout oversampling removed" in text
        assert "█" * 48 in text

    def test_measures_noise_sampling_and_centre(self, tmp_path):
        _, _, kspace = layouts.multicoil((64, 64), noise=0.1)
        kspace = np.roll(kspace, (2, -1), (2, 3))
        columns = (np.arange(64) % 2 == 0) | (np.abs(np.arange(64) - 32) < 6)
        np.savez(tmp_path / "s.npz", kspace=kspace * columns)
        found = self.found(tmp_path / "s.npz")
        assert found["noise_level"] == pytest.approx(0.1, rel=0.3)
        assert found["centre_by_energy"] == [34, 31]
        assert found["acceleration"] == pytest.approx(64 / columns.sum())
        assert found["calibration_region"] == [64, 12]
        text = run("info", tmp_path / "s.npz").stdout
        assert "peaks +2, -1 samples" in text
        drawn = text.splitlines()[-1]
        assert len(drawn) == 64
        assert [c == "█" for c in drawn] == columns.tolist()

    def test_says_what_was_ignored(self, scan, tmp_path):
        layouts.write_fastmri(tmp_path / "s.h5", scan[2])
        with h5py.File(tmp_path / "s.h5", "r+") as file:
            file["something"] = 1
        found = self.found(tmp_path / "s.h5")
        assert found["ignored"] == ["something", "attribute acquisition", "attribute max"]
        assert any("orientation" in note for note in found["assumed"])
        assert "something" in run("info", tmp_path / "s.h5").stdout

    def test_a_file_that_is_none_ends_with_1_and_one_line(self, tmp_path):
        (tmp_path / "s.h5").write_text("nonsense")
        result = run("info", tmp_path / "s.h5")
        assert result.exit_code == 1
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1


def expected_images(scan):
    """Root sum of squares over the coils, what a scan becomes without a model."""
    image, csm, _ = scan
    return np.abs(image) * np.sqrt((np.abs(csm) ** 2).sum(1))


WITHOUT_PIXEL_SIZE = ("Calgary-Campinas", "CMRxRecon", "BART", "npz", "npy")


def voxels_of(layout):
    """Spacing (x, y, slice step) that a file of the layout can know."""
    if layout == "ISMRMRD":
        return (2.5, 2.0, 5.0)
    if layout == "Siemens twix":
        return (2.5, 2.0, 6.0)
    return (2.5, 2.0, 4.0) if layout == "fastMRI" else None


def read_nifti(path):
    import nibabel

    file = nibabel.load(path)
    return np.asarray(file.dataobj).transpose(2, 1, 0), file


def read_dicom(path):
    import pydicom

    files = [pydicom.dcmread(p) for p in sorted(path.iterdir())]
    images = [f.pixel_array * float(f.RescaleSlope) + float(f.RescaleIntercept) for f in files]
    return np.stack(images), files


def read_mrd(path, series="image_0"):
    import ismrmrd

    with ismrmrd.Dataset(str(path), mode="r") as dataset:
        count = dataset.number_of_images(series)
        images = [dataset.read_image(series, i) for i in range(count)]
    return np.stack([i.data[0, 0] for i in images]), images


def read_cfl_images(path):
    from equipoise.formats.cfl import read_cfl

    return np.abs(read_cfl(path).squeeze().transpose(2, 1, 0)), None


def read_hdf5(path):
    with h5py.File(path) as file:
        return file["reconstruction"][:], dict(file.attrs)


def read_png(path):
    from matplotlib.image import imread

    picture = imread(path)[..., 0]
    return np.stack(np.split(picture, 3, axis=1)), None


WRITTEN = {
    ".h5": read_hdf5,
    ".nii.gz": read_nifti,
    ".dcm": read_dicom,
    ".mrd": read_mrd,
    ".cfl": read_cfl_images,
    ".npy": lambda path: (np.load(path), None),
    ".png": read_png,
}
"""Each format read by another library than ours, where there is one."""


class TestConvert:
    def convert(self, source, target, *options):
        result = run("convert", source, target, *options)
        assert result.exit_code == 0, result.stderr
        return result

    @pytest.mark.parametrize("layout", layouts.LAYOUTS)
    @pytest.mark.parametrize("suffix", WRITTEN)
    def test_every_reader_and_writer_pair_keeps_the_phantom(self, layout, suffix, scan, tmp_path):
        name, write = layouts.LAYOUTS[layout]
        write(tmp_path / name, scan[2])
        out = tmp_path / f"out{suffix}"
        self.convert(tmp_path / name, out)
        found, information = WRITTEN[suffix](out)
        expected = expected_images(scan)
        tolerance = 0.01 if suffix == ".png" else 1e-4
        assert found.shape == expected.shape
        assert np.abs(found / found.max() - expected / expected.max()).max() < tolerance
        voxels = voxels_of(layout)
        if suffix == ".nii.gz":
            assert information.header.get_zooms() == pytest.approx(voxels or (1, 1, 1))
        if suffix == ".dcm" and voxels is not None:
            assert list(information[0].PixelSpacing) == [voxels[1], voxels[0]]
            assert float(information[0].SpacingBetweenSlices) == pytest.approx(voxels[2])
        if suffix == ".mrd" and voxels is not None:
            assert list(information[0].field_of_view) == [120.0, 80.0, 4.0]
        assert [p.name for p in tmp_path.iterdir() if "tmp" in p.name] == []

    def test_a_modl_file_is_converted_too(self, scan, tmp_path):
        image, csm, _ = scan
        with h5py.File(tmp_path / "s.h5", "w") as file:
            file["tstOrg"], file["tstCsm"] = image, np.broadcast_to(csm, (3, *csm.shape[1:]))
            file["tstMask"] = np.ones(image.shape, np.int8)
        self.convert(tmp_path / "s.h5", tmp_path / "o.npy")
        weight = (np.abs(csm) ** 2).sum(1)
        assert np.allclose(np.load(tmp_path / "o.npy"), weight * image, atol=1e-5)

    def where(self, s, y, x):
        """LPS position of a pixel of the oblique stack of the phantom."""
        directions = {n: np.array(v) for n, v in layouts.OBLIQUE.items()}
        offset = (y - 20) * 2.0 * directions["phase_dir"] + (x - 24) * 2.5 * directions["read_dir"]
        return layouts.slice_position(s, 3) + offset

    def test_position_and_orientation_of_a_scanner_file_survive(self, scan, tmp_path):
        layouts.write_mrd(tmp_path / "s.mrd", scan[2])
        for suffix in (".h5", ".nii.gz", ".dcm", ".mrd"):
            self.convert(tmp_path / "s.mrd", tmp_path / f"o{suffix}")
        pixels = [(0, 0, 0), (2, 39, 0), (1, 5, 47)]
        nifti = read_nifti(tmp_path / "o.nii.gz")[1]
        for s, y, x in pixels:
            lps = self.where(s, y, x)
            assert np.allclose(
                nifti.affine @ [x, y, s, 1], [-lps[0], -lps[1], lps[2], 1], atol=1e-4
            )
        assert nifti.header["sform_code"] == nifti.header["qform_code"] == 1
        assert np.allclose(nifti.get_qform(), nifti.affine, atol=1e-4)
        files = read_dicom(tmp_path / "o.dcm")[1]
        for s, y, x in pixels:
            f = files[s]
            along_row, along_column = np.array(f.ImageOrientationPatient, float).reshape(2, 3)
            dy, dx = (float(v) for v in f.PixelSpacing)
            found = np.array(f.ImagePositionPatient, float) + x * dx * along_row
            assert np.allclose(found + y * dy * along_column, self.where(s, y, x), atol=1e-4)
        images = read_mrd(tmp_path / "o.mrd")[1]
        for s, image in enumerate(images):
            assert np.allclose(image.position, layouts.slice_position(s, 3), atol=1e-4)
            assert np.allclose(image.read_dir, layouts.OBLIQUE["read_dir"], atol=1e-6)
            assert np.allclose(image.phase_dir, layouts.OBLIQUE["phase_dir"], atol=1e-6)
            assert image.slice == s
        # from our own file of images the same again
        self.convert(tmp_path / "o.h5", tmp_path / "again.nii.gz")
        assert np.allclose(read_nifti(tmp_path / "again.nii.gz")[1].affine, nifti.affine)

    def test_dicom_is_one_derived_series_with_one_scale_and_window(self, scan, tmp_path):
        layouts.write_mrd(tmp_path / "s.mrd", scan[2] * np.array([1, 3, 2])[:, None, None, None])
        self.convert(tmp_path / "s.mrd", tmp_path / "o.dcm")
        files = read_dicom(tmp_path / "o.dcm")[1]
        names = ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "RescaleSlope")
        for name in (*names, "WindowCenter", "WindowWidth", "SeriesNumber"):
            assert len({str(getattr(f, name)) for f in files}) == 1
        assert len({f.SOPInstanceUID for f in files}) == 3
        assert files[0].ImageType[0] == "DERIVED"
        assert max(f.pixel_array.max() for f in files) == 65535
        assert files[0].SOPClassUID.name == "MR Image Storage"
        assert [f.InstanceNumber for f in files] == [1, 2, 3]
        normal = np.cross(*np.array(files[0].ImageOrientationPatient, float).reshape(2, 3))
        locations = [float(f.SliceLocation) for f in files]
        steps = np.diff([np.array(f.ImagePositionPatient, float) @ normal for f in files])
        assert np.allclose(np.diff(locations), steps, atol=1e-3)

    def test_phase_and_sidecar_lie_beside_a_nifti_file(self, scan, tmp_path):
        layouts.write_npz(tmp_path / "s.npz", scan[2])
        with np.load(tmp_path / "s.npz") as arrays:
            np.savez(tmp_path / "s.npz", kspace=arrays["kspace"], csm=scan[1])
        self.convert(tmp_path / "s.npz", tmp_path / "o.nii.gz")
        expected = scan[0]
        phase = read_nifti(tmp_path / "o_phase.nii.gz")[0]
        bright = np.abs(expected) > 0.2
        assert (
            np.abs(np.exp(1j * phase) - expected / np.abs(expected).clip(1e-9))[bright].max() < 1e-3
        )
        sidecar = json.loads((tmp_path / "o.json").read_text())
        assert sidecar["combined"] == "coil maps"
        assert "unit voxels" in sidecar["Warning"]
        (tmp_path / "o.nii.gz").unlink()
        (tmp_path / "o.json").write_text("precious")
        result = run("convert", tmp_path / "s.npz", tmp_path / "o.nii.gz")
        assert result.exit_code == 1
        assert "--overwrite" in result.stderr
        assert (tmp_path / "o.json").read_text() == "precious"

    def test_repetitions_are_a_fourth_axis(self, tmp_path):
        _, _, kspace = layouts.multicoil((8, 10), 6)
        lines = [
            layouts.readout(kspace[3 * r + s, :, y], y, slice=s, repetition=r)
            for r in range(2) for s in range(3) for y in range(8)
        ]  # fmt: skip
        whole = ((10, 8, 1), (10.0, 8.0, 1.0))
        xml = layouts.header_xml(whole, whole, {"kspace_encoding_step_1": (7, 4)})
        layouts.write_acquisitions(tmp_path / "s.h5", xml, lines)
        for suffix in (".nii", ".cfl", ".dcm", ".mrd", ".npy"):
            self.convert(tmp_path / "s.h5", tmp_path / f"o{suffix}")
        expected = np.load(tmp_path / "o.npy").reshape(2, 3, 8, 10)
        import nibabel

        from equipoise.formats.cfl import read_cfl

        array = np.asarray(nibabel.load(tmp_path / "o.nii").dataobj)
        assert np.allclose(array.transpose(3, 2, 1, 0), expected)
        cfl = read_cfl(tmp_path / "o.cfl")
        assert cfl.shape == (10, 8, *[1] * 8, 2, 1, 1, 3, 1, 1)
        assert np.allclose(cfl.squeeze().transpose(2, 3, 1, 0), expected)
        files = read_dicom(tmp_path / "o.dcm")[1]
        assert [f.TemporalPositionIdentifier for f in files] == [1, 1, 1, 2, 2, 2]
        assert [i.repetition for i in read_mrd(tmp_path / "o.mrd")[1]] == [0, 0, 0, 1, 1, 1]

    def test_complex_images_are_a_second_series_of_a_mrd_file(self, scan, tmp_path):
        np.savez(tmp_path / "s.npz", kspace=scan[2], csm=scan[1])
        self.convert(tmp_path / "s.npz", tmp_path / "o.mrd")
        found, images = read_mrd(tmp_path / "o.mrd", "image_1")
        weight = (np.abs(scan[1]) ** 2).sum(1)
        assert np.allclose(found, scan[0] * weight / weight, atol=2e-3)
        assert images[0].image_type == 5

    def test_images_are_cut_to_the_matrix_of_the_header_about_their_centre(self, scan, tmp_path):
        layouts.write_fastmri(tmp_path / "s.h5", scan[2], recon=(21, 30))
        self.convert(tmp_path / "s.h5", tmp_path / "o.h5")
        expected = expected_images(scan)[:, 20 - 10 : 20 + 11, 24 - 15 : 24 + 15]
        found = read_hdf5(tmp_path / "o.h5")[0]
        assert found.shape == (3, 21, 30)
        assert np.abs(found - expected).max() < 1e-4

    @pytest.mark.parametrize("suffix", [".h5", ".npz", ".cfl"])
    def test_kspace_goes_through_every_layout(self, suffix, scan, tmp_path):
        from equipoise.formats import read

        layouts.write_mrd(tmp_path / "s.mrd", scan[2])
        self.convert(tmp_path / "s.mrd", tmp_path / f"o{suffix}", "--kspace")
        found = read(tmp_path / f"o{suffix}")
        assert np.abs(found.kspace.numpy() - scan[2]).max() < 1e-4
        if suffix == ".h5":
            assert found.header.geometry == read(tmp_path / "s.mrd").header.geometry

    def test_what_cannot_be_written_is_said_before_the_work(self, scan, tmp_path):
        layouts.write_npz(tmp_path / "s.npz", scan[2])
        before = sorted(p.name for p in tmp_path.iterdir())
        for target, options, match in (
            ("o.tiff", (), "suffix"),
            ("o.dcm", ("--kspace",), "suffix"),
            ("none/o.npy", (), "not a folder"),
        ):
            result = run("convert", tmp_path / "s.npz", tmp_path / target, *options)
            assert result.exit_code == 1
            assert match in result.stderr
        assert sorted(p.name for p in tmp_path.iterdir()) == before

    def test_a_folder_is_only_replaced_when_it_is_a_series(self, scan, tmp_path):
        layouts.write_npz(tmp_path / "s.npz", scan[2])
        self.convert(tmp_path / "s.npz", tmp_path / "o.dcm")
        assert run("convert", tmp_path / "s.npz", tmp_path / "o.dcm").exit_code == 1
        self.convert(tmp_path / "s.npz", tmp_path / "o.dcm", "--overwrite")
        (tmp_path / "o.dcm" / "thesis.txt").write_text("precious")
        result = run("convert", tmp_path / "s.npz", tmp_path / "o.dcm", "--overwrite")
        assert result.exit_code == 1
        assert "other files" in result.stderr

    @pytest.mark.parametrize(
        ("suffix", "module", "extra"), [(".dcm", "pydicom", "dicom"), (".mrd", "ismrmrd", "mrd")]
    )
    def test_a_missing_library_is_named_with_its_command(
        self, suffix, module, extra, scan, tmp_path, monkeypatch
    ):
        import sys

        layouts.write_npz(tmp_path / "s.npz", scan[2])
        monkeypatch.setitem(sys.modules, module, None)
        result = run("convert", tmp_path / "s.npz", tmp_path / f"o{suffix}")
        assert result.exit_code == 1
        assert f"pip install 'equipoise[{extra}]'" in " ".join(result.stderr.split())
