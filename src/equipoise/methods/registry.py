"""Every trained method by its name; a new method is one class with its configuration, and one
line."""

from typing import TYPE_CHECKING

from equipoise.methods.method import Method, MethodConfig
from equipoise.methods.mol import MOL
from equipoise.methods.mol_guided import MolGuided
from equipoise.methods.mol_guided_3d import MolGuided3D
from equipoise.methods.mol_layered import MolComposed, MolLayered
from equipoise.methods.mol_m import MOLM
from equipoise.methods.mol_ridge import MolRidge
from equipoise.methods.mol_ridge_3d import MolRidge3D
from equipoise.methods.mol_sn import DEGRAD, MOLSN
from equipoise.methods.unet import UNet
from equipoise.methods.unrolled import ADMMNet, MoDL
from equipoise.settings import one_of

METHODS: dict[str, type[Method]] = {
    kind.name: kind
    for kind in (
        MOL,
        MOLM,
        MOLSN,
        DEGRAD,
        MolRidge,
        MolRidge3D,
        MolLayered,
        MolComposed,
        MolGuided,
        MolGuided3D,
        MoDL,
        ADMMNet,
        UNet,
    )
}

if TYPE_CHECKING:
    AnyMethodConfig = MethodConfig
else:
    AnyMethodConfig = one_of("method", MOL.name, *(kind.Config for kind in METHODS.values()))
"""The configuration of one of the methods, for an annotation; without ``method``, of MOL-LR."""


def new_method(config: MethodConfig, seed: int = 0) -> Method:
    """An untrained method with random weights."""
    return METHODS[config.method].new(config, seed)


def stored_method(config: MethodConfig) -> Method:
    """The method of a configuration as it is saved, before its weights are filled in."""
    return METHODS[config.method].around(config.network.build(), config)
