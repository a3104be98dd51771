"""Settings that all methods with an equilibrium have."""

from dataclasses import asdict
from typing import Any

from pydantic import Field, field_validator

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.method import MethodConfig


class SolvedConfig(MethodConfig):
    """Settings of every method whose image is the equilibrium of a monotone operator."""

    solver: SolverOptions = Field(
        SolverOptions(), description="solver options; the method has defaults for all of them"
    )

    @field_validator("solver", mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        usual = asdict(cls.model_fields["solver"].default)
        for name, value in given.items():
            # pydantic reads true as 1.
            if isinstance(value, bool) and not isinstance(usual.get(name, False), bool):
                raise ValueError(f"{name} is {str(value).lower()}: it must be a number or a text")
        return {**usual, **given}


class EquilibriumConfig(SolvedConfig):
    """Settings of a method with a claimed m, see :class:`MOL`."""

    m: float = Field(0.02, ge=1e-9, lt=1, description="monotonicity constant of I - H, T = 1 - m")
    shift: float = Field(0.0, ge=0, le=100, description="added multiple of the identity in F")
