"""The message for a photograph that cannot be read says what it is and what to do."""

import numpy as np
import pytest
from PIL import Image

from equipoise.formats.photograph import read_photograph, write_photograph
from equipoise.outcome import BadInputError


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"\x89PNG\r\n\x1a\n", "begins as a PNG picture, but is damaged or truncated"),
        (b"GIF89a nothing", "is a GIF picture: convert it to PNG, JPEG, TIFF or BMP"),
        (b"nothing at all", "is not an image that is known: convert it to PNG, JPEG, TIFF or BMP"),
        (b"\x1f\x8b nothing", "is a file compressed with gzip: unpack it first$"),
    ],
)
def test_what_is_not_read_says_how_to_go_on(content, match, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=match):
        read_photograph(path)


def test_damaged_tags_do_no_harm(tmp_path):
    """Pillow warns of tags that lie beyond the end of the file, and leaves them out."""
    path = tmp_path / "x.tif"
    image = np.arange(144, dtype=np.uint8).reshape(12, 12)
    Image.fromarray(image).save(path, tiffinfo={60672: b"x" * 40})
    content = path.read_bytes()
    tag = content.index(np.uint16(60672).tobytes())
    path.write_bytes(content[: tag + 8] + b"\xff\xff\xff\x00" + content[tag + 12 :])
    assert np.allclose(read_photograph(path).luminance, image / 255, atol=1e-6)


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
@pytest.mark.parametrize(("depth", "largest"), [(8, 255), (10, 600), (12, 4080), (14, 16383)])
def test_fewer_bits_stored_in_16_have_a_white_of_their_own(tmp_path, kind, depth, largest):
    """The noise is relative to white, and what is written has the scale of what was read."""
    values = np.linspace(0, largest, 12 * 15).reshape(12, 15).astype(kind)
    Image.fromarray(values).save(tmp_path / "x.tif")
    found = read_photograph(tmp_path / "x.tif")
    assert found.luminance == pytest.approx(values / (2**depth - 1), abs=1e-6)
    assert any(f"taken as {depth} bits stored in 16" in note for note in found.notes)
    for name in ("y.tif", "y.png"):
        write_photograph(tmp_path / name, found)
        with Image.open(tmp_path / name) as image:
            assert np.array_equal(np.asarray(image), values)


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_values_of_16_bits_keep_their_white(tmp_path, kind):
    values = np.linspace(0, 2**16 - 1, 12 * 15).reshape(12, 15).astype(kind)
    Image.fromarray(values).save(tmp_path / "x.tif")
    found = read_photograph(tmp_path / "x.tif")
    assert found.luminance == pytest.approx(values / (2**16 - 1), abs=1e-6)
    assert not found.notes
    Image.fromarray(np.zeros_like(values)).save(tmp_path / "black.tif")
    assert not read_photograph(tmp_path / "black.tif").notes


@pytest.mark.parametrize("values", [[0, 2**16], [-1, 5]])
def test_values_of_more_than_16_bits_are_refused(tmp_path, values):
    Image.fromarray(np.resize(np.array(values, np.int32), (12, 12))).save(tmp_path / "x.tif")
    with pytest.raises(BadInputError, match="integers of at most 16 bits"):
        read_photograph(tmp_path / "x.tif")
