"""The configuration of a training run: YAML with a typed schema, in which unknown keys are
errors."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from equipoise.methods.equilibrium_config import SolvedConfig
from equipoise.methods.mol import MolConfig
from equipoise.methods.registry import AnyMethodConfig
from equipoise.outcome import BadInputError
from equipoise.settings import Settings, explained
from equipoise.training.drawn import (
    CineConfig,
    SimulationConfig,
    SuperResolutionConfig,
    VolumesConfig,
)
from equipoise.training.overrides import changed, content_of, rooted
from equipoise.zoo.find import available_models, find_model

TEST_DATA = (
    "data.test names subjects that are kept for the test, and training, the choice of weights and "
    "calibration must not use them, or the test measures nothing: leave it out here, and give "
    "those files to `equipoise experiment`"
)


class SourceWeights(Settings):
    """Chances of the sources of samples, relative to each other."""

    images: float = Field(1.0, ge=1e-6, le=1e6, description="of a simulated scan of an image")
    scans: float = Field(1.0, ge=1e-6, le=1e6, description="of a measured scan")


class SelfSupervisedConfig(Settings):
    """See :class:`equipoise.training.sources.self_supervised.Splitting`."""

    fraction: float = Field(0.4, gt=0, lt=1, description="share of the samples held back")
    masks: int | None = Field(
        None, ge=1, le=100_000, description="splits of each slice; null: a new one for every sample"
    )


class DataConfig(Settings):
    """Images and scans for training and validation.

    The two must not share subjects, nor include test data.
    """

    train: list[Path] = Field([], description="images, from which scans are simulated")
    validation: list[Path] = Field([], description="images for validation")
    scans: list[Path] = Field([], description="scans: files, or folders of them")
    validation_scans: list[Path] = Field([], description="scans for validation")
    validation_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the subjects of train that is set aside for validation instead",
    )
    weights: SourceWeights = Field(
        SourceWeights(), description="chances of images and scans, if there are both"
    )
    self_supervised: SelfSupervisedConfig | None = Field(
        None, description="train on undersampled scans too, with a loss on samples held back"
    )
    maps_cache: float = Field(
        10.0, ge=0, le=1e6, description="GB on disk for coil maps of scans; 0: none"
    )
    coils: Path | None = Field(None, description="measured coil maps, HDF5 with dataset csm")
    stills: list[Path] = Field([], description="images that are set in motion, for cine")
    held_out: list[str] = Field(
        [], description="subjects that training never uses, by their names in the files"
    )

    @model_validator(mode="before")
    @classmethod
    def _no_test(cls, content: Any) -> Any:
        refuse_test_data(content)
        return content

    @model_validator(mode="after")
    def _some(self) -> "DataConfig":
        validation = self.validation or self.validation_scans or self.validation_share
        if not (self.train or self.scans) or not validation:
            raise ValueError(
                "give images as train or scans as scans, and validation or validation_scans"
            )
        if self.validation_share and (self.validation or not self.train):
            raise ValueError(
                "validation_share divides the subjects of train: it needs train, and validation "
                "must be left out"
            )
        return self


def refuse_test_data(content: Any) -> None:
    """Refuse a ``data`` section that names test data.

    Raises
    ------
    BadInputError
        If it does. It is a ValueError too, so that pydantic reports it.
    """
    # Refused before the schema, whose message about an unknown key would not say why.
    if isinstance(content, dict) and "test" in content:
        raise BadInputError(TEST_DATA)


UNET = "unet"
Rtol = Annotated[float, Field(ge=1e-12, lt=1)]


class LipschitzConfig(Settings):
    """The barrier (14): ``beta B(l)``, with l measured at the equilibrium of a training sample.

    l is measured by Lanczos iterations, so the barrier acts on the few directions that H expands
    most. An ascent from noise, as the paper describes it, gives lower values and finds typical
    directions. A large beta keeps l far below T: 0.1 held it at 0.82, and 0.01 holds it at 0.96 of
    T = 0.98.
    """

    beta: float = Field(0.01, ge=0, le=1e6, description="weight of the barrier")
    margin: float = Field(
        0.01,
        ge=1e-6,
        le=1,
        description="distance from T at which the barrier becomes a straight line",
    )
    every: int = Field(
        2, ge=1, le=100_000, description="steps between two barriers, whose weight it multiplies"
    )
    steps: int = Field(8, ge=1, le=1000, description="Lanczos iterations on a training sample")
    reserve: float = Field(0.05, ge=0, description="the barrier is at T - reserve")
    validation_steps: int = Field(
        25, ge=1, le=1000, description="Lanczos iterations on a validation sample"
    )
    validation_reserve: float = Field(
        0.005,
        gt=0,
        description="weights that validate above T - validation_reserve are scaled to it",
    )


def _file_name(name: str) -> str:
    if not re.fullmatch(NAME, name):
        raise ValueError(
            f"name is {name!r}, and the weights are NAME.safetensors in the folder of the run: "
            "use letters, digits, underscores, dots and dashes, and begin with neither a dot nor a "
            "dash"
        )
    return name


NAME = r"\w[\w.-]{0,99}"
FileName = Annotated[str, AfterValidator(_file_name)]


class TrainConfig(Settings):
    """Everything that determines the weights, including the seed."""

    name: FileName = Field(description="of the model; its file is NAME.safetensors")
    data: DataConfig = Field(description="images and scans")
    simulation: SimulationConfig = Field(
        SimulationConfig(), description="how scans are simulated from images"
    )
    super_resolution: SuperResolutionConfig | None = Field(
        None, description="train on photographs and small images of them instead of on MRI"
    )
    cine: CineConfig | None = Field(
        None, description="train on series in time, with a network of (time, y, x)"
    )
    volumes: VolumesConfig | None = Field(
        None, description="train on volumes, with a network of (z, y, x)"
    )
    model: AnyMethodConfig = Field(MolConfig(), description="the method, chosen by its key method")
    lipschitz: LipschitzConfig = Field(
        LipschitzConfig(), description="how a measured constant is kept below 1 - m"
    )
    start: Path | None = Field(None, description="weights to continue from, instead of warming up")
    seed: int = Field(0, ge=0, lt=2**32, description="of weights, samples and validation")
    crop: int | None = Field(
        96, ge=16, le=4096, description="side of the crops; null: whole slices"
    )
    batch: int = Field(1, ge=1, le=1024, description="samples that are solved together")
    accumulate: int = Field(
        1, ge=1, le=1024, description="batches whose mean gradient is one step, in each process"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the network in the warm-up and in methods without an equilibrium; an "
        "equilibrium is found to a bound, and validation is what will be used, so these stay exact",
    )
    warmup_steps: int = Field(
        1000, ge=0, le=10**9, description="denoiser steps before the equilibrium"
    )
    steps: int = Field(4200, ge=1, le=10**9, description="equilibrium steps")
    learning_rate: float = Field(
        1e-3, ge=1e-12, le=1, description="of Adam, in the warm-up and after it"
    )
    final_learning_rate: float = Field(
        3e-5, ge=1e-12, le=1, description="of the last step; the rate decays geometrically"
    )
    weight_learning_rate: float = Field(
        1e-2, ge=1e-12, le=1, description="learning rate of the data weight"
    )
    clip: float = Field(20.0, ge=1e-6, le=1e6, description="limit of the gradient norm")
    rtol: tuple[Rtol, Rtol] = Field(
        (0.05, 0.01),
        description="tolerance of the equilibrium, first and last; a loose one raises lam",
    )
    backward_rtol: Rtol = Field(0.3, description="tolerance of the adjoint solve")
    pool: int = Field(
        0,
        ge=0,
        le=100_000,
        description="number of acquisitions that are used several times, where each solve starts "
        "from the last one; with 0 every step draws a new acquisition",
    )
    pool_uses: int = Field(
        8, ge=1, le=100_000, description="number of steps that use each acquisition"
    )
    average: float = Field(
        0.0, ge=0, lt=1, description="decay of the running average of the weights; 0 for none"
    )
    validate_every: int = Field(500, ge=1, le=10**9, description="steps between two validations")
    validation_samples: int = Field(
        8, ge=1, le=100_000, description="evenly spaced validation images, and scans, that are used"
    )
    validation_crop: int | None = Field(
        160, ge=16, le=4096, description="side of the crops for validation; null: whole slices"
    )

    @property
    def limit(self) -> float:
        """``T = 1 - m``; 1 for methods that are not monotone."""
        return 1 - getattr(self.model, "m", 0.0)

    @model_validator(mode="before")
    @classmethod
    def _channels(cls, content: Any) -> Any:
        """Set the default of one channel for networks of photographs."""
        if not isinstance(content, dict) or content.get("super_resolution") is None:
            return content
        model = content.get("model", {})
        network = model.get("network", {}) if isinstance(model, dict) else None
        if not isinstance(network, dict) or model.get("method") == UNET:
            return content
        return {**content, "model": {**model, "network": {"channels": 1, **network}}}

    def _one_source_with_its_axes(self) -> None:
        """Refuse two sources of simulated samples, and a network for images of other axes."""
        sources = {"super_resolution": None, "cine": "time", "volumes": "z"}
        given = [name for name in sources if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are two kinds of samples: give one of them")
        scans = [name for name in ("scans", "validation_scans") if getattr(self.data, name)]
        if given and scans:
            raise ValueError(
                f"{given[0]} simulates its samples, and data.{scans[0]} names measured slices: "
                "leave it out"
            )
        own = getattr(self.model.network, "axis", None)
        if scans and own is not None:
            raise ValueError(
                f"data.{scans[0]} names scans, which are trained on slice by slice, and "
                f"{self.model.method} is for images ({own}, y, x): choose a model of (y, x)"
            )
        axis = sources[given[0]] if given else None
        if axis is not None and own != axis:
            raise ValueError(
                f"{given[0]} needs a network of ({axis}, y, x): use model.method mol-ridge-3d with "
                f"network.axis {axis}"
            )

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        if self.start is not None and self.warmup_steps:
            raise ValueError("start replaces the warm-up: set warmup_steps to 0")
        if self.data.self_supervised is not None and self.warmup_steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}, and undersampled scans hold no image to "
                "remove noise from: set warmup_steps to 0"
            )
        if self.super_resolution is not None and self.model.method == UNET:
            raise ValueError("unet works on complex images only: choose another model.method")
        self._one_source_with_its_axes()
        if self.cine is not None and bool(self.data.stills) != (self.cine.still > 0):
            raise ValueError(
                f"data.stills names {len(self.data.stills)} files and cine.still is "
                f"{self.cine.still:g}: give both, or neither"
            )
        if self.pool and not isinstance(self.model, SolvedConfig):
            raise ValueError(
                f"pool is {self.pool}, but it stores equilibria, and {self.model.method} has none: "
                "leave pool out"
            )
        barrier = self.limit - self.lipschitz.reserve
        # T minus a reserve is where the barrier lies, and to what weights are scaled.
        if barrier <= 0 or self.limit <= self.lipschitz.validation_reserve:
            raise ValueError(
                f"lipschitz.reserve is {self.lipschitz.reserve:.4g} and validation_reserve "
                f"{self.lipschitz.validation_reserve:.4g}: both must be below 1 - m = "
                f"{self.limit:.4g}"
            )
        # H starts close to skip x, which must not lie beyond the barrier from the first step.
        skip = getattr(self.model.network, "skip", 0.0)
        if skip >= barrier:
            raise ValueError(
                f"model.network.skip is {skip:.4g} and the barrier is at 1 - m - reserve = "
                f"{barrier:.4g}: lower model.m or lipschitz.reserve"
            )
        return self


def load_config(path: Path, changes: Sequence[str] = ()) -> TrainConfig:
    """Read and check a configuration.

    Parameters
    ----------
    path
        A YAML file, whose paths are relative to its folder, or the name of a preset.
    changes
        Changes such as ``steps=5000``; paths in them are relative to the working folder.

    Raises
    ------
    BadInputError
        If the file or preset is missing, is not YAML, or does not fit the schema.
    """
    content, what = content_of(path, TrainConfig)
    content = rooted(changed(content, changes), TrainConfig, Path.cwd())
    try:
        config = TrainConfig.model_validate(content)
    except ValidationError as error:
        wrong = explained(error, TrainConfig)
        advice = "" if "data" in content else "; give --data, or --set data.scans=[FOLDER]"
        raise BadInputError(
            f"{what} is not a valid training configuration: {wrong}{advice}"
        ) from error
    start = config.start
    # A path was made of the name of a model too.
    if start is not None and not start.exists() and start.name in available_models():
        config = config.model_copy(update={"start": find_model(start.name)})
    return config
