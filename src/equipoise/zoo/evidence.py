"""Proved bounds of the kernels of model files, kept from one process to the next.

A bound is found again by the checksum of the kernel that it is a bound of, so a file whose bytes
changed has none. The bounds of a file are never read from that file.
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
"""Weights of a model whose bounds take seconds."""

MOST_KEPT = 5000
"""Kernels."""


def cache_file() -> Path:
    """Where bounds are kept: in ``EQUIPOISE_CACHE``, or in the user's cache folder."""
    given = os.environ.get("EQUIPOISE_CACHE")
    if given:
        return Path(given) / "norms.json"
    from platformdirs import user_cache_path

    return user_cache_path("equipoise", appauthor=False) / "norms.json"


def compute_evidence(model: Method) -> str:
    """``model.m_evidence``, with the bounds that were computed for these weights before."""
    if sum(p.numel() for p in model.parameters()) < WORTH_KEEPING:
        return model.m_evidence
    path = cache_file()
    kept = _kept(path)
    for key, value in kept.items():
        known_norms.setdefault(key, value)
    evidence = model.m_evidence
    if not known_norms.keys() <= kept.keys():
        _keep(path)
    return evidence


def _kept(path: Path) -> dict[str, float]:
    """What was kept; nothing where the file is missing or damaged: it is computed again."""
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
    """Add what is known now; a folder that cannot be written costs the seconds again."""
    known = {**_kept(path), **known_norms}
    newest = dict(list(known.items())[-MOST_KEPT:])
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(newest))
