"""One session: messages are received in one thread, complete frames are solved in another."""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from equipoise.formats.acquisition import Acquisition
from equipoise.formats.header import name_of
from equipoise.formats.readers.mrd_flags import declared_separate
from equipoise.formats.readers.mrd_scan import COUNTERS, Records
from equipoise.formats.readers.xml_header import XmlHeader, parse
from equipoise.outcome import BadInputError, EquipoiseError
from equipoise.scanner.arrivals import LATE, LATE_CALIBRATION, LATE_NOISE, Arrivals, Key
from equipoise.scanner.budget import Share
from equipoise.scanner.configuration import Configuration, by_json, by_name, by_xml, changes
from equipoise.scanner.frames import HEARD, assemble, can_be_calibrated, solve_frame
from equipoise.scanner.images import Series
from equipoise.scanner.messages import (
    Id,
    Message,
    Readout,
    TextMessage,
    read_message,
    send_close,
    send_image,
    send_log,
)
from equipoise.scanner.models import Models
from equipoise.scanner.report import Report
from equipoise.scanner.saving import Saving
from equipoise.scanner.wire import GLANCE, ConnectionFailed, ConnectionLost, Wire

log = logging.getLogger("equipoise.scanner")

GOODBYE = 1.0
"""Seconds for the other side to take the last messages and close."""

MOST_TEXTS = 200
"""Texts that are sent in a session; an image that fails for each readout must not send more."""


class Session:
    """A connection from its first message to its end.

    Parameters
    ----------
    number
        Of the session, for the log.
    wire, share
        The connection, and the memory that it may take.
    usual
        What is made of a scan whose client asks for nothing.
    models
        The models of the server.
    saving
        Where the readouts are saved; None if they are not.
    """

    def __init__(
        self,
        number: int,
        peer: str,
        wire: Wire,
        share: Share,
        usual: Configuration,
        models: Models,
        saving: Saving | None,
    ) -> None:
        self.wire, self.share, self.models, self.saving = wire, share, models, saving
        # A client may wait for its image before it sends more.
        wire.occupied = lambda: share.solving > 0
        self.config = self.usual = usual
        self._asked: dict[str, Any] = {}
        self.report = Report(number, peer)
        self._xml: XmlHeader | None = None
        self._header, self._why_no_header = b"", "none has arrived"
        self._arrivals: Arrivals | None = None
        self._series: Series | None = None
        self._changing = threading.Lock()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._failure: str | None = None
        self._started = time.monotonic()
        self._solver = threading.Thread(target=self._solve, name=f"frames {number}", daemon=True)
        self._texts = 0
        self._given: set[str] = set()
        self.refused = threading.Event()
        self.why_refused = ""

    def run(self) -> None:
        """Serve the session; nothing is raised."""
        self._solver.start()
        self._end()
        report, wire = self.report, self.wire
        report.received, report.sent, report.memory = wire.received, wire.sent, self.share.most
        report.seconds = self._now()

    def refuse(self, why: str) -> None:
        """End the session from another thread."""
        self.why_refused = why
        self._abandon()

    @property
    def solving(self) -> bool:
        """Whether a slice is being solved, also after the end of the session."""
        return self._solver.is_alive()

    def _abandon(self) -> None:
        """Let each thread end as soon as it can."""
        self.refused.set()
        self.share.end()
        self.wire.interrupt()

    def _end(self) -> None:
        try:
            self._receive()
        except ConnectionLost as error:
            self._fail(str(error))
        # Images whose readouts are complete are still made and sent.
        except EquipoiseError as error:
            self._failure = self._failure or str(error)
        # A library may fail in a way that was not foreseen, and the server goes on.
        except Exception as error:
            log.exception("session %d failed", self.report.number)
            self._fail(f"unexpected {type(error).__name__}: {error}")
        self._jobs.put(None)
        self._await_images()
        failure = self.why_refused or self._failure
        if failure is not None:
            self.report.outcome = failure
            self._say("ERROR", failure, always=True)
        # Before the end of the messages, so that a host that has it finds the file complete.
        if self.saving is not None:
            self._once(self.saving.close())
        with contextlib.suppress(ConnectionFailed):
            send_close(self.wire)
        self.wire.finish(GOODBYE)

    def _fail(self, why: str) -> None:
        """End the session, from any of its threads."""
        self._failure = why if self._failure is None else self._failure
        self._abandon()

    def _await_images(self) -> None:
        """Wait for the solver, but not if the server stops: a solve cannot be interrupted."""
        while self.solving and not self.why_refused:
            self._solver.join(GLANCE)
            if not self.refused.is_set() and self.wire.was_reset():
                self._fail("the client reset the connection before all images were made")

    def _now(self) -> float:
        return round(time.monotonic() - self._started, 3)

    def _say(self, level: str, text: str, *, always: bool = False) -> None:
        """A text for the operator; a connection that ended cannot take it."""
        self._texts += 1
        if not always:
            if self._texts > MOST_TEXTS:
                return
            self.report.told.append(text)
        with contextlib.suppress(ConnectionFailed):
            send_log(self.wire, level, text)

    def _once(self, texts: list[str], level: str = "WARNING") -> None:
        for text in texts:
            if text not in self._given and len(self._given) < MOST_TEXTS:
                self._given.add(text)
                self._say(level, text)

    def _receive(self) -> None:
        while True:
            message = read_message(self.wire, self.share)
            if message is None:
                if self.why_refused or self.wire.received:
                    raise ConnectionFailed(
                        self.why_refused or "the client closed the connection without CLOSE"
                    )
                return
            if self.refused.is_set():
                raise ConnectionFailed(self.why_refused or self._failure or "the session ended")
            if message.id == Id.CLOSE:
                return self._close()
            self._take(message)

    def _take(self, message: Message) -> None:
        if isinstance(message, Readout):
            self._take_readout(message)
        elif isinstance(message, TextMessage):
            TAKERS[message.id](self, message)
        else:
            name = Id(message.id).name
            self.report.ignored[name] = self.report.ignored.get(name, 0) + 1

    def _configure(self, found: tuple[Configuration, list[str]]) -> None:
        if self._arrivals is not None:
            self._say("WARNING", "the configuration came after the first readout: it is not used")
            return
        self.config, notes = found
        self._once(notes)

    def _take_name(self, message: TextMessage) -> None:
        found, notes = by_name(message.text, self.usual)
        # Hosts may send the parameters before the name.
        self._configure((replace(found, **self._asked), notes))

    def _take_xml(self, message: TextMessage) -> None:
        found = by_json(message.text, self.config)
        self._ask(by_xml(message.content, self.config) if found is None else found)

    def _take_text(self, message: TextMessage) -> None:
        found = by_json(message.text, self.config)
        if found is not None:
            self._ask(found)
        elif message.text.lstrip().startswith("{"):
            self._once(["a text is no JSON with an object `parameters`, and is not used"])

    def _ask(self, found: tuple[Configuration, list[str]]) -> None:
        """Take parameters, which a name that comes later does not undo."""
        self._asked |= changes(self.config, found[0])
        self._configure(found)

    def _take_header(self, message: TextMessage) -> None:
        if self._arrivals is not None:
            if message.content != self._header:
                raise BadInputError("a second header came after the first readout")
            return
        self._header = message.content
        # Clients that send images have a header that is no XML, which harms only readouts.
        try:
            self._xml = parse(message.content, "the scan")
        except BadInputError as error:
            self._xml, self._why_no_header = None, str(error)

    def _take_readout(self, readout: Readout) -> None:
        if self._arrivals is None:
            self._begin()
        assert self._arrivals is not None
        if self.saving is not None:
            self._once(self.saving.add(readout))
        self.report.readouts, self.report.last_readout = self.report.readouts + 1, self._now()
        if self.config.method == "nullrecon":
            self.share.give_back(readout.nbytes)
            return
        with self._changing:
            complete = self._arrivals.add(readout)
        if complete:
            self._solve_soon(complete)

    def _begin(self) -> None:
        """The first readout: header and configuration are known from here on."""
        if self._xml is None:
            raise BadInputError(
                f"a readout came without a header that can be used ({self._why_no_header}): send "
                "the XML header first"
            )
        encoded, averages = self._xml.encoded, self._xml.limits.get("average")
        self._arrivals = Arrivals(
            encoded is not None and encoded.matrix[2] > 1,
            0 if averages is None else averages.maximum,
            self.share,
        )
        # Before the scan is there: a model that is not known must not cost the whole scan.
        checksum = "" if self.config.method != "recon" else self.models.checksum(self.config.model)
        self._series = Series(self.config, checksum)
        self.report.configuration = str(self.config)
        if self.saving is not None:
            self._once(self.saving.begin(self._header))

    def _close(self) -> None:
        if self._arrivals is not None and self.config.method != "nullrecon":
            self._solve_soon([])
        for name, count in self.report.ignored.items():
            # Physiological curves come with every scan; images are a client's mistake.
            level = "INFO" if name == Id.WAVEFORM.name else "WARNING"
            self._say(level, f"{count} messages {name} were read and not used")

    def _solve_soon(self, keys: list[Key]) -> None:
        assert self._arrivals is not None
        self.share.expect()
        self._jobs.put((keys, self._arrivals.count))

    def _solve(self) -> None:
        """The thread that solves; it ends with the jobs."""
        while (job := self._jobs.get()) is not None:
            if not self.refused.is_set():
                self._attempt(*job)
            self.share.solved()

    def _attempt(self, keys: list[Key], until: int) -> None:
        try:
            self._solve_job(keys, until)
        except EquipoiseError as error:
            self._fail(str(error))
        except MemoryError:
            self._fail("not enough memory for this scan")
        except Exception as error:
            log.exception("session %d failed", self.report.number)
            self._fail(f"unexpected {type(error).__name__}: {error}")

    def _solve_job(self, keys: list[Key], until: int) -> None:
        """Solve complete frames; without keys the client has closed, and all that is left."""
        arrivals = self._arrivals
        assert arrivals is not None
        with self._changing:
            final = not keys
            keys = arrivals.pending if final else [k for k in keys if k in arrivals.pending]
            if not keys:
                return self._last(final)
            records = arrivals.records(keys, until)
            heads = {key: arrivals.first(key) for key in keys}
            awaited = {key for key in keys if self._awaits_calibration(key, until)}
        size = COPIES * sum(values.nbytes for values in records.samples)
        self.share.take(size)
        try:
            scan, found = self._scan(records)
            solved = [
                key
                for key in keys
                if final or can_be_calibrated(scan, found.get(key), awaited=key in awaited)
            ]
            for key in solved:
                self._one(scan, key, found.get(key), heads[key])
        finally:
            self.share.give_back(size)
        with self._changing:
            arrivals.done(solved, until)
        self._last(final)

    def _scan(self, records: Records) -> tuple[Acquisition, dict[Key, int]]:
        """The scan of readouts, and the number of each of its frames."""
        scan, numbers = assemble(records, self._header)
        self._once(HEARD.taken())
        self._once(scan.notes, "INFO")
        return scan, numbers

    def _awaits_calibration(self, key: Key, until: int) -> bool:
        """Whether the header promises a calibration scan of which nothing has arrived."""
        assert self._xml is not None
        assert self._arrivals is not None
        promised = bool(declared_separate(self._xml))
        return promised and not self._arrivals.calibrated(key, until)

    def _one(self, scan: Acquisition, key: Key, index: int | None, head: Any) -> None:
        """Solve one frame and send it."""
        # A frame without an index was left out by the reader, which said why.
        if index is None or self.refused.is_set():
            return
        try:
            one = scan.of([index])
            frame = solve_frame(one, key, self.config, self.models, self.share, self.refused)
        except BadInputError as error:
            self._say("ERROR", f"{_named(key)}: {error}")
            self.report.outcome = f"{_named(key)}: {error}"
            return
        self._once([f"{_named(key)}: {text}" for text in HEARD.taken()])
        assert self._series is not None
        # The client has been told that it gets no more.
        if self.refused.is_set():
            return
        for image in self._series.images(frame, head):
            send_image(self.wire, image)
            self.report.images += 1
        self.report.last_image = self._now()
        if self.report.first_image is None:
            self.report.first_image = self.report.last_image

    def _last(self, final: bool) -> None:
        if not final or self._arrivals is None:
            return
        for what, count in self._arrivals.left_out.items():
            level = "WARNING" if what in (LATE, LATE_NOISE) else "INFO"
            self._say(level, f"{count} {what} were left out")
        late = self._arrivals.late_calibration()
        if late:
            self._say("WARNING", f"{late} {LATE_CALIBRATION} were not used for those images")


COPIES = 3
"""Arrays of the size of the samples in memory while a scan is assembled."""

Job: TypeAlias = tuple[list[Key], int]
"""Complete frames, none if the client has closed, and how many readouts had arrived with them."""

TAKERS: dict[int, Callable[[Session, TextMessage], None]] = {
    Id.CONFIG_FILE: Session._take_name,
    Id.CONFIG_TEXT: Session._take_xml,
    Id.TEXT: Session._take_text,
    Id.HEADER: Session._take_header,
}


def _named(key: Key) -> str:
    return name_of({name: value for name, value in zip(COUNTERS, key) if value or name == "slice"})
