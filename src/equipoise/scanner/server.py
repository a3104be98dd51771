"""The server: sessions side by side, each in its thread, until it is told to stop."""

import json
import logging
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from equipoise.formats.acquisition import Acquisition
from equipoise.formats.limits import available_memory, size_text
from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.scanner.budget import Share
from equipoise.scanner.configuration import Configuration
from equipoise.scanner.frames import listening, solve_frame
from equipoise.scanner.messages import head_type, send_close, send_log
from equipoise.scanner.models import Models
from equipoise.scanner.saving import Saving, check_save_folder
from equipoise.scanner.session import Session
from equipoise.scanner.wire import ConnectionFailed, Wire

log = logging.getLogger("equipoise.scanner")

PORT = 9002
"""The port that hosts of the protocol use."""

FINISHING, REFUSING = 4.0, 2.0
"""Seconds after a request to stop: for sessions to finish, and then for the rest to be refused."""

WAITING = 32
"""Connections beyond the sessions that wait for a place; others are closed."""

PATIENCE = 5.0
"""Seconds that a connection waits for a place. A session whose client has gone keeps its place
until the server has noticed, and until the slice that is being solved is done."""

REFUSAL_SECONDS = 2.0

PHANTOM, PHANTOM_COILS = 64, 4
"""Matrix and coils of the phantom of the warm start."""


@dataclass(frozen=True)
class ServeSettings:
    """How a server runs.

    Attributes
    ----------
    host, port
        Where it listens; port 0 is any free one.
    max_sessions
        Sessions at the same time.
    max_memory
        Bytes of all sessions together, divided into equal shares; half of the free memory if None.
    timeout
        Longest wait in seconds for the next message, for the rest of one, and for bytes to be
        taken.
    longest
        Longest time of a session in seconds.
    save_dir
        Folder for the readouts of each session.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    max_sessions: int = 4
    max_memory: int | None = None
    timeout: float = 300.0
    longest: float = 4 * 3600.0
    save_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.max_sessions < 1 or not 0 <= self.port < 2**16:
            raise BadInputError(
                f"{self.max_sessions} sessions on port {self.port}: at least one session and a "
                "port from 0 to 65535 are needed"
            )
        if not min(self.timeout, self.longest) > 0:
            raise BadInputError("the time limits must be positive")
        if self.max_memory is not None and self.max_memory < self.max_sessions:
            raise BadInputError(f"the memory is {self.max_memory} bytes: it must be positive")
        if self.save_dir is not None:
            check_save_folder(self.save_dir)


class Server:
    """Listens on a port and serves each connection as a :class:`Session`.

    Parameters
    ----------
    settings
        How it runs.
    usual
        What is made of a scan whose client asks for nothing.
    device
        Where scans are solved.
    """

    def __init__(self, settings: ServeSettings, usual: Configuration, device: torch.device) -> None:
        head_type()
        self.settings, self.usual = settings, usual
        self.models = Models(usual.model, device)
        free = available_memory() if settings.max_memory is None else settings.max_memory * 2
        self.share = (free or DEFAULT_MEMORY) // 2 // settings.max_sessions
        self._stopping = threading.Event()
        self._running: dict[Session, threading.Thread] = {}
        self._changing = threading.Condition()
        self._connections = threading.Semaphore(settings.max_sessions + WAITING)
        self._count, self._solving = 0, False

    def warm(self) -> float:
        """Load the model and reconstruct a phantom; the seconds that a reconstruction takes."""
        self.models.get(self.usual.model)
        shape = (PHANTOM, PHANTOM)
        maps = biot_savart_maps(shape, PHANTOM_COILS, seed=0)
        disc = np.hypot(*np.indices(shape) - PHANTOM / 2) < PHANTOM / 3
        kspace = SenseOp(maps, np.ones(PHANTOM))(disc.astype(np.complex64))
        scan = Acquisition.from_arrays(kspace)
        # Twice, because the first time includes what libraries prepare.
        for _ in range(2):
            started = time.perf_counter()
            solve_frame(scan, (0,) * 5, self.usual, self.models, Share(self.share))
            seconds = time.perf_counter() - started
        return seconds

    def run(self) -> None:
        """Serve until :meth:`stop`.

        Raises
        ------
        BadInputError
            If the port cannot be opened.
        """
        with listening():
            seconds = self.warm()
            log.info("a phantom of %d x %d took %.3f s", PHANTOM, PHANTOM, seconds)
            with self._listener() as listener:
                listener.settimeout(GLANCE)
                log.info("listening on %s port %d", *listener.getsockname()[:2])
                while not self._stopping.is_set():
                    self._accept(listener)
            self._end()

    def stop(self) -> None:
        """End :meth:`run`, from a signal handler or another thread."""
        self._stopping.set()

    @property
    def busy(self) -> bool:
        """Whether a session is still running, or a slice of one that has ended is being solved."""
        return self._solving or any(thread.is_alive() for thread in self._running.values())

    def _listener(self) -> socket.socket:
        host, port = self.settings.host, self.settings.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            return socket.create_server((host, port), family=family, backlog=64)
        except (OSError, OverflowError, UnicodeError) as error:
            raise BadInputError(
                f"port {port} of {host} cannot be opened: {error}: choose another with --port"
            ) from error

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, address = listener.accept()
        except TimeoutError:
            return
        # A client that has gone before it was accepted, or too many open files.
        except OSError as error:
            log.warning("a connection was not accepted: %s", error)
            time.sleep(GLANCE)
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self._connections.acquire(blocking=False):
            connection.close()
            return
        peer = f"{address[0]}:{address[1]}"
        threading.Thread(
            target=self._connected, args=(connection, peer), name=f"session {peer}", daemon=True
        ).start()

    def _connected(self, connection: socket.socket, peer: str) -> None:
        try:
            session = self._admitted(connection, peer)
            if session is not None:
                self._serve(session)
            elif self._stopping.is_set():
                self._turn_away(connection, STOPPING)
            else:
                log.warning("%s was refused: %d sessions are open", peer, len(self._running))
                self._turn_away(
                    connection,
                    f"this server serves {self.settings.max_sessions} sessions at a time, and all "
                    "are in use: try again later, or raise --max-sessions",
                )
        finally:
            self._connections.release()

    def _admitted(self, connection: socket.socket, peer: str) -> Session | None:
        """A session when there is a place for it; None if there is none within ``PATIENCE``."""
        most = self.settings.max_sessions
        with self._changing:
            self._changing.wait_for(
                lambda: len(self._running) < most or self._stopping.is_set(), PATIENCE
            )
            if len(self._running) >= most or self._stopping.is_set():
                return None
            session = self._session(connection, peer)
            self._running[session] = threading.current_thread()
            return session

    def _session(self, connection: socket.socket, peer: str) -> Session:
        self._count += 1
        settings, folder = self.settings, self.settings.save_dir
        wire = Wire(connection, settings.timeout, settings.longest)
        saving = None if folder is None else Saving(folder, self._count)
        share = Share(self.share)
        return Session(self._count, peer, wire, share, self.usual, self.models, saving)

    def _serve(self, session: Session) -> None:
        try:
            session.run()
        finally:
            session.wire.close()
            with self._changing:
                self._running.pop(session, None)
                self._solving |= session.solving
                self._changing.notify_all()
            self._log(session)

    def _log(self, session: Session) -> None:
        report = session.report
        # A connection that closes at once asks whether the server is there.
        level = logging.INFO if report.received else logging.DEBUG
        log.log(
            level,
            "session %d from %s: %s; %d readouts, %d images, first %s s, last %s s, %s s in all, "
            "at most %s of memory: %s%s",
            *(report.number, report.peer, report.configuration or "no scan"),
            *(report.readouts, report.images, report.first_image, report.last_image),
            *(report.seconds, size_text(report.memory), report.outcome),
            "".join(f"; {text}" for text in report.told),
            extra={"session": asdict(report)},
        )

    def _turn_away(self, connection: socket.socket, why: str) -> None:
        """Say why there is no session."""
        wire = Wire(connection, REFUSAL_SECONDS)
        try:
            send_log(wire, "ERROR", why)
            send_close(wire)
            wire.finish(REFUSAL_SECONDS)
        except ConnectionFailed:
            pass
        finally:
            wire.close()

    def _end(self) -> None:
        """Let sessions finish for a while, then refuse the rest."""
        with self._changing:
            self._changing.notify_all()
        self._wait(FINISHING)
        with self._changing:
            left = list(self._running)
        for session in left:
            session.refuse(STOPPING)
        self._wait(REFUSING)
        log.info("stopped, %s", "a session is still solving" if self.busy else "no session is open")

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        with self._changing:
            threads = list(self._running.values())
        for thread in threads:
            thread.join(max(end - time.monotonic(), 0))


STOPPING = "the server is stopping: send the scan again when it is back"

GLANCE = 0.5
"""Seconds after which the server looks whether it was told to stop."""

DEFAULT_MEMORY = 4 * 2**30
"""Bytes where the system does not tell its free memory."""


class JsonLines(logging.Formatter):
    """Each record of the log as one JSON object in a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The object."""
        content = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + "Z",
            "level": record.levelname,
            "message": record.getMessage(),
            **getattr(record, "session", {}),
        }
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content)
