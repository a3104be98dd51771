"""The time between the frames of an ISMRMRD series: from its time stamps, or repetition time."""

import math

import numpy as np

from equipoise.formats.readers.xml_header import XmlHeader

TICK_MS = 2.5
"""Unit of time stamps. The standard leaves it to the vendor; this is that of Siemens, which the
converters and Gadgetron use."""

LONGEST_BEAT_MS = 3000.0
"""A heartbeat is shorter. Frames that would take longer in all have another repetition time than
that between two readouts."""


def frame_time(heads: np.ndarray, xml: XmlHeader, notes: list[str]) -> float | None:
    """Milliseconds between successive frames; None without a series, or where nothing tells.

    The first of these that increases from frame to frame: the time since the trigger
    (``physiology_time_stamp``) for the phases of a heartbeat, ``acquisition_time_stamp``, each as
    the mean over the readouts of a frame, and ``TR`` times the number of readouts of a frame that
    follow each other.

    Parameters
    ----------
    heads
        The headers of the readouts of the images, in the order in which they were measured.
    xml
        Its ``TR`` in ms.
    notes
        Receives which of them was taken.
    """
    varying = [n for n in ("phase", "repetition") if np.ptp(heads["idx"][n].astype(int)) > 0]
    if not varying:
        return None
    frame = heads["idx"][varying[0]].astype(int)
    if varying[0] == "phase":
        found = _between(frame, _stamps(heads, "physiology_time_stamp"))
        if found is not None:
            notes.append(f"frames are {found:.4g} ms apart: {TICKS} since the trigger")
            return found
    found = _between(frame, _stamps(heads, "acquisition_time_stamp"))
    if found is not None:
        notes.append(f"frames are {found:.4g} ms apart: {TICKS} of the acquisition")
        return found
    return _from_repetition_time(frame, varying[0], xml, notes)


TICKS = f"time stamps, in units of {TICK_MS} ms,"


def _stamps(heads: np.ndarray, name: str) -> np.ndarray | None:
    """A time stamp of every readout in ms; None if the file has none."""
    if name not in (heads.dtype.names or ()):
        return None
    ticks = heads[name].astype(float)
    # The first of three physiology stamps is that of the ECG.
    ticks = ticks.reshape(len(heads), -1)[:, 0]
    return ticks * TICK_MS if ticks.any() else None


def _between(frame: np.ndarray, stamps: np.ndarray | None) -> float | None:
    """The median step between the mean stamps of successive frames; None if one is not positive."""
    if stamps is None:
        return None
    means = [float(stamps[frame == number].mean()) for number in np.unique(frame)]
    steps = np.diff(means)
    return float(np.median(steps)) if steps.min() > 0 else None


def _from_repetition_time(
    frame: np.ndarray, name: str, xml: XmlHeader, notes: list[str]
) -> float | None:
    """``TR`` times the readouts of a frame that follow each other: its segment of a heartbeat."""
    try:
        repetition = float(xml.system.get("TR", ""))
    except ValueError:
        return None
    # The lines of an echo train share one repetition time.
    if not 0 < repetition < math.inf or (xml.trajectory or "").lower() == "epi":
        return None
    begins = np.flatnonzero(np.diff(frame, prepend=frame[0] - 1))
    segment = int(np.median(np.diff(begins, append=len(frame))))
    found = repetition * segment
    if name == "phase" and found * len(np.unique(frame)) > LONGEST_BEAT_MS:
        notes.append(
            f"TR {repetition:.4g} ms times {segment} readouts of a frame is longer than a "
            "heartbeat has room for: the time between frames is not known"
        )
        return None
    notes.append(
        f"frames are {found:.4g} ms apart: TR {repetition:.4g} ms times {segment} readouts, "
        "because no time stamps tell"
    )
    return found
