"""The MoDL data set: images, maps and masks, without k-space.

The file holds ``tstOrg`` (slices, y, x), ``tstCsm`` (slices, coils, y, x) and ``tstMask`` (slices,
y, x), or the same with ``trn``. The masks have DC in the corner. K-space is ``mask F(csm org)``, as
in the code of Aggarwal, Mani and Jacob (IEEE TMI 2019), without the noise that it adds.
"""

from pathlib import Path

import numpy as np
import torch

from equipoise.formats.acquisition import Acquisition, make_acquisition
from equipoise.formats.hdf5 import dataset_names, open_hdf5, read_complex
from equipoise.outcome import BadInputError
from equipoise.physics.fourier import image_to_kspace

PREFIXES = ("tst", "trn")


def recognizes(path: Path) -> bool:
    """True for an HDF5 file with ``tstOrg`` or ``trnOrg``."""
    return any(f"{prefix}Org" in dataset_names(path) for prefix in PREFIXES)


def read(path: Path) -> Acquisition:
    """Read a MoDL file; if it holds both sets, the test set."""
    with open_hdf5(path) as file:
        prefix = next(p for p in PREFIXES if f"{p}Org" in file)
        names = [f"{prefix}{part}" for part in ("Org", "Csm", "Mask")]
        missing = [name for name in names if name not in file]
        if missing:
            raise BadInputError(f"{path} lacks {', '.join(missing)}; it has {sorted(file)}")
        image, csm, mask = (read_complex(file[name]) for name in names)
    # The product below would broadcast shapes that do not belong together.
    if csm.ndim != 4 or image.shape != mask.shape or image.shape != csm[:, 0].shape:
        raise BadInputError(
            f"{path}: {names[0]} {image.shape}, {names[1]} {csm.shape} and {names[2]} "
            f"{mask.shape} do not fit; expected (slices, y, x), (slices, coils, y, x), "
            "(slices, y, x)"
        )
    if not all(np.issubdtype(array.dtype, np.number) for array in (image, csm)):
        raise BadInputError(
            f"{path}: {names[0]} has the type {image.dtype} and {names[1]} {csm.dtype}; expected "
            "numbers"
        )
    # NaN and Inf are reported by name when the acquisition is made.
    with np.errstate(invalid="ignore", over="ignore"):
        coil_images = torch.from_numpy((csm * image[:, None]).astype(np.complex64))
    return make_acquisition(
        image_to_kspace(coil_images).numpy(),
        str(path),
        "MoDL",
        mask=np.fft.fftshift(mask, axes=(-2, -1)),
        csm=csm,
        target=image,
        notes=["k-space simulated from the images, without added noise", "masks re-centred"],
    )
