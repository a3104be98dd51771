"""fastMRI HDF5: ``kspace`` (slices, coils, y, x) complex, optional ``mask``.

Also read where they are present: ``csm`` (slices, coils, y, x) and ``target`` (slices, y, x), so
that what the package writes can be read back. Single-coil files (slices, y, x) become one coil.
"""

from pathlib import Path

from equipoise.formats.acquisition import Acquisition, make_acquisition
from equipoise.formats.hdf5 import is_hdf5, open_hdf5, read_complex
from equipoise.outcome import BadInputError


def recognizes(path: Path) -> bool:
    """True for every HDF5 file: the last of the HDF5 readers, it names what is missing."""
    return is_hdf5(path)


def read(path: Path) -> Acquisition:
    """Read a fastMRI file."""
    with open_hdf5(path) as file:
        if "kspace" not in file:
            raise BadInputError(
                f"{path} has no dataset 'kspace'; it has {sorted(file)}. Known HDF5 layouts are "
                "fastMRI and Calgary-Campinas (kspace) and MoDL (tstOrg, tstCsm, tstMask)"
            )
        kspace = read_complex(file["kspace"])
        optional = {
            name: read_complex(file[name]) for name in ("mask", "csm", "target") if name in file
        }
    notes = []
    if kspace.ndim == 3:
        kspace = kspace[:, None]
        notes.append("single-coil file: treated as one coil")
    return make_acquisition(kspace, str(path), "fastMRI", notes=notes, **optional)
