"""A scan that was stopped, so its last images lack lines."""

import numpy as np

from equipoise.formats.header import name_of
from equipoise.formats.readers.readouts import Readouts, labels_of

ENOUGH = 0.9
"""Smallest share of its lines from which a frame is reconstructed, at a lower resolution."""

ALIKE = ("contrast", "set")
"""Counters of frames that are measured in the same way."""


def without_stopped(lines: Readouts, notes: list[str]) -> tuple[np.ndarray, list[str]]:
    """The readouts of whole frames, by index, and the frames that are left out, in words.

    A frame was stopped if its lines are the first lines of another frame, in the order of that
    frame, and less than the share ``ENOUGH`` of them.
    """
    frames, index = np.unique(lines.frames(), axis=0, return_inverse=True)
    index = index.ravel()
    members = np.split(np.argsort(index, kind="stable"), np.bincount(index).cumsum()[:-1])
    alike = frames[:, [list(lines.counters).index(name) for name in ALIKE]]
    orders = [(tuple(a.tolist()), *_order(lines, m)) for a, m in zip(alike, members)]
    whole = _longest(orders)
    labels = labels_of(frames, list(lines.counters))
    stopped, left_out = [], []
    for i, order in enumerate(orders):
        count, expected = len(order) - 1, whole[order] - 1
        text = f"{name_of(labels[i])} has {count} of {expected} lines"
        if count < ENOUGH * expected:
            stopped.append(i)
            left_out.append(f"{text}: the scan was stopped")
        elif count < expected:
            notes.append(text)
    return np.flatnonzero(~np.isin(index, stopped)), left_out


Order = tuple[tuple[int, ...], ...]
"""The counters ``ALIKE`` of a frame, then its lines and partitions, each once, in order of time."""


def _order(lines: Readouts, indices: np.ndarray) -> list[tuple[int, ...]]:
    pairs = zip(lines.lines[indices].tolist(), lines.partitions[indices].tolist())
    return list(dict.fromkeys(pairs))


def _longest(orders: list[Order]) -> dict[Order, int]:
    """For each order, the length of the longest order that begins with it."""
    found: dict[Order, int] = {}
    after: Order = ()
    # In descending order an order follows the longer ones that begin with it.
    for order in sorted(set(orders), reverse=True):
        found[order] = found[after] if after[: len(order)] == order else len(order)
        after = order
    return found
