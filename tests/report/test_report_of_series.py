"""The page of series and volumes: a loop, a profile over time, three planes."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from equipoise.report.page import Report, ReportSlice, render

FRAMES, N = 5, 32


def page_of(axes, frame_ms=None):
    """A bright block that moves along x with the first axis."""
    image = np.full((FRAMES, N, N), 0.1)
    for t in range(FRAMES):
        image[t, 10:20, 4 * t : 4 * t + 8] = 1.0
    mask = np.zeros((FRAMES, N, N), bool)
    mask[:, :, ::2] = True
    one = ReportSlice(
        index=0,
        image=image,
        sense=0.9 * image,
        sense_label="SENSE",
        history=np.logspace([0, 1], [-5, -3], 4),
        facts=[("outcome", "converged"), ("m", "0.01 (proved)")],
        csm=np.ones((4, N, N)),
        mask=mask,
        target=image,
        noise=image,
        axes=axes,
        frame_ms=frame_ms,
    )
    page = render(Report("scan", "m", "mol-ridge-3d", "equipoise recon", "8 coils", [one]))
    found = re.findall(r'alt="([^"]*)" src="data:image/webp;base64,([^"]*)"', page)
    return page, {name: Image.open(io.BytesIO(base64.b64decode(data))) for name, data in found}


def test_a_series_is_shown_as_a_loop_with_its_own_time_and_a_profile():
    page, pictures = page_of(("time", "y", "x"), frame_ms=40.0)
    moving = pictures["reconstruction, over time"]
    assert moving.n_frames == FRAMES
    for t in range(FRAMES):
        moving.seek(t)
        frame = np.asarray(moving.convert("L"), float)
        assert frame[12:18, 4 * t + 2 : 4 * t + 6].min() > 200
    assert moving.info["duration"] == 40
    profile = np.asarray(pictures["reconstruction, x-t profile"].convert("L"), float)
    # One row a frame, repeated: the block walks to the right.
    rows = profile[:: -(-96 // FRAMES)]
    walked = [int((row > 150).nonzero()[0].mean()) for row in rows]
    assert np.allclose(np.diff(walked), 4, atol=1)
    assert "<h2>Series 0</h2>" in page
    assert "1 series" in page


def test_a_volume_is_shown_in_three_planes():
    _, pictures = page_of(("z", "y", "x"))
    sizes = {
        name: pictures[f"reconstruction, {name}"].size for name in ("z = 2", "y = 16", "x = 16")
    }
    assert sizes == {"z = 2": (N, N), "y = 16": (N, FRAMES), "x = 16": (N, FRAMES)}
    assert "error of the reconstruction, y = 16, to 0.15" in pictures
    noise = [pictures[f"noise, standard deviation, {n}, to 1"].size for n in ("z = 2", "y = 16")]
    assert noise == [(N, N), (N, FRAMES)]
    assert not any("over time" in name for name in pictures)


@pytest.mark.parametrize("axes", [("time", "y", "x"), ("z", "y", "x")])
def test_the_samples_are_shown_across_the_readout(axes):
    _, pictures = page_of(axes)
    assert pictures["samples, 2.00-fold"].size == (N, FRAMES)
