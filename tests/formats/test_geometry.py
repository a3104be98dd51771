"""Where the pixels lie: slices in any order and orientation, in every format that can say it."""

import json

import h5py
import ismrmrd
import nibabel
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

import layouts
from equipoise.cli.app import app
from equipoise.formats import read
from equipoise.formats.header import Geometry, Header
from equipoise.formats.images import read_images
from equipoise.formats.writers.write import write_image
from equipoise.outcome import BadInputError

Y, X = layouts.SHAPE
LIMITS = {"kspace_encoding_step_1": (Y - 1, Y // 2)}
SPACE = ((X, Y, 1), (layouts.FOV[1], layouts.FOV[0], layouts.THICKNESS))
STEP = 6.0
INTERLEAVED = [0, 2, 4, 1, 3]


@pytest.fixture(scope="module")
def scan():
    """k-space of five slices, that of the largest z last."""
    return layouts.multicoil(n_slices=5)[2]


def write_mrd(path, kspace, place, **options):
    """Slices numbered as they come; ``place`` gives the header fields of each."""
    lines = [
        layouts.readout(kspace[s, :, n], n, slice=s, **place(s))
        for s in range(len(kspace))
        for n in range(Y)
    ]
    layouts.write_acquisitions(path, layouts.header_xml(SPACE, SPACE, LIMITS, **options), lines)


def axial(position):
    return {"position": position, "read_dir": (1, 0, 0), "phase_dir": (0, 1, 0),
            "slice_dir": (0, 0, 1)}  # fmt: skip


def write_interleaved_mrd(path, scan):
    """Slice s of the file lies at INTERLEAVED[s]."""
    write_mrd(path, scan[INTERLEAVED], lambda s: axial((1, 2, STEP * (INTERLEAVED[s] - 2))))


def write_interleaved_twix(path, scan):
    wide = layouts.oversampled(scan[INTERLEAVED]).conj()
    blocks = [
        layouts.twix_block(wide[s, :, n], n, X, slice_index=s, lines_centre=Y // 2,
                           position=layouts.twix_position(INTERLEAVED[s], 5))
        for s in range(5)
        for n in range(Y)
    ]  # fmt: skip
    layouts.write_twix_blocks(path, blocks, (Y, X))


def dicoms(folder):
    return [pydicom.dcmread(p) for p in sorted(folder.glob("*.dcm"))]


@pytest.mark.parametrize("write", [write_interleaved_mrd, write_interleaved_twix])
def test_interleaved_slices_are_in_the_order_of_their_positions(write, scan, tmp_path):
    write(tmp_path / "s.dat", scan)
    content = read_images(tmp_path / "s.dat")
    for suffix in (".nii.gz", ".dcm"):
        write_image(tmp_path / f"o{suffix}", content)
    image = np.abs(content["image"])
    stored = nibabel.load(tmp_path / "o.nii.gz")
    ordered = np.asarray(stored.dataobj).transpose(2, 1, 0)
    assert np.allclose(ordered, image[np.argsort(INTERLEAVED)], rtol=1e-5)
    assert stored.header.get_zooms()[2] == pytest.approx(STEP, rel=1e-5)
    centres = content["header"].geometry.centres
    for place, index in enumerate(np.argsort(INTERLEAVED)):
        lps = np.array(centres[index])
        assert np.allclose(
            stored.affine @ [X // 2, Y // 2, place, 1], [-lps[0], -lps[1], lps[2], 1], atol=1e-4
        )
        made = dicoms(tmp_path / "o.dcm")[place]
        assert float(made.SpacingBetweenSlices) == pytest.approx(STEP, rel=1e-5)
        assert made.InstanceNumber == place + 1
        pixels = made.pixel_array * float(made.RescaleSlope)
        assert np.allclose(pixels, image[index], atol=float(made.RescaleSlope))


@pytest.mark.parametrize("slices_first", [True, False])
def test_frames_of_a_file_without_geometry_lie_at_the_same_place(slices_first, tmp_path):
    frames, slices = 3, 2
    images = np.arange(1, 7)[:, None, None] * np.ones((6, 8, 8), np.complex64)
    labels = [{"time": t, "slice": s} for t in range(frames) for s in range(slices)]
    if slices_first:
        labels = sorted(labels, key=lambda label: label["slice"])
    content = {"image": images, "header": Header(labels=labels, frame_ms=40.0)}
    for suffix in (".dcm", ".nii.gz"):
        write_image(tmp_path / f"o{suffix}", content)
    made = dicoms(tmp_path / "o.dcm")
    places = [float(one.ImagePositionPatient[2]) for one in made]
    assert places == [0.0, 1.0] * frames
    assert [float(one.TriggerTime) for one in made] == [0.0, 0.0, 40.0, 40.0, 80.0, 80.0]
    stored = nibabel.load(tmp_path / "o.nii.gz")
    assert stored.shape == (8, 8, slices, frames)
    assert stored.header.get_zooms()[2:] == pytest.approx((1.0, 0.04))


@pytest.mark.parametrize(
    ("phases", "times"), [([0, 1, 3], [0.0, 40.0, 120.0]), ([2, 4, 6], [0.0, 40.0, 80.0])]
)
def test_the_time_of_a_missing_frame_has_passed(phases, times, tmp_path):
    labels = [{"phase": phase} for phase in phases]
    content = {
        "image": np.ones((3, 8, 8), np.complex64),
        "header": Header(labels=labels, frame_ms=40.0),
    }
    for suffix in (".dcm", ".nii.gz"):
        write_image(tmp_path / f"o{suffix}", content)
    assert [float(one.TriggerTime) for one in dicoms(tmp_path / "o.dcm")] == times
    apart = nibabel.load(tmp_path / "o.nii.gz").header.get_zooms()[3]
    assert apart == pytest.approx(1.0 if phases == [0, 1, 3] else 0.04)


PLANES = [  # read, phase, slice
    ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
    ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
]


class TestLocalizer:
    """Three planes through one point."""

    @pytest.fixture
    def localizer(self, scan, tmp_path):
        def place(s):
            names = ("read_dir", "phase_dir", "slice_dir")
            return {"position": (3, 4, 5), **dict(zip(names, PLANES[s]))}

        write_mrd(tmp_path / "s.mrd", scan[:3], place)
        return tmp_path / "s.mrd"

    def test_each_slice_has_its_own_directions(self, localizer):
        found = read(localizer)
        geometry = found.header.geometry
        assert geometry.plane == "axial, sagittal, coronal"
        for s, (read_dir, phase_dir, slice_dir) in enumerate(PLANES):
            assert geometry.directions(s) == (slice_dir, phase_dir, read_dir)
        assert geometry.centres == [(3, 4, 5)] * 3
        assert found.header.volumes(3) == [[0], [1], [2]]
        assert not any("position" in note or "orientation" in note for note in found.notes)

    def test_dicom_and_mrd_keep_them(self, localizer, tmp_path):
        for suffix in (".dcm", ".mrd", ".h5"):
            write_image(tmp_path / f"o{suffix}", read_images(localizer))
        write_image(tmp_path / "again.dcm", read_images(tmp_path / "o.h5"))
        for folder in ("o.dcm", "again.dcm"):
            for made, (read_dir, phase_dir, _) in zip(dicoms(tmp_path / folder), PLANES):
                assert np.allclose(made.ImageOrientationPatient, [*read_dir, *phase_dir])
                dy, dx = (float(v) for v in made.PixelSpacing)
                middle = Y // 2 * dy * np.array(phase_dir) + X // 2 * dx * np.array(read_dir)
                first = np.array(made.ImagePositionPatient, float)
                assert np.allclose(first + middle, (3, 4, 5), atol=1e-4)
        with ismrmrd.Dataset(str(tmp_path / "o.mrd"), create_if_needed=False) as file:
            for s, (read_dir, _, slice_dir) in enumerate(PLANES):
                image = file.read_image("image_0", s)
                assert np.allclose(image.read_dir, read_dir)
                assert np.allclose(image.slice_dir, slice_dir)

    def test_nifti_has_a_file_for_each_orientation_in_place(self, localizer, tmp_path):
        content = read_images(localizer)
        write_image(tmp_path / "o.nii.gz", content)
        written = {p.name for p in tmp_path.iterdir()} - {localizer.name}
        names = ("axial", "sagittal", "coronal")
        assert written == {"o.json"} | {f"o_{n}{s}" for n in names for s in (".nii.gz", ".json")}
        listed = json.loads((tmp_path / "o.json").read_text())["Orientations"]
        assert listed == {name: f"o_{name}.nii.gz" for name in names}
        for s, (name, (read_dir, phase_dir, slice_dir)) in enumerate(zip(names, PLANES)):
            image = nibabel.load(tmp_path / f"o_{name}.nii.gz")
            assert np.allclose(image.get_fdata()[:, :, 0].T, np.abs(content["image"][s]), rtol=1e-5)
            place = np.diag([-1, -1, 1, 1]) @ image.affine  # LPS
            assert np.allclose(place @ [X // 2, Y // 2, 0, 1], [3, 4, 5, 1], atol=1e-4)
            for axis, direction in enumerate((read_dir, phase_dir, slice_dir)):
                assert np.allclose(
                    place[:3, axis] / np.linalg.norm(place[:3, axis]), direction, atol=1e-6
                )

    @pytest.mark.parametrize("name", ["o_axial.nii.gz", "o_coronal.json", "o.json", "o_axial.nii"])
    def test_none_of_its_files_replaces_one_unasked(self, localizer, tmp_path, name):
        (tmp_path / name).write_text("mine")
        content = read_images(localizer)
        with pytest.raises(BadInputError, match=f"{name} exists"):
            write_image(tmp_path / "o.nii.gz", content)
        assert (tmp_path / name).read_text() == "mine"
        assert len([*tmp_path.iterdir()]) == 2
        if name.endswith(".nii"):  # it would share a sidecar
            return
        write_image(tmp_path / "o.nii.gz", content, overwrite=True)
        assert len([*tmp_path.iterdir()]) == 1 + 7

    def test_planes_of_one_name_are_numbered(self):
        tilted = ((0, 0.6, 0.8), (0, 0.8, -0.6), (1, 0, 0))
        axial_plane = ((0, 0, 1), (0, 1, 0), (1, 0, 0))
        geometry = Geometry((1, 1, 1), centres=[(0, 0, 0)] * 3)
        geometry.planes = [axial_plane, tilted, axial_plane]
        assert Header(geometry=geometry).orientations() == {"axial": [0, 2], "axial-2": [1]}

    def test_a_file_that_is_read_is_not_overwritten(self, localizer, tmp_path):
        (tmp_path / "o_axial.nii.gz").hardlink_to(localizer)
        before = localizer.read_bytes()
        command = ["convert", str(localizer), str(tmp_path / "o.nii.gz"), "--overwrite"]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1
        assert "is read and would be overwritten" in " ".join(result.stderr.split())
        assert localizer.read_bytes() == before

    def test_a_batch_resumes_it_and_never_replaces_a_foreign_file(self, localizer, tmp_path):
        other, folder = tmp_path / "t.mrd", tmp_path / "out"
        other.write_bytes(localizer.read_bytes())
        folder.mkdir()
        (folder / "s_axial.nii.gz").write_text("mine")
        command = ["recon", str(localizer), str(other), "-o", str(folder), "--model", "tv"]
        command += ["--suffix", ".nii.gz", "--json"]

        def events(*more):
            found = CliRunner().invoke(app, [*command, *more])
            records = [json.loads(line) for line in found.stdout.splitlines()]
            return [r["event"] for r in records if "event" in r], found.exit_code

        assert events()[0] == ["failed", "written"]
        assert (folder / "s_axial.nii.gz").read_text() == "mine"
        (folder / "s_axial.nii.gz").unlink()
        assert events("--resume")[0] == ["written", "skipped"]
        (folder / "t_coronal.nii.gz").write_bytes(b"")
        assert events("--resume")[0] == ["skipped", "written"]

    def test_the_header_survives_json(self, localizer):
        header = read(localizer).header
        again = Header.from_json(json.loads(json.dumps(header.as_json())))
        assert again.geometry == header.geometry
        content = header.as_json()
        content["geometry"]["planes"] = content["geometry"]["planes"][:1]
        with pytest.raises(ValueError, match="1 orientations for 3 images"):
            Header.from_json(content)


def unknown_npz(path, scan):
    np.savez(path, kspace=scan)


def unknown_mrd(path, scan):
    write_mrd(path, scan, lambda s: {"read_dir": (0, 0, 0)})


def unknown_fastmri(path, scan):
    layouts.write_fastmri(path, scan)


def in_one_place(path, scan):
    write_mrd(path, scan, lambda s: axial((1, 2, 3)))


@pytest.mark.parametrize("write", [unknown_npz, unknown_mrd, unknown_fastmri, in_one_place])
def test_formats_agree_where_the_orientation_is_unknown(write, scan, tmp_path):
    path = tmp_path / ("s.npz" if write is unknown_npz else "s.h5")
    write(path, scan)
    for suffix in (".nii.gz", ".dcm"):
        write_image(tmp_path / f"o{suffix}", read_images(path))
    stored = nibabel.load(tmp_path / "o.nii.gz")
    assert stored.header["sform_code"] == stored.header["qform_code"] == 0
    lps = np.diag([-1, -1, 1]) @ stored.affine[:3, :3]
    first, second = dicoms(tmp_path / "o.dcm")[:2]
    row, column = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    positions = [np.array(f.ImagePositionPatient, float) for f in (first, second)]
    directions = lps / np.linalg.norm(lps, axis=0)
    assert np.allclose(directions.T, [row, column, [0, 0, 1]])
    assert np.allclose(positions[1] - positions[0], lps[:, 2], atol=1e-4)
    assert first.PatientPosition == ""
    assert "orientation unknown" in first.DerivationDescription
    magnitude = np.asarray(stored.dataobj)[:, :, 1].T
    pixels = second.pixel_array * float(second.RescaleSlope)
    assert np.allclose(pixels, magnitude, atol=float(second.RescaleSlope))


def test_one_position_for_all_slices_is_said_to_be_unknown(scan, tmp_path):
    in_one_place(tmp_path / "s.h5", scan)
    found = read(tmp_path / "s.h5")
    assert not found.header.geometry.oriented
    assert any("all slices have one position in the file" in note for note in found.notes)


def test_an_orientation_that_is_no_vector_is_refused(scan, tmp_path):
    content = read_images(self_made(tmp_path, scan))
    geometry = content["header"].as_json()["geometry"]
    with h5py.File(tmp_path / "o.h5", "w") as file:
        file["image"] = content["image"]
        geometry["planes"] = [[[0, 0, 1], [0, 1, 0]]] * 5
        file.attrs["header"] = json.dumps({"geometry": geometry})
    with pytest.raises(BadInputError, match="attribute 'header' cannot be used"):
        read_images(tmp_path / "o.h5")


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_directions_that_are_not_at_right_angles_are_unknown(share, scan, tmp_path):
    path = self_made(tmp_path, scan)
    with h5py.File(path, "r+") as file:
        records = file["dataset/data"][()]
        head = records["head"]
        head["read_dir"] = share * head["phase_dir"] + (1 - share) * head["read_dir"]
        file["dataset/data"][...] = records
    found = read(path)
    assert not found.header.geometry.oriented
    assert any("orientation is not in the file" in note for note in found.notes)


def self_made(folder, scan):
    write_interleaved_mrd(folder / "s.mrd", scan)
    return folder / "s.mrd"
