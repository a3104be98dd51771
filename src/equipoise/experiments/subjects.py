"""Statistics by subject: slices of one head, and masks of one slice, are not independent.

A subject is a file, or an entry of the dataset ``subject`` of a file of images. An interval says
how much another draw of subjects would change; with a single subject there is no interval.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.experiments.results import Row

BOOTSTRAP, CONFIDENCE = 10_000, 0.95
NO_INTERVAL = "one subject: no interval"


def paired_difference(rows: Sequence[Row], method: str, other: str) -> dict[str, Any]:
    """Mean PSNR of a method minus that of another on the same data, with a bootstrap interval.

    The mean is over slices, each averaged over its masks. Subjects are drawn with replacement, each
    with all its slices. With a single subject the interval is None.
    """
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        slices = values.setdefault(row["subject"], {}).setdefault(row["slice"], {})
        slices.setdefault(row["method"], []).append(row["psnr"])
    differences = [
        [float(np.mean(np.subtract(v[method], v[other]))) for v in slices.values()]
        for slices in values.values()
    ]
    return {
        "mean": float(np.mean([d for own in differences for d in own])),
        "interval": interval(differences),
        "subjects": len(differences),
        "slices": sum(map(len, differences)),
    }


def interval(values: Sequence[Sequence[float]]) -> list[float] | None:
    """The bootstrap interval of the mean of all values; a subject is drawn with all its values."""
    # One subject says nothing about others.
    if len(values) < 2:
        return None
    sums, counts = (np.array([f(own) for own in values], float) for f in (sum, len))
    draws = np.random.default_rng(0).integers(len(values), size=(BOOTSTRAP, len(values)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return [float(low), float(high)]


def about_subjects(rows: Sequence[Row]) -> str:
    """A sentence that says over how many subjects the intervals of a table are drawn."""
    count = len({row["subject"] for row in rows})
    if count == 1:
        return f"{NO_INTERVAL.capitalize()}."
    return f"Intervals are drawn over {count} subjects, each with all its slices."


def seen_before(origins: Mapping[str, Mapping[str, Any]], data: Iterable[Path]) -> list[str]:
    """Sentences that name the data of a comparison on which models were trained or chosen.

    Parameters
    ----------
    origins
        The provenance of each model, by the name of the method. It records files by their names.
    data
        Files and folders of the comparison.
    """
    # Provenance holds names without folders; training may have been given the folder of the file.
    names = {name for path in data for name in (path.name, path.parent.name)}
    found: dict[tuple[str, str], list[str]] = {}
    for method, origin in origins.items():
        used = origin.get("config", {}).get("data", {})
        for role in ROLES:
            for name in sorted(names & set(used.get(role, ()))):
                found.setdefault((name, role), []).append(method)
    return [
        f"NOT UNSEEN DATA: {name} {ROLES[role]} {', '.join(methods)}."
        for (name, role), methods in found.items()
    ]


TRAINED_ON = "was training data of"
CHOSEN_BY = "was validation data that chose the weights, the learning rate and T of"
ROLES = {
    "train": TRAINED_ON,
    "scans": TRAINED_ON,
    "validation": CHOSEN_BY,
    "validation_scans": CHOSEN_BY,
}
"""What the sections of a configuration used a file for."""
