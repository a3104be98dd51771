"""Coil maps on disk: those of the same data, mask and settings are estimated once."""

import hashlib
import logging
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equipoise.formats.acquisition import Acquisition
from equipoise.formats.replacing import make_folder, replacing
from equipoise.outcome import BadInputError
from equipoise.physics.coils.espirit import KERNEL, MAX_CALIBRATION
from equipoise.recon.settings import scan_identity
from equipoise.version import __version__

log = logging.getLogger(__name__)

GIGABYTE = 10**9
KEPT = 0.8
"""Share of the limit that remains when the oldest maps are removed, so that this is rare."""


def default_folder() -> Path:
    """The folder of the cache, in ``EQUIPOISE_CACHE`` or in the user's cache folder."""
    given = os.environ.get("EQUIPOISE_CACHE")
    if given:
        return Path(given) / "maps"
    from platformdirs import user_cache_path

    return user_cache_path("equipoise", appauthor=False) / "maps"


@dataclass
class MapsCache:
    """Maps (1, coil, y, x) by the file of the scan, the slice, its mask and the settings.

    Attributes
    ----------
    folder
        Where they lie.
    limit
        Most bytes; the maps that were used least recently are removed.
    hits, misses
        How often maps were found, and not found.
    """

    folder: Path
    limit: float
    hits: int = 0
    misses: int = 0
    _size: int | None = field(default=None, repr=False)

    def find(self, key: str) -> Tensor | None:
        """The maps of a key, or None."""
        path = self.folder / f"{key}.npy"
        try:
            maps = torch.from_numpy(np.load(path, allow_pickle=False))
            os.utime(path)
        # Missing, removed by another process meanwhile, or damaged: they are estimated again.
        except (OSError, ValueError):
            self.misses += 1
            return None
        self.hits += 1
        return maps

    def keep(self, key: str, maps: Tensor) -> None:
        """Store maps; a disk that is full costs time later, and ends nothing."""
        array = maps.numpy()
        if array.nbytes > self.limit:
            return
        try:
            make_folder(self.folder)
            with replacing(self.folder / f"{key}.npy") as temporary, temporary.open("wb") as file:
                np.save(file, array)
            self._make_room(array.nbytes)
        except (OSError, BadInputError) as error:
            log.warning("coil maps are not kept in %s: %s", self.folder, error)
            self.limit = 0

    def _make_room(self, added: int) -> None:
        size = self._size
        # Listed once, and again when the limit is reached, because other processes write too.
        if size is None or size + added > self.limit:
            files = sorted(self.folder.glob("*.npy"), key=lambda f: f.stat().st_mtime_ns)
            size = sum(f.stat().st_size for f in files)
            while size > self.limit or (size > KEPT * self.limit and self._size is not None):
                oldest = files.pop(0)
                size -= oldest.stat().st_size
                oldest.unlink(missing_ok=True)
            added = 0
        self._size = size + added


def maps_key(scan: Path, index: int, acquisition: Acquisition) -> str:
    """The key of the maps of one slice, the ``index``-th of a file, as it is to be solved.

    It is the SHA-256 of size, time and sampled content of the file, slice, mask, settings of the
    estimate, and version of the package.
    """
    changed = scan.stat().st_mtime_ns if scan.exists() else 0
    digest = hashlib.sha256(_identity(scan, changed).encode())
    settings = [index, KERNEL, MAX_CALIBRATION, __version__, tuple(acquisition.mask.shape)]
    digest.update(repr(settings).encode())
    digest.update(np.packbits(acquisition.mask.numpy()).tobytes())
    return digest.hexdigest()


@lru_cache(maxsize=10_000)
def _identity(scan: Path, changed: int) -> str:
    return repr(scan_identity(scan))
