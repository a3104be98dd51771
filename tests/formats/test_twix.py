"""Siemens files of older software (VB), and of several measurements."""

import struct
from pathlib import Path

import numpy as np
import pytest

import layouts
from equipoise.formats import read
from equipoise.outcome import BadInputError

pytest.importorskip("mapvbvd")

TABLE = 10240
"""Where the first measurement of a VD file of layouts.write_twix begins."""


@pytest.fixture
def kspace():
    return layouts.multicoil((24, 20), 2)[2]


def as_vb(content: bytes) -> bytes:
    """The measurement of a VD file as VB stores it: no table, and a header for each channel."""
    data, found = content[TABLE:], []
    position = struct.unpack_from("<I", data)[0]
    # Protocols of VB have more than 10,000 bytes, which tells them from the table of VD.
    found.append((struct.pack("<I", TABLE) + data[4:position]).ljust(TABLE, b"\0"))
    while position < len(data):
        length, mask = (
            struct.unpack_from(f, data, position + at) for f, at in (("<I", 0), ("<Q", 40))
        )
        n, coils = struct.unpack_from("<HH", data, position + 48)
        header = bytearray(128)
        struct.pack_into("<I", header, 0, 128 + 8 * n)
        struct.pack_into("<Q", header, 20, *mask)
        # Behind the mask both layouts have the same fields, up to the position of the slice.
        header[28 : 28 + 52] = data[position + 48 : position + 100]
        header[76:80] = data[position + 96 : position + 100]
        header[96:124] = data[position + 100 : position + 128]
        end = bool(mask[0] & 1)
        for coil in range(1 if end else coils):
            struct.pack_into("<H", header, 124, coil)
            at = position + 192 + coil * (32 + 8 * n) + 32
            found.append(bytes(header) + data[at : at + 8 * n] * (not end))
        position += length[0]
    return b"".join(found)


def joined(*contents: bytes) -> bytes:
    """One VD file of the measurements of several."""
    offset, table, data = TABLE, struct.pack("<II", 0, len(contents)), b""
    for i, content in enumerate(contents):
        one = content[TABLE:]
        one += bytes(-len(one) % 512)
        table += struct.pack("<IIQQ", i + 1, i + 1, offset, len(one)).ljust(152, b"\0")
        data, offset = data + one, offset + len(one)
    return table.ljust(TABLE, b"\0") + data


def written(path: Path, kspace, **more) -> bytes:
    layouts.write_twix(path, kspace, **more)
    return path.read_bytes()


def test_a_file_of_software_vb_gives_the_same_scan(kspace, tmp_path):
    noise = np.random.default_rng(0).standard_normal((4, 64)) * (1 + 1j)
    path = tmp_path / "meas.dat"
    for more in ({}, {"noise": noise}):
        content = written(path, kspace, **more)
        expected = read(path)
        path.write_bytes(as_vb(content))
        found = read(path)
        assert np.allclose(found.kspace, expected.kspace, atol=1e-6)
        assert found.labels == expected.labels
        assert np.allclose(found.header.geometry.centres, expected.header.geometry.centres)
        assert np.allclose(found.header.geometry.y_dir, expected.header.geometry.y_dir)


def test_the_last_of_several_measurements_is_read_and_it_is_said(kspace, tmp_path):
    path = tmp_path / "meas.dat"
    other = written(path, 3 * kspace[:1, :, ::-1])
    path.write_bytes(joined(other, other, written(path, kspace)))
    found = read(path)
    assert np.allclose(found.kspace, kspace, atol=1e-5)
    assert "the last of 3 measurements is read" in found.notes


def test_noise_of_an_earlier_measurement_whitens(kspace, tmp_path):
    path = tmp_path / "meas.dat"
    draws = 3 * np.random.default_rng(0).standard_normal((2, 4, 512)) / np.sqrt(2)
    first = written(path, kspace[:1], noise=draws[0] + 1j * draws[1])
    path.write_bytes(joined(first, written(path, kspace)))
    found = read(path)
    assert np.allclose(np.diag(found.header.noise_covariance).real, 9, rtol=0.2)
    assert tuple(found.kspace.shape) == (2, 4, 24, 20)


def test_a_last_measurement_without_an_image_is_refused_by_name(kspace, tmp_path):
    path = tmp_path / "meas.dat"
    scan = written(path, kspace)
    layouts.write_twix_blocks(path, [layouts.twix_block(np.ones((4, 64)), 0, 0, mask=1 << 25)],
                              (24, 20))  # fmt: skip
    path.write_bytes(joined(scan, path.read_bytes()))
    with pytest.raises(BadInputError, match="the last of 2 measurements has no image"):
        read(path)
