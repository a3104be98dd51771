"""A reconstruction as a file."""

import json
from pathlib import Path
from typing import Any

from equipoise.formats.header import cut
from equipoise.formats.writers.write import write_image
from equipoise.recon.reconstruct import Reconstruction
from equipoise.version import __version__


def save(
    target: Path,
    result: Reconstruction,
    scan: str,
    model: str,
    fingerprint: str,
    *,
    overwrite: bool,
) -> None:
    """Write the images, cut to the reconstructed matrix of the scan, and how they were reached.

    ``fingerprint`` is that of :func:`equipoise.recon.settings.fingerprint`.

    Raises
    ------
    BadInputError
        If the file cannot be written.
    """
    attributes: dict[str, Any] = {
        "model": model,
        "scan": scan,
        "equipoise_version": __version__,
        "fingerprint": fingerprint,
        "outcome": result.outcome.value,
        "distance_bound": max(s.distance_bound for s in result.slices),
        "slices": json.dumps(result.as_json(scan, model)["slices"]),
    }
    content = {
        "image": cut(result.image.numpy(), result.header.crop),
        "mask": result.mask.numpy(),
        "header": result.header,
        "attributes": attributes,
    }
    if result.csm is not None:
        content["csm"] = result.csm.numpy()
    write_image(target, content, overwrite=overwrite)
