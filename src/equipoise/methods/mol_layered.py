"""MOL with deeper proved networks: ridges in layers (20), and layers one after the other (21)."""

from typing import Any, ClassVar, Literal

from equipoise.methods.method import MethodConfig
from equipoise.methods.mol_ridge import ConditionedConfig, MolRidge
from equipoise.networks.composed import ComposedConfig
from equipoise.networks.layered import LayeredConfig


class MolLayeredConfig(ConditionedConfig):
    """See :class:`MolLayered`."""

    method: Literal["mol-layered"] = "mol-layered"
    network: LayeredConfig = LayeredConfig()


class MolComposedConfig(ConditionedConfig):
    """See :class:`MolComposed`."""

    method: Literal["mol-composed"] = "mol-composed"
    network: ComposedConfig = ComposedConfig()


class MolLayered(MolRidge):
    """:class:`MolRidge` with a :class:`~equipoise.networks.layered.Layered` network.

    F is m-strongly monotone for every value of the weights, so the equilibrium is unique and every
    bound is proved. F is not a gradient, so the equilibrium does not minimise a function.
    """

    name = "mol-layered"
    Config: ClassVar[type[MethodConfig]] = MolLayeredConfig
    network: Any


class MolComposed(MolRidge):
    """:class:`MolRidge` with a :class:`~equipoise.networks.composed.Composed` network.

    As for :class:`MolLayered`, every bound is proved, and F is not a gradient.
    """

    name = "mol-composed"
    Config: ClassVar[type[MethodConfig]] = MolComposedConfig
    network: Any
