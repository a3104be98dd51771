"""The memory that all sessions may take, divided into equal shares."""

import threading

from equipoise.formats.limits import size_text
from equipoise.outcome import BadInputError


class Share:
    """The memory of one session, in bytes.

    Counted are the readouts that are kept, and the estimate of a reconstruction while it runs.
    """

    def __init__(self, total: int) -> None:
        self.total, self.taken, self.most = total, 0, 0
        self._changing = threading.Lock()

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
