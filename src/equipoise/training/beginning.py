"""What a training run starts from: the source of its samples and its first model."""

from typing import Any

from torch import Tensor

from equipoise.methods.data_weight import FixedWeight
from equipoise.methods.method import Method
from equipoise.methods.mol_guided import MolGuided
from equipoise.methods.mol_ridge import MolRidge
from equipoise.methods.registry import new_method
from equipoise.outcome import BadInputError
from equipoise.training.config import TrainConfig
from equipoise.training.sources.images import load_labelled
from equipoise.training.sources.photographs import SuperResolution
from equipoise.training.sources.simulated import Simulation, load_coils
from equipoise.training.sources.source import Source
from equipoise.zoo.model_file import load_model


def training_images(config: TrainConfig) -> list[Tensor]:
    """The images to learn from, without those of the subjects that are held out.

    Raises
    ------
    BadInputError
        If nothing is left, or a subject that is held out is in no file: a misspelt one would be
        trained on.
    """
    found = load_labelled(config.data.train)
    held_out = set(config.data.held_out)
    missing = held_out - {image.subject for image in found}
    if missing:
        raise BadInputError(f"data.held_out names {sorted(missing)}, which no training file has")
    images = [image.image for image in found if image.subject not in held_out]
    if not images:
        raise BadInputError("data.held_out leaves no image to learn from")
    return images


SKIP_DIFFERENCE = 0.02
"""What the skip of start weights may differ from the one asked for: training scales it down."""


def source_of(config: TrainConfig) -> Source:
    """What samples are drawn from."""
    if config.super_resolution is not None:
        return SuperResolution(**config.super_resolution.model_dump())
    coils = load_coils(config.data.coils) if config.data.coils else None
    return Simulation(**config.simulation.model_dump(), measured_coils=coils)


def _check_skip(skip: float, config: TrainConfig, start: str) -> None:
    """Refuse start weights whose skip is not the one asked for, or leaves H no room below T."""
    wanted = config.model
    if "skip" in wanted.model_fields_set and abs(wanted.skip - skip) > SKIP_DIFFERENCE:
        raise BadInputError(
            f"{start} has a skip of {skip:.4g}, model.skip is {wanted.skip:.4g}: leave it out, the "
            "weights bring their own"
        )
    limit = 1 - wanted.m - config.lipschitz.reserve
    if skip >= limit:
        raise BadInputError(
            f"{start} has a skip of {skip:.4g}, the barrier stands at 1 - m - reserve = "
            f"{limit:.4g}: lower model.m or lipschitz.reserve"
        )


def _second_pass(config: TrainConfig) -> Method | None:
    """Two passes that start as the one of a ridge, which the first then stays."""
    start = load_model(config.start) if config.start is not None else None
    if config.model.method != MolGuided.name or not isinstance(start, MolRidge):
        return None
    return (
        None if isinstance(start, MolGuided) else MolGuided.after(start, seed=config.seed).train()
    )


def first_model(config: TrainConfig) -> Method:
    """A new model, or the one that the run continues from.

    Raises
    ------
    BadInputError
        If the start does not fit the configuration.
    """
    second = _second_pass(config)
    if second is not None:
        return second
    wanted = config.model
    network = {key: getattr(wanted, key) for key in ("features", "layers", "kernel_size")}
    network["channels"] = wanted.channels or (2 if config.super_resolution is None else 1)
    model = new_method(
        wanted.method,
        network=network,
        lam=wanted.lam,
        m=wanted.m,
        skip=wanted.skip,
        iterations=wanted.iterations,
        seed=config.seed,
    )
    if config.start is not None:
        start = load_model(config.start)
        body: Any = model.network
        if hasattr(body, "skip"):
            body.skip = getattr(start.network, "skip", body.skip)  # the weights belong to it
            _check_skip(body.skip, config, str(config.start))
        there, asked = (
            (start.name, start.network.configuration()),
            (model.name, body.configuration()),
        )
        if there != asked:
            raise BadInputError(f"{config.start} holds {there}; the configuration asks for {asked}")
        body.load_state_dict(start.network.state_dict(), strict=False)
        model.refresh(exact=True)
        if not isinstance(start.data_weight, FixedWeight):
            rules = {k: v for k, v in start.state_dict().items() if not k.startswith("network.")}
            model.load_state_dict(rules, strict=False)
    return model.train()
