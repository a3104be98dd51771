"""Readouts as they arrive, and the frames that are complete.

A frame is complete when its last readout is flagged as the last of its slice, repetition or
measurement, or when the client closes. The readouts of a frame are given back when it is done, but
for the first frame of each slice and contrast: later frames may take their coil maps from it.

Readouts are numbered as they arrive, and a frame is made of those up to its last one. Solving takes
longer than receiving, so without the numbers an image would depend on what arrived meanwhile.
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
"""Readouts of an image that was made without them."""

LATE_NOISE = "noise readouts that came after the first image, which was made without them,"
"""Noise readouts after which the images of a series would have another unit."""

LATE_CALIBRATION = "calibration readouts that came after images of their slice"
"""Calibration readouts of images that took their coil maps from their own lines."""

Numbered = tuple[int, Readout]
"""A readout and how many have arrived with it."""

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
        self.count = 0
        self._noise: list[Numbered] = []
        self._reference: dict[Key, list[Numbered]] = {}
        self._pending: dict[Key, list[Numbered]] = {}
        self._anchors: dict[Key, list[Numbered]] = {}
        self._begun: dict[Key, int] = {}
        self._done: dict[Key, int] = {}

    def add(self, readout: Readout) -> list[Key]:
        """Keep a readout; the frames that are complete with it."""
        head = readout.head[0]
        flags, key = int(head["flags"]), tuple(int(head["idx"][name]) for name in COUNTERS)
        self.count += 1
        if not self._kept(readout, flags, key, int(head["encoding_space_ref"])):
            self.share.give_back(readout.nbytes)
        # The last noise readout of an adjustment ends a measurement, but not that of the images,
        # and neither does a readout of another encoding.
        if _is_set(flags, NOISE) or int(head["encoding_space_ref"]) != self.encoding:
            return []
        return self._completed(flags, key, int(head["idx"]["average"]))

    def _kept(self, readout: Readout, flags: int, key: Key, encoding: int) -> bool:
        numbered = self.count, readout
        if _is_set(flags, NOISE):
            if self._done:
                self.left_out[LATE_NOISE] += 1
                return False
            self._noise.append(numbered)
            return True
        for number, name in NOT_IMAGES.items():
            if _is_set(flags, number) and number != PHASE_CORRECTION:
                self.left_out[f"{name} readouts"] += 1
                return False
        calibration = _is_set(flags, CALIBRATION) and not _is_set(flags, CALIBRATION_AND_IMAGING)
        if _is_set(flags, PHASE_CORRECTION) or calibration or self._elsewhere(encoding):
            self._reference.setdefault(key, []).append(numbered)
            return True
        if key in self._done:
            self.left_out[LATE] += 1
            return False
        self._begun.setdefault(key, self.count)
        self._pending.setdefault(key, []).append(numbered)
        return True

    def _elsewhere(self, encoding: int) -> bool:
        """Whether a readout belongs to another encoding than the images: the lowest is theirs."""
        if self.encoding is None or encoding < self.encoding:
            self.encoding = encoding
            for key, readouts in self._pending.items():
                self._reference.setdefault(key, []).extend(readouts)
            self._pending.clear()
            self._begun.clear()
        return encoding != self.encoding

    def _completed(self, flags: int, key: Key, average: int) -> list[Key]:
        # Until the client closes, readouts of a lower encoding may come, whose images these are
        # not. Files are read in the same way.
        if self.encoding:
            return []
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
        return (self._pending.get(key) or self._anchors[key])[0][1].head

    def calibrated(self, key: Key, until: int) -> bool:
        """Whether calibration readouts of the slice of a frame are among the first ``until``."""
        return any(
            found[0][0] <= until and one[SLICE] == key[SLICE]
            for one, found in self._reference.items()
        )

    def records(self, keys: Iterable[Key], until: int) -> Records:
        """The readouts of frames that are not done, and those that these frames depend on.

        Only the first ``until`` readouts of the session count.
        """
        keys = list(keys)
        slices = {key[SLICE] for key in keys}
        anchors = [key for key in self._anchors if key[SLICE] in slices]
        # A scan that was stopped is recognised by comparison with a frame that is whole.
        if not anchors and self._anchors:
            anchors = [next(iter(self._anchors))]
        chosen = {*keys, *anchors}
        # A calibration scan counts only if it covers all slices that come with it.
        slices |= {key[SLICE] for key in anchors}
        found = [*self._noise]
        for key, readouts in self._reference.items():
            # Lines of a frame that is not chosen would look like a scan of their own.
            own = self._begun.get(key, until + 1) <= until
            if key in chosen or (key[SLICE] in slices and not own):
                found += readouts
        for key in [*anchors, *keys]:
            found += self._anchors.get(key) or self._pending[key]
        return _records([readout for number, readout in found if number <= until])

    def done(self, keys: Iterable[Key], until: int) -> None:
        """Give back the readouts of frames that were made of the first ``until`` readouts."""
        for key in keys:
            readouts = self._in_time(self._pending.pop(key), until, LATE)
            if not self._done:
                self._noise = self._in_time(self._noise, until, LATE_NOISE)
            self._done[key] = until
            known = {_kind(anchor) for anchor in self._anchors}
            if _kind(key) in known:
                readouts += self._reference.pop(key, [])
                self.share.give_back(sum(one.nbytes for _, one in readouts))
            else:
                self._anchors[key] = readouts

    def _in_time(self, readouts: list[Numbered], until: int, name: str) -> list[Numbered]:
        """Those of the first ``until`` readouts; the others are counted and given back."""
        late = [one for number, one in readouts if number > until]
        if late:
            self.left_out[name] += len(late)
            self.share.give_back(sum(one.nbytes for one in late))
        return [(number, one) for number, one in readouts if number <= until]

    def late_calibration(self) -> int:
        """Calibration readouts that came after an image of their slice was made."""
        count = 0
        for key, readouts in self._reference.items():
            own = key in self._begun
            made = [
                until
                for frame, until in self._done.items()
                if (frame == key if own else frame[SLICE] == key[SLICE])
            ]
            if made:
                count += sum(number > min(made) for number, _ in readouts)
        return count


def _kind(key: Key) -> Key:
    """The counters of frames that are measured in the same way."""
    return key[SLICE], key[CONTRAST], key[SET]


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
