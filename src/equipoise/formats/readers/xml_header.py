"""The ISMRMRD XML header, read leniently, because M4Raw and others violate the schema."""

import codecs
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

from equipoise.formats.study import FROM_XML, study_of
from equipoise.outcome import BadInputError

MAX_BYTES = 16 * 2**20
"""Most bytes of a header; real ones have about 100 kB."""

MAX_ELEMENTS, MAX_DEPTH = 5000, 32
"""Most elements and deepest nesting; real headers have a few hundred elements and depth seven. The
time of a search is proportional to the product."""


@dataclass
class Space:
    """Matrix (x, y, z) and field of view in mm of ``encodedSpace`` or ``reconSpace``."""

    matrix: tuple[int, int, int]
    fov: tuple[float, float, float]


@dataclass
class Limit:
    """The limits of an encoding counter."""

    minimum: int
    maximum: int
    center: int


@dataclass
class XmlHeader:
    """The parts of the header that readers use; missing ones are None or empty."""

    encoded: Space | None = None
    recon: Space | None = None
    limits: dict[str, Limit] = field(default_factory=dict)
    trajectory: str | None = None
    calibration_mode: str | None = None
    noise_bandwidth: float | None = None
    system: dict[str, str] = field(default_factory=dict)
    study: dict[str, str] = field(default_factory=dict)
    n_encodings: int = 0


SYSTEM_FIELDS = (
    "systemVendor",
    "systemModel",
    "systemFieldStrength_T",
    "institutionName",
    "protocolName",
    "sequence_type",
    "TR",
    "TE",
    "TI",
    "flipAngle_deg",
    "patientPosition",
)


def parse(content: bytes | str, source: str, encoding: int = 0) -> XmlHeader:
    """Read a header; elements are found by their local names, in any namespace.

    ``encoding`` is the number of the encoding whose matrix and limits are wanted.

    Raises
    ------
    BadInputError
        If it is not XML, declares a document type (whose entities can expand without limit), is
        longer or deeper than a header can be, or has text in place of a number.
    """
    root = parse_xml(content, f"{source}: the XML header")
    encodings = _all(root, "encoding")
    study = study_of({name: _text(root, name) or "" for name in FROM_XML})
    found = XmlHeader(system=_system(root), study=study, n_encodings=len(encodings))
    bandwidth = _text(root, "relativeReceiverNoiseBandwidth")
    try:
        found.noise_bandwidth = None if bandwidth is None else float(bandwidth)
        if encoding < len(encodings):
            _read_encoding(encodings[encoding], found)
    except (ValueError, OverflowError) as error:
        raise BadInputError(f"{source}: the XML header has no number: {error}") from error
    return found


def parse_xml(content: bytes | str, what: str) -> ElementTree.Element:
    """The root of a text in XML, within the limits of a header.

    Raises
    ------
    BadInputError
        If it is not XML, declares a document type, or is longer or deeper than a header can be.
    """
    if len(content) > MAX_BYTES:
        raise BadInputError(
            f"{what} has {len(content)} bytes, and at most {MAX_BYTES} are read: the "
            "file is damaged or not a scan"
        )
    try:
        text, encoding = _decoded(content)
        return ElementTree.fromstring(
            text, ElementTree.XMLParser(target=_Limited(), encoding=encoding)
        )
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise BadInputError(f"{what} cannot be parsed: {error}") from error


MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    b"<\0": "utf-16-le",
    b"\0<": "utf-16-be",
}
"""Encodings by the first bytes of a text; that of UTF-32 begins like that of UTF-16."""


def _decoded(content: bytes | str) -> tuple[bytes, str | None]:
    """A text without padding, and its encoding, or None if the text itself declares it."""
    found = None
    if not isinstance(content, str):
        found = next((name for mark, name in MARKS.items() if content.startswith(mark)), None)
        content = content.decode(found) if found else content
    # A text that is decoded already may still declare another encoding.
    if isinstance(content, str):
        found, content = "utf-8", content.encode()
    # HDF5 pads fixed-length strings, and the parser refuses NUL bytes after the root.
    return content.strip(b"\0 \r\n\t"), found


class _Limited(ElementTree.TreeBuilder):
    """Enforces the limits while the text is parsed, before anything is searched."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.depth = 0

    def start(self, tag: Any, attrs: Any) -> Any:
        """An element begins."""
        self.count, self.depth = self.count + 1, self.depth + 1
        if self.count > MAX_ELEMENTS or self.depth > MAX_DEPTH:
            raise ValueError(
                f"it has more than {MAX_ELEMENTS} elements, or a depth above {MAX_DEPTH}: it is "
                "not the header of a scan"
            )
        return super().start(tag, attrs)

    def end(self, tag: Any) -> Any:
        """An element ends."""
        self.depth -= 1
        return super().end(tag)

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        """Refuse a document type, in every encoding."""
        raise ValueError("it declares a document type, which no header of a scan does")


def _read_encoding(encoding: ElementTree.Element, found: XmlHeader) -> None:
    found.encoded = _space(encoding, "encodedSpace")
    found.recon = _space(encoding, "reconSpace")
    found.trajectory = _text(encoding, "trajectory")
    found.calibration_mode = _text(encoding, "calibrationMode")
    for limits in _all(encoding, "encodingLimits"):
        for entry in limits:
            numbers = [int(_text(entry, n) or 0) for n in ("minimum", "maximum", "center")]
            found.limits[_local(entry)] = Limit(*numbers)


def _space(encoding: ElementTree.Element, name: str) -> Space | None:
    for space in _all(encoding, name):
        matrix, fov = _all(space, "matrixSize"), _all(space, "fieldOfView_mm")
        if matrix:
            x, y, z = (int(_text(matrix[0], axis) or 1) for axis in "xyz")
            size = (float((_text(fov[0], axis) if fov else None) or 0) for axis in "xyz")
            # Zero is the mark for an unknown field of view, so nonsense becomes unknown.
            fx, fy, fz = (v if 0 < v < float("inf") else 0.0 for v in size)
            return Space((x, y, z), (fx, fy, fz))
    return None


def _system(root: ElementTree.Element) -> dict[str, str]:
    found = {name: _text(root, name) for name in SYSTEM_FIELDS}
    # These texts end in the header of every output, so their length is limited.
    return {name: text[:200] for name, text in found.items() if text}


def _local(element: ElementTree.Element) -> str:
    # Converters use several namespaces, or none.
    return str(element.tag).rsplit("}", 1)[-1]


def _all(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [e for e in root.iter() if _local(e) == name]


def _text(root: ElementTree.Element, name: str) -> str | None:
    found = _all(root, name)
    return found[0].text.strip() if found and found[0].text else None
