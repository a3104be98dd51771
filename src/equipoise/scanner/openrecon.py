"""The label of an OpenRecon container: what the host shows to the operator, and what it needs.

The rules are those that published labels follow: at most 14 parameters, identifiers of letters and
digits, a range and a default for every number, and units of at most three characters.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from equipoise.formats.replacing import replacing
from equipoise.outcome import BadInputError
from equipoise.scanner.configuration import KNOWN, METHODS, PIXELS, Configuration
from equipoise.scanner.models import served_models
from equipoise.settings import Settings, checked
from equipoise.version import __version__

MOST_PARAMETERS = 14

Text = dict[Literal["en", "de", "fr", "es", "it", "pt", "ja", "zh", "ko"], str]
"""A text by its language."""


class Choice(Settings):
    """A value of a list."""

    id: Annotated[str, Field(min_length=1)]
    name: Text


class Parameter(Settings):
    """A parameter that the operator sets; its value arrives in the JSON text of the protocol."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")]
    label: Text
    type: Literal["choice", "boolean", "string", "int", "double"]
    information: Text
    default: bool | int | float | str
    values: list[Choice] | None = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    unit: Annotated[str, Field(max_length=3)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> "Parameter":
        kinds = {"boolean": bool, "int": int, "double": int | float}
        if not isinstance(self.default, kinds.get(self.type, str)):
            raise ValueError(
                f"the default of {self.id}, {self.default!r}, is not of type {self.type}"
            )
        if self.type == "choice" and self.default not in [v.id for v in self.values or []]:
            raise ValueError(f"the default {self.default!r} of {self.id} is none of its values")
        if self.type in ("int", "double"):
            ends = (self.minimum, self.maximum)
            if None in ends or not self.minimum <= self.default <= self.maximum:  # type: ignore[operator]
                raise ValueError(f"{self.id} needs a minimum, a maximum and a default between")
        return self


class Protocol(Settings):
    """The protocol between host and container."""

    protocol: Literal["ISMRMRD"] = "ISMRMRD"
    version: Literal["1.4.1"] = "1.4.1"


class Needs(Settings):
    """What the host sends and takes, and the resources of the container; memory is in MB."""

    transfer_protocol: Protocol = Protocol()
    port: Annotated[int, Field(ge=1, le=65535)] = 9002
    emitter: Literal["raw", "image"] = "raw"
    injector: Literal["image", "compleximage"] = "image"
    can_process_adjustment_data: bool = False
    can_use_gpu: bool = False
    min_count_required_gpus: Annotated[int, Field(ge=0)] = 0
    min_required_gpu_memory: Annotated[int, Field(ge=0)] = 0
    min_required_memory: Annotated[int, Field(ge=1)] = 8192
    min_count_required_cpu_cores: Annotated[int, Field(ge=1)] = 2
    content_qualification_type: Literal["PRODUCT", "SERVICE", "RESEARCH"] = "RESEARCH"


class Regulatory(Settings):
    """What the maker of a device states; empty here, because this is software for research."""

    device_trade_name: str = "equipoise"
    production_identifier: str = __version__
    manufacturer_address: str = ""
    made_in: str = ""
    manufacture_date: str = ""
    material_number: str = f"equipoise_{__version__}"
    gtin: str = ""
    udi: str = ""
    safety_advices: str = ""
    special_operating_instructions: str = "For research only, not for diagnosis"
    additional_relevant_information: str = ""


class General(Settings):
    """Who made the container."""

    name: Text
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+")]
    vendor: str
    information: Text
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")]
    regulatory_information: Regulatory = Regulatory()


class Label(Settings):
    """The label."""

    general: General
    reconstruction: Needs
    parameters: Annotated[list[Parameter], Field(max_length=MOST_PARAMETERS)]

    @model_validator(mode="after")
    def _distinct(self) -> "Label":
        names = [parameter.id for parameter in self.parameters]
        if len(set(names)) != len(names):
            raise ValueError("two parameters have the same id")
        return self


def label_of(usual: Configuration, port: int, *, gpu: bool = False) -> Label:
    """The label of a container that runs a server with this usual configuration."""
    models = list(dict.fromkeys([usual.model, *served_models()]))
    lam = "" if usual.lam is None else str(usual.lam)
    known = [
        _choice("config", "Method", METHODS, usual.method, "By the model, or sense"),
        _choice("model", "Model", models, usual.model, "The model of the reconstruction"),
        _parameter("lam", "Data weight", "string", lam, "auto, rule, a number, or empty"),
        _choice("images", "Images", PIXELS, usual.images, "Pixels of the images that come back"),
        _parameter("certificate", "Certificate", "boolean", False, "Attach the certificate"),
        _parameter("noisemap", "Noise map", "boolean", False, "Send the noise of every pixel"),
        {
            **_parameter("acceleration", "Acceleration", "double", 0.0, "Simulated; 0 is none"),
            "minimum": 0.0,
            "maximum": 16.0,
        },
        _parameter("customconfig", "Other configuration", "string", "", "Replaces the method"),
    ]
    assert {one["id"] for one in known} <= KNOWN
    return checked_label(
        {
            "general": {
                "name": {"en": "equipoise"},
                "version": re.sub(r"[^0-9.].*", "", __version__),
                "vendor": "equipoise",
                "information": {"en": "MRI reconstruction at an equilibrium, with error bounds"},
                "id": "equipoise",
            },
            "reconstruction": {
                "port": port,
                "injector": "compleximage" if usual.images == "complex" else "image",
                "can_use_gpu": gpu,
                "min_count_required_gpus": int(gpu),
                "min_required_gpu_memory": GPU_MEMORY if gpu else 0,
            },
            "parameters": known,
        }
    )


GPU_MEMORY = 4096
"""MB of a card with which slices of 320 x 320 are solved."""


def _parameter(name: str, label: str, kind: str, default: Any, information: str) -> dict[str, Any]:
    return {
        "id": name,
        "label": {"en": label},
        "type": kind,
        "default": default,
        "information": {"en": information},
    }


def _choice(name: str, label: str, values: Any, default: str, information: str) -> dict[str, Any]:
    choices = [{"id": value, "name": {"en": value}} for value in values]
    return {**_parameter(name, label, "choice", default, information), "values": choices}


def checked_label(content: dict[str, Any]) -> Label:
    """A label, if it follows the rules.

    Raises
    ------
    BadInputError
        If it does not; the message names each wrong entry.
    """
    return checked(Label, "the OpenRecon label", content)


def write_label(path: Path, label: Label) -> None:
    """Write a label, and check what was written.

    Raises
    ------
    BadInputError
        If the file exists, cannot be written, or is not the label.
    """
    if path.exists():
        raise BadInputError(f"{path} exists: use another name, or remove it first")
    if not path.parent.is_dir():
        raise BadInputError(f"{path.parent} is not a folder: create it first")
    with replacing(path) as temporary:
        content = label.model_dump(mode="json", exclude_none=True)
        temporary.write_text(json.dumps(content, indent=2) + "\n")
    if checked_label(json.loads(path.read_text())) != label:
        raise BadInputError(f"{path} was changed while it was written")
