"""Patient and study of a scan, by the keywords of DICOM: from its header, or from other images.

They are written to DICOM only: other formats leave the hospital more easily.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equipoise.optional import need
from equipoise.outcome import BadInputError

FROM_XML = {
    "patientName": "PatientName",
    "patientID": "PatientID",
    "patientBirthdate": "PatientBirthDate",
    "patientGender": "PatientSex",
    "patientWeight_kg": "PatientWeight",
    "studyDate": "StudyDate",
    "studyTime": "StudyTime",
    "studyID": "StudyID",
    "studyInstanceUID": "StudyInstanceUID",
    "studyDescription": "StudyDescription",
    "accessionNumber": "AccessionNumber",
    "referringPhysicianName": "ReferringPhysicianName",
    "frameOfReferenceUID": "FrameOfReferenceUID",
}
"""Elements of ``subjectInformation``, ``studyInformation`` and ``measurementInformation``, and
their keywords."""

FROM_TEMPLATE = (
    *FROM_XML.values(),
    "PatientAge",
    "PatientPosition",
    "PositionReferenceIndicator",
    "BodyPartExamined",
    "SeriesNumber",
)
"""Elements that are taken from images of the same examination."""

BESIDE = 1000
"""Number of the series of a template to the number of the new series beside it."""

PATTERNS = {
    "PatientBirthDate": r"\d{8}",
    "StudyDate": r"\d{8}",
    "StudyTime": r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?",
    "PatientSex": r"[MFO]",
    "PatientWeight": r"\d{1,4}(\.\d{1,8})?",
    "PatientAge": r"\d{3}[DWMY]",
    "StudyInstanceUID": r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+",
    "FrameOfReferenceUID": r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+",
    "SeriesNumber": r"\d{1,9}",
    "PatientPosition": r"[A-Z]{2,4}",
    "StudyID": r".{1,16}",
    "AccessionNumber": r".{1,16}",
    "BodyPartExamined": r"[A-Z0-9_ ]{1,16}",
}
"""What DICOM allows; others are texts of at most 64 characters."""

TEXT = r"[^\\\x00-\x1f\x7f]{1,64}"


def study_of(elements: Mapping[str, str]) -> dict[str, str]:
    """Patient and study from the texts of an ISMRMRD header; values that DICOM forbids are left
    out."""
    found = {}
    for name, keyword in FROM_XML.items():
        value = elements.get(name, "").strip()
        if keyword.endswith("Date"):
            value = value.replace("-", "")
        if keyword == "StudyTime":
            value = value.replace(":", "")
        if is_valid(keyword, value):
            found[keyword] = value
    return found


def is_valid(keyword: str, value: str) -> bool:
    """Whether DICOM allows a value."""
    valid = re.fullmatch(PATTERNS.get(keyword, TEXT), value) and re.fullmatch(TEXT, value)
    return valid is not None


def read_template(folder: Path) -> dict[str, str]:
    """Patient and study from a folder of DICOM images, or from one image.

    Raises
    ------
    BadInputError
        If there is no DICOM image.
    """
    pydicom = need("pydicom", "dicom", "reading a DICOM template")
    # In order, so that the same folder always gives the same result.
    paths = sorted(folder.rglob("*")) if folder.is_dir() else [folder]
    for path in (p for p in paths if p.is_file()):
        try:
            image = pydicom.dcmread(path, stop_before_pixels=True)
        except (pydicom.errors.InvalidDicomError, EOFError, OSError, ValueError):
            continue
        if "StudyInstanceUID" in image:
            return _elements(image)
    raise BadInputError(f"{folder} holds no DICOM image: give the folder of a series of the study")


def _elements(image: Any) -> dict[str, str]:
    values = {name: str(image.get(name, "") or "").strip() for name in FROM_TEMPLATE}
    found = {name: value for name, value in values.items() if is_valid(name, value)}
    if "SeriesNumber" in found:
        found["SeriesNumber"] = str(int(found["SeriesNumber"]) + BESIDE)
    return found
