"""Which readouts complete a frame, which are kept for later frames, and which are given back."""

import numpy as np
import pytest
import traffic

import layouts
from equipoise.formats.readers.mrd_scan import COUNTERS
from equipoise.outcome import BadInputError
from equipoise.scanner.arrivals import LATE, LATE_NOISE, Arrivals
from equipoise.scanner.budget import Share
from equipoise.scanner.messages import Readout, head_type

LAST = {"slice": 8, "repetition": 14, "measurement": 25}
NOISE, CALIBRATION, NAVIGATION = 19, 20, 23


def readout(line=0, *flags, **counters):
    made = layouts.readout(np.ones((2, 8), np.complex64), line, flags=flags, **counters)
    content = traffic.readout(made)[2:]
    size = head_type().itemsize
    head = np.frombuffer(content[:size], head_type())
    return Readout(1008, head, np.frombuffer(content[size:], "<f4"), np.zeros(0, np.float32))


def arrivals(*, volumetric=False, averages=0, memory=2**20):
    return Arrivals(volumetric, averages, Share(memory))


def add(found, one):
    found.share.take(one.nbytes)
    return found.add(one)


def key(**counters):
    return tuple(counters.get(name, 0) for name in COUNTERS)


def test_the_last_of_a_slice_completes_its_own_frame_only():
    found = arrivals()
    assert add(found, readout(0, slice=0)) == []
    assert add(found, readout(0, slice=1)) == []
    assert add(found, readout(1, LAST["slice"], slice=0)) == [key(slice=0)]
    assert found.pending == [key(slice=0), key(slice=1)]


def test_the_last_of_a_slice_of_an_earlier_average_completes_nothing():
    found = arrivals(averages=1)
    assert add(found, readout(0, LAST["slice"], average=0)) == []
    assert add(found, readout(0, LAST["slice"], average=1)) == [key()]


def test_the_last_of_a_repetition_completes_its_contrasts_and_slices():
    found = arrivals()
    for contrast in range(2):
        add(found, readout(0, contrast=contrast))
    add(found, readout(0, repetition=1))
    complete = add(found, readout(0, LAST["repetition"], slice=1))
    assert complete == [key(contrast=0), key(contrast=1), key(slice=1)]


def test_the_last_of_a_measurement_completes_everything():
    found = arrivals()
    add(found, readout(0))
    add(found, readout(0, repetition=1))
    complete = add(found, readout(0, LAST["measurement"], repetition=2))
    assert complete == [key(repetition=n) for n in range(3)]


def test_a_volume_is_not_complete_with_a_partition():
    found = arrivals(volumetric=True)
    assert add(found, readout(0, LAST["slice"])) == []
    assert add(found, readout(0, LAST["repetition"], kspace_encode_step_2=1)) == [key()]


def test_readouts_are_given_back_but_for_the_first_frame_of_a_slice():
    found = arrivals()
    for repetition in range(3):
        add(found, readout(0, LAST["slice"], repetition=repetition))
        found.done([key(repetition=repetition)], found.count)
    assert found.share.taken == readout().nbytes
    assert found.pending == []


def test_a_later_frame_comes_with_the_first_one_the_noise_and_the_calibration_scan():
    found = arrivals()
    add(found, readout(0, NOISE))
    add(found, readout(3, CALIBRATION, set=1))
    add(found, readout(1, CALIBRATION, repetition=0))
    add(found, readout(0, LAST["slice"]))
    found.done([key()], found.count)
    add(found, readout(2, CALIBRATION, repetition=1))
    add(found, readout(0, LAST["slice"], repetition=1))
    found.done([key(repetition=1)], found.count)
    add(found, readout(0, LAST["slice"], repetition=2))
    records = found.records([key(repetition=2)], found.count)
    # Those of repetition 1 went with it, and must not look like a calibration scan.
    assert records.heads["idx"]["repetition"].tolist() == [0, 0, 0, 0, 2]
    assert records.heads["idx"]["kspace_encode_step_1"].tolist() == [0, 3, 1, 0, 0]


def test_navigators_and_readouts_that_come_too_late_are_counted_and_given_back():
    found = arrivals()
    add(found, readout(0, NAVIGATION))
    add(found, readout(0, LAST["slice"]))
    found.done([key()], found.count)
    assert add(found, readout(1)) == []
    assert dict(found.left_out) == {"navigator readouts": 1, LATE: 1}
    assert found.share.taken == readout().nbytes


def test_readouts_of_another_encoding_are_no_images():
    found = arrivals()
    add(found, readout(0))
    add(found, readout(0, encoding_space_ref=1, slice=3))
    assert found.pending == [key()]


def test_the_images_are_those_of_the_lowest_encoding_whichever_arrives_first():
    found = arrivals()
    assert add(found, readout(0, LAST["slice"], encoding_space_ref=1)) == []
    assert add(found, readout(1)) == []
    # The end of another encoding is not that of the images.
    assert add(found, readout(1, LAST["measurement"], encoding_space_ref=1)) == []
    assert add(found, readout(2, LAST["slice"])) == [key()]
    assert found.first(key())["encoding_space_ref"] == 0
    records = found.records([key()], found.count)
    assert records.encodings.tolist() == [1, 1, 0, 0]
    found.done([key()], found.count)
    assert found.pending == []
    assert found.share.taken == 4 * readout().nbytes


def test_a_frame_is_made_of_the_readouts_up_to_its_last_one_however_long_it_waits():
    found = arrivals()
    add(found, readout(0, NOISE))
    add(found, readout(1, CALIBRATION, set=1))
    assert add(found, readout(0, LAST["slice"])) == [key()]
    until = found.count
    for late in (readout(1, NOISE), readout(2, CALIBRATION, set=1), readout(1)):
        add(found, late)
    assert found.records([key()], until).heads["flags"].tolist() == [1 << 18, 1 << 19, 1 << 7]
    found.done([key()], until)
    assert dict(found.left_out) == {LATE: 1, LATE_NOISE: 1}
    assert found.late_calibration() == 1
    # The noise scan, both calibration readouts, and the frame itself are kept.
    assert found.share.taken == 4 * readout().nbytes


def test_the_noise_scan_of_a_series_is_that_before_its_first_image():
    found = arrivals()
    add(found, readout(0, LAST["slice"]))
    add(found, readout(0, NOISE, LAST["measurement"]))
    assert found.pending == [key()]
    found.done([key()], 1)
    add(found, readout(1, NOISE))
    add(found, readout(0, LAST["slice"], repetition=1))
    records = found.records([key(repetition=1)], found.count)
    assert (records.heads["flags"] == 1 << 7).all()
    assert found.left_out[LATE_NOISE] == 2


def test_the_last_noise_readout_of_an_adjustment_completes_no_frame():
    found = arrivals()
    add(found, readout(0))
    assert add(found, readout(0, NOISE, LAST["measurement"])) == []


def test_a_calibration_scan_comes_with_all_slices_that_are_beside_it():
    """Else it would not cover the frame that comes for comparison, and would not be used."""
    found = arrivals()
    for number in range(2):
        add(found, readout(5, CALIBRATION, slice=number, set=1))
    add(found, readout(0, LAST["slice"], slice=0))
    found.done([key(slice=0)], found.count)
    add(found, readout(0, LAST["slice"], slice=1))
    records = found.records([key(slice=1)], found.count)
    assert records.heads["idx"]["slice"].tolist() == [0, 1, 0, 1]


def test_a_share_is_never_exceeded():
    share = Share(100)
    share.take(60)
    with pytest.raises(BadInputError, match="needs 101 bytes of memory, and its share is 100"):
        share.take(41)
    share.give_back(60)
    share.take(100)
    assert (share.taken, share.most) == (100, 100)
