"""What a training run starts from: the source of its samples and its first model."""

from typing import Any

from equipoise.equilibrium.data_weight import DataWeight
from equipoise.equilibrium.method import Method
from equipoise.learning.config import TrainConfig
from equipoise.learning.photographs import SuperResolution
from equipoise.learning.sample import Source
from equipoise.learning.simulate import Simulation, load_coils
from equipoise.methods.registry import new_method
from equipoise.methods.weights import load_model
from equipoise.outcome import BadInputError


def source_of(config: TrainConfig) -> Source:
    """What samples are drawn from."""
    if config.super_resolution is not None:
        return SuperResolution(**config.super_resolution.model_dump())
    coils = load_coils(config.data.coils) if config.data.coils else None
    return Simulation(**config.simulation.model_dump(), measured_coils=coils)


def first_model(config: TrainConfig) -> Method:
    """A new model, or the one that the run continues from."""
    wanted = config.model
    network = {key: getattr(wanted, key) for key in ("features", "layers", "kernel_size")}
    network["channels"] = 2 if config.super_resolution is None else 1
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
        there, asked = (
            (start.name, start.network.configuration()),
            (model.name, body.configuration()),
        )
        if there != asked:
            raise BadInputError(f"{config.start} holds {there}; the configuration asks for {asked}")
        body.load_state_dict(start.network.state_dict(), strict=False)
        model.refresh(exact=True)
        if isinstance(start.data_weight, DataWeight):
            model.data_weight.load_state_dict(start.data_weight.state_dict())
    return model.train()
