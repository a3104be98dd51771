"""Every trained method by its name."""

from typing import Any

from equipoise.methods.data_weight import DataWeight, ScanRule
from equipoise.methods.method import Method
from equipoise.methods.mol import MOL
from equipoise.methods.mol_guided import MolGuided
from equipoise.methods.mol_m import MOLM
from equipoise.methods.mol_ridge import MolRidge
from equipoise.methods.mol_sn import DEGRAD, DEGRAD_M, MOLSN
from equipoise.methods.unet import UNet
from equipoise.methods.unrolled import ADMMNet, MoDL
from equipoise.networks.adaptation import Adaptation
from equipoise.networks.cnn import CNN
from equipoise.networks.ridge import Ridge
from equipoise.networks.spectral import SpectralCNN
from equipoise.networks.unet import ResidualUNet

METHODS: dict[str, type[Method]] = {
    kind.name: kind for kind in (MOL, MOLM, MOLSN, DEGRAD, MolRidge, MolGuided, MoDL, ADMMNet, UNet)
}
ARTEFACT_GAIN = 0.1
"""MoDL and ADMM-Net start with ``N = 0.1 x``, as MOL does with ``H = 0.9 x``."""


def new_method(
    name: str,
    *,
    network: dict[str, int],
    lam: float,
    m: float,
    iterations: int,
    seed: int,
    skip: float = 0.0,
) -> Method:
    """An untrained method.

    Parameters
    ----------
    name
        A key of :data:`METHODS`.
    network
        Configuration of the CNN; the U-Net has half of its features at full resolution, and the
        ridge takes its features and channels.
    lam
        Start of the data weight at a typical noise.
    m
        Monotonicity constant of MOL-LR, MOL-M and MOL-SN.
    iterations
        Blocks of the unrolled methods.
    seed
        Seed of the weights.
    skip
        That of the network of MOL-LR and MOL-M.
    """
    if name in (MolRidge.name, MolGuided.name):
        return _new_ridge(name, network, lam, m, seed)
    weight = DataWeight(lam=lam)
    if name in (MOL.name, MOLM.name):
        kind = MOL if name == MOL.name else MOLM
        return kind(CNN(**network, skip=skip, seed=seed), weight, m)
    if name == MOLSN.name:
        return MOLSN(SpectralCNN(1 - m, **network, seed=seed), weight, m, m_evidence="proved")
    if name == DEGRAD.name:
        spectral = SpectralCNN(1 - DEGRAD_M, **network, seed=seed)
        return DEGRAD(spectral, weight, DEGRAD_M, m_evidence="proved")
    if name == UNet.name:
        return UNet(ResidualUNet(network["features"] // 2, seed), weight)
    unrolled = {MoDL.name: MoDL, ADMMNet.name: ADMMNet}[name]
    return unrolled(CNN(**network, gain=ARTEFACT_GAIN, seed=seed), weight, iterations)


def _new_ridge(name: str, network: dict[str, int], lam: float, m: float, seed: int) -> Method:
    """The ridge, alone or in two passes that start as the same."""
    channels, features = network.get("channels", 2), network["features"]
    ridges = [Ridge(m, features, channels=channels, seed=seed) for _ in range(2)]
    weights = [ScanRule(lam, rising=False) for _ in range(2)]
    guide = MolRidge(ridges[0], weights[0])
    if name == MolRidge.name:
        return guide
    return MolGuided(ridges[1], guide, Adaptation(features, seed=seed), weights[1])


def saved_method(name: str, network: dict[str, Any], weight: Any, settings: dict[str, Any]) -> Any:
    """A method as it was saved, before its weights are filled in."""
    kind: Any = METHODS[name]
    bodies: dict[str, Any] = {
        UNet.name: ResidualUNet,
        MolRidge.name: Ridge,
        MolGuided.name: Ridge,
    }
    body = bodies.get(name, CNN)(**network)
    if name == MolGuided.name:
        guide = MolRidge(Ridge(**settings["guide"]))
        return MolGuided(body, guide, Adaptation(body.features, settings["hidden"]), weight)
    return kind(body, weight, **settings)
