"""Sections of a configuration that say how samples are simulated, one for each source."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from equipoise.settings import Settings


def _rising(noise: tuple[float, float]) -> tuple[float, float]:
    if not 1e-6 <= noise[0] <= noise[1] <= 10:
        raise ValueError(
            f"the range is {noise}: give two numbers from 1e-6 to 10, the smaller one first"
        )
    return noise


def _ordered(pair: Any) -> Any:
    if pair[0] > pair[1]:
        raise ValueError(f"the range is {pair}: give the smaller number first")
    return pair


def _few_coils(coils: tuple[int, int]) -> tuple[int, int]:
    if not 1 <= coils[0] <= coils[1] <= MAX_COILS:
        raise ValueError(
            f"coils is {coils}: give two numbers from 1 to {MAX_COILS}, the smaller one first"
        )
    return coils


MAX_COILS = 256
CoilRange = Annotated[tuple[int, int], AfterValidator(_few_coils)]
NoiseRange = Annotated[tuple[float, float], AfterValidator(_rising)]


def _shares(pair: tuple[float, float]) -> tuple[float, float]:
    if not 0 < pair[0] <= pair[1] <= 1:
        raise ValueError(f"the range is {pair}: give two shares up to 1, the smaller one first")
    return pair


ShareRange = Annotated[tuple[float, float], AfterValidator(_shares)]

Acceleration = Annotated[float, Field(ge=1, le=1000)]
AccelerationRange = Annotated[tuple[Acceleration, Acceleration], AfterValidator(_ordered)]
Calibration = Annotated[int, Field(ge=4, le=4096)]
CalibrationRange = Annotated[tuple[Calibration, Calibration], AfterValidator(_ordered)]
Zoom = Annotated[float, Field(ge=0.01, le=1)]
Frames = Annotated[int, Field(ge=2, le=1000)]
MaskKind = Literal["variable-density-2d", "variable-density-1d", "uniform", "poisson-disc"]


class SimulationConfig(Settings):
    """See :class:`equipoise.training.sources.simulated.Simulation`."""

    acceleration: Acceleration | AccelerationRange = 4.0
    calibration: Calibration | CalibrationRange = 24
    mask: MaskKind | Annotated[tuple[MaskKind, ...], Field(min_length=1)] = "variable-density-2d"
    noise: NoiseRange = (0.005, 0.08)
    coils: CoilRange = (8, 16)
    zoom: Annotated[tuple[Zoom, Zoom], AfterValidator(_ordered)] = (0.5, 1.0)
    masked_maps: float = Field(0.5, ge=0, le=1)
    estimated: float = Field(0.0, ge=0, le=1)
    noisy_targets: float = Field(0.0, ge=0, le=1)


class SuperResolutionConfig(Settings):
    """See :class:`equipoise.training.sources.photographs.SuperResolution`."""

    factor: int = Field(3, ge=1, le=16, description="every which pixel D keeps")
    kernel: Literal["gaussian", "bicubic"] = Field("gaussian", description="of the blur B")
    border: Literal["zero", "circular", "reflect"] = Field(
        "reflect", description="how B continues the image"
    )
    noise: NoiseRange = (0.003, 0.03)


class CineConfig(Settings):
    """See :class:`equipoise.training.sources.cine.Cine`; ``data.stills`` holds its stills."""

    acceleration: AccelerationRange = Field((4.0, 14.0), description="range, drawn log-uniformly")
    calibration: int = Field(4, ge=1, le=4096, description="central columns of every frame")
    noise: NoiseRange = Field((0.003, 0.05), description="range relative to the image scale")
    coils: CoilRange = Field((6, 12), description="range of the number of coils")
    frames: Annotated[tuple[Frames, Frames], AfterValidator(_ordered)] = Field(
        (10, 16), description="range of the number of frames"
    )
    phase: float = Field(3.0, ge=0, le=100, description="largest smooth phase in radians")
    contrast: NoiseRange = Field((0.7, 1.4), description="range of the power of the magnitude")
    motion: float = Field(
        0.06, ge=0, le=0.5, description="largest displacement of a still, as a share of its side"
    )
    estimated: float = Field(
        0.0, ge=0, le=1, description="share of samples with maps estimated from whole frames"
    )
    still: float = Field(0.0, ge=0, le=1, description="share of samples made of data.stills")
    partial_fourier: ShareRange = Field(
        (1.0, 1.0), description="range of the share of k-space along x that is measured"
    )


class VolumesConfig(Settings):
    """See :class:`equipoise.training.sources.volumes.Volumes`."""

    acceleration: AccelerationRange = Field((4.0, 14.0), description="range, drawn log-uniformly")
    calibration: int = Field(
        24,
        ge=4,
        le=4096,
        description="side of the fully sampled centre in z and y of a whole volume",
    )
    noise: NoiseRange = Field((0.003, 0.05), description="range relative to the image scale")
    coils: CoilRange = Field((6, 12), description="range of the number of coils")
    phase: float = Field(3.0, ge=0, le=100, description="largest smooth phase in radians")
    contrast: NoiseRange = Field((0.7, 1.4), description="range of the power of the magnitude")
    deformation: float = Field(
        0.03, ge=0, le=0.5, description="largest displacement, as a share of the longest side"
    )
    deformed: float = Field(0.5, ge=0, le=1, description="share of samples that are deformed")
    estimated: float = Field(
        0.0, ge=0, le=1, description="share of samples with maps estimated from whole planes"
    )
    partial_fourier: ShareRange = Field(
        (1.0, 1.0), description="range of the shares of k-space along z and y that are measured"
    )
    thickness: int | None = Field(
        None, ge=1, le=4096, description="voxels along the readout of whole planes; null: crops"
    )
