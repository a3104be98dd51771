"""Small files that demand much: search, memory and time are limited beforehand."""

import io
import time
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from PIL import Image

import layouts
from equipoise.formats import read
from equipoise.formats.photograph import MAX_PIXELS, read_photograph
from equipoise.formats.plain_yaml import load_yaml
from equipoise.formats.readers.npz import read_arrays
from equipoise.formats.readers.xml_header import MAX_DEPTH, MAX_ELEMENTS, parse
from equipoise.outcome import BadInputError
from equipoise.recon import enlarge
from equipoise.training.config import load_config

SECONDS = 30


@pytest.fixture(autouse=True)
def quick():
    """No case may take long, whether it is refused or read."""
    started = time.perf_counter()
    yield
    assert time.perf_counter() - started < SECONDS


def header(inside):
    return f"<ismrmrdHeader><encoding>{inside}</encoding></ismrmrdHeader>"


class TestXml:
    @pytest.mark.parametrize("name", ["a", "encodingLimits"])
    @pytest.mark.parametrize("shape", ["nested", "flat", "combs"])
    def test_too_many_elements_are_refused_before_they_are_searched(self, name, shape):
        start, end = f"<{name}>", f"</{name}>"
        inside = {
            "nested": start * MAX_ELEMENTS + end * MAX_ELEMENTS,
            "flat": (start + end) * MAX_ELEMENTS,
            "combs": (start * (MAX_DEPTH - 2) + end * (MAX_DEPTH - 2)) * (MAX_ELEMENTS // 25),
        }[shape]
        with pytest.raises(BadInputError, match="elements, or a depth above 32"):
            parse(header(inside), "s.h5")

    def test_what_is_just_allowed_is_searched_quickly(self):
        deep = "<encodingLimits>" * (MAX_DEPTH - 3) + "</encodingLimits>" * (MAX_DEPTH - 3)
        many = "<a/>" * (MAX_ELEMENTS - MAX_DEPTH - 10)
        assert parse(header(deep.replace("><", f">{many}<", 1)), "s.h5").n_encodings == 1

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
    def test_a_document_type_is_refused_in_every_encoding(self, encoding):
        text = (
            f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'
        )
        with pytest.raises(BadInputError, match="document type"):
            parse(text.encode(encoding), "s.h5")


class TestNumpy:
    @pytest.mark.parametrize("archive", [True, False])
    @pytest.mark.parametrize("size", [20_000, 2**31, 2**32 - 1])
    def test_a_header_of_blanks_is_refused_unread(self, tmp_path, archive, size):
        path = tmp_path / ("s.npz" if archive else "s.npy")
        text = b"{'descr': '<c8', 'fortran_order': False, 'shape': (1, 1), }"
        content = b"\x93NUMPY\x02\x00" + size.to_bytes(4, "little") + text.ljust(2**20) + b"\n"
        if archive:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
                file.writestr("kspace.npy", content)
        else:
            path.write_bytes(content[: 2**16])
        with pytest.raises(BadInputError, match=f"declares {size} bytes"):
            read_arrays(path, ("kspace",))

    def test_a_directory_that_lies_about_the_stored_size_does_not_help(self, tmp_path):
        path, stored = tmp_path / "s.npz", io.BytesIO()
        shape = (8, 8, 1024, 1024)
        np.lib.format.write_array_header_1_0(
            stored, {"descr": "<c8", "fortran_order": False, "shape": shape}
        )
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("kspace.npy", stored.getvalue() + bytes(2**20))
        content = bytearray(path.read_bytes())
        entry = content.index(b"PK\x01\x02")
        for offset in (20, 24):  # compressed and unpacked size
            content[entry + offset : entry + offset + 4] = (2**30).to_bytes(4, "little")
        path.write_bytes(content)
        with pytest.raises(BadInputError, match=r"s\.npz declares 537 MB but the file stores"):
            read_arrays(path, ("kspace",))

    @pytest.mark.parametrize("version", [1, 2])
    def test_both_versions_are_read(self, tmp_path, version):
        array = np.arange(6.0).reshape(2, 3)
        with (tmp_path / "a.npy").open("wb") as file:
            np.lib.format.write_array(file, array, version=(version, 0))
        assert np.array_equal(read_arrays(tmp_path / "a.npy", ("a",))[0]["a"], array)


def write_flat_png(path, side, mode):
    """A large picture of one colour, which was never unpacked."""
    small = io.BytesIO()
    Image.new(mode, (8, 8)).save(small, format="PNG")
    content = bytearray(small.getvalue())
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


class TestPhotographs:
    @pytest.mark.parametrize("mode", ["1", "L", "RGB"])
    def test_a_picture_of_too_many_pixels_is_refused_before_it_is_unpacked(self, tmp_path, mode):
        side = 9400
        write_flat_png(tmp_path / "p.png", side, mode)
        assert side**2 > MAX_PIXELS
        with pytest.raises(BadInputError, match=r"p\.png is too large: it has 9400 x 9400"):
            read_photograph(tmp_path / "p.png")

    def test_an_image_that_does_not_fit_when_enlarged_is_refused(self, tmp_path, monkeypatch):
        Image.new("L", (1000, 1000)).save(tmp_path / "p.png")
        photograph = read_photograph(tmp_path / "p.png")
        monkeypatch.setattr(enlarge, "available_memory", lambda: 10**8)
        with pytest.raises(BadInputError, match="3000 x 3000 pixels need about 720 MB of memory"):
            enlarge.check_fits(photograph, 3)
        monkeypatch.setattr(enlarge, "available_memory", lambda: 10**9)
        enlarge.check_fits(photograph, 3)


class TestYaml:
    def test_aliases_that_multiply_are_refused(self, tmp_path):
        lines = ["simulation:", "  coils: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
        lines += [f"  k{i}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(9)]
        (tmp_path / "c.yaml").write_text("\n".join(lines))
        with pytest.raises(BadInputError, match=r"an alias .* is not allowed"):
            load_config(tmp_path / "c.yaml")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("a: " + "[" * 10_000, "nested deeper than 20"),
            ("a: " + "[" * 30 + "]" * 30, "nested deeper than 20"),
            ("a: b\n" * 100_000, "at most 200000"),
            ("a: 2024-99-99", "it is not YAML"),
            ("a: " + "9" * 5000, "it is not YAML"),
            ("a: !!python/object/apply:os.system ['true']", "it is not YAML"),
        ],
    )
    def test_what_is_deep_long_or_no_value_is_refused(self, tmp_path, text, words):
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(BadInputError, match=words):
            load_yaml(tmp_path / "c.yaml")

    def test_what_a_configuration_needs_is_read(self, tmp_path):
        paths = [f"images/subject_{i:04}/brain.nii.gz" for i in range(1000)]
        (tmp_path / "c.yaml").write_text("train:\n" + "".join(f"  - {p}\n" for p in paths))
        assert load_yaml(tmp_path / "c.yaml") == {"train": paths}


BODY = (
    "<ismrmrdHeader><encoding><encodedSpace><matrixSize><x>64</x><y>48</y><z>1</z></matrixSize>"
    "</encodedSpace></encoding></ismrmrdHeader>"
)


class TestEncodings:
    @pytest.mark.parametrize("padding", ["", "\0\0\0", "\n"])
    @pytest.mark.parametrize(
        "name", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"]
    )
    def test_a_header_is_read_in_every_encoding(self, name, padding):
        declared = name.removesuffix("-sig")
        text = f'<?xml version="1.0" encoding="{declared}"?>{BODY}{padding}'
        assert parse(text.encode(name), "s.h5").encoded.matrix == (64, 48, 1)
        # Libraries also give text that they have decoded, with the declaration of its bytes.
        assert parse(text, "s.h5").encoded.matrix == (64, 48, 1)

    @pytest.mark.parametrize(
        "content", [f'<?xml version="1.0" encoding="klingon"?>{BODY}'.encode(), BODY + "\udcff"]
    )
    def test_what_no_encoding_explains_is_refused(self, content):
        with pytest.raises(BadInputError, match="cannot be parsed"):
            parse(content, "s.h5")

    def test_numbers_in_place_of_the_text_are_refused(self, tmp_path):
        layouts.write_mrd(tmp_path / "s.mrd", layouts.multicoil((20, 24), 1)[2])
        with h5py.File(tmp_path / "s.mrd", "a") as file:
            del file["dataset/xml"]
            xml = file.create_dataset("dataset/xml", (1,), h5py.vlen_dtype(np.uint8))
            xml[0] = np.arange(1, 10, dtype=np.uint8)
        with pytest.raises(BadInputError, match="XML header cannot be parsed"):
            read(tmp_path / "s.mrd")

    @pytest.mark.parametrize("name", ["utf-8", "utf-16", "utf-32"])
    @pytest.mark.parametrize(
        "declared",
        ['<!ENTITY b SYSTEM "file:///etc/passwd">', '<!ENTITY % b SYSTEM "file:///etc/passwd">%b;',
         "".join(f'<!ENTITY b{i} "{f"&b{i + 1};" * 10}">' for i in range(9))],
    )  # fmt: skip
    def test_entities_are_refused_in_every_encoding(self, name, declared):
        text = f'<?xml version="1.0"?><!DOCTYPE a [{declared}]><a>&b;</a>'
        with pytest.raises(BadInputError, match="document type"):
            parse(text.encode(name), "s.h5")
