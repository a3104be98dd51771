"""Proved bounds on the kernels of model files, cached across processes.

A bound is stored under the checksum of its kernel, so it is never reused for a kernel that changed.
Bounds are never read from a model file.
"""

import json
import math
import os
from contextlib import suppress
from pathlib import Path

from equipoise.formats.replacing import replacing
from equipoise.methods.method import Method
from equipoise.networks.proved import known_norms

WORTH_KEEPING = 100_000
"""Number of weights above which the bounds of a model take seconds."""

MOST_KEPT = 5000
"""Most kernels in the cache."""


def cache_file() -> Path:
    """The file of the cache, in ``EQUIPOISE_CACHE`` or in the user's cache folder."""
    given = os.environ.get("EQUIPOISE_CACHE")
    if given:
        return Path(given) / "norms.json"
    from platformdirs import user_cache_path

    return user_cache_path("equipoise", appauthor=False) / "norms.json"


def compute_evidence(model: Method) -> str:
    """``model.m_evidence``, using cached bounds of these weights."""
    # Small networks need no cache, because their bounds take less than seconds.
    if sum(p.numel() for p in model.parameters()) < WORTH_KEEPING:
        return model.m_evidence
    path = cache_file()
    kept = _kept(path)
    for key, value in kept.items():
        # A bound of this process is newer than one of the file.
        known_norms.setdefault(key, value)
    evidence = model.m_evidence
    # Written only if something is new, so that read-only use never touches the file.
    if not known_norms.keys() <= kept.keys():
        _keep(path)
    return evidence


def _kept(path: Path) -> dict[str, float]:
    """The cached bounds; nothing if the file is missing or damaged, which costs a recomputation."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {
        key: value
        for key, value in content.items()
        if isinstance(value, float) and math.isfinite(value) and value >= 0
    }


def _keep(path: Path) -> None:
    """Add the bounds that are known now; a folder that cannot be written is no error."""
    # Read again, because another process may have added its bounds in the meantime.
    known = {**_kept(path), **known_norms}
    newest = dict(list(known.items())[-MOST_KEPT:])
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(newest))
