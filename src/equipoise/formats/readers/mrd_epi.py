"""Echo-planar scans: their lines alternate, and what that costs is measured on the navigators.

Lines read forwards and backwards differ by a delay and a phase. Uncorrected, a second image
appears half the field of view away, as strong as ``|sin(phi(x) / 2)|`` with phi the phase between
the two at x (Bruder et al., MRM 23:311-323, 1992).
"""

import warnings

import numpy as np

from equipoise.formats.readers.xml_header import XmlHeader
from equipoise.outcome import InputWarning

NAVIGATOR, REVERSE = 24, 22
"""Flags, numbered from 1: phase correction, and readout backwards."""


def warn_of_ghosts(
    xml: XmlHeader, heads: np.ndarray, samples: np.ndarray, chosen: np.ndarray, source: str
) -> None:
    """Say that an echo-planar scan is reconstructed without a correction of its Nyquist ghosts.

    It is one if the header calls it so, or if lines are read both ways and there are navigators.

    Warns
    -----
    InputWarning
        If it is.
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
        "there are no navigators to measure them on"
        if level is None
        else f"the navigators say that they hold {level:.0%} of the signal"
    )
    warnings.warn(
        f"{source}: an echo-planar scan; Nyquist ghosts are not corrected, and {measured}: correct "
        "the k-space first, for instance with Gadgetron or the software of the scanner",
        InputWarning,
        stacklevel=2,
    )


def ghost_level(
    heads: np.ndarray, samples: np.ndarray, navigators: np.ndarray, reverse: np.ndarray
) -> float | None:
    """``sqrt(sum |s(x)|^2 sin^2(phi(x) / 2) / sum |s(x)|^2)`` of navigators read both ways.

    None if there are none of one kind, or their lengths differ.
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
    product = (forwards * backward.conj()).sum(0)  # the phase at x, coils weighted by their signal
    weight = np.abs(product)
    if not weight.any():
        return None
    return float(np.sqrt((weight * np.sin(np.angle(product) / 2) ** 2).sum() / weight.sum()))
