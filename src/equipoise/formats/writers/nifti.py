"""Writing NIfTI: magnitude, phase, and a JSON sidecar with the names of BIDS.

``NAME.nii.gz`` is the magnitude with the axes x, y, slice (and volume). ``NAME_phase.nii.gz`` is
the phase in radians of a complex image, because few viewers read complex NIfTI. ``NAME.json``
records the origin of both. The affine is in RAS mm.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.formats.header import LPS_TO_RAS, Header, unknown_geometry
from equipoise.formats.replacing import replacing_set
from equipoise.formats.writers.stamp import sidecar
from equipoise.formats.writers.target import companions
from equipoise.outcome import BadInputError

SIDECAR = {
    "systemVendor": ("Manufacturer", str, 1),
    "systemModel": ("ManufacturersModelName", str, 1),
    "institutionName": ("InstitutionName", str, 1),
    "protocolName": ("ProtocolName", str, 1),
    "systemFieldStrength_T": ("MagneticFieldStrength", float, 1),
    "flipAngle_deg": ("FlipAngle", float, 1),
    "TR": ("RepetitionTime", float, 1e-3),
    "TE": ("EchoTime", float, 1e-3),
    "TI": ("InversionTime", float, 1e-3),
}
"""Names of the ISMRMRD header in BIDS, whose times are in seconds."""


def write(path: Path, content: dict[str, Any]) -> None:
    """Write magnitude, phase and sidecar; the magnitude appears last.

    Raises
    ------
    BadInputError
        If the images have several orientations: NIfTI has one affine.
    """
    image, header = content["image"], content.get("header") or Header()
    check_orientation(path, header)
    phase, sidecar = companions(path)
    with replacing_set([path, phase, sidecar]) as targets:
        _save(targets[0], np.abs(image).astype(np.float32), header)
        if np.iscomplexobj(image):
            _save(targets[1], np.angle(image).astype(np.float32), header)
        made_by = dict(zip((path, phase), targets))
        targets[2].write_text(
            json.dumps(_sidecar(content, header, made_by), indent=2, allow_nan=False)
        )


def _save(path: Path, image: np.ndarray, header: Header) -> None:
    import nibabel

    volumes = header.volumes(len(image))
    # An array needs volumes of equal size; otherwise all slices form one volume.
    if len({len(indices) for indices in volumes}) > 1:
        volumes = [list(range(len(image)))]
    array = np.stack([image[indices] for indices in volumes])  # (volume, slice, y, x)
    array = array.transpose(3, 2, 1, 0)
    array = array[..., 0] if array.shape[3] == 1 else array
    geometry = header.geometry or unknown_geometry(len(image))
    affine = LPS_TO_RAS @ geometry.affine(image.shape[1:], volumes[0])
    code = "scanner" if geometry.oriented else "unknown"
    file = nibabel.Nifti1Image(array, affine)  # type: ignore[no-untyped-call]
    file.set_sform(affine, code=code)  # type: ignore[no-untyped-call]
    file.set_qform(affine, code=code)  # type: ignore[no-untyped-call]
    file.header.set_xyzt_units(xyz="mm")  # type: ignore[no-untyped-call]
    nibabel.save(file, path)


def check_orientation(path: Path, header: Header) -> None:
    """Check that the images of a scan have one orientation, because NIfTI stores only one.

    Raises
    ------
    BadInputError
        If they have several, like those of a localizer.
    """
    geometry = header.geometry
    if geometry is not None and geometry.planes:
        count = len({geometry.planes_of(i) for i in range(len(geometry.planes))})
        raise BadInputError(
            f"{path}: the slices have {count} orientations ({geometry.plane}), but a NIfTI file "
            "has only one: write .dcm, .mrd or .h5, which keep each"
        )


def _sidecar(content: dict[str, Any], header: Header, written: dict[Path, Path]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (bids, kind, scale) in SIDECAR.items():
        if name in header.system:
            try:
                value = kind(header.system[name])
            # Headers hold text in place of some numbers.
            except ValueError:
                continue
            found[bids] = value * scale if kind is float else value
    found |= {"Units": "arbitrary", "PhaseUnits": "rad"}
    if header.geometry is None:
        found["Warning"] = "pixel size and orientation were not in the scan: unit voxels"
    elif not header.geometry.oriented:
        found["Warning"] = "the orientation was not in the scan: it is marked as unknown"
    if header.geometry is not None:
        found["SliceCentresLPS"] = header.geometry.centres
        if not all(header.geometry.equidistant(v) for v in header.volumes(len(content["image"]))):
            found["Warning"] = "the slices are not equidistant: use SliceCentresLPS, not the affine"
    found["Labels"] = header.labels
    return found | sidecar(content.get("attributes", {}), written)
