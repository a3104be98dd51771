"""The messages of the ISMRMRD streaming protocol (MRD version 1), read within limits and written.

A message is a number of 16 bits and a content whose length follows from its first bytes, all little
endian. Text may end with a zero byte, as Siemens sends it.
"""

import math
import struct
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any

import numpy as np

from equipoise.formats.limits import size_text
from equipoise.formats.readers.xml_header import MAX_BYTES
from equipoise.optional import need
from equipoise.outcome import BadInputError
from equipoise.scanner.budget import Share
from equipoise.scanner.wire import Wire


class Id(IntEnum):
    """The number of a message."""

    CONFIG_FILE = 1
    CONFIG_TEXT = 2
    HEADER = 3
    CLOSE = 4
    TEXT = 5
    QUERY = 6
    RESPONSE = 7
    ERROR = 8
    ACQUISITION = 1008
    DEPENDENCY_QUERY = 1019
    IMAGE = 1022
    WAVEFORM = 1026
    ARRAY = 1030


CONFIG_NAME = 1024
"""Bytes of the name of a configuration, filled with zeros."""

LONGEST_TEXT = 2**20
"""Most bytes of a text, a configuration, or the attributes of an image."""

LONGEST_SKIPPED = 2**31
"""Most bytes of a message that is read and not used."""

IMAGE_HEAD, WAVEFORM_HEAD = 198, 40
"""Bytes of the header of an image and of a waveform."""

PIXELS: dict[int, np.dtype[Any]] = {
    1: np.dtype("<u2"),
    2: np.dtype("<i2"),
    3: np.dtype("<u4"),
    4: np.dtype("<i4"),
    5: np.dtype("<f4"),
    6: np.dtype("<f8"),
    7: np.dtype("<c8"),
    8: np.dtype("<c16"),
}
"""Type of the pixels by their number."""

OVERHEAD = 1024
"""Bytes that a readout takes beside its samples: its header, and the objects that hold it."""

DIMENSIONS = 7
"""Most dimensions of an array."""


@cache
def head_type() -> np.dtype[Any]:
    """The header of a readout, 340 bytes."""
    need("ismrmrd", "mrd", "the ISMRMRD streaming protocol")
    from ismrmrd.hdf5 import acquisition_header_dtype

    return np.dtype(acquisition_header_dtype)


@dataclass(frozen=True)
class Message:
    """A message without a content that is used."""

    id: int


@dataclass(frozen=True)
class TextMessage(Message):
    """A text, a configuration or a header, without a zero byte at its end."""

    content: bytes

    @property
    def text(self) -> str:
        """The content as text without a byte order mark; what is not UTF-8 is replaced."""
        return self.content.decode("utf-8-sig", "replace")


@dataclass(frozen=True)
class Readout(Message):
    """A readout: its header, its samples with real and imaginary parts, and its coordinates."""

    head: np.ndarray
    samples: np.ndarray
    coordinates: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return OVERHEAD + self.samples.nbytes + self.coordinates.nbytes


@dataclass(frozen=True)
class ImageMessage(Message):
    """An image: its header of the library, its attributes, and its pixels (channel, z, y, x)."""

    head: Any
    attributes: str
    pixels: np.ndarray


def read_message(wire: Wire, share: Share, *, images: bool = False) -> Message | None:
    """The next message; None if the other side has closed the connection between two messages.

    Parameters
    ----------
    wire
        The connection.
    share
        The memory that readouts and images may take; the caller gives it back.
    images
        Whether images are kept; else they are read and skipped.

    Raises
    ------
    ConnectionFailed
        If the connection ends in a message, or is too slow.
    BadInputError
        If the number of the message is not known, so its length is not known either, or if the
        message is longer than allowed.
    """
    if not wire.begin():
        return None
    (number,) = struct.unpack("<H", wire.read(2))
    if number == Id.CLOSE:
        return Message(number)
    if number == Id.CONFIG_FILE:
        return TextMessage(number, bytes(wire.read(CONFIG_NAME)).split(b"\0")[0])
    if number in LONGEST:
        return TextMessage(number, _text(wire, number))
    if number == Id.ACQUISITION:
        return _readout(wire, share)
    if number == Id.IMAGE and images:
        return _image(wire, share)
    if number not in SKIPPED:
        raise BadInputError(
            f"message {number} is not known, so neither is its length: expected one of "
            f"{', '.join(str(int(i)) for i in Id)}"
        )
    SKIPPED[number](wire)
    return Message(number)


LONGEST = {
    Id.CONFIG_TEXT: LONGEST_TEXT,
    Id.HEADER: MAX_BYTES,
    Id.TEXT: LONGEST_TEXT,
}
"""Messages that consist of a text, and the most bytes of each."""


def _text(wire: Wire, number: int) -> bytes:
    (length,) = struct.unpack("<I", wire.read(4))
    _check_length(number, length, LONGEST[Id(number)])
    # Siemens ends texts with a zero byte, and what follows it is not part of them.
    return bytes(wire.read(length)).split(b"\0")[0]


def _check_length(number: int, length: int, most: int) -> None:
    if length > most:
        raise BadInputError(
            f"a message {Id(number).name} declares {size_text(length)}, and at most "
            f"{size_text(most)} are read"
        )


def _readout(wire: Wire, share: Share) -> Readout:
    head = np.frombuffer(wire.read(head_type().itemsize), head_type())
    n, coils = int(head["number_of_samples"][0]), int(head["active_channels"][0])
    points = n * int(head["trajectory_dimensions"][0])
    # Before anything is received: the header may declare any size.
    share.take_received(OVERHEAD + 8 * n * coils + 4 * points)
    coordinates = np.frombuffer(wire.read(4 * points), "<f4")
    samples = np.frombuffer(wire.read(8 * n * coils), "<f4")
    return Readout(Id.ACQUISITION, head, samples, coordinates)


def _image(wire: Wire, share: Share) -> ImageMessage:
    ismrmrd = need("ismrmrd", "mrd", "the ISMRMRD streaming protocol")
    head = ismrmrd.ImageHeader.from_buffer_copy(wire.read(IMAGE_HEAD))
    (length,) = struct.unpack("<Q", wire.read(8))
    _check_length(Id.IMAGE, length, LONGEST_TEXT)
    if head.data_type not in PIXELS:
        raise BadInputError(f"an image has pixels of the type {head.data_type}: expected 1 to 8")
    kind = PIXELS[head.data_type]
    shape = (head.channels, *reversed(head.matrix_size))
    size = math.prod(shape) * kind.itemsize
    share.take(length + size)
    attributes = bytes(wire.read(length)).split(b"\0")[0].decode("utf-8", "replace")
    pixels = np.frombuffer(wire.read(size), kind).reshape(shape)
    return ImageMessage(Id.IMAGE, head, attributes, pixels)


def _skip_image(wire: Wire) -> None:
    head = wire.read(IMAGE_HEAD)
    (length,) = struct.unpack("<Q", wire.read(8))
    _check_length(Id.IMAGE, length, LONGEST_TEXT)
    kind, x, y, z = struct.unpack_from("<H12x3H", head, 2)
    (channels,) = struct.unpack_from("<H", head, 34)
    if kind not in PIXELS:
        raise BadInputError(f"an image has pixels of the type {kind}: expected 1 to 8")
    size = x * y * z * channels * PIXELS[kind].itemsize
    _check_length(Id.IMAGE, size, LONGEST_SKIPPED)
    wire.skip(length + size)


def _skip_waveform(wire: Wire) -> None:
    samples, channels = struct.unpack_from("<2H", wire.read(WAVEFORM_HEAD), 28)
    wire.skip(4 * channels * samples)


def _skip_array(wire: Wire) -> None:
    kind, _, dimensions = struct.unpack("<3H", wire.read(6))
    if kind not in PIXELS or dimensions > DIMENSIONS:
        raise BadInputError(
            f"an array has numbers of the type {kind} in {dimensions} dimensions: expected 1 to 8, "
            f"and at most {DIMENSIONS} dimensions"
        )
    shape = struct.unpack(f"<{dimensions}Q", wire.read(8 * dimensions))
    size = math.prod(shape) * PIXELS[kind].itemsize
    _check_length(Id.ARRAY, size, LONGEST_SKIPPED)
    wire.skip(size)


def _skip_query(wire: Wire) -> None:
    # A reserved number, then the number of the query, then its text.
    wire.skip(16)
    _skip_long_text(wire)


def _skip_response(wire: Wire) -> None:
    wire.skip(8)
    _skip_long_text(wire)


def _skip_long_text(wire: Wire) -> None:
    (length,) = struct.unpack("<Q", wire.read(8))
    _check_length(Id.QUERY, length, LONGEST_TEXT)
    wire.skip(length)


SKIPPED = {
    Id.QUERY: _skip_query,
    Id.RESPONSE: _skip_response,
    Id.ERROR: _skip_long_text,
    Id.DEPENDENCY_QUERY: _skip_long_text,
    Id.IMAGE: _skip_image,
    Id.WAVEFORM: _skip_waveform,
    Id.ARRAY: _skip_array,
}
"""Messages that are read and not used."""


def send_config_file(wire: Wire, name: str) -> None:
    """The name of a configuration.

    Raises
    ------
    BadInputError
        If it is too long.
    """
    content = name.encode()
    if len(content) >= CONFIG_NAME:
        raise BadInputError(f"the configuration has {len(content)} bytes: {CONFIG_NAME - 1} fit")
    wire.write(struct.pack("<H", Id.CONFIG_FILE), content.ljust(CONFIG_NAME, b"\0"))


def send_header(wire: Wire, xml: bytes) -> None:
    """The XML header."""
    wire.write(struct.pack("<HI", Id.HEADER, len(xml)), xml)


def send_text(wire: Wire, text: str) -> None:
    """A text, with a zero byte at its end, which Siemens expects."""
    content = text.encode("utf-8", "backslashreplace") + b"\0"
    wire.write(struct.pack("<HI", Id.TEXT, len(content)), content)


def send_readout(wire: Wire, head: np.ndarray, samples: np.ndarray, points: np.ndarray) -> None:
    """A readout."""
    wire.write(
        struct.pack("<H", Id.ACQUISITION) + head.tobytes(),
        np.ascontiguousarray(points, "<f4").tobytes() + np.ascontiguousarray(samples).tobytes(),
    )


def send_image(wire: Wire, image: Any) -> None:
    """An image of the library ``ismrmrd``."""
    attributes, head = image.attribute_string.encode(), image.getHead()
    head.attribute_string_len = len(attributes)
    start = struct.pack("<H", Id.IMAGE) + bytes(head)
    wire.write(start + struct.pack("<Q", len(attributes)) + attributes, image.data.tobytes())


def send_close(wire: Wire) -> None:
    """The end of the messages."""
    wire.write(struct.pack("<H", Id.CLOSE))


LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
"""Levels of texts that a host shows; each fills eight characters."""


def send_log(wire: Wire, level: str, text: str) -> None:
    """A text with a level that a host shows to its operator."""
    send_text(wire, f"{level:8} {text}")
