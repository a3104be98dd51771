"""File names, attributes and streams that are not what a program expects."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from equipoise.formats import read
from equipoise.formats.writers.write import WRITERS, write_image

IMAGE = np.random.default_rng(0).standard_normal((2, 12, 10)).astype(np.complex64)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_scan_whose_name_is_not_utf8_is_named_in_its_images(suffix, tmp_path):
    attributes = {"scan": os.fsdecode(b"na\xffme.h5"), "fingerprint": "f", "combined": "x"}
    write_image(tmp_path / f"o{suffix}", {"image": IMAGE, "attributes": attributes})
    if suffix == ".h5":
        with h5py.File(tmp_path / "o.h5") as file:
            assert file.attrs["scan"] == r"na\udcffme.h5"
    assert (tmp_path / f"o{suffix}").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are text")
def test_names_of_datasets_and_attributes_that_are_not_utf8(tmp_path, scan_arrays):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["kspace"] = scan_arrays["kspace"]
        file[b"na\xffme"] = 1
        file.attrs["patient_id"] = np.bytes_(b"M\xfcller")
        h5py.h5a.create(file.id, b"x\xff", h5py.h5t.STD_I32LE, h5py.h5s.create(h5py.h5s.SCALAR))
    ignored = read(tmp_path / "s.h5").header.ignored
    assert len(ignored) == 3
    assert all(name.encode() for name in ignored)


@pytest.mark.skipif(os.name != "posix", reason="a shell closes the stream")
@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_failure(closed, tmp_path):
    np.savez(tmp_path / "s.npz", kspace=IMAGE[None])
    command = f"{sys.executable} -m equipoise convert s.npz o.h5 {closed}"
    found = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=False)
    assert found.returncode == 0, found.stderr
    with h5py.File(tmp_path / "o.h5") as file:  # nothing was printed into it
        assert file["reconstruction"].shape == (1, 12, 10)
