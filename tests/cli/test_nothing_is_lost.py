"""No command overwrites a file that it reads, or any file of the user without --overwrite."""

import os

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

import layouts
from equipoise.cli.app import app
from equipoise.formats.writers.target import IMAGES, companions, input_files
from equipoise.formats.writers.write import WRITERS
from equipoise.zoo.find import DEFAULT_MODEL, find_model


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def folder(tmp_path, scan_arrays):
    """A scan in two formats, maps, a mask, a model, links to them, and a photograph."""
    from matplotlib.image import imsave

    kspace = scan_arrays["kspace"]
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["kspace"] = kspace
    layouts.write_bart(tmp_path / "b.cfl", kspace)
    np.save(tmp_path / "csm.npy", scan_arrays["csm"])
    np.save(tmp_path / "mask.npy", np.ones((72, 64)))
    imsave(tmp_path / "p.png", np.random.default_rng(0).random((40, 40)), cmap="gray")
    (tmp_path / "m.safetensors").write_bytes(find_model(DEFAULT_MODEL).read_bytes())
    (tmp_path / "link.h5").symlink_to(tmp_path / "s.h5")
    os.link(tmp_path / "s.h5", tmp_path / "hard.h5")
    os.link(tmp_path / "mask.npy", tmp_path / "o.json")
    os.link(tmp_path / "csm.npy", tmp_path / "page.html")
    (tmp_path / "results").mkdir()
    for name in ("table1", "masks", "robustness", "superres", "detection", "cine", "volume"):
        os.link(tmp_path / "m.safetensors", tmp_path / "results" / f"{name}.md")
    return tmp_path


MAPS = ("--csm", "csm.npy", "--mask", "mask.npy")
COMMANDS = {
    "recon over the scan": ("recon", "s.h5", "-o", "s.h5"),
    "recon over a link": ("recon", "s.h5", "-o", "link.h5"),
    "recon of a link": ("recon", "link.h5", "-o", "s.h5"),
    "recon over a hard link": ("recon", "s.h5", "-o", "hard.h5"),
    "recon over the data of a header": ("recon", "b.hdr", "-o", "b.cfl"),
    "recon over a stem": ("recon", "b", "-o", "b.cfl"),
    "recon over the maps": ("recon", "s.h5", *MAPS, "-o", "csm.npy"),
    "recon over the mask": ("recon", "s.h5", *MAPS, "-o", "mask.npy"),
    "a sidecar over the mask": ("recon", "s.h5", *MAPS, "-o", "o.nii.gz"),
    "a report over the maps": ("recon", "s.h5", *MAPS, "-o", "new.h5", "--report", "page.html"),
    "many over a scan": ("recon", "s.h5", "b.hdr", "-o", "."),
    "convert": ("convert", "s.h5", "s.h5"),
    "convert k-space": ("convert", "b", "b.cfl", "--kspace"),
    "maps": ("maps", "s.h5", "-o", "hard.h5"),
    "calib over a pair": ("maps", "b.hdr", "-o", "b.cfl"),
    **{
        f"results of {name} over a model": (
            *("experiment", name, *more, "--methods", "a=m.safetensors", "-o", "results"),
        )
        for name, more in {
            **dict.fromkeys(("table1", "masks", "robustness", "superres"), ()),
            **dict.fromkeys(("cine", "volume"), ("--data", "csm.npy")),
        }.items()
    },
    "results of a model of volumes": (
        *("experiment", "volume", "--data", "csm.npy", "--model-3d", "m.safetensors"),
        *("-o", "results"),
    ),
    "results of detection over a model": (
        *("experiment", "detection", "--model", "m.safetensors", "-o", "results"),
    ),
    "superres": ("superres", "p.png", "-o", "p.png"),
    "calibrate": ("calibrate", "m.safetensors", "--data", "csm.npy", "-o", "m.safetensors"),
    "export": ("models", "export", "m.safetensors", "-o", "m.safetensors"),
    "import": ("import-model", "m.safetensors", "-o", "m.safetensors"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_what_is_read_is_never_written_over(command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = contents(folder)
    result = run(*command, "--overwrite")
    assert result.exit_code == 1, result.stderr
    assert "is read and would be overwritten" in " ".join(result.stderr.split())
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["certificate.json", "maps.h5", "certificate.png"])
def test_certify_neither_replaces_its_maps_nor_a_file_of_the_user(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "c").mkdir()
    (folder / "csm.npy").rename(folder / "c" / name)
    before = contents(folder)
    command = ("certify", "s.h5", "-o", "c", "--acceleration", 3)
    asked = run(*command)
    assert asked.exit_code == 1
    assert f"{name} exists" in asked.stderr
    result = run(*command, "--csm", folder / "c" / name, "--overwrite")
    assert result.exit_code == 1
    assert "is read" in result.stderr
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["scan.h5", "reconstruction.h5", "demo.png"])
def test_the_demo_asks_before_it_replaces_a_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("precious")
    result = run("demo", "-o", ".")
    assert result.exit_code == 1
    assert f"{name} exists" in result.stderr
    assert contents(tmp_path) == {name: b"precious"}


def test_whole_slices_are_written_and_the_others_named(scan_arrays, tmp_path):
    kspace = np.concatenate([scan_arrays["kspace"], 0 * scan_arrays["kspace"]])
    np.savez(tmp_path / "s.npz", kspace=kspace)
    commands = {
        "one.npy": ("recon", "s.npz", "-o", "one.npy", "--lam", 20),
        "many/s.h5": ("recon", "s.npz", "-o", "many", "--lam", 20),
        "c.npy": ("convert", "s.npz", "c.npy"),
        "k.npz": ("convert", "s.npz", "k.npz", "--kspace"),
    }
    for name, (command, scan, *more) in commands.items():
        given = [tmp_path / m if str(m) in (name, "many") else m for m in more]
        result = run(command, tmp_path / scan, *given, "-q")
        assert result.exit_code == 4, result.stderr
        text = " ".join(result.stderr.split())
        assert f"s.npz: incomplete parts are left out: slice {len(kspace) // 2} holds no" in text
        assert (tmp_path / name).exists()
    assert len(np.load(tmp_path / "one.npy")) == len(kspace) // 2


def test_companions_of_two_scans_do_not_collide(scan_arrays, tmp_path):
    for name in ("a", "a_phase"):
        np.savez(tmp_path / f"{name}.npz", kspace=scan_arrays["kspace"])
    scans = (tmp_path / "a.npz", tmp_path / "a_phase.npz")
    result = run("recon", *scans, "-o", tmp_path / "out", "--suffix", ".nii.gz")
    assert result.exit_code == 1
    assert "would both be written to" in " ".join(result.stderr.split())
    assert "a_phase.nii.gz" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("template", ["series.dcm", "series.dcm/0001.dcm"])
def test_a_series_is_not_replaced_while_it_is_the_template(template, folder, monkeypatch):
    pytest.importorskip("pydicom")
    monkeypatch.chdir(folder)
    assert run("convert", "s.h5", "series.dcm").exit_code == 0
    before = contents(folder)
    command = ("recon", "s.h5", "-o", "series.dcm", "--dicom-template", template, "--overwrite")
    result = run(*command)
    assert result.exit_code == 1
    assert "is read and would be overwritten" in " ".join(result.stderr.split())
    assert contents(folder) == before


def test_a_folder_of_dicom_files_of_the_user_is_not_replaced(folder):
    pydicom = pytest.importorskip("pydicom")
    series = folder / "series.dcm"
    assert run("recon", folder / "s.h5", "-o", series, "--acceleration", 3).exit_code == 0
    foreign = pydicom.dcmread(series / "0001.dcm")
    foreign.remove_private_tags()
    foreign.save_as(series / "0002.dcm")
    before = contents(series)
    command = ("convert", folder / "s.h5", series, "--overwrite")
    result = run(*command)
    assert result.exit_code == 1
    assert "folder with other files" in result.stderr
    assert contents(series) == before
    (series / "0002.dcm").unlink()
    assert run(*command).exit_code == 0


def test_a_pipe_is_not_replaced_by_an_image(folder):
    os.mkfifo(folder / "pipe.h5")
    found = run("recon", folder / "s.h5", "-o", folder / "pipe.h5", "--overwrite")
    assert found.exit_code == 1
    assert "not a file but a pipe" in found.stderr
    assert (folder / "pipe.h5").is_fifo()


def test_every_image_format_is_checked_with_what_is_written_beside_it():
    assert set(IMAGES) == set(WRITERS)
    from pathlib import Path

    names = {s: [p.name for p in companions(Path(f"x{s}"))] for s in IMAGES}
    assert names[".nii.gz"] == ["x_phase.nii.gz", "x.json"]
    assert names[".cfl"] == ["x.hdr", "x.cfl.json"]
    assert names[".npy"] == ["x.npy.json"]
    assert names[".h5"] == []


def test_the_files_of_an_input_are_both_of_a_pair_and_those_of_a_folder(folder):
    assert {p.name for p in input_files(folder / "b").values()} == {"b.hdr", "b.cfl"}
    assert {p.name for p in input_files(folder / "b.cfl").values()} == {"b.hdr", "b.cfl"}
    assert "p.png" in {p.name for p in input_files(folder).values()}
    assert input_files("mol-lr-brain-4x", None) == {}


@pytest.mark.parametrize(("first", "second"), [(".nii", ".nii.gz"), (".nii.gz", ".nii")])
def test_two_images_never_share_a_sidecar(tmp_path, scan_arrays, first, second):
    scan, sidecar = tmp_path / "s.h5", tmp_path / "x.json"
    with h5py.File(scan, "w") as file:
        file["kspace"] = scan_arrays["kspace"]
    (tmp_path / f"x{first}").write_text("an image")
    sidecar.write_text("{}")
    for target in (tmp_path / f"x{second}", tmp_path / "out"):
        if target.name == "out":  # many scans: the name follows from the scan
            target.mkdir()
            (target / f"s{first}").write_text("an image")
            (target / "s.json").write_text("{}")
        before = contents(tmp_path)
        result = run("recon", scan, "-o", target, "--overwrite", "--suffix", second)
        assert result.exit_code == 1
        assert "would share its sidecar" in " ".join(result.stderr.split())
        assert contents(tmp_path) == before
    (tmp_path / f"x{first}").unlink()
    assert run("convert", scan, tmp_path / f"x{second}", "--overwrite").exit_code == 0
    assert sidecar.read_text() != "{}"
