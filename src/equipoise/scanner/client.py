"""A client of the ISMRMRD streaming protocol: a scan is sent, its images come back."""

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from equipoise.formats.header import Geometry, Header, Plane, as_vector, cut
from equipoise.formats.readers import mrd
from equipoise.formats.readers.mrd_scan import COUNTERS
from equipoise.formats.readers.readouts import labels_of
from equipoise.formats.readers.registry import read
from equipoise.formats.readers.xml_header import parse, parse_xml
from equipoise.outcome import BadInputError
from equipoise.scanner.budget import Share
from equipoise.scanner.images import NOISE_SERIES
from equipoise.scanner.messages import (
    Id,
    ImageMessage,
    TextMessage,
    head_type,
    read_message,
    send_close,
    send_config_file,
    send_header,
    send_readout,
    send_text,
)
from equipoise.scanner.readouts import Sent, readouts_of
from equipoise.scanner.wire import ConnectionFailed, Wire

MEMORY = 2**36
"""Most bytes of images that a client takes."""


@dataclass
class Returned:
    """What came back.

    Attributes
    ----------
    image
        (slices, y, x), complex or magnitude, in the order in which a file of the scan has them.
    header
        Geometry and labels, from the headers of the images.
    attributes
        Of each image of ``image``.
    noise
        The noise maps, if they were asked for.
    texts
        What the server said.
    """

    image: np.ndarray
    header: Header
    attributes: list[dict[str, Any]]
    noise: np.ndarray | None
    texts: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        """The texts that tell of an error."""
        return [text for text in self.texts if text.startswith("ERROR")]


def send(
    scan: Path,
    host: str,
    port: int,
    *,
    config: str = "recon",
    parameters: str | None = None,
    timeout: float = 300.0,
    on_text: Callable[[str], None] = lambda text: None,
) -> Returned:
    """Send a scan of any known format, and return its images.

    Parameters
    ----------
    scan
        The file. Readouts of an ISMRMRD file are sent as they are stored; those of other formats
        are made from their k-space, without the coil maps of the file.
    host, port
        The server.
    config
        The name of the configuration.
    parameters
        OpenRecon's JSON, sent as a text after the header.
    timeout
        Longest wait for the server, in seconds.
    on_text
        Called with each text of the server.

    Raises
    ------
    BadInputError
        If the scan cannot be read, the server cannot be reached, or no image comes back.
    """
    sent = stored_readouts(scan) if mrd.recognizes(scan) else readouts_of(read(scan))
    wire = _connect(host, port, timeout)
    failure: list[str] = []
    sending = threading.Thread(
        target=_send, args=(wire, sent, config, parameters, failure), daemon=True
    )
    sending.start()
    texts: list[str] = []
    try:
        images = list(_images(wire, texts, on_text))
    except ConnectionFailed as error:
        raise BadInputError(f"{host} port {port}: {'; '.join([str(error), *texts])}") from error
    finally:
        wire.interrupt()
        wire.close()
        sending.join(1.0)
    if not images:
        why = "; ".join([*texts, *failure]) or "it said nothing"
        raise BadInputError(f"{host} port {port} sent no image: {why}")
    found = _returned(images, texts, sent.crop)
    found.header = replace(found.header, study=sent.study)
    return found


def _connect(host: str, port: int, timeout: float) -> Wire:
    try:
        return Wire(socket.create_connection((host, port), timeout=timeout), timeout)
    except (OSError, OverflowError, UnicodeError) as error:
        raise BadInputError(
            f"{host} port {port} cannot be reached: {error}: start `equipoise serve` there"
        ) from error


def _send(wire: Wire, sent: Sent, config: str, parameters: str | None, failure: list[str]) -> None:
    """The messages of a scan, in their order."""
    try:
        send_config_file(wire, config)
        send_header(wire, sent.header)
        if parameters is not None:
            send_text(wire, parameters)
        for readout in sent.readouts:
            send_readout(wire, *readout)
        send_close(wire)
    # The reason is in what the server sends back.
    except (ConnectionFailed, BadInputError) as error:
        failure.append(str(error))


def _images(wire: Wire, texts: list[str], on_text: Callable[[str], None]) -> Iterator[ImageMessage]:
    share = Share(MEMORY)
    while (message := read_message(wire, share, images=True)) is not None:
        if message.id == Id.CLOSE:
            return
        if isinstance(message, ImageMessage):
            yield message
        elif isinstance(message, TextMessage) and message.id == Id.TEXT:
            texts.append(message.text)
            on_text(message.text)


def stored_readouts(scan: Path) -> Sent:
    """The readouts of an ISMRMRD file as they are stored.

    Raises
    ------
    BadInputError
        If the file cannot be read.
    """
    content, records = mrd.stored(scan)
    header = content.encode() if isinstance(content, str) else bytes(content)
    heads = np.zeros(len(records.heads), head_type())
    _copy(records.heads, heads)
    # A file may lack the coordinates that its headers count.
    if records.coordinates is None:
        heads["trajectory_dimensions"] = 0
    points = records.coordinates
    empty = np.zeros(0, np.float32)

    def readouts() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for i, samples in enumerate(records.samples):
            yield heads[i : i + 1], samples, empty if points is None else points[i]

    study = parse(header, str(scan)).study
    return Sent(header.rstrip(b"\0"), readouts(), study=study)


def _copy(stored: np.ndarray, heads: np.ndarray) -> None:
    """The fields that both headers have."""
    for name in set(stored.dtype.names or ()) & set(heads.dtype.names or ()):
        if stored.dtype[name].names:
            _copy(stored[name], heads[name])
        else:
            heads[name] = stored[name]


def _returned(
    images: list[ImageMessage], texts: list[str], crop: tuple[int, ...] | None
) -> Returned:
    first = [one for one in images if one.head.image_series_index != NOISE_SERIES]
    noise = [one for one in images if one.head.image_series_index == NOISE_SERIES]
    shapes = {one.pixels.shape for one in first}
    if len(shapes) != 1:
        raise BadInputError(f"the images have different sizes, {sorted(shapes)}: a file holds one")
    first.sort(key=_counters)
    noise.sort(key=_counters)
    attributes = [_attributes(one) for one in first]
    pixels = np.concatenate([_scaled(one, found) for one, found in zip(first, attributes)])
    maps = [_scaled(one, _attributes(one)) for one in noise]
    header = _header(first)
    if crop is not None:
        pixels, maps = cut(pixels, crop), [cut(one, crop) for one in maps]
    return Returned(pixels, header, attributes, np.concatenate(maps) if maps else None, texts)


def _counters(one: ImageMessage) -> tuple[int, ...]:
    return tuple(int(getattr(one.head, name)) for name in COUNTERS)


def _scaled(one: ImageMessage, attributes: dict[str, Any]) -> np.ndarray:
    """The pixels (z, y, x) of the first channel, multiplied by the slope."""
    pixels = one.pixels[0]
    if np.issubdtype(pixels.dtype, np.integer):
        return np.asarray(pixels * float(attributes.get("RescaleSlope", 1.0)), np.float32)
    return np.asarray(pixels)


def _attributes(one: ImageMessage) -> dict[str, Any]:
    """The attributes of an image by name; those with several values are lists."""
    if not one.attributes.strip():
        return {}
    found: dict[str, Any] = {}
    for meta in parse_xml(one.attributes, "the attributes of an image").iter("meta"):
        values = [element.text or "" for element in meta.iter("value")]
        found[_name(meta)] = values[0] if len(values) == 1 else values
    return found


def _name(meta: ElementTree.Element) -> str:
    name = meta.find("name")
    return "" if name is None else name.text or ""


def _header(images: list[ImageMessage]) -> Header:
    """Labels and geometry of the images; those of a volume are its slices."""
    nz, ny, nx = images[0].pixels.shape[1:]
    labels = labels_of(np.array([_counters(one) for one in images]), list(COUNTERS))
    if nz > 1:
        labels = [{**label, "slice": z} for label in labels for z in range(nz)]
    fields = [float(v) for v in images[0].head.field_of_view]
    if min(fields) <= 0:
        return Header(labels=labels)
    spacing = as_vector([fields[2] / nz, fields[1] / ny, fields[0] / nx])
    planes = [_plane(one) for one in images]
    known = [plane for plane in planes if plane is not None]
    oriented = len(known) == len(planes)
    offsets = (np.arange(nz) - nz // 2) * spacing[0]
    normals = [plane[0] if plane else (0.0, 0.0, 1.0) for plane in planes]
    centres = [
        as_vector(np.array(one.head.position) + z * np.array(normal))
        for one, normal in zip(images, normals)
        for z in offsets
    ]
    if not oriented:
        return Header(Geometry(spacing, centres=centres, oriented=False), labels=labels)
    every = [plane for plane in known for _ in range(nz)]
    same = all(np.allclose(plane, known[0], atol=1e-3) for plane in known)
    geometry = Geometry(spacing, *known[0], centres, planes=[] if same else every)
    return Header(geometry, labels=labels)


def _plane(one: ImageMessage) -> Plane | None:
    head = one.head
    axes = np.array([list(head.slice_dir), list(head.phase_dir), list(head.read_dir)])
    length = np.linalg.norm(axes, axis=1)
    if not np.isfinite(axes).all() or length.min() < 0.5:
        return None
    first, second, third = (as_vector(axis) for axis in axes / length[:, None])
    return first, second, third
