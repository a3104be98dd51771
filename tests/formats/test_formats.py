"""Each layout is written as its software writes it and comes back as the same acquisition."""

import h5py
import numpy as np
import pytest
import torch

from equipoise.formats import as_slices, read
from equipoise.formats.arrays import read_array
from equipoise.formats.cfl import cfl_bytes
from equipoise.formats.images import read_images
from equipoise.formats.writers.write import WRITERS, write_image
from equipoise.outcome import BadInputError, InputWarning
from equipoise.physics.fourier import image_to_kspace, kspace_to_image


def combined(acquisition, csm):
    return (np.conj(csm) * kspace_to_image(acquisition.kspace).numpy()).sum(1)


def write_fastmri(path, arrays):
    with h5py.File(path, "w") as file:
        file["kspace"] = arrays["kspace"]


def write_modl(path, arrays):
    image, csm = arrays["image"], arrays["csm"]
    with h5py.File(path, "w") as file:
        file["tstOrg"], file["tstCsm"] = image, csm
        file["tstMask"] = np.fft.ifftshift(np.ones(image.shape, np.int8), axes=(-2, -1))


def write_calgary(path, arrays):
    images = kspace_to_image(torch.from_numpy(arrays["kspace"])).numpy()
    corner = np.moveaxis(np.fft.fft2(images), 1, -1)  # not centred, not orthonormal
    interleaved = np.stack([corner.real, corner.imag], -1).reshape(*corner.shape[:3], -1)
    with h5py.File(path, "w") as file:
        file["kspace"] = interleaved.astype(np.float32)


def write_bart(path, arrays):
    # (1, coil, y, x) -> READ = x, PHS1 = y, PHS2 = 1, COIL
    array = arrays["kspace"][0].transpose(2, 1, 0)[:, :, None, :]
    header, data = cfl_bytes(array)
    path.with_suffix(".hdr").write_bytes(header)
    path.with_suffix(".cfl").write_bytes(data)


def write_npz(path, arrays):
    np.savez(path, kspace=arrays["kspace"])


LAYOUTS = {
    "fastMRI": ("scan.h5", write_fastmri),
    "MoDL": ("scan.hdf5", write_modl),
    "Calgary-Campinas": ("scan.h5", write_calgary),
    "BART": ("scan.cfl", write_bart),
    "npz": ("scan.npz", write_npz),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_image(layout, tmp_path, scan_arrays):
    name, write = LAYOUTS[layout]
    path = tmp_path / name
    write(path, scan_arrays)
    acquisition = read(path)
    assert acquisition.layout == layout
    assert acquisition.kspace.shape == scan_arrays["kspace"].shape
    image = combined(acquisition, scan_arrays["csm"])
    expected = scan_arrays["image"]
    assert np.abs(image - expected).max() < 0.03 * np.abs(expected).max()
    assert bool(acquisition.mask.all())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_content_decides_not_the_name(layout, tmp_path, scan_arrays):
    if layout == "BART":
        pytest.skip("a cfl is a pair of files that only their names hold together")
    path = tmp_path / "scan.dat"
    LAYOUTS[layout][1](tmp_path / LAYOUTS[layout][0], scan_arrays)
    (tmp_path / LAYOUTS[layout][0]).rename(path)
    assert read(path).layout == layout


def test_modl_masks_are_brought_to_the_centre(tmp_path, scan_arrays):
    image, csm = scan_arrays["image"], scan_arrays["csm"]
    mask = np.zeros(image.shape, np.float32)
    centre = tuple(slice(n // 2 - 5, n // 2 + 5) for n in image.shape[1:])
    mask[(0, *centre)] = 1
    with h5py.File(tmp_path / "modl.h5", "w") as file:
        file["trnOrg"], file["trnCsm"] = image, csm
        file["trnMask"] = np.fft.ifftshift(mask, axes=(-2, -1))
    acquisition = read(tmp_path / "modl.h5")
    assert torch.equal(acquisition.mask, torch.from_numpy(mask != 0))
    assert acquisition.csm is not None
    assert np.array_equal(acquisition.target.numpy(), image)


def test_calgary_zero_filled_columns_are_not_sampled(tmp_path, scan_arrays):
    path = tmp_path / "scan.h5"
    write_calgary(path, scan_arrays)
    with h5py.File(path, "r+") as file:
        kspace = file["kspace"][:]
        n = kspace.shape[2]
        kspace[:, :, n // 2 - 4 : n // 2 + 4] = 0  # corner DC: the highest frequencies
        file["kspace"][...] = kspace
    mask = read(path).mask
    assert not bool(mask[..., :4].any())
    assert not bool(mask[..., -4:].any())
    assert bool(mask[..., 4:-4].all())


def test_a_three_dimensional_cfl_becomes_slices_along_the_readout(tmp_path):
    rng = np.random.default_rng(0)
    images = (rng.standard_normal((2, 3, 8, 6)) + 1j).astype(np.complex64)  # x, coil, z, y
    kspace = image_to_kspace(torch.from_numpy(images))
    volume = image_to_kspace(kspace.movedim(0, -1), 1).numpy()  # coil, z, y, x
    header, data = cfl_bytes(volume.transpose(3, 2, 1, 0))
    (tmp_path / "v.hdr").write_bytes(header)
    (tmp_path / "v.cfl").write_bytes(data)
    acquisition = as_slices(read(tmp_path / "v.cfl"))
    assert acquisition.kspace.shape == (2, 3, 8, 6)
    assert np.abs(kspace_to_image(acquisition.kspace).numpy() - images).max() < 1e-5


@pytest.mark.parametrize("given", ["scan", "scan.hdr", "scan.cfl"])
def test_a_cfl_may_be_named_as_bart_names_it(given, tmp_path, scan_arrays):
    write_bart(tmp_path / "scan.cfl", scan_arrays)
    assert read(tmp_path / given).layout == "BART"


@pytest.mark.parametrize("shape", ["columns", "matrix", "slices"])
def test_a_fastmri_mask_may_be_of_columns_or_of_the_matrix(shape, tmp_path, scan_arrays):
    kspace = scan_arrays["kspace"]
    columns = np.arange(kspace.shape[3]) % 2 == 0
    mask = {
        "columns": columns,
        "matrix": np.broadcast_to(columns, kspace.shape[2:]),
        "slices": np.broadcast_to(columns, (1, *kspace.shape[2:])),
    }[shape]
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"], file["mask"] = kspace, mask
    acquisition = read(tmp_path / "scan.h5")
    assert np.array_equal(acquisition.mask[0].numpy(), np.broadcast_to(columns, kspace.shape[2:]))
    assert float(acquisition.kspace[..., 1::2].abs().max()) == 0


def test_compound_numbers_are_complex(tmp_path, scan_arrays):
    kspace = scan_arrays["kspace"]
    compound = np.zeros(kspace.shape, [("real", "f4"), ("imag", "f4")])
    compound["real"], compound["imag"] = kspace.real, kspace.imag
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = compound
    assert np.array_equal(read(tmp_path / "scan.h5").kspace.numpy(), kspace)


class TestBadInput:
    def fail(self, path, match):
        with pytest.raises(BadInputError, match=match) as caught:
            read(path)
        assert str(path.name).split(".")[0] in str(caught.value)

    def with_kspace(self, tmp_path, kspace, **others):
        path = tmp_path / "scan.h5"
        with h5py.File(path, "w") as file:
            file["kspace"] = kspace
            for name, value in others.items():
                file[name] = value
        return path

    def test_missing_file(self, tmp_path):
        self.fail(tmp_path / "none.h5", "does not exist")

    def test_folder(self, tmp_path):
        self.fail(tmp_path, "folder")

    def test_unknown_content(self, tmp_path):
        path = tmp_path / "scan.h5"
        path.write_text("hello")
        self.fail(path, "no known format")

    @pytest.mark.parametrize("keep", [600, 0.5, 0.95])
    def test_truncated_hdf5(self, tmp_path, full_scan, keep):
        content = full_scan.read_bytes()
        path = tmp_path / "cut.h5"
        path.write_bytes(content[: keep if keep > 1 else int(len(content) * keep)])
        self.fail(path, "damaged or truncated")

    def test_truncated_npz(self, tmp_path, scan_arrays):
        path = tmp_path / "scan.npz"
        write_npz(path, scan_arrays)
        path.write_bytes(path.read_bytes()[:-400])
        self.fail(path, "damaged or truncated")

    def test_truncated_cfl(self, tmp_path, scan_arrays):
        path = tmp_path / "scan.cfl"
        write_bart(path, scan_arrays)
        path.write_bytes(path.read_bytes()[:-80])
        self.fail(path, "truncated")

    def test_cfl_without_data(self, tmp_path, scan_arrays):
        path = tmp_path / "scan.cfl"
        write_bart(path, scan_arrays)
        path.unlink()
        self.fail(path, "cannot be read")

    def test_missing_dataset(self, tmp_path):
        path = tmp_path / "scan.h5"
        with h5py.File(path, "w") as file:
            file["data"] = np.ones(3)
        self.fail(path, "no dataset 'kspace'.*data")

    def test_empty_hdf5(self, tmp_path):
        path = tmp_path / "scan.h5"
        h5py.File(path, "w").close()
        self.fail(path, "no dataset 'kspace'")

    @pytest.mark.parametrize("dtype", [np.int16, "S4", np.float32])
    def test_wrong_type(self, tmp_path, dtype):
        self.fail(self.with_kspace(tmp_path, np.ones((1, 2, 8, 8)).astype(dtype)), "complex")

    def test_a_group_in_place_of_a_dataset(self, tmp_path):
        path = tmp_path / "scan.h5"
        with h5py.File(path, "w") as file:
            file.create_group("kspace")
        self.fail(path, "is a group")

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_nan_and_inf(self, tmp_path, scan_arrays, value):
        kspace = scan_arrays["kspace"].copy()
        kspace[0, 1, 2, 3] = value
        self.fail(self.with_kspace(tmp_path, kspace), "1 of .* NaN or Inf")

    def test_zero_everywhere(self, tmp_path):
        kspace = np.zeros((2, 2, 8, 8), np.complex64)
        self.fail(self.with_kspace(tmp_path, kspace), "zero everywhere")

    def test_a_slice_without_samples_is_left_out_and_named(self, tmp_path, scan_arrays):
        empty = np.concatenate([scan_arrays["kspace"], 0 * scan_arrays["kspace"]])
        maps = np.repeat(scan_arrays["csm"][:1], len(empty), 0)
        path = self.with_kspace(tmp_path, empty[::-1].copy(), csm=maps)
        n = len(scan_arrays["kspace"])
        with pytest.warns(InputWarning, match="left out: slice 0 holds no sample"):
            found = read(path)
        assert found.labels == [{"slice": i} for i in range(n, 2 * n)]
        assert np.array_equal(found.kspace.numpy(), scan_arrays["kspace"][::-1])
        assert len(found.csm) == n
        assert len(found.header.left_out) == n

    def test_mask_of_another_shape(self, tmp_path, scan_arrays):
        path = self.with_kspace(tmp_path, scan_arrays["kspace"], mask=np.ones((5, 5)))
        self.fail(path, r"mask has shape \(5, 5\)")

    def test_empty_mask(self, tmp_path, scan_arrays):
        mask = np.zeros(scan_arrays["kspace"].shape[2:])
        self.fail(self.with_kspace(tmp_path, scan_arrays["kspace"], mask=mask), "mask is empty")

    def test_a_mask_that_is_empty_for_one_frame(self, tmp_path, scan_arrays):
        kspace = np.repeat(scan_arrays["kspace"], 2, 0)
        mask = np.ones((len(kspace), *kspace.shape[2:]), bool)
        mask[1] = False
        path = self.with_kspace(tmp_path, kspace, mask=mask)
        self.fail(path, r"empty for 1 frame of 2 that have samples, the first is frame 1 \(")
        kspace[1] = 0
        with pytest.warns(InputWarning, match="left out: slice 1 holds no sample"):
            found = read(self.with_kspace(tmp_path, kspace, mask=mask))
        assert len(found.kspace) == len(kspace) - 1

    def test_a_density_is_no_mask(self, tmp_path, scan_arrays, rng):
        density = rng.uniform(0.1, 1, scan_arrays["kspace"].shape[2:])
        self.fail(self.with_kspace(tmp_path, scan_arrays["kspace"], mask=density), "zeros and ones")

    @pytest.mark.parametrize("factor", [1e300, 1e-300])
    @pytest.mark.parametrize("name", ["kspace", "csm", "target"])
    def test_numbers_that_single_precision_cannot_hold(self, name, factor, tmp_path, scan_arrays):
        arrays = {"kspace": scan_arrays["kspace"], "csm": scan_arrays["csm"]}
        arrays["target"] = np.ones(arrays["kspace"][:, 0].shape)
        arrays[name] = arrays[name].astype(np.complex128) * factor
        assert np.isfinite(arrays[name]).all()
        self.fail(self.with_kspace(tmp_path, **arrays), "beyond single precision")

    def test_maps_that_are_zero_or_do_not_fit(self, tmp_path, scan_arrays):
        kspace, csm = scan_arrays["kspace"], scan_arrays["csm"]
        self.fail(self.with_kspace(tmp_path, kspace, csm=csm * 0), "zero everywhere")
        self.fail(self.with_kspace(tmp_path, kspace, csm=csm[:, :3]), "coil maps have shape")
        self.fail(self.with_kspace(tmp_path, kspace, csm=csm * np.nan), "NaN")


class TestArrays:
    def test_are_read_from_every_kind_of_file(self, tmp_path, scan_arrays):
        csm = scan_arrays["csm"]
        np.save(tmp_path / "a.npy", csm)
        np.savez(tmp_path / "a.npz", csm=csm, mask=np.ones(3))
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["csm"] = csm
        write_bart(tmp_path / "a.cfl", {"kspace": csm})
        for suffix in ("npy", "npz", "h5", "cfl"):
            assert np.array_equal(read_array(tmp_path / f"a.{suffix}", "csm"), csm)

    def test_a_cfl_with_two_sets_of_maps_gives_the_first_and_a_mask_has_no_coil_axis(
        self, tmp_path, scan_arrays
    ):
        csm = scan_arrays["csm"]
        sets = np.stack([csm[0], 0 * csm[0]]).transpose(3, 2, 1, 0)[:, :, None]  # x y z coil maps
        mask = np.arange(64)[:, None, None] % 2 * np.ones((1, 72, 1))
        for name, array in (("brain.maps", sets), ("mask", mask)):
            header, data = cfl_bytes(array)
            (tmp_path / f"{name}.hdr").write_bytes(header)
            (tmp_path / f"{name}.cfl").write_bytes(data)
        assert np.array_equal(read_array(tmp_path / "brain.maps.cfl", "csm"), csm)
        assert np.array_equal(read_array(tmp_path / "brain.maps", "csm"), csm)
        assert read_array(tmp_path / "mask.cfl", "mask").shape == (1, 72, 64)

    def test_say_what_is_missing(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=np.ones(3), y=np.ones(3))
        with pytest.raises(BadInputError, match="no 'csm'"):
            read_array(tmp_path / "a.npz", "csm")
        (tmp_path / "b.npy").write_bytes(b"nonsense")
        with pytest.raises(BadInputError, match="cannot be read"):
            read_array(tmp_path / "b.npy", "csm")
        with pytest.raises(BadInputError, match="does not exist"):
            read_array(tmp_path / "c.npy", "csm")


class TestWriting:
    @pytest.fixture
    def content(self, scan_arrays):
        image = np.concatenate([scan_arrays["image"], 0.5 * scan_arrays["image"][:, ::-1]])
        mask = np.ones(image[:1].shape, bool)
        attributes = {"model": "m", "outcome": "converged", "distance_bound": 1e-3}
        return {"image": image, "csm": scan_arrays["csm"], "mask": mask, "attributes": attributes}

    def test_every_suffix_comes_back(self, tmp_path, content):
        import nibabel
        from matplotlib.image import imread

        image = content["image"]
        for suffix in WRITERS:
            (tmp_path / suffix[1:]).mkdir()
            write_image(tmp_path / suffix[1:] / f"out{suffix}", content)
        with h5py.File(tmp_path / "h5" / "out.h5") as file:
            assert file["reconstruction"].dtype == np.float32
            assert np.allclose(file["reconstruction"], np.abs(image))
            assert np.array_equal(file["image"], image)
            assert file.attrs["outcome"] == "converged"
            assert set(file) == {"reconstruction", "image", "csm", "mask"}
        assert np.array_equal(np.load(tmp_path / "npy" / "out.npy"), image)
        volume = np.asarray(nibabel.load(tmp_path / "nii.gz" / "out.nii.gz").dataobj)
        assert np.allclose(volume.transpose(2, 1, 0), np.abs(image))
        from equipoise.formats.cfl import read_cfl

        cfl = read_cfl(tmp_path / "cfl" / "out.cfl").squeeze()
        assert np.array_equal(cfl.transpose(2, 1, 0), image)
        png = imread(tmp_path / "png" / "out.png")[..., 0]
        expected = np.concatenate(list(np.abs(image)), axis=1)
        assert np.abs(png - expected / expected.max()).max() < 0.01
        leftovers = [p.name for p in tmp_path.rglob("*") if "tmp" in p.name]
        assert leftovers == []

    def test_nothing_is_overwritten_without_being_asked(self, tmp_path, content):
        path = tmp_path / "out.npy"
        path.write_text("precious")
        with pytest.raises(BadInputError, match="--overwrite"):
            write_image(path, content)
        assert path.read_text() == "precious"
        write_image(path, content, overwrite=True)
        assert np.load(path).shape == content["image"].shape

    def test_the_header_of_a_cfl_is_not_overwritten_either(self, tmp_path, content):
        (tmp_path / "out.hdr").write_text("precious")
        with pytest.raises(BadInputError, match="--overwrite"):
            write_image(tmp_path / "out.cfl", content)
        assert (tmp_path / "out.hdr").read_text() == "precious"

    def test_bad_targets(self, tmp_path, content):
        with pytest.raises(BadInputError, match="suffix"):
            write_image(tmp_path / "out.tiff", content)
        with pytest.raises(BadInputError, match="not a folder"):
            write_image(tmp_path / "none" / "out.npy", content)

    def test_a_failure_leaves_no_half_written_file(self, tmp_path, content):
        class Broken:
            def astype(self, dtype):
                raise OSError("disk full")

        with pytest.raises(BadInputError, match="disk full"):
            write_image(tmp_path / "out.npy", {**content, "image": Broken()})
        assert list(tmp_path.iterdir()) == []


def test_images_that_single_precision_cannot_hold_are_refused(tmp_path, scan_arrays):
    """Squares do not overflow, because samples are first divided by their maximum."""
    kspace = scan_arrays["kspace"] / np.abs(scan_arrays["kspace"]).max()
    np.savez(tmp_path / "small.npz", kspace=kspace)
    np.savez(tmp_path / "large.npz", kspace=(kspace * 1e30).astype(np.complex64))
    small, large = (read_images(tmp_path / f"{n}.npz")["image"] for n in ("small", "large"))
    assert np.allclose(large / 1e30, small, rtol=1e-5)
    np.savez(tmp_path / "huge.npz", kspace=np.full((1, 2, 8, 8), 3e38, np.complex64))
    with pytest.raises(BadInputError, match="exceed the range of single precision"):
        read_images(tmp_path / "huge.npz")
