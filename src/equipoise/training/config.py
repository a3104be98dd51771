"""The configuration of a training run: YAML with a typed schema; unknown keys are errors."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from equipoise.outcome import BadInputError
from equipoise.training.plain_yaml import load_yaml


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Strict):
    """Images to train and validate on. Never split inside a subject."""

    train: list[Path]
    validation: list[Path]
    coils: Path | None = Field(None, description="measured coil maps, HDF5 with dataset csm")
    held_out: list[str] = Field(
        [], description="subjects that training never sees, as their files name them"
    )


def _rising(noise: tuple[float, float]) -> tuple[float, float]:
    if not 0 < noise[0] <= noise[1]:
        raise ValueError(f"noise is {noise}: two positive numbers, the smaller one first")
    return noise


def _ordered(pair: Any) -> Any:
    if pair[0] > pair[1]:
        raise ValueError(f"the range {pair} needs its smaller number first")
    return pair


NoiseRange = Annotated[tuple[float, float], AfterValidator(_rising)]


Acceleration = Annotated[float, Field(ge=1)]
AccelerationRange = Annotated[tuple[Acceleration, Acceleration], AfterValidator(_ordered)]
Calibration = Annotated[int, Field(ge=4)]
CalibrationRange = Annotated[tuple[Calibration, Calibration], AfterValidator(_ordered)]
MaskKind = Literal["variable-density-2d", "variable-density-1d", "uniform", "poisson-disc"]


class SimulationConfig(_Strict):
    """See :class:`equipoise.training.sources.simulated.Simulation`."""

    acceleration: Acceleration | AccelerationRange = 4.0
    calibration: Calibration | CalibrationRange = 24
    mask: MaskKind | tuple[MaskKind, ...] = "variable-density-2d"
    noise: NoiseRange = (0.005, 0.08)
    coils: tuple[int, int] = (8, 16)
    zoom: tuple[float, float] = (0.5, 1.0)
    masked_maps: float = Field(0.5, ge=0, le=1)
    estimated: float = Field(0.0, ge=0, le=1)


class SuperResolutionConfig(_Strict):
    """See :class:`equipoise.training.sources.photographs.SuperResolution`."""

    factor: int = Field(3, ge=1)
    kernel: Literal["gaussian", "bicubic"] = "gaussian"
    border: Literal["zero", "circular", "reflect"] = "reflect"
    noise: NoiseRange = (0.003, 0.03)


class ModelConfig(_Strict):
    """The method, its network, its monotonicity, and the start of the data weight."""

    method: Literal[
        "mol-lr",
        "mol-m",
        "mol-sn",
        "mol-ridge",
        "mol-guided",
        "de-grad",
        "modl",
        "admm-net",
        "unet",
    ] = "mol-lr"
    iterations: int = Field(10, ge=1, description="blocks of the unrolled methods")
    features: int = Field(64, ge=4)
    layers: int = Field(5, ge=2)
    kernel_size: int = Field(3, ge=1)
    channels: Literal[1, 2] | None = Field(
        None, description="1 for real images; as the data need it if not given"
    )
    m: float = Field(0.02, gt=0, lt=1, description="monotonicity constant, T = 1 - m")
    skip: float = Field(
        0.0, ge=0, lt=1, description="s in H(x) = s x - N(x), of mol-lr and mol-m; 0: H is the CNN"
    )
    lam: float = Field(20.0, gt=0, description="start of lam at a relative noise of 0.015")


class LipschitzConfig(_Strict):
    """The barrier (14): ``beta B(l)``, l measured at the equilibrium of a training sample.

    l is found by Lanczos iterations, so that the barrier acts on the few directions that H expands
    most: an ascent from noise, as the paper describes it, reads lower and sees the bulk of them. A
    large beta keeps l far below T: 0.1 held it at 0.82 where 0.01 holds it at 0.96 of T = 0.98.
    """

    beta: float = Field(0.01, ge=0)
    margin: float = Field(0.01, gt=0)
    every: int = Field(2, ge=1, description="steps between two barriers, each weighed by it")
    steps: int = Field(8, ge=1, description="Lanczos iterations on a training sample")
    reserve: float = Field(0.05, ge=0, description="the barrier stands at T - reserve")
    validation_steps: int = Field(25, ge=1)
    validation_reserve: float = Field(
        0.005, gt=0, description="weights that validate above T minus it are scaled down to that"
    )


class TrainConfig(_Strict):
    """Everything that determines the weights, with the seed."""

    name: str
    data: DataConfig
    simulation: SimulationConfig = SimulationConfig()
    super_resolution: SuperResolutionConfig | None = Field(
        None, description="train on real photographs and small images of them instead of MRI"
    )
    model: ModelConfig = ModelConfig()
    lipschitz: LipschitzConfig = LipschitzConfig()
    start: Path | None = Field(None, description="weights to continue from, instead of warming up")
    seed: int = 0
    crop: int | None = Field(96, ge=16, description="side of the crops; null: whole slices")
    batch: int = Field(1, ge=1)
    warmup_steps: int = Field(1000, ge=0, description="denoiser steps before the equilibrium")
    steps: int = Field(4200, ge=1, description="equilibrium steps")
    learning_rate: float = Field(1e-3, gt=0)
    final_learning_rate: float = Field(3e-5, gt=0)
    weight_learning_rate: float = Field(1e-2, gt=0, description="of the data weight")
    clip: float = Field(20.0, gt=0, description="limit of the gradient norm")
    rtol: tuple[float, float] = Field(
        (0.05, 0.01), description="of the equilibrium, first and last: a loose one raises lam"
    )
    backward_rtol: float = Field(0.3, gt=0, description="of the adjoint solve")
    average: float = Field(
        0.0, ge=0, lt=1, description="decay of the average of weights that is kept; 0: no average"
    )
    validate_every: int = Field(500, ge=1)
    validation_samples: int = Field(8, ge=1)
    validation_crop: int | None = Field(160, ge=16)

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        if self.start is not None and self.warmup_steps:
            raise ValueError("start replaces the warm-up: set warmup_steps to 0")
        if self.super_resolution is not None and self.model.method == "unet":
            raise ValueError("unet is a method for complex images: choose another model.method")
        if self.model.skip and self.model.method not in ("mol-lr", "mol-m"):
            raise ValueError(f"{self.model.method} has no skip: leave model.skip out")
        if max(self.lipschitz.reserve, self.lipschitz.validation_reserve) >= 1 - self.model.m:
            raise ValueError("the reserves of lipschitz must be smaller than T = 1 - m")
        if self.model.skip >= 1 - self.model.m - self.lipschitz.reserve:
            raise ValueError("model.skip must be smaller than T - lipschitz.reserve, T = 1 - m")
        return self


def load_config(path: Path) -> TrainConfig:
    """Read and check a YAML configuration; paths in it are relative to its folder.

    Raises
    ------
    BadInputError
        If the file is missing, is not YAML, or does not fit the schema.
    """
    try:
        config = TrainConfig.model_validate(load_yaml(path))
    except ValidationError as error:
        wrong = "; ".join(_explain(dict(e), TrainConfig) for e in error.errors())
        raise BadInputError(f"{path} is not a valid training configuration: {wrong}") from error
    root = path.resolve().parent
    data = config.data
    resolved = DataConfig(
        train=[root / p for p in data.train],
        validation=[root / p for p in data.validation],
        coils=root / data.coils if data.coils else None,
        held_out=data.held_out,
    )
    start = root / config.start if config.start else None
    return config.model_copy(update={"data": resolved, "start": start})


def _explain(error: dict[str, Any], schema: type[BaseModel]) -> str:
    """One wrong entry: where it is, what is wrong, and the nearest name of an unknown key."""
    *above, name = [str(part) for part in error["loc"]] or [""]
    where = ".".join([*above, name])
    if error["type"] != "extra_forbidden":
        given = "" if error["type"] == "missing" else f", not {error['input']!r:.80}"
        return f"{where}: {error['msg']}{given}"
    for part in above:
        inner = schema.model_fields[part].annotation if part in schema.model_fields else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            schema = inner
    known = list(schema.model_fields)
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"the settings are {', '.join(known)}"
    return f"{where} is not a setting: {hint}"
