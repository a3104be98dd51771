"""The provenance of trained weights."""

from pathlib import Path
from typing import Any

import torch

from equipoise.training.config import TrainConfig
from equipoise.training.sources.source import Source
from equipoise.zoo.model_file import provenance


def origin_of(
    config: TrainConfig, source: Source, samples: int, seconds: float, validation: dict[str, float]
) -> dict[str, Any]:
    """The provenance of weights: configuration, names of files, effort and validation.

    Parameters
    ----------
    config, source
        Configuration and source of the run.
    samples
        Number of samples whose equilibria were trained.
    seconds
        Time of the steps so far.
    validation
        Validation results of the weights.
    """
    from equipoise.version import __version__

    content = config.model_dump(mode="json")
    # Names without folders: a model file must not reveal the paths of the machine it was trained
    # on.
    data = content["data"]
    for key in ("train", "validation", "scans", "validation_scans", "stills"):
        data[key] = [Path(path).name for path in data[key]]
    data["coils"] = data["coils"] and Path(data["coils"]).name
    # The file of the start weights may be gone later, so its provenance is copied.
    if config.start:
        content["start"] = provenance(config.start)
    return {
        "version": __version__,
        "torch": torch.__version__,
        "config": content,
        "source": type(source).__name__,
        "equilibrium_samples": samples,
        "hours": round(seconds / 3600, 2),
        "threads": torch.get_num_threads(),
        "validation": validation,
    }
