"""Which files are opened: files behind links, pipes and devices, and files of other kinds."""

import fcntl
import os
import time

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

import layouts
from equipoise.cli.app import app
from equipoise.formats import read
from equipoise.formats.arrays import read_array
from equipoise.formats.hdf5 import load, open_hdf5
from equipoise.formats.images import read_images
from equipoise.outcome import BadInputError
from equipoise.recon.coil_maps import transformed
from equipoise.training.config import load_config
from equipoise.training.sources.images import load_images
from equipoise.training.sources.simulated import load_coils

KSPACE = layouts.multicoil((20, 24), 1)[2]
SECRET = b"\x00\x01the content of another file" * 4000


@pytest.fixture
def folder(tmp_path):
    """A scan beside others, and a secret outside the folder."""
    (tmp_path / "secret.bin").write_bytes(SECRET)
    with h5py.File(tmp_path / "outside.h5", "w") as file:
        for name in ("kspace", "csm", "image", "transform", "real", "imag", "mask"):
            file[name] = KSPACE
    inside = tmp_path / "scans"
    inside.mkdir()
    with h5py.File(inside / "plain.h5", "w") as file:
        file["kspace"] = KSPACE
    return inside


def virtual(path, name, source, shape=KSPACE.shape, dtype=np.complex64, inner="kspace"):
    layout = h5py.VirtualLayout(shape, dtype)
    layout[:] = h5py.VirtualSource(source, inner, shape)
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset(name, layout)


def external(path, name, target):
    with h5py.File(path, "a") as file:
        file.create_dataset(name, KSPACE.shape, np.complex64, external=[(target, 0, 10**6)])


def link(path, name, target, inner="kspace"):
    with h5py.File(path, "a") as file:
        file[name] = h5py.ExternalLink(target, inner)


def outside(folder, name):
    """A file whose dataset of that name leaves the folder, in each way that HDF5 knows."""
    secret, other = str(folder.parent / "secret.bin"), str(folder.parent / "outside.h5")
    external(folder / "storage.h5", name, secret)
    external(folder / "storage_relative.h5", name, "../secret.bin")
    virtual(folder / "virtual.h5", name, other)
    virtual(folder / "virtual_relative.h5", name, "../outside.h5")
    external(folder / "chain.h5", "kspace", secret)
    virtual(folder / "virtual_of_storage.h5", name, "chain.h5")
    link(folder / "link.h5", name, other)
    link(folder / "link_relative.h5", name, "../outside.h5")
    link(folder / "link_of_storage.h5", name, "chain.h5")
    with h5py.File(folder / "soft.h5", "w") as file:
        file["door"], file[name] = h5py.ExternalLink(other, "/"), h5py.SoftLink("/door/kspace")
    (folder / "symlink_target.h5").symlink_to(other)
    link(folder / "link_to_symlink.h5", name, "symlink_target.h5")
    os.mkfifo(folder / "pipe.h5")
    link(folder / "link_to_pipe.h5", name, "pipe.h5")
    virtual(folder / "virtual_of_pipe.h5", name, "pipe.h5")
    virtual(folder / "virtual_of_itself.h5", name, ".", inner=name)
    names = {p.name for p in folder.iterdir()} - {"plain.h5", "chain.h5", "pipe.h5"}
    return sorted(folder / n for n in names - {"symlink_target.h5"})


class TestHdf5ReadsNothingOutsideTheFolder:
    @pytest.mark.parametrize(
        ("name", "reader"),
        [
            ("kspace", read),
            ("image", read_images),
            ("csm", lambda p: read_array(p, "csm")),
            ("mask", lambda p: read_array(p, "mask")),
            ("csm", load_coils),
            ("real", lambda p: load_images([p])),
            ("magnitude", lambda p: load_images([p])),
            ("transform", lambda p: transformed(read(p.parent / "plain.h5"), p)),
        ],
    )
    def test_every_reader_refuses_every_way_out(self, folder, name, reader):
        ways = outside(folder, name)
        assert len(ways) == 13
        for path in ways:
            started = time.perf_counter()
            with pytest.raises(BadInputError, match=path.name):
                reader(path)
            assert time.perf_counter() - started < 20, path

    def test_the_output_never_holds_the_content(self, folder):
        external(folder / "s.h5", "image", str(folder.parent / "secret.bin"))
        arguments = ["convert", str(folder / "s.h5"), str(folder / "o.npy")]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1
        assert "secret.bin" in result.stderr
        assert not (folder / "o.npy").exists()

    def test_a_link_inside_the_folder_is_followed(self, folder):
        link(folder / "link.h5", "kspace", "plain.h5")
        virtual(folder / "virtual.h5", "kspace", "plain.h5")
        (folder / "below").mkdir()
        (folder / "below" / "plain.h5").write_bytes((folder / "plain.h5").read_bytes())
        link(folder / "below.h5", "kspace", "below/plain.h5")
        for name in ("link.h5", "virtual.h5", "below.h5"):
            assert np.array_equal(read(folder / name).kspace.numpy(), KSPACE), name

    def test_a_missing_target_is_named_and_not_looked_for_elsewhere(self, folder, monkeypatch):
        link(folder / "broken.h5", "kspace", "outside.h5")
        virtual(folder / "hole.h5", "kspace", "outside.h5")
        monkeypatch.chdir(folder.parent)  # HDF5 itself would find it in the working directory
        for name in ("broken.h5", "hole.h5"):
            with pytest.raises(BadInputError, match=r"outside\.h5 does not exist"):
                read(folder / name)

    def test_a_virtual_dataset_is_as_large_as_its_sources(self, folder):
        shape = (64, 1024, 1024)
        layout = h5py.VirtualLayout(shape, np.complex64)
        for i in range(shape[0]):
            layout[i, :20, :24] = h5py.VirtualSource(".", "small", (20, 24))
        with h5py.File(folder / "huge.h5", "w") as file:
            file["small"] = KSPACE[0, 0]
            file.create_virtual_dataset("kspace", layout)
        with (
            pytest.raises(BadInputError, match="declares 537 MB but the file stores"),
            open_hdf5(folder / "huge.h5") as file,
        ):
            load(file["kspace"])

    @pytest.mark.parametrize("shape", ["deep", "wide"])
    def test_endless_trees_are_refused_at_once(self, folder, shape):
        with h5py.File(folder / "tree.h5", "w") as file:
            file["kspace"], group = KSPACE, file
            for i in range(200 if shape == "deep" else 10_001):
                group = group.create_group(f"{i}") if shape == "deep" else group
                if shape == "wide":
                    group[f"{i}"] = h5py.SoftLink("/kspace")
        started = time.perf_counter()
        with pytest.raises(BadInputError, match="10000 links, or groups 64 deep"):
            read(folder / "tree.h5")
        assert time.perf_counter() - started < 20


class TestHdf5SaysWhatIsMissing:
    def test_a_filter_that_is_not_installed(self, tmp_path):
        with h5py.File(tmp_path / "blosc.h5", "w") as file:
            creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            creation.set_chunk(KSPACE.shape)
            creation.set_filter(32999, h5py.h5z.FLAG_OPTIONAL, (2, 2))
            kind, space = h5py.h5t.py_create(KSPACE.dtype), h5py.h5s.create_simple(KSPACE.shape)
            dataset = h5py.h5d.create(file.id, b"kspace", kind, space, creation)
            dataset.write_direct_chunk((0,) * 4, KSPACE.tobytes(), 0)
        with pytest.raises(BadInputError, match=r"32999.*hdf5plugin") as error:
            read(tmp_path / "blosc.h5")
        assert "damaged" not in str(error.value)

    def test_a_file_that_is_open_for_writing(self, tmp_path):
        path = tmp_path / "locked.h5"
        with h5py.File(path, "w") as file:
            file["kspace"] = KSPACE
        with path.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # as HDF5 does while it writes
            with pytest.raises(BadInputError, match="HDF5_USE_FILE_LOCKING") as error:
                read(path)
        assert "damaged" not in str(error.value)


class TestOnlyRegularFilesAreOpened:
    COMMANDS = (
        ["info", "PATH"],
        ["recon", "PATH", "-o", "OUT/o.h5"],
        ["recon", "SCAN", "--csm", "PATH", "-o", "OUT/o.h5"],
        ["recon", "SCAN", "--mask", "PATH", "-o", "OUT/o.h5"],
        ["recon", "SCAN", "--model", "PATH", "-o", "OUT/o.h5"],
        ["convert", "PATH", "OUT/o.npy"],
        ["calib", "PATH", "-o", "OUT/o.h5"],
        ["certify", "PATH", "-o", "OUT/c"],
        ["superres", "PATH", "-o", "OUT/o.png"],
        ["train", "PATH", "-o", "OUT/run"],
        ["import-model", "PATH", "-o", "OUT/m.safetensors"],
        ["models", "show", "PATH"],
        ["models", "install", "PATH"],
    )

    @pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
    def test_a_pipe_and_a_device_are_refused_by_every_command(self, tmp_path, arguments):
        pipe, scan, out = tmp_path / "pipe.h5", tmp_path / "scan.npz", tmp_path / "out"
        os.mkfifo(pipe)
        out.mkdir()
        np.savez(scan, kspace=KSPACE)
        for path in (pipe, "/dev/zero"):
            names = {"PATH": str(path), "SCAN": str(scan)}
            line = [names.get(a, a.replace("OUT", str(out))) for a in arguments]
            started = time.perf_counter()
            result = CliRunner().invoke(app, line)
            assert result.exit_code == 1, result.stderr
            assert str(path) in "".join(result.stderr.split())
            assert "unexpected" not in result.stderr
            assert time.perf_counter() - started < 60
            assert list(out.iterdir()) == []

    @pytest.mark.parametrize("reader", [load_coils, load_config, lambda p: load_images([p])])
    def test_training_refuses_them_too(self, tmp_path, reader):
        os.mkfifo(tmp_path / "pipe.h5")
        with pytest.raises(BadInputError, match="pipe, socket or device"):
            reader(tmp_path / "pipe.h5")

    def test_a_pipe_in_a_folder_of_images_is_refused(self, tmp_path):
        os.mkfifo(tmp_path / "a.nii")
        with pytest.raises(BadInputError, match=r"a\.nii is a pipe"):
            load_images([tmp_path])

    def test_a_pipe_as_the_data_of_a_cfl_is_refused(self, tmp_path):
        (tmp_path / "s.hdr").write_text("# Dimensions\n24 20 1 4\n")
        os.mkfifo(tmp_path / "s.cfl")
        with pytest.raises(BadInputError, match=r"s\.cfl"):
            read(tmp_path / "s.cfl")


class TestFilesOfOtherKindsAreNamed:
    @pytest.mark.parametrize(
        ("beginning", "words"),
        [
            (b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(200), "MATLAB 5"),
            (b"GIF89a".ljust(200), "GIF"),
            (b"RIFF\x00\x00\x00\x00WEBPVP8 ".ljust(200), "WebP"),
            (bytes(128) + b"DICM" + bytes(100), "DICOM"),
        ],
    )
    def test_as_scans_and_as_maps(self, tmp_path, beginning, words):
        path = tmp_path / "s.mat"
        path.write_bytes(beginning)
        for reader in (read, lambda p: read_array(p, "csm")):
            with pytest.raises(BadInputError, match=words):
                reader(path)
