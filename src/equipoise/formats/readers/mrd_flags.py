"""The purpose of the readouts of an ISMRMRD file: images, calibration, noise, or none of these."""

import numpy as np

from equipoise.formats.readers.xml_header import XmlHeader

NOISE, CALIBRATION, CALIBRATION_AND_IMAGING, REVERSE = 19, 20, 21, 22
PHASE_CORRECTION = 24
"""Numbers of flags, from 1."""

NOT_IMAGES = {
    23: "navigator",
    PHASE_CORRECTION: "phase correction",
    26: "HP feedback",
    27: "dummy",
    28: "real-time feedback",
    29: "surface coil correction",
    30: "phase stabilization reference",
    31: "phase stabilization",
}
SEPARATE = ("separate", "external")


def is_flag_set(flags: np.ndarray, *numbers: int) -> np.ndarray:
    """Whether any of the flags, numbered from 1, is set."""
    bits = np.uint64(sum(1 << (number - 1) for number in numbers))
    return np.asarray((flags.astype(np.uint64) & bits) != 0)


def belongs(heads: np.ndarray, notes: list[str]) -> np.ndarray:
    """Which readouts belong to images or their calibration, (readout,) bool."""
    flags = heads["flags"]
    for number, name in NOT_IMAGES.items():
        count = int((is_flag_set(flags, number) & ~is_flag_set(flags, NOISE)).sum())
        if count:
            notes.append(f"{count} {name} readouts are left out")
    return ~is_flag_set(flags, NOISE, *NOT_IMAGES)


def only_calibration(heads: np.ndarray) -> np.ndarray:
    """Which readouts are flagged for calibration, and not for the image too."""
    flags = heads["flags"]
    return is_flag_set(flags, CALIBRATION) & ~is_flag_set(flags, CALIBRATION_AND_IMAGING)


def encodings(heads: np.ndarray) -> np.ndarray:
    """The number of the encoding of each readout."""
    # Files with one encoding may lack the field.
    if "encoding_space_ref" not in (heads.dtype.names or ()):
        return np.zeros(len(heads), int)
    return heads["encoding_space_ref"].astype(int)


def imaging_encoding(heads: np.ndarray) -> int:
    """The first encoding that has readouts of an image; the first of all if none has."""
    used = ~is_flag_set(heads["flags"], NOISE, *NOT_IMAGES) & ~only_calibration(heads)
    return int(encodings(heads)[used].min(initial=MAX_ENCODINGS)) % MAX_ENCODINGS


MAX_ENCODINGS = 2**16
"""``encoding_space_ref`` has 16 bits."""


def declared_separate(xml: XmlHeader) -> bool | None:
    """Whether the header calls the calibration scan separate; None if it does not say."""
    known = {**dict.fromkeys(SEPARATE, True), "embedded": False}
    return known.get((xml.calibration_mode or "").lower())
