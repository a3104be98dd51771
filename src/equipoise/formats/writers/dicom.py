"""Writing DICOM: a folder with one MR image for each slice, for archives and viewers.

The series is marked as derived. It has one rescale slope and one window, so that brightness does
not jump from slice to slice. Positions and directions are in DICOM's own coordinates, LPS.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.formats.header import Geometry, Header, unknown_geometry
from equipoise.formats.replacing import replacing
from equipoise.optional import need

LARGEST = 2**16 - 1
GROUP, CREATOR = 0x0099, "EQUIPOISE"
FINGERPRINT, CHECKSUM, COUNT = 0x01, 0x02, 0x03
"""Private elements: the fingerprint, the SHA-256 of the pixels, and the number of images."""

WINDOW_PERCENTILE = 99.5
"""Upper end of the window; the brightest half per cent may saturate."""


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a folder ``path`` with files 0001.dcm, 0002.dcm, ..."""
    need("pydicom", "dicom", "writing DICOM")
    header = content.get("header") or Header()
    magnitude = np.abs(content["image"]).astype(np.float64)
    volumes, moments = header.volumes(len(magnitude)), header.moments(len(magnitude))
    geometry = header.geometry or unknown_geometry(volumes)
    # Images of zeros get the slope 1, because a slope of zero is not valid.
    slope = float(magnitude.max()) / LARGEST or 1.0
    series = _series(content, header, geometry, magnitude, slope)
    labels = header.labels if len(header.labels) == len(magnitude) else [{}] * len(magnitude)
    with replacing(path) as folder:
        folder.mkdir()
        number = 0
        for volume, indices in enumerate(volumes):
            spacing = float(np.linalg.norm(geometry.step(indices)))
            for index in indices:
                number += 1
                stored = np.round(magnitude[index] / slope).astype(np.uint16)
                made = _image(series, stored, geometry, index, spacing)
                made.InstanceNumber = number
                made.AcquisitionNumber = made.TemporalPositionIdentifier = volume + 1
                made.NumberOfTemporalPositions = len(volumes)
                if header.frame_ms is not None:
                    made.TriggerTime = _decimal(moments[index] * header.frame_ms)
                made.ImageComments = json.dumps(labels[index])
                _stamp(made, content.get("attributes", {}), len(magnitude))
                made.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)


def is_series(folder: Path) -> bool:
    """Whether a folder holds only images of this module, so that it may be replaced."""
    files = list(folder.iterdir())
    if any(path.suffix != ".dcm" or not path.is_file() for path in files):
        return False
    # An empty file holds nothing that could be lost.
    return all(_own(path) is not None for path in files if path.stat().st_size)


def stored_fingerprint(folder: Path) -> tuple[str, bool] | None:
    """The fingerprint of a series, and whether it is complete; None without a fingerprint."""
    files = list(folder.glob("*.dcm")) if folder.is_dir() else []
    blocks = [_own(path, pixels=True) for path in files]
    found = {b[FINGERPRINT].value for b in blocks if b is not None and FINGERPRINT in b}
    # Files of two runs in one folder are not one result.
    if len(found) != 1:
        return None
    return str(found.pop()), all(_is_whole(block, len(files)) for block in blocks)


def _own(path: Path, *, pixels: bool = False) -> Any | None:
    """The private block of an image; None if it cannot be read or was not written here."""
    pydicom = need("pydicom", "dicom", "reading DICOM")
    try:
        image = pydicom.dcmread(path, stop_before_pixels=not pixels)
        return image.private_block(GROUP, CREATOR)
    except (pydicom.errors.InvalidDicomError, KeyError, EOFError, OSError, ValueError):
        return None


def _is_whole(block: Any | None, count: int) -> bool:
    if block is None or any(name not in block for name in (FINGERPRINT, CHECKSUM, COUNT)):
        return False
    checksum = hashlib.sha256(block.dataset.get("PixelData", b"")).hexdigest()
    return bool(block[CHECKSUM].value == checksum and block[COUNT].value == count)


def _stamp(image: Any, attributes: dict[str, Any], count: int) -> None:
    block = image.private_block(GROUP, CREATOR, create=True)
    block.add_new(CHECKSUM, "LO", hashlib.sha256(image.PixelData).hexdigest())
    block.add_new(COUNT, "IS", count)
    if "fingerprint" in attributes:
        block.add_new(FINGERPRINT, "LO", attributes["fingerprint"])


def _series(
    content: dict[str, Any],
    header: Header,
    geometry: Geometry,
    magnitude: np.ndarray,
    slope: float,
) -> Any:
    """The elements that all images of the series share."""
    from pydicom.dataset import Dataset
    from pydicom.uid import MRImageStorage, generate_uid

    attributes, system = content.get("attributes", {}), header.system
    made = Dataset()
    made.SOPClassUID, made.Modality, made.SeriesNumber = MRImageStorage, "MR", 1
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.FrameOfReferenceUID = generate_uid()
    # The standard requires these elements; they stay empty where the scan does not name a person.
    made.PatientName = made.PatientID = made.PatientBirthDate = made.PatientSex = ""
    made.StudyDate = made.StudyTime = made.StudyID = made.AccessionNumber = ""
    made.ReferringPhysicianName = made.PositionReferenceIndicator = ""
    made.PatientPosition = system.get("patientPosition", "") if geometry.oriented else ""
    for keyword, value in header.study.items():
        setattr(made, keyword, value)
    made.Manufacturer = system.get("systemVendor", "")
    made.ImageType = ["DERIVED", "PRIMARY", "M"]
    made.SeriesDescription = f"Equipoise {attributes.get('model', '')}".strip()[:64]
    made.DerivationDescription = _derivation(attributes, header)
    made.ScanningSequence, made.SequenceVariant, made.ScanOptions = "RM", "NONE", ""
    made.MRAcquisitionType = ""
    made.EchoTrainLength = None
    for name, field in (("TR", "RepetitionTime"), ("TE", "EchoTime"), ("TI", "InversionTime")):
        setattr(made, field, _decimal(system.get(name)))
    made.MagneticFieldStrength = _decimal(system.get("systemFieldStrength_T"))
    made.RescaleSlope, made.RescaleIntercept, made.RescaleType = _decimal(slope), 0, "US"
    # Images that are mostly zero have a percentile of zero, but a window must have a width.
    bright = float(np.percentile(magnitude, WINDOW_PERCENTILE)) or float(magnitude.max()) or 1.0
    made.WindowCenter, made.WindowWidth = _decimal(bright / 2), _decimal(bright)
    return made


def _derivation(attributes: dict[str, Any], header: Header) -> str:
    parts = [f"{k} {attributes[k]}" for k in ("equipoise_version", "model", "outcome", "combined")
             if k in attributes]  # fmt: skip
    if header.geometry is None:
        parts.append("pixel size and orientation unknown")
    elif not header.geometry.oriented:
        parts.append("orientation unknown")
    return "; ".join(parts)


def _decimal(value: float | str | None) -> Any:
    """A DICOM decimal string of at most 16 characters; None if there is no number."""
    from pydicom.valuerep import DSfloat

    try:
        return None if value is None else DSfloat(float(value), auto_format=True)
    except ValueError:
        return None


def _image(series: Any, stored: np.ndarray, geometry: Geometry, index: int, spacing: float) -> Any:
    from copy import deepcopy

    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    made = deepcopy(series)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    y, x = stored.shape
    position = geometry.first_pixel(index, (y, x))
    made.ImagePositionPatient = [_decimal(v) for v in position]
    _, y_dir, x_dir = geometry.directions(index)
    made.ImageOrientationPatient = [_decimal(v) for v in (*x_dir, *y_dir)]
    made.PixelSpacing = [_decimal(v) for v in geometry.spacing[1:]]
    made.SliceThickness, made.SpacingBetweenSlices = (
        _decimal(geometry.spacing[0]),
        _decimal(spacing),
    )
    normal = np.cross(x_dir, y_dir)
    made.SliceLocation = _decimal(float(normal @ np.array(geometry.centres[index])))
    made.Rows, made.Columns, made.SamplesPerPixel = y, x, 1
    made.PhotometricInterpretation, made.PixelRepresentation = "MONOCHROME2", 0
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit = 15
    made.PixelData = stored.astype("<u2").tobytes()
    return made
