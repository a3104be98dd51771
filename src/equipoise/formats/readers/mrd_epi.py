"""Echo-planar scans: a warning of Nyquist ghosts, whose level is measured on the navigators.

Lines that are read forwards and backwards differ by a delay and a phase. Without a correction a
second image appears half the field of view away, with the strength ``|sin(phi(x) / 2)|``, where phi
is the phase between the two at x (Bruder et al., MRM 23:311-323, 1992).
"""

import warnings

import numpy as np

from equipoise.formats.readers.xml_header import XmlHeader
from equipoise.outcome import InputWarning

NAVIGATOR, REVERSE = 24, 22
"""Flags, numbered from 1: phase correction, and reversed readout."""


def warn_of_ghosts(
    xml: XmlHeader, heads: np.ndarray, samples: np.ndarray, chosen: np.ndarray, source: str
) -> None:
    """Warn that an echo-planar scan is reconstructed without a correction of its Nyquist ghosts.

    A scan is echo-planar if the header says so, or if lines are read in both directions and there
    are navigators.

    Warns
    -----
    InputWarning
        If the scan is echo-planar.
    """
    flags = heads["flags"].astype(np.uint64)
    navigator, reverse = (
        (flags >> np.uint64(n - 1)) & np.uint64(1) == 1 for n in (NAVIGATOR, REVERSE)
    )
    both_ways = len(np.unique(reverse[chosen])) > 1
    if (xml.trajectory or "").lower() != "epi" and not (both_ways and navigator.any()):
        return
    level = ghost_level(heads, samples, np.flatnonzero(navigator), reverse)
    measured = (
        "there are no navigators on which to measure them"
        if level is None
        else f"the navigators show that they hold {level:.0%} of the signal"
    )
    warnings.warn(
        f"{source}: this is an echo-planar scan. Nyquist ghosts are not corrected, and {measured}: "
        "correct the k-space first, for instance with Gadgetron or the software of the scanner",
        InputWarning,
        stacklevel=2,
    )


def ghost_level(
    heads: np.ndarray, samples: np.ndarray, navigators: np.ndarray, reverse: np.ndarray
) -> float | None:
    """``sqrt(sum |s(x)|^2 sin^2(phi(x) / 2) / sum |s(x)|^2)`` of navigators in both directions.

    It is None if one direction is missing, or the lengths differ.
    """
    shapes = {
        (int(heads["active_channels"][i]), int(heads["number_of_samples"][i])) for i in navigators
    }
    if len(shapes) != 1 or 0 in (shape := next(iter(shapes))):
        return None
    profiles: dict[bool, list[np.ndarray]] = {False: [], True: []}
    for i in navigators:
        line = np.ascontiguousarray(samples[i], np.float32).view(np.complex64).reshape(shape)
        backwards = bool(reverse[i])
        line = line[:, ::-1] if backwards else line
        centred = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(line, axes=-1)), axes=-1)
        profiles[backwards].append(centred)
    if not all(profiles.values()):
        return None
    forwards, backward = (np.mean(profiles[b], axis=0) for b in (False, True))
    # The phase of the sum is that at x, with the coils weighted by their signal.
    product = (forwards * backward.conj()).sum(0)
    weight = np.abs(product)
    if not weight.any():
        return None
    return float(np.sqrt((weight * np.sin(np.angle(product) / 2) ** 2).sum() / weight.sum()))
