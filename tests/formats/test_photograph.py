"""The message for a photograph that cannot be read says what it is and what to do."""

import numpy as np
import pytest
from PIL import Image

from equipoise.formats.photograph import read_photograph
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
