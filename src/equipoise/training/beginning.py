"""The beginning of a training run: its images, the source of its samples, and its first model."""

import logging
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from equipoise.formats.by_slice import scan_files
from equipoise.formats.writers.target import check_files
from equipoise.methods.method import Method, MethodConfig
from equipoise.methods.mol_guided import MolGuidedConfig
from equipoise.methods.mol_ridge import MolRidgeConfig
from equipoise.methods.mol_ridge_3d import MolRidge3DConfig
from equipoise.methods.registry import METHODS, new_method
from equipoise.outcome import BadInputError
from equipoise.settings import checked
from equipoise.training.config import TrainConfig
from equipoise.training.sources.cine import Cine, load_clips
from equipoise.training.sources.dataset import Dataset, ImageDataset, Mixture
from equipoise.training.sources.images import LabelledImage, read_labelled
from equipoise.training.sources.maps_cache import GIGABYTE, MapsCache, default_folder
from equipoise.training.sources.photographs import SuperResolution
from equipoise.training.sources.sampling import Sampling
from equipoise.training.sources.scans import (
    ScanDataset,
    ScanSamples,
    names_of,
    training_scans,
)
from equipoise.training.sources.self_supervised import Splitting
from equipoise.training.sources.simulated import Simulation, load_coils
from equipoise.training.sources.source import Source
from equipoise.training.sources.volumes import Volumes
from equipoise.zoo.model_file import load_model, model_config

log = logging.getLogger(__name__)


def training_images(
    config: TrainConfig, skipped: dict[Path, str] | None = None
) -> list[LabelledImage]:
    """The training images, without those of the subjects that are held out.

    Parameters
    ----------
    config
        Of the run.
    skipped
        Receives the files of folders that cannot be used, and why; with None they are an error.

    Raises
    ------
    BadInputError
        If nothing is left, or nothing to train on has a subject that is held out, because a
        misspelt subject would be trained on.
    """
    data = config.data
    found = labelled_images(config, data.train, skipped)
    held_out = set(data.held_out)
    scans = (names_of(scan) for path in data.scans for scan in scan_files(path))
    missing = held_out.difference((image.subject for image in found), *scans)
    if missing:
        raise BadInputError(f"data.held_out names {sorted(missing)}, which no training file has")
    images = [image for image in found if image.subject not in held_out]
    if found and not images:
        raise BadInputError("data.held_out leaves no training image")
    return images


def labelled_images(
    config: TrainConfig, paths: list[Path], skipped: dict[Path, str] | None
) -> list[LabelledImage]:
    """What the source of a configuration takes from files: images, or series, or volumes."""
    if not paths:
        return []
    whole = config.cine is not None or config.volumes is not None
    return (load_clips if whole else read_labelled)(paths, skipped)


def divided(config: TrainConfig, images: list[LabelledImage]) -> tuple[list[Tensor], list[Tensor]]:
    """Images for training, and those of the subjects that ``validation_share`` sets aside.

    Raises
    ------
    BadInputError
        If there is only one subject.
    """
    share, subjects = config.data.validation_share, sorted({image.subject for image in images})
    aside: set[str] = set()
    if share is not None:
        if len(subjects) < 2:
            raise BadInputError(
                f"data.train has one subject, {subjects[0]}, of which none can be set aside for "
                "validation: give data.validation"
            )
        count = min(max(round(share * len(subjects)), 1), len(subjects) - 1)
        # Evenly spaced, because neighbouring names are often of one site or one patient.
        places = np.linspace(0, len(subjects) - 1, count + 2)[1:-1].round().astype(int)
        aside = {subjects[place] for place in places}
    return (
        [image.image for image in images if image.subject not in aside],
        [image.image for image in images if image.subject in aside],
    )


def validation_images(config: TrainConfig, skipped: dict[Path, str] | None = None) -> list[Tensor]:
    """The images for validation: those that are named, or of the subjects that are set aside.

    ``skipped`` receives the files of folders that cannot be used, and why; with None they are an
    error. Files of training are skipped where training reads them.
    """
    if config.data.validation_share is not None:
        return divided(config, training_images(config, {}))[1]
    return [found.image for found in labelled_images(config, config.data.validation, skipped)]


def dataset_of(config: TrainConfig, source: Source) -> Dataset:
    """The images and scans that a run is trained on.

    Raises
    ------
    BadInputError
        If a file of images cannot be read, an image is smaller than the crop of a batch, or
        nothing is left without the subjects that are held out.
    """
    data, found, skipped = config.data, dict[str, Dataset](), dict[Path, str]()
    labelled = training_images(config, skipped)
    if labelled:
        images = large_enough(config, divided(config, labelled)[0])
        found["images"] = ImageDataset(source, images, skipped)
    if data.scans:
        scans = training_scans(data.scans, set(data.held_out))
        found["scans"] = ScanDataset(scans, scan_samples(config))
    weights = tuple(getattr(data.weights, name) for name in found)
    datasets = tuple(found.values())
    return datasets[0] if len(datasets) == 1 else Mixture(datasets, weights)


def scan_samples(config: TrainConfig) -> ScanSamples:
    """How slices of scans become samples."""
    simulation, split = config.simulation, config.data.self_supervised
    sampling = Sampling(simulation.acceleration, simulation.calibration, simulation.mask)
    limit = config.data.maps_cache * GIGABYTE
    return ScanSamples(
        sampling,
        None if split is None else Splitting(split.fraction, split.masks),
        MapsCache(default_folder(), limit) if limit else None,
    )


def check_new_run(config: TrainConfig, folder: Path) -> None:
    """Check that a folder holds no file that a new run would overwrite.

    Raises
    ------
    BadInputError
        If it does; the message names the first such file.
    """
    written = ("last.ckpt", "validated.ckpt", f"{config.name}.safetensors", "log.jsonl",
               "config.json")  # fmt: skip
    try:
        check_files([folder / name for name in written], overwrite=False)
    except BadInputError as error:
        raise BadInputError(
            f"{folder} holds a training run or a model of the name {config.name!r} ({error}): "
            "continue the run with --resume, or give another folder with -o"
        ) from error


SMALLEST = 16
"""Pixels of the smallest side that has room for a sampling pattern."""


def large_enough(config: TrainConfig, images: list[Tensor]) -> list[Tensor]:
    """The images that can be used: a batch is stacked, so each must be as large as the crop.

    Raises
    ------
    BadInputError
        If none is left, or whole slices are asked for as a batch; the message gives the sides.
    """
    if config.batch > 1 and config.crop is None:
        raise BadInputError(
            f"crop is null, and batch is {config.batch}, but whole slices of different sizes "
            "cannot be stacked: set crop, or use batch 1 with accumulate"
        )
    least = SMALLEST if config.batch == 1 else int(config.crop or 0)
    kept = [image for image in images if min(image.shape[-2:]) >= least]
    if not kept:
        largest = max(min(image.shape[-2:]) for image in images)
        smaller = f"lower crop, which is {config.crop}, or use batch 1"
        raise BadInputError(
            f"the images of {', '.join(map(str, config.data.train))} have sides of at most "
            f"{largest} pixels, and {least} are needed: "
            + (smaller if largest >= SMALLEST else "give larger images")
        )
    if len(kept) < len(images):
        log.warning(
            "%d of %d images have a side below %d pixels and are left out",
            len(images) - len(kept),
            len(images),
            least,
        )
    return kept


SKIP_DIFFERENCE = 0.02
"""The skip of start weights may differ from the configuration by this much, because training scales
it down."""


def source_of(config: TrainConfig, skipped: dict[Path, str] | None = None) -> Source:
    """The source of samples of a configuration.

    ``skipped`` receives the files of folders of stills that cannot be used, and why; with None they
    are an error.
    """
    if config.super_resolution is not None:
        return SuperResolution(**config.super_resolution.model_dump())
    if config.cine is not None:
        paths = config.data.stills
        stills = read_labelled(paths, skipped) if paths else []
        return Cine(**config.cine.model_dump(), stills=tuple(still.image for still in stills))
    if config.volumes is not None:
        return Volumes(**config.volumes.model_dump())
    coils = load_coils(config.data.coils) if config.data.coils else None
    return Simulation(**config.simulation.model_dump(), measured_coils=coils)


def continued(config: TrainConfig) -> TrainConfig:
    """The configuration of a run that continues from weights, completed from their file.

    Network, data weight and rules belong to the weights, so their settings must agree with the
    file. m, shift, solver options and blocks may be changed. Settings that are not given are taken
    from the file.

    Raises
    ------
    BadInputError
        If the configuration contradicts the file; the message gives the setting and both values.
    """
    if config.start is None:
        return config
    there = _held(config).model_dump()
    asked = config.model.model_dump(exclude_unset=True)
    # Weights of one method have no meaning for another, even if their shapes agree.
    if config.model.method != there["method"]:
        raise BadInputError(
            f"{config.start} holds {there['method']} and model.method is {config.model.method}: "
            "continue with the same method"
        )
    for part in config.model.PARTS:
        # A part that the file does not have begins untrained.
        if there.get(part) is None:
            continue
        for key, value in (asked.pop(part, None) or {}).items():
            held = there[part].get(key)
            if not _agrees(key, value, held):
                raise BadInputError(
                    f"model.{part}.{key} is {value} and {config.start} holds {held}: leave it "
                    "out, because it belongs to the weights"
                )
    content = config.model_dump(exclude={"model"}, exclude_unset=True)
    return checked(TrainConfig, str(config.start), {**content, "model": {**there, **asked}})


def _held(config: TrainConfig) -> MethodConfig:
    """The configuration of the start weights, extended if a ridge starts another method."""
    assert config.start is not None
    held, asked = model_config(config.start), cast(Any, config.model)
    return asked.started_by(held) if _extended(asked, held) else held


def _extended(asked: Any, held: MethodConfig) -> bool:
    """Whether weights of a ridge start another method, which has them and more."""
    return type(asked) in (MolGuidedConfig, MolRidge3DConfig) and isinstance(held, MolRidgeConfig)


def _agrees(key: str, asked: Any, there: Any) -> bool:
    if key == "skip":
        return abs(asked - there) <= SKIP_DIFFERENCE
    if isinstance(asked, dict) and isinstance(there, dict):
        return all(_agrees(name, value, there.get(name)) for name, value in asked.items())
    return asked == there


OWN_NETWORK = ("mol-lr", "mol-m", "modl", "admm-net")
"""Methods that need nothing but the value of their network."""


def with_network(config: TrainConfig, network: nn.Module) -> Method:
    """The method of the configuration with your own network.

    Raises
    ------
    BadInputError
        If the method needs a particular network, or ``start`` is given too.
    """
    method = config.model.method
    # The other methods prove or measure something about their own layers.
    if method not in OWN_NETWORK:
        raise BadInputError(
            f"model.method is {method}, which needs its particular network: use your own network "
            f"with one of {', '.join(OWN_NETWORK)}"
        )
    if config.start is not None:
        raise BadInputError(
            "a network and start were both given: load the weights into the network instead"
        )
    return METHODS[method].around(network, config.model).train()


def first_model(config: TrainConfig, network: nn.Module | None = None) -> Method:
    """A new model, or the model from which the run continues, see :func:`continued`."""
    if network is not None:
        return with_network(config, network)
    start = None if config.start is None else load_model(config.start)
    if start is not None and _extended(config.model, start.config):
        kind: Any = METHODS[config.model.method]
        extended: Method = kind.after(start, config.model, config.seed)
        return extended.train()
    model = new_method(config.model, config.seed)
    if start is not None:
        # Not strict, because a spectral network also has buffers, which follow its parameters.
        model.network.load_state_dict(start.network.state_dict(), strict=False)
        model.refresh(exact=True)
        rules = {k: v for k, v in start.state_dict().items() if not k.startswith("network.")}
        model.load_state_dict(rules, strict=False)
    return model.train()
