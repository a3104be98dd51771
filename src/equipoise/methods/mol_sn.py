"""Equilibria whose network is Lipschitz by construction: MOL-SN and DE-GRAD."""

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.equilibrium_config import EquilibriumConfig
from equipoise.methods.mol import MOL
from equipoise.networks.cnn import CNN, CNNConfig
from equipoise.networks.spectral import SpectralCNN
from equipoise.shapes import Image, PerSample

DEGRAD_RTOL = 1e-4
"""Relative step at which the iteration of DE-GRAD stops."""

STEP_RTOL = 0.1
"""Ratio of the step tolerance in training to the certified tolerance that it replaces."""

DEGRAD_M = 1e-3
"""m of DE-GRAD. In the paper its layers have norm 1; a product just below 1 keeps the equilibrium
unique."""


class MolSnConfig(EquilibriumConfig):
    """See :class:`MOLSN`."""

    method: Literal["mol-sn"] = "mol-sn"
    network: CNNConfig = CNNConfig()


class DeGradConfig(EquilibriumConfig):
    """See :class:`DEGRAD`."""

    method: Literal["de-grad"] = "de-grad"
    network: CNNConfig = CNNConfig()
    m: float = Field(DEGRAD_M, gt=0, lt=1, description="1 less the product of the layer norms")
    solver: SolverOptions = SolverOptions(
        rule="step", step="gradient", rtol=DEGRAD_RTOL, max_iter=500
    )


class MOLSN(MOL):
    """MOL with a proved constant: the product of the layer bounds is at most ``1 - m`` (15)."""

    name = "mol-sn"
    Config: ClassVar[type[EquilibriumConfig]] = MolSnConfig

    @classmethod
    def untrained(cls, config: EquilibriumConfig, seed: int) -> nn.Module:
        """A network whose kernels are divided by their norms during training."""
        return SpectralCNN(1 - config.m, **config.network.model_dump(), seed=seed)

    def constraint(self, image: Image, steps: int, seed: int = 0) -> PerSample | None:
        """None: the constant is proved, so nothing is measured."""
        return None

    def refresh(self, exact: bool = False) -> None:
        """Update the norms of the kernels; a baked network has none to update."""
        if isinstance(self.network, SpectralCNN):
            self.network.refresh(exact)

    def for_inference(self) -> "MOLSN":
        """The same model with the kernels scaled by their proved norms."""
        network = self.network.baked() if isinstance(self.network, SpectralCNN) else self.network
        shift, options = self.shift, self.options
        return type(self)(network, self.data_weight, self.m_network, shift=shift, options=options)


class DEGRAD(MOLSN):
    """``x <- x - eta (lam A^H (A x - b) + R(x))``, R = I - S, S spectrally normalised.

    See Gilton, Ongie, Willett, IEEE Trans. Comput. Imaging 7:1123-1133, 2021. Their convergence
    theorem requires R - I to be a contraction. The equilibrium does not depend on their step size;
    it is that of :class:`MOLSN` with a smaller m. The data weight replaces the free scale of their
    R. Images are computed as in the paper, with its step, accelerated by Anderson, and its stopping
    rule, the size of the step. Training reaches the same equilibrium by the faster map (2).
    """

    name = "de-grad"
    Config = DeGradConfig

    def __init__(self, network: CNN, data_weight: nn.Module, m: float, **settings: Any):
        settings["options"] = settings.get("options") or DeGradConfig().solver
        super().__init__(network, data_weight, m, **settings)

    def training_options(self, rtol: float, max_iter: int) -> SolverOptions:
        """The step rule, because certified tolerances would cost many more steps at a small m."""
        return SolverOptions(rule="step", rtol=STEP_RTOL * rtol, max_iter=max_iter, exact=False)
