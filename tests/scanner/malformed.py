"""More than 300 malformed sessions from a fixed seed, and what a server made of each."""

import json
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import traffic

import layouts

SEED = 19
HEAD = 2
"""Bytes before the header of a readout: the number of the message."""

FIELDS = {
    "flags": (2, "<Q"),
    "number_of_samples": (34, "<H"),
    "active_channels": (38, "<H"),
    "discard_pre": (168, "<H"),
    "discard_post": (170, "<H"),
    "center_sample": (172, "<H"),
    "encoding_space_ref": (174, "<H"),
    "trajectory_dimensions": (176, "<H"),
    "sample_time_us": (178, "<f"),
    "position": (182, "<f"),
    "kspace_encode_step_1": (242, "<H"),
    "kspace_encode_step_2": (244, "<H"),
    "slice": (248, "<H"),
    "repetition": (254, "<H"),
}
"""Offset and type of fields of the header of a readout."""


@dataclass
class Case:
    """A session: what is sent, and how the client behaves.

    ``manner`` is ``ends`` (the client says that it sends no more), ``stalls`` (it keeps the
    connection open) or ``resets``.
    """

    name: str
    content: bytes
    manner: str = "ends"


@dataclass
class Result:
    """How a session ended for the client."""

    case: Case
    seconds: float
    images: int = 0
    texts: list[str] = field(default_factory=list)
    closed: bool = False


def cases():
    """All malformed sessions."""
    rng = np.random.default_rng(SEED)
    xml, lines = traffic.scan()
    readouts = [traffic.readout(one) for one in lines]
    good = traffic.config() + traffic.header(xml) + b"".join(readouts) + traffic.CLOSE
    start = traffic.config() + traffic.header(xml)
    return [
        *_truncated(rng, start, readouts, good),
        *_wrong_lengths(start, readouts),
        *_wrong_fields(rng, start, readouts),
        *_unknown(rng, start),
        *_headers(xml, readouts),
        *_configurations(rng, xml, readouts),
        *_damaged(rng, good),
        *_behaviour(rng, start, good),
    ]


def every_message():
    xml, lines = traffic.scan()
    return {
        "config file": traffic.config(),
        "config text": traffic.sized(2, "<c><lam>2</lam></c>\0"),
        "header": traffic.header(xml),
        "text": traffic.text('{"parameters": {"lam": "2"}}\0'),
        "query": struct.pack("<HQQQ", 6, 0, 1, 3) + b"abc",
        "response": struct.pack("<HQQ", 7, 1, 2) + b"ok",
        "error": struct.pack("<HQ", 8, 3) + b"bad",
        "dependency query": struct.pack("<HQ", 1019, 4) + b"what",
        "readout": traffic.readout(lines[0]),
        "image": traffic.image(np.ones((1, 1, 4, 5), np.complex64), "<a/>"),
        "waveform": traffic.waveform(),
        "array": struct.pack("<H3H2Q", 1030, 5, 0, 2, 3, 4) + bytes(48),
        "close": traffic.CLOSE,
    }


def _truncated(rng, start, readouts, good):
    for name, whole in every_message().items():
        before = start if name not in ("config file", "header") else traffic.config()
        for cut in sorted({1, len(whole) - 1, *rng.integers(1, len(whole), 4).tolist()}):
            yield Case(f"a {name} that ends after {cut} bytes", before + whole[:cut])
    for cut in rng.integers(1, len(good), 12):
        yield Case(f"a session that ends after {cut} bytes", good[:cut])


def _wrong_lengths(start, readouts):
    for number in (2, 3, 5):
        for length in (0, 1, 2**20 + 1, 2**24 + 1, 2**31, 2**32 - 1):
            content = struct.pack("<HI", number, length) + b"<a/>"
            yield Case(f"message {number} of {length} bytes", start + content)
    for length in (1, 2**20 + 1, 2**40, 2**63, 2**64 - 1):
        for number, before in ((6, 16), (7, 8), (8, 0), (1019, 0)):
            content = struct.pack("<H", number) + bytes(before) + struct.pack("<Q", length)
            yield Case(f"message {number} of {length} bytes", start + content)
        image = traffic.image(np.ones((1, 1, 4, 5), np.float32))
        content = image[:200] + struct.pack("<Q", length) + image[208:]
        yield Case(f"an image with {length} bytes of attributes", start + content)
    for kind, shape in ((0, ()), (9, ()), (5, (65535,) * 3), (8, (65535,) * 3)):
        content = bytearray(traffic.image(np.ones((1, 1, 4, 5), np.float32)))
        struct.pack_into("<H", content, 2 + 2, kind)
        for axis, n in enumerate(shape):
            struct.pack_into("<H", content, 2 + 16 + 2 * axis, n)
        yield Case(f"an image of type {kind} and {shape}", start + bytes(content))
    for shape in ((2**40,), (2**40, 2**40), (2**32, 0), (0,), (1,) * 8, (1,) * 60):
        content = struct.pack(f"<H3H{len(shape)}Q", 1030, 7, 0, len(shape), *shape)
        yield Case(f"an array {shape[:3]} of {len(shape)} dimensions", start + content)


def _wrong_fields(rng, start, readouts):
    for name, (offset, kind) in FIELDS.items():
        largest = 2 ** (8 * struct.calcsize(kind)) - 1
        values = (0, 1, 500, largest) if kind != "<f" else (0.0, -1.0, np.nan, np.inf)
        for value in values:
            one = bytearray(readouts[3])
            struct.pack_into(kind, one, HEAD + offset, value)
            rest = b"".join(readouts[4:]) + traffic.CLOSE
            yield Case(f"{name} = {value}", start + b"".join(readouts[:3]) + bytes(one) + rest)
    for name, samples in {
        "NaN": np.full((3, 28), np.nan, np.complex64),
        "Inf": np.full((3, 28), np.inf, np.complex64),
        "zeros": np.zeros((3, 28), np.complex64),
        "huge": np.full((3, 28), 3e38, np.complex64),
        "another number of coils": np.ones((2, 28), np.complex64),
        "one sample": np.ones((3, 1), np.complex64),
        "no sample": np.ones((3, 0), np.complex64),
        "65535 samples": np.ones((1, 65535), np.complex64),
    }.items():
        made = [layouts.readout(samples, j, flags=[8] if j == 23 else []) for j in range(24)]
        content = b"".join(map(traffic.readout, made))
        yield Case(f"readouts of {name}", start + content + traffic.CLOSE)
    for number in range(12):
        order = rng.permutation(len(readouts))[: 2 + 2 * number]
        flags = int(rng.integers(0, 2**63))
        chosen = [bytearray(readouts[i]) for i in order]
        struct.pack_into("<Q", chosen[-1], HEAD + 2, flags)
        yield Case(f"lines in another order, flags {flags:x}", start + b"".join(chosen))


def _unknown(rng, start):
    for number in sorted({0, 9, 10, 999, 1000, 1007, 1009, *rng.integers(2000, 65536, 12)}):
        yield Case(f"message {number}", start + struct.pack("<H", number) + bytes(40))
        yield Case(f"message {number} first", struct.pack("<H", number) + bytes(2000))


def _headers(xml, readouts):
    scan = b"".join(readouts) + traffic.CLOSE
    yield Case("no configuration and no header", scan)
    yield Case("no header", traffic.config() + scan)
    yield Case("a header after the first readout", traffic.config() + readouts[0]
               + traffic.header(xml) + scan)  # fmt: skip
    begun = traffic.config() + traffic.header(xml) + readouts[0]
    yield Case("the same header again", begun + traffic.header(xml) + scan)
    yield Case("another header", begun + traffic.header("<a/>") + scan)
    yield Case("two configurations", traffic.config() * 2 + traffic.header(xml) + scan)
    bomb = (
        "<!DOCTYPE a [<!ENTITY b 'x'>"
        + "".join(f"<!ENTITY {chr(99 + i)} '{f'&{chr(98 + i)};' * 10}'>" for i in range(10))
        + "]><ismrmrdHeader>&l;</ismrmrdHeader>"
    )
    for name, content in {
        "a bomb of entities": bomb,
        "an external entity": "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
        "deep nesting": "<a>" * 100000,
        "many elements": "<a>" + "<b/>" * 100000 + "</a>",
        "a long attribute": f"<a b='{'x' * 2**20}'/>",
        "bytes that are not UTF-8": b"<a>\xff\xfe\x80</a>",
        "UTF-16": "<a/>".encode("utf-16"),
        "zero bytes": bytes(1000),
        "nothing": b"",
        "text": "Dummy XML header\0",
        "JSON": json.dumps({"a": 1}),
        "no encoding": "<ismrmrdHeader/>",
        "another root": "<a/>",
        "a matrix of 2^40": xml.replace("<x>28</x>", f"<x>{2**40}</x>"),
        "a matrix of 2^15 cubed": xml.replace("<x>28</x>", "<x>32768</x>").replace(
            "<y>24</y>", "<y>32768</y>"
        ).replace("<z>1</z>", "<z>32768</z>"),
        "a matrix of zero": xml.replace("<x>28</x>", "<x>0</x>"),
        "a negative matrix": xml.replace("<y>24</y>", "<y>-24</y>"),
        "a matrix in words": xml.replace("<y>24</y>", "<y>many</y>"),
        "a field of view of NaN": xml.replace("<x>56.0</x>", "<x>nan</x>"),
        "a radial scan": xml.replace("cartesian", "radial"),
        "a centre outside": xml.replace("<center>12</center>", "<center>5000</center>"),
        "a smaller matrix": xml.replace("<y>24</y>", "<y>8</y>"),
    }.items():  # fmt: skip
        yield Case(f"a header of {name}", traffic.config() + traffic.header(content) + scan)


def _configurations(rng, xml, readouts):
    rest = traffic.header(xml) + b"".join(readouts) + traffic.CLOSE
    for name in (b"\xff" * 1024, b"recon\0\xff", b"../../../etc/passwd", b"recon+" * 100, b"%s%n"):
        content = struct.pack("<H", 1) + name.ljust(1024, b"\0")[:1024]
        yield Case(f"the name {name[:10]!r}", content + rest)
    begin = traffic.config() + traffic.header(xml)
    last = b"".join(readouts) + traffic.CLOSE
    for content in (
        "[" * 100000, '{"parameters": ' * 50000, '{"parameters": []}',
        '{"parameters": {"lam": {}}}',
        '{"parameters": {"lam": 1e400}}', '{"parameters": {"lam": -1}}', "\0", b"\xff\xfe" * 100,
        '{"parameters": {"model": "/etc/passwd"}}', '{"parameters": {"acceleration": 1e9}}',
        '{"parameters": {"acceleration": 90}}', '{"parameters": {"config": {"a": 1}}}',
        '{"parameters": {"lam": 1e-30}}', '{"parameters": {"lam": 1e30}}',
        json.dumps({"parameters": {str(i): i for i in range(20000)}}),
    ):  # fmt: skip
        yield Case(f"the text {content[:24]!r}", begin + traffic.text(content) + last)
        yield Case(f"the XML {content[:24]!r}", traffic.sized(2, content) + rest)


def _damaged(rng, good):
    for number in range(40):
        content = bytearray(good)
        for place in rng.integers(0, len(good), 1 + number):
            content[place] ^= 1 << int(rng.integers(8))
        yield Case(f"{1 + number} bits turned", bytes(content))
    for number in range(20):
        yield Case(f"random bytes {number}", rng.bytes(int(rng.integers(1, 20000))))
    for _ in range(10):
        place, count = rng.integers(1, len(good)), int(rng.integers(1, 500))
        yield Case(f"{count} bytes are missing", good[:place] + good[place + count :])


def _behaviour(rng, start, good):
    for cut in (0, 1, len(start), len(start) + 400, *rng.integers(1, len(good), 4)):
        yield Case(f"a client that stalls after {cut} bytes", good[:cut], "stalls")
    for cut in (1, len(start), *rng.integers(1, len(good), 10), len(good)):
        yield Case(f"a client that resets after {cut} bytes", good[:cut], "resets")
    image = traffic.image(np.ones((1, 4, 30, 40), np.complex64), "<a/>")
    for count in (1, 10):
        yield Case(f"{count} images", start + image * count + traffic.CLOSE)
    yield Case("an image amid readouts", good[:-2] + image + traffic.CLOSE)
    yield Case("two ends", good + traffic.CLOSE)
    yield Case("a second scan after the end", good + good)


def play(port, case, timeout=30.0):
    """Send a session and read what comes back."""
    started = time.monotonic()
    result = Result(case, 0.0)
    with traffic.Client(port, timeout) as client:
        sender = threading.Thread(target=_send, args=(client.socket, case), daemon=True)
        sender.start()
        if case.manner == "resets":
            sender.join()
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            result.closed = True
        else:
            _listen(client, result)
            sender.join()
    result.seconds = time.monotonic() - started
    return result


def _send(connection, case):
    try:
        connection.sendall(case.content)
        if case.manner == "ends":
            connection.shutdown(socket.SHUT_WR)
    # The server has refused the rest.
    except OSError:
        pass


def _listen(client, result):
    try:
        while (found := client.message()) is not None:
            number, content = found
            result.images += number == 1022
            result.closed |= number == 4
            if number == 5:
                result.texts.append(content)
    except (ConnectionResetError, BrokenPipeError):
        pass
