"""A scan that was stopped: its complete images are read, and the others are named."""

import numpy as np
import pytest

import layouts
from equipoise.formats import read
from equipoise.outcome import InputWarning

Y, X = layouts.SHAPE
LIMITS = {"kspace_encoding_step_1": (Y - 1, Y // 2)}
SPACE = ((X, Y, 1), (layouts.FOV[1], layouts.FOV[0], layouts.THICKNESS))


@pytest.fixture(scope="module")
def kspace():
    return layouts.multicoil(n_slices=2)[2]


def write(path, acquisitions):
    layouts.write_acquisitions(path, layouts.header_xml(SPACE, SPACE, LIMITS), acquisitions)
    return path


def lines(kspace, order, **counters):
    s = counters.get("slice", 0)
    return [layouts.readout(kspace[s, :, n], n, **counters) for n in order]


def linear(r):
    return range(Y)


def centre_out(r):
    return sorted(range(Y), key=lambda n: abs(n - Y // 2))


@pytest.mark.parametrize("order", [linear, centre_out])
@pytest.mark.parametrize("count", [1, 12, 30])
def test_the_last_repetition_is_left_out(order, count, kspace, tmp_path):
    readouts = [a for r in range(2) for a in lines(kspace, order(r), repetition=r)]
    readouts += lines(kspace, list(order(2))[:count], repetition=2)
    path = write(tmp_path / "s.h5", readouts)
    text = f"repetition 2, slice 0 has {count} of {Y} lines: the scan was stopped"
    with pytest.warns(InputWarning, match=text):
        found = read(path)
    assert found.labels == [{"slice": 0, "repetition": r} for r in range(2)]
    assert bool(found.mask.all())
    assert np.allclose(found.kspace.numpy(), kspace[:1], atol=1e-6)


def test_slices_that_take_turns_are_left_out_together(kspace, tmp_path):
    readouts = [
        layouts.readout(kspace[s, :, n], n, slice=s, repetition=r)
        for r in range(2)
        for n in range(Y if r == 0 else 10)
        for s in range(2)
    ]
    with pytest.warns(InputWarning, match=r"repetition 1, slice 0 .*; repetition 1, slice 1 "):
        found = read(write(tmp_path / "s.h5", readouts))
    assert len(found.kspace) == 2
    assert len(found.header.geometry.centres) == 2


def test_the_last_slice_of_a_stack_is_left_out(kspace, tmp_path):
    readouts = lines(kspace, range(Y), slice=0) + lines(kspace, range(9), slice=1)
    with pytest.warns(InputWarning, match="slice 1 has 9 of 40 lines"):
        found = read(write(tmp_path / "s.h5", readouts))
    assert found.labels == [{"slice": 0}]


def test_frames_of_other_lines_are_whole(kspace, tmp_path):
    """A first repetition with a calibration region, masks that alternate, a last average."""
    dense = [n for n in range(Y) if n % 2 == 0 or abs(n - Y // 2) < 8]
    drawn = np.random.default_rng(0).permutation(Y)[: Y // 2].tolist()
    readouts = (
        lines(kspace, dense, repetition=0)
        + lines(kspace, range(0, Y, 2), repetition=1)
        + lines(kspace, range(1, Y, 2), repetition=2)
        + lines(kspace, drawn, repetition=3)
        + lines(kspace, range(Y), repetition=4)
        + lines(kspace, range(10), repetition=4, average=1)
    )
    found = read(write(tmp_path / "s.h5", readouts))
    assert len(found.kspace) == 5
    assert found.header.left_out == []


def test_a_shorter_contrast_is_whole(kspace, tmp_path):
    readouts = lines(kspace, range(Y), contrast=0) + lines(kspace, range(30), contrast=1)
    assert len(read(write(tmp_path / "s.h5", readouts)).kspace) == 2


def test_hardly_stopped_is_an_image_with_a_note(kspace, tmp_path):
    readouts = lines(kspace, range(Y), repetition=0) + lines(kspace, range(Y - 2), repetition=1)
    found = read(write(tmp_path / "s.h5", readouts))
    assert len(found.kspace) == 2
    assert "repetition 1, slice 0 has 38 of 40 lines" in found.notes


def test_twix_that_was_stopped(kspace, tmp_path):
    wide = layouts.oversampled(kspace).conj()
    blocks = [
        layouts.twix_block(wide[s, :, n], n, X, slice_index=s, repetition=r,
                           position=layouts.twix_position(s, 2), lines_centre=Y // 2)
        for r in range(2)
        for s in range(2)
        for n in range(Y if (r, s) != (1, 1) else 7)
    ]  # fmt: skip
    layouts.write_twix_blocks(tmp_path / "s.dat", blocks, (Y, X))
    with pytest.warns(InputWarning, match="repetition 1, slice 1 has 7 of 40 lines"):
        found = read(tmp_path / "s.dat")
    assert [label["slice"] for label in found.labels] == [0, 1, 0]
    centres = [layouts.twix_position(label["slice"], 2) for label in found.labels]
    assert np.allclose(found.header.geometry.centres, centres)
