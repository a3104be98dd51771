"""Writing NIfTI: magnitude, phase, and a JSON sidecar with the names of BIDS.

``NAME.nii.gz`` is the magnitude with the axes x, y, slice (and volume). ``NAME_phase.nii.gz`` is
the phase in radians of a complex image, because few viewers read complex NIfTI. ``NAME.json``
records the origin of both. The affine is in RAS mm. NIfTI has one affine, so images of several
orientations, such as those of a localizer, become a set of these files for each.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.formats.header import LPS_TO_RAS, Header, unknown_geometry
from equipoise.formats.replacing import replacing_set
from equipoise.formats.writers.stamp import ORIENTATIONS, sidecar
from equipoise.formats.writers.target import (
    Inputs,
    check_files,
    check_sidecar,
    companions,
    suffix_of,
)

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
    """Write magnitude, phase and sidecar, for each orientation; the magnitude appears last.

    Images of several orientations become ``NAME_axial.nii.gz``, ``NAME_sagittal.nii.gz`` and so on,
    and ``NAME.json`` lists them.
    """
    header = content.get("header") or Header()
    groups = header.orientations()
    if groups:
        _write_each(path, content, header, groups)
        return
    files = [path, *companions(path)]
    with replacing_set(files) as temporaries:
        _write_set(dict(zip(files, temporaries)), content["image"], content, header)


def written_files(path: Path, header: Header) -> list[Path]:
    """The magnitude images that are written for a target: one for each orientation."""
    suffix = suffix_of(path)
    stem = path.name.removesuffix(suffix)
    names = header.orientations()
    return [path.with_name(f"{stem}_{name}{suffix}") for name in names] or [path]


def check_orientations(
    path: Path, header: Header, *, overwrite: bool, inputs: Inputs | None = None
) -> None:
    """Refuse to overwrite the files of the orientations, which are known once a scan is read.

    Raises
    ------
    BadInputError
        As :func:`~equipoise.formats.writers.target.check_target`, of which they are further files.
    """
    found = written_files(path, header)
    if found != [path]:
        for each in found:
            check_sidecar(each)
            check_files([each, *companions(each)], overwrite=overwrite, inputs=inputs)


def _write_each(
    path: Path, content: dict[str, Any], header: Header, groups: dict[str, list[int]]
) -> None:
    phase, record = companions(path)
    sets = [[each, *companions(each)] for each in written_files(path, header)]
    every = [file for files in sets for file in files]
    # An older image under the name itself is part of what is replaced.
    names = [record, *every, path, phase]
    with replacing_set(names) as temporaries:
        at = dict(zip(names, temporaries))
        for files, indices in zip(sets, groups.values()):
            chosen = {file: at[file] for file in files}
            _write_set(chosen, content["image"][indices], content, header.of_orientation(indices))
        found = {ORIENTATIONS: {name: files[0].name for name, files in zip(groups, sets)}}
        found |= sidecar(content.get("attributes", {}), {file: at[file] for file in every})
        at[record].write_text(json.dumps(found, indent=2, allow_nan=False))


def _write_set(
    files: dict[Path, Path], image: np.ndarray, content: dict[str, Any], header: Header
) -> None:
    """Magnitude, phase and sidecar of one orientation, each at its temporary path."""
    (path, magnitude), (phase, angle), (_, beside) = files.items()
    _save(magnitude, np.abs(image).astype(np.float32), header)
    if np.iscomplexobj(image):
        _save(angle, np.angle(image).astype(np.float32), header)
    made_by = {path: magnitude, phase: angle}
    found = _sidecar(len(image), content, header, made_by)
    beside.write_text(json.dumps(found, indent=2, allow_nan=False))


def _save(path: Path, image: np.ndarray, header: Header) -> None:
    import nibabel

    volumes = header.volumes(len(image))
    # An array needs volumes of equal size; otherwise all slices form one volume.
    if len({len(indices) for indices in volumes}) > 1:
        volumes = [list(range(len(image)))]
    array = np.stack([image[indices] for indices in volumes])  # (volume, slice, y, x)
    array = array.transpose(3, 2, 1, 0)
    array = array[..., 0] if array.shape[3] == 1 else array
    geometry = header.geometry or unknown_geometry(volumes)
    affine = LPS_TO_RAS @ geometry.affine(image.shape[1:], volumes[0])
    code = "scanner" if geometry.oriented else "unknown"
    file = nibabel.Nifti1Image(array, affine)  # type: ignore[no-untyped-call]
    file.set_sform(affine, code=code)  # type: ignore[no-untyped-call]
    file.set_qform(affine, code=code)  # type: ignore[no-untyped-call]
    moments = sorted(set(header.moments(len(image))))
    # The format knows frames at equal distances only.
    in_time = moments == list(range(len(volumes))) and len(volumes) > 1
    if header.frame_ms is None or not in_time:
        file.header.set_xyzt_units(xyz="mm")  # type: ignore[no-untyped-call]
    else:
        file.header.set_xyzt_units(xyz="mm", t="sec")  # type: ignore[no-untyped-call]
        spacing = [*file.header.get_zooms()[:3], header.frame_ms / 1e3]  # type: ignore[no-untyped-call]
        file.header.set_zooms(spacing)  # type: ignore[no-untyped-call]
    nibabel.save(file, path)


def _sidecar(
    n_images: int, content: dict[str, Any], header: Header, written: dict[Path, Path]
) -> dict[str, Any]:
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
        if not all(header.geometry.equidistant(v) for v in header.volumes(n_images)):
            found["Warning"] = "the slices are not equidistant: use SliceCentresLPS, not the affine"
    found["Labels"] = header.labels
    return found | sidecar(content.get("attributes", {}), written)
