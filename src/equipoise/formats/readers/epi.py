"""Echo-planar scans: a warning of Nyquist ghosts, whose level is measured on the navigators.

Lines that are read forwards and backwards differ by a delay and a phase. Without a correction a
second image appears half the field of view away, with the strength ``|sin(phi(x) / 2)|``, where phi
is the phase between the two at x (Bruder et al., MRM 23:311-323, 1992).
"""

import warnings

import numpy as np

from equipoise.outcome import InputWarning


def warn_of_ghosts(
    navigators: list[np.ndarray], reverse: np.ndarray, source: str, *, on_ramps: bool = False
) -> None:
    """Warn that an echo-planar scan is reconstructed without a correction of its Nyquist ghosts.

    Parameters
    ----------
    navigators, reverse
        Readouts without phase encoding, (coil, sample) each, and which of them run backwards.
    source
        The file.
    on_ramps
        Whether samples were taken while the gradient rose and fell: they are not on a grid.

    Warns
    -----
    InputWarning
        Always.
    """
    level = ghost_level(navigators, reverse)
    measured = (
        "there are no navigators on which to measure them"
        if level is None
        else f"the navigators show that they hold {level:.0%} of the signal"
    )
    ramps = "; its samples on the ramps of the gradient are taken as if evenly spaced" * on_ramps
    warnings.warn(
        f"{source}: this is an echo-planar scan. Nyquist ghosts are not corrected, and "
        f"{measured}{ramps}: "
        "correct the k-space first, for instance with Gadgetron or the software of the scanner",
        InputWarning,
        stacklevel=2,
    )


def ghost_level(navigators: list[np.ndarray], reverse: np.ndarray) -> float | None:
    """``sqrt(sum |s(x)|^2 sin^2(phi(x) / 2) / sum |s(x)|^2)`` of navigators in both directions.

    It is None if one direction is missing, or the lengths differ.
    """
    if len({line.shape for line in navigators}) != 1 or 0 in navigators[0].shape:
        return None
    profiles: dict[bool, list[np.ndarray]] = {False: [], True: []}
    for line, backwards in zip(navigators, reverse):
        turned = line[:, ::-1] if backwards else line
        centred = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(turned, axes=-1)), axes=-1)
        profiles[bool(backwards)].append(centred)
    # The phase between the directions needs both.
    if not all(profiles.values()):
        return None
    forwards, backward = (np.mean(profiles[b], axis=0) for b in (False, True))
    # The phase of the sum is that at x, with the coils weighted by their signal.
    product = (forwards * backward.conj()).sum(0)
    weight = np.abs(product)
    if not weight.any():
        return None
    return float(np.sqrt((weight * np.sin(np.angle(product) / 2) ** 2).sum() / weight.sum()))
