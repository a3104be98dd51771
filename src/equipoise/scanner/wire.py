"""Exact numbers of bytes from and to a connection, each message within a time limit."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeAlias

from equipoise.outcome import EquipoiseError

CHUNK = 1 << 18
"""Bytes that are received at a time, so that memory grows only with what has arrived."""

GLANCE = 0.5
"""Seconds after which a read that waits looks whether it was interrupted."""

Bytes: TypeAlias = bytes | bytearray | memoryview


class ConnectionFailed(EquipoiseError):
    """The other side cannot be reached any more, or is too slow."""


class ConnectionLost(ConnectionFailed):
    """The other side is gone, or takes nothing any more."""


class Wire:
    """A connection with a buffer for reading.

    Parameters
    ----------
    connection
        The socket; it is closed by :meth:`close`.
    timeout
        Longest time in seconds until the next message begins, until a message that began is
        complete, and until bytes that are sent are taken.
    longest
        Longest time of the whole connection.

    Attributes
    ----------
    occupied
        Whether this side is at work for the other, which then may wait: no time limit but
        ``longest`` ends before.
    """

    def __init__(
        self, connection: socket.socket, timeout: float, longest: float = float("inf")
    ) -> None:
        # A second object for the same connection, because the time limits of both directions
        # differ.
        self._in, self._out = connection, connection.dup()
        self._out.settimeout(timeout)
        self.timeout, self.end = timeout, time.monotonic() + longest
        self._buffer, self._at = b"", 0
        self._deadline = time.monotonic() + timeout
        self._sending, self._interrupted = threading.Lock(), threading.Event()
        self.received = self.sent = 0
        self.occupied: Callable[[], bool] = lambda: False

    def begin(self) -> bool:
        """Wait for the next message; False if the other side has closed the connection."""
        self._deadline = min(time.monotonic() + self.timeout, self.end)
        if self._at == len(self._buffer) and not self._receive(CHUNK):
            return False
        self._deadline = min(time.monotonic() + self.timeout, self.end)
        return True

    def read(self, count: int) -> bytearray:
        """The next bytes.

        Raises
        ------
        ConnectionFailed
            If the connection ends before, or they take too long.
        """
        found = bytearray()
        for part in self._parts(count):
            found += part
        return found

    def skip(self, count: int) -> None:
        """Read bytes without keeping them."""
        for _ in self._parts(count):
            pass

    def _parts(self, count: int) -> Iterable[Bytes]:
        wanted = count
        while wanted:
            if self._at == len(self._buffer) and not self._receive(CHUNK):
                raise ConnectionFailed(
                    f"the connection ended {wanted} bytes before the end of a message"
                )
            part = memoryview(self._buffer)[self._at : self._at + wanted]
            self._at += len(part)
            wanted -= len(part)
            yield part

    def _receive(self, most: int) -> int:
        while True:
            if self._interrupted.is_set():
                raise ConnectionFailed("the session was ended")
            left = self._left()
            try:
                # What has arrived in time counts, however late this thread has its turn.
                self._in.settimeout(min(left, GLANCE))
                self._buffer, self._at = self._in.recv(most), 0
            except (TimeoutError, BlockingIOError) as error:
                if left == 0:
                    raise ConnectionFailed(
                        f"no complete message arrived within {self.timeout:g} s"
                    ) from error
                continue
            except OSError as error:
                raise ConnectionLost(f"the connection failed: {error.strerror or error}") from error
            self.received += len(self._buffer)
            return len(self._buffer)

    def _left(self) -> float:
        """Seconds until the time limit of a message, 0 if they are over."""
        now = time.monotonic()
        if now >= self.end:
            raise ConnectionFailed("the connection was open for longer than is allowed")
        if self.occupied():
            self._deadline = max(self._deadline, now + self.timeout)
        return max(self._deadline - now, 0.0)

    def was_reset(self) -> bool:
        """Whether the other side has reset the connection."""
        return self._in.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0

    def write(self, *parts: Bytes) -> None:
        """Send bytes; parts of one call stay together, whatever other threads send.

        Raises
        ------
        ConnectionLost
            If the other side does not take them.
        """
        with self._sending:
            try:
                for part in parts:
                    self._out.sendall(part)
                    self.sent += len(part)
            except OSError as error:
                raise ConnectionLost(
                    f"{sum(map(len, parts))} bytes were not taken by the other side: "
                    f"{error.strerror or error}"
                ) from error

    def interrupt(self) -> None:
        """End a read that is waiting in another thread, within ``GLANCE`` seconds."""
        self._interrupted.set()

    def finish(self, seconds: float) -> None:
        """Say that nothing more is sent, and take what the other side still sends for a while.

        Closing a connection with unread bytes resets it, and the other side could lose the last
        messages.
        """
        with contextlib.suppress(OSError):
            self._out.shutdown(socket.SHUT_WR)
        self._interrupted.clear()
        # However much the other side sends.
        self.end = time.monotonic() + seconds
        self._deadline = self.end
        with contextlib.suppress(ConnectionFailed):
            while self._receive(CHUNK):
                pass

    def close(self) -> None:
        """Close the connection."""
        for one in (self._in, self._out):
            with contextlib.suppress(OSError):
                one.close()
