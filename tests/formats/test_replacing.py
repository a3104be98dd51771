"""Files appear whole or not at all: two writers, a killed process, leftovers, permissions."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from equipoise.formats import replacing as module
from equipoise.formats.acquisition import Acquisition
from equipoise.formats.cfl import read_cfl
from equipoise.formats.replacing import remove_leftovers, replacing, replacing_set
from equipoise.formats.writers.kspace import write_kspace
from equipoise.formats.writers.write import write_image
from equipoise.outcome import BadInputError

BLOCK = 1 << 16
"""Bytes that a writer writes in two halves, so that another writer can come in between."""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def temporary_of(path):
    """The name of a temporary of this process, for the target."""
    with replacing(path) as temporary:
        return temporary


def in_threads(*functions):
    """Run functions at the same time; an exception in one of them is raised here."""
    failures = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_two_threads_never_leave_a_mixed_file(tmp_path):
    path = tmp_path / "image.bin"
    mixed = []

    def write(letter):
        for _ in range(60):
            with replacing(path) as temporary, temporary.open("wb") as file:
                file.write(letter * BLOCK)
                file.flush()
                time.sleep(0)
                file.write(letter * BLOCK)
            content = path.read_bytes()
            if content not in (b"a" * 2 * BLOCK, b"b" * 2 * BLOCK):
                mixed.append(content)

    in_threads(lambda: write(b"a"), lambda: write(b"b"))
    assert mixed == []
    assert names(tmp_path) == ["image.bin"]


def test_two_threads_never_leave_a_header_beside_the_data_of_the_other(tmp_path):
    path = tmp_path / "image.cfl"

    def write(size):
        for _ in range(40):
            write_image(path, {"image": np.full((1, size, size), size + 0j)}, overwrite=True)

    in_threads(lambda: write(4), lambda: write(7))
    found = read_cfl(path)  # refuses a header whose size is not that of the data
    assert found.shape[:2] in ((4, 4), (7, 7))
    assert (found == found.shape[0]).all()
    assert names(tmp_path) == ["image.cfl", "image.cfl.json", "image.hdr"] or names(tmp_path) == [
        "image.cfl",
        "image.hdr",
    ]


def test_two_threads_that_replace_a_folder_leave_one_whole_folder(tmp_path):
    path = tmp_path / "series.dcm"

    def write(letter):
        for _ in range(40):
            with replacing(path) as folder:
                folder.mkdir()
                for number in range(3):
                    (folder / f"{number}").write_text(letter)

    in_threads(lambda: write("a"), lambda: write("b"))
    assert names(tmp_path) == ["series.dcm"]
    assert {file.read_text() for file in path.iterdir()} in ({"a"}, {"b"})
    assert len(names(path)) == 3


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "series.dcm"
    path.mkdir()
    (path / "old").touch()
    rename = type(path).rename

    def fails(self, target):
        if module.TEMPORARY.fullmatch(self.name):
            raise PermissionError(13, "not allowed")
        return rename(self, target)

    monkeypatch.setattr(type(path), "rename", fails)
    with pytest.raises(PermissionError), replacing(path) as folder:
        folder.mkdir()
    assert names(tmp_path) == ["series.dcm"]
    assert names(path) == ["old"]


KILLED = """
import sys, time
from pathlib import Path
from equipoise.formats.replacing import replacing
with replacing(Path(sys.argv[1])) as temporary, temporary.open("wb") as file:
    file.write(b"half")
    file.flush()
    print(temporary.name, flush=True)
    time.sleep(600)
"""


def test_a_killed_process_leaves_the_old_file_and_the_next_writer_removes_its_rest(tmp_path):
    path = tmp_path / "image.bin"
    path.write_bytes(b"old")
    command = [sys.executable, "-c", KILLED, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    left = process.stdout.readline().strip()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted([left, "image.bin"])  # it runs: its file is its own
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == sorted([left, "image.bin"])
    with replacing(tmp_path / "another.bin") as temporary:
        temporary.write_bytes(b"new")
    assert names(tmp_path) == ["another.bin", "image.bin"]


KILLED_WHILE_IT_TRIES = """
import os, signal, sys
from pathlib import Path
from equipoise.formats.writers.target import check_new_folder

Path.rmdir = lambda path: os.kill(os.getpid(), signal.SIGKILL)
check_new_folder(Path(sys.argv[1]))
"""


def test_a_process_killed_while_it_tries_a_folder_leaves_what_the_next_writer_removes(tmp_path):
    command = [sys.executable, "-c", KILLED_WHILE_IT_TRIES, str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 1
    remove_leftovers(tmp_path)
    assert names(tmp_path) == []


def test_only_what_is_left_is_removed_whatever_the_target_is_called(tmp_path):
    own, foreign = temporary_of(tmp_path / "a.h5").name, "0" * 8
    of_others = own.replace(module._machine(), foreign)
    kept = [own, of_others, ".999.tmp.a.h5", "*.h5", ".equipoise-notes.tmp.txt"]
    for name in kept:
        (tmp_path / name).touch()
    (tmp_path / of_others.replace("a.h5", "old.h5")).touch()
    yesterday = time.time() - module.ABANDONED - 60
    os.utime(tmp_path / of_others.replace("a.h5", "old.h5"), (yesterday, yesterday))
    with replacing(tmp_path / "*.h5") as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == sorted(kept)
    assert (tmp_path / "*.h5").read_text() == "new"


def test_the_permissions_are_those_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "model") as temporary:
            save_file({"x": torch.ones(1)}, temporary)  # safetensors gives 0600
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o640


def test_files_and_folder_are_flushed_before_and_after_the_rename(tmp_path, monkeypatch):
    seen = []

    def fsync(number):
        found = os.fstat(number)
        kind = "folder" if stat.S_ISDIR(found.st_mode) else found.st_size
        seen.append((kind, (tmp_path / "a").exists()))

    monkeypatch.setattr(module.os, "fsync", fsync)
    with replacing_set([tmp_path / "a", tmp_path / "b"]) as (first, second):
        first.write_bytes(b"1")
        second.write_bytes(b"22")
    assert seen == [(1, False), (2, False), ("folder", True)]


def test_a_set_replaces_a_set_and_a_failure_changes_nothing(tmp_path):
    paths = [tmp_path / name for name in ("a", "a_phase", "a.json")]
    for path in paths:
        path.write_text("old")

    def fail():
        with replacing_set(paths) as temporaries:
            temporaries[0].write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with replacing_set(paths):
        pass
    assert [path.read_text() for path in paths] == ["old"] * 3
    with replacing_set(paths) as temporaries:
        temporaries[0].write_text("new")
        temporaries[2].write_text("new")
    assert names(tmp_path) == ["a", "a.json"]  # the phase was that of the old image
    assert {path.read_text() for path in tmp_path.iterdir()} == {"new"}


def test_a_name_of_255_bytes_can_be_replaced(tmp_path):
    path = tmp_path / ("x" * 248 + ".nii.gz")
    with replacing(path) as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.write_text("new")
    assert path.read_text() == "new"


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot tell before")
@pytest.mark.parametrize("suffix", [".h5", ".mrd", ".npz", ".npy", ".nii.gz", "-k.h5"])
def test_a_file_that_does_not_fit_is_refused_and_leaves_nothing(suffix, tmp_path, capfd):
    """As on a full disk, where HDF5 would end in tracebacks and kill the process."""
    resource = pytest.importorskip("resource")
    image = np.random.default_rng(0).standard_normal((2, 64, 64)).astype(np.complex64)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / f"o{suffix}"
    of_kspace = suffix in (".npz", "-k.h5")
    write, content = (
        (write_kspace, Acquisition.from_arrays(image[None]))
        if of_kspace
        else (write_image, {"image": image})
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(BadInputError, match=f"{path.name} cannot be written: ") as error:
            write(path, content)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    # Compression is the only writer whose size nothing tells before.
    assert suffix == ".nii.gz" or str(error.value).endswith("File too large")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
