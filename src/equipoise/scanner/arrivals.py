"""Readouts as they arrive, and the frames that are complete.

A frame is complete when its last readout is flagged as the last of its slice, repetition or
measurement, or when the client closes. The readouts of a frame are given back when it is done, but
for the first frame of each slice and contrast: later frames may take their coil maps from it.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from equipoise.formats.readers.mrd_flags import (
    CALIBRATION,
    CALIBRATION_AND_IMAGING,
    NOISE,
    NOT_IMAGES,
    PHASE_CORRECTION,
)
from equipoise.formats.readers.mrd_scan import COUNTERS, Records
from equipoise.scanner.budget import Share
from equipoise.scanner.messages import Readout

LAST_IN_SLICE, LAST_IN_REPETITION, LAST_IN_MEASUREMENT = 8, 14, 25
"""Numbers of flags, from 1."""

LATE = "readouts that came after the last of their image"
"""Readouts of an image that was sent already."""

Key = tuple[int, ...]
"""The counters of a frame, in the order of ``COUNTERS``."""

SET, PHASE, REPETITION, CONTRAST, SLICE = range(len(COUNTERS))


@dataclass
class Arrivals:
    """The readouts of a session.

    Attributes
    ----------
    volumetric
        Whether the header has partitions. The last readout of a slice may then be the last of a
        partition only, so just the end of a repetition or measurement completes a volume.
    averages
        Number of the last average by the header.
    left_out
        Readouts that are not kept, by the reason.
    """

    volumetric: bool
    averages: int
    share: Share
    left_out: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.encoding: int | None = None
        self._noise: list[Readout] = []
        self._reference: dict[Key, list[Readout]] = {}
        self._pending: dict[Key, list[Readout]] = {}
        self._anchors: dict[Key, list[Readout]] = {}
        self._done: set[Key] = set()
        self._begun: set[Key] = set()

    def add(self, readout: Readout) -> list[Key]:
        """Keep a readout; the frames that are complete with it."""
        head = readout.head[0]
        flags, key = int(head["flags"]), tuple(int(head["idx"][name]) for name in COUNTERS)
        if not self._kept(readout, flags, key, int(head["encoding_space_ref"])):
            self.share.give_back(readout.nbytes)
        return self._completed(flags, key, int(head["idx"]["average"]))

    def _kept(self, readout: Readout, flags: int, key: Key, encoding: int) -> bool:
        if _is_set(flags, NOISE):
            self._noise.append(readout)
            return True
        for number, name in NOT_IMAGES.items():
            if _is_set(flags, number) and number != PHASE_CORRECTION:
                self.left_out[f"{name} readouts"] += 1
                return False
        calibration = _is_set(flags, CALIBRATION) and not _is_set(flags, CALIBRATION_AND_IMAGING)
        if _is_set(flags, PHASE_CORRECTION) or calibration or self._elsewhere(encoding):
            self._reference.setdefault(key, []).append(readout)
            return True
        if key in self._done:
            self.left_out[LATE] += 1
            return False
        self.encoding = encoding if self.encoding is None else self.encoding
        self._begun.add(key)
        self._pending.setdefault(key, []).append(readout)
        return True

    def _elsewhere(self, encoding: int) -> bool:
        """Whether a readout belongs to another encoding than the images: the first is theirs."""
        return self.encoding is not None and encoding != self.encoding

    def _completed(self, flags: int, key: Key, average: int) -> list[Key]:
        if _is_set(flags, LAST_IN_MEASUREMENT):
            return list(self._pending)
        if _is_set(flags, LAST_IN_REPETITION):
            return [k for k in self._pending if k[REPETITION] == key[REPETITION]]
        last = _is_set(flags, LAST_IN_SLICE) and not self.volumetric and average >= self.averages
        return [key] if last and key in self._pending else []

    @property
    def pending(self) -> list[Key]:
        """The frames that are not done."""
        return list(self._pending)

    def first(self, key: Key) -> np.ndarray:
        """The header of the first readout of a frame."""
        return (self._pending.get(key) or self._anchors[key])[0].head

    def records(self, keys: Iterable[Key]) -> Records:
        """The readouts of frames that are not done, and those that these frames depend on."""
        keys = list(keys)
        slices = {key[SLICE] for key in keys}
        anchors = [key for key in self._anchors if key[SLICE] in slices]
        # A scan that was stopped is recognised by comparison with a frame that is whole.
        if not anchors and self._anchors:
            anchors = [next(iter(self._anchors))]
        chosen = {*keys, *anchors}
        found = [*self._noise]
        for key, readouts in self._reference.items():
            # Lines of a frame that is not chosen would look like a scan of their own.
            if key in chosen or (key[SLICE] in slices and key not in self._begun):
                found += readouts
        for key in [*anchors, *keys]:
            found += self._anchors.get(key) or self._pending[key]
        return _records(found)

    def done(self, keys: Iterable[Key]) -> None:
        """Give back the readouts of frames."""
        alike = (SLICE, CONTRAST, SET)
        for key in keys:
            readouts = self._pending.pop(key)
            self._done.add(key)
            known = {tuple(anchor[i] for i in alike) for anchor in self._anchors}
            if tuple(key[i] for i in alike) in known:
                readouts += self._reference.pop(key, [])
                self.share.give_back(sum(one.nbytes for one in readouts))
            else:
                self._anchors[key] = readouts


def _is_set(flags: int, number: int) -> bool:
    return bool(flags >> (number - 1) & 1)


def _records(readouts: list[Readout]) -> Records:
    heads: np.ndarray[Any, Any] = np.concatenate([one.head for one in readouts])
    coordinates = [one.coordinates for one in readouts]
    return Records(
        heads,
        [one.samples for one in readouts],
        coordinates if heads["trajectory_dimensions"].any() else None,
    )
