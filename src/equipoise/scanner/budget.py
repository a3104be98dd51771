"""The memory that all sessions may take, divided into equal shares."""

import threading

from equipoise.formats.limits import size_text
from equipoise.outcome import BadInputError


class Share:
    """The memory of one session, in bytes.

    Counted are the readouts that are kept, and the estimate of a reconstruction while it runs.

    Attributes
    ----------
    total, taken, most
        Bytes of the share, those that are taken, and the most that were.
    solving
        Frames that wait for their solve or are being solved, and will give memory back.
    """

    def __init__(self, total: int) -> None:
        self.total, self.taken, self.most = total, 0, 0
        self.solving, self._ended = 0, False
        self._changing = threading.Condition()

    def take_received(self, count: int) -> None:
        """Take memory for what a client sends faster than it is solved.

        Beyond ``RECEIVED`` of the share, it waits for the frames that are being solved.

        Raises
        ------
        BadInputError
            If the share does not hold it, and no frame is being solved.
        """
        with self._changing:
            self._changing.wait_for(
                lambda: (
                    self._ended or not self.solving or self.taken + count <= RECEIVED * self.total
                )
            )
        self.take(count)

    def take(self, count: int) -> None:
        """Take memory before it is allocated.

        Raises
        ------
        BadInputError
            If the share does not hold it.
        """
        with self._changing:
            if self.taken + count > self.total:
                raise BadInputError(
                    f"this session needs {size_text(self.taken + count)} of memory, and its share "
                    f"is {size_text(self.total)}: raise --max-memory, or lower --max-sessions"
                )
            self.taken += count
            self.most = max(self.most, self.taken)

    def give_back(self, count: int) -> None:
        """Return memory."""
        with self._changing:
            self.taken -= count
            self._changing.notify_all()

    def expect(self) -> None:
        """A frame is complete, and will be solved."""
        with self._changing:
            self.solving += 1

    def solved(self) -> None:
        """A frame is done."""
        with self._changing:
            self.solving -= 1
            self._changing.notify_all()

    def end(self) -> None:
        """Let nothing wait any more."""
        with self._changing:
            self._ended = True
            self._changing.notify_all()


RECEIVED = 0.5
"""Part of a share up to which readouts are received beside a solve, which needs the rest."""
