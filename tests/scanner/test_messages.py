"""Messages are read by their length, within limits, whoever wrote them."""

import socket
import struct
import threading

import numpy as np
import pytest
import traffic

from equipoise.outcome import BadInputError
from equipoise.scanner import messages
from equipoise.scanner.budget import Share
from equipoise.scanner.messages import Id, read_message
from equipoise.scanner.wire import ConnectionFailed, Wire


def received(content, *, memory=2**24, images=False, timeout=2.0):
    """The messages that are read from these bytes, until the connection ends."""
    ours, theirs = socket.socketpair()
    wire, share = Wire(ours, timeout), Share(memory)

    def send():
        with theirs:
            theirs.sendall(content)

    threading.Thread(target=send, daemon=True).start()
    found = []
    try:
        while (message := read_message(wire, share, images=images)) is not None:
            found.append(message)
    finally:
        wire.close()
    return found


XML, LINES = traffic.scan()
ARRAY = struct.pack("<H", 1030) + struct.pack("<3H2Q", 5, 0, 2, 3, 4) + bytes(48)
QUERY = struct.pack("<HQQQ", 6, 0, 1, 3) + b"abc"
EVERY = (
    traffic.config("recon"),
    traffic.sized(2, "<a/>\0"),
    traffic.header(XML),
    traffic.text("hello\0"),
    QUERY,
    struct.pack("<HQQ", 7, 1, 2) + b"ok",
    struct.pack("<HQ", 8, 3) + b"bad",
    struct.pack("<HQ", 1019, 4) + b"what",
    traffic.readout(LINES[0]),
    traffic.image(np.ones((1, 1, 4, 5), np.complex64), "<a/>"),
    traffic.waveform(),
    ARRAY,
    traffic.CLOSE,
)


def test_every_message_is_read_or_skipped_by_its_length():
    found = received(b"".join(EVERY))
    assert [m.id for m in found] == [1, 2, 3, 5, 6, 7, 8, 1019, 1008, 1022, 1026, 1030, 4]
    assert [found[i].text for i in (0, 1, 3)] == ["recon", "<a/>", "hello"]
    assert found[2].content == XML.encode()
    np.testing.assert_array_equal(found[8].samples.view(np.complex64).reshape(3, -1), LINES[0].data)
    assert found[8].head["idx"]["kspace_encode_step_1"] == 0


@pytest.mark.parametrize("number", range(len(EVERY) - 1))
def test_a_connection_that_ends_in_a_message_is_told_from_one_that_ends_between(number):
    whole = EVERY[number]
    for cut in (1, 3, len(whole) // 2, len(whole) - 1):
        with pytest.raises(ConnectionFailed, match="before the end of a message"):
            received(whole[:cut])
    assert len(received(whole)) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (struct.pack("<H", 999), "message 999 is not known"),
        (struct.pack("<HI", 3, 2**32 - 1), "HEADER declares 4.29 GB"),
        (struct.pack("<HI", 5, 2**21), "TEXT declares 2.1 MB"),
        (struct.pack("<H", 1022) + bytes(198) + struct.pack("<Q", 2**40), "declares 1.1 TB"),
        (struct.pack("<H3H2Q", 1030, 5, 0, 2, 2**40, 2**40), "ARRAY declares"),
        (struct.pack("<H3H", 1030, 5, 0, 60000), "60000 dimensions"),
    ],
)
def test_a_message_longer_than_allowed_is_refused_before_it_is_received(content, message):
    with pytest.raises(BadInputError, match=message):
        received(content)


def test_a_readout_beyond_the_memory_of_the_session_is_refused_by_its_header():
    head = bytearray(traffic.readout(LINES[0])[:342])
    struct.pack_into("<H", head, 2 + 34, 65535)
    struct.pack_into("<H", head, 2 + 38, 65535)
    with pytest.raises(BadInputError, match=r"needs 34.4 GB of memory, and its share is"):
        received(bytes(head))


def test_a_client_that_stalls_is_given_up_after_the_time_limit():
    ours, theirs = socket.socketpair()
    wire = Wire(ours, 0.3)
    theirs.sendall(traffic.config("recon")[:100])
    with theirs, pytest.raises(ConnectionFailed, match=r"no complete message arrived within 0.3 s"):
        read_message(wire, Share(2**20))
    wire.close()


def test_an_image_comes_back_as_it_was_sent():
    pixels = (np.arange(40).reshape(1, 2, 4, 5) * (1 + 2j)).astype(np.complex64)
    (found,) = received(traffic.image(pixels, "<a/>"), images=True)
    np.testing.assert_array_equal(found.pixels, pixels)
    assert found.attributes == "<a/>"


def test_the_numbers_are_those_of_the_standard():
    from ismrmrd.serialization import ISMRMRDMessageID

    for known in ISMRMRDMessageID:
        if known.name not in ("UNPEEKED", "NDARRAY"):
            assert Id[known.name] == known
    assert messages.head_type().itemsize == 340
