"""MOL with the weakest constraint that the theory needs: F is monotone, H need not contract."""

from typing import Literal

import torch

from equipoise.methods.equilibrium_config import EquilibriumConfig
from equipoise.methods.mol import MOL
from equipoise.networks.cnn import SkipCNNConfig
from equipoise.networks.measured import lipschitz_lower, one_sided_lipschitz_lower
from equipoise.shapes import Image, PerSample


class MolMConfig(EquilibriumConfig):
    """See :class:`MOLM`."""

    method: Literal["mol-m"] = "mol-m"
    network: SkipCNNConfig = SkipCNNConfig()


class MOLM(MOL):
    """``mol-m``: the barrier (14) on the one-sided Lipschitz constant of H instead of Lip(H).

    The equilibrium is unique, and (7), (7b) and (8) hold, if F is m-strongly monotone (5). It is
    sufficient but not necessary that H is a contraction. Without it the contraction factor (6) is
    lost: the step (2) is sure to converge only for ``alpha < 2 m / Lip(F)^2``. The safeguard of the
    solver finds such an alpha by halving it when the bound does not decrease.
    """

    name = "mol-m"
    Config = MolMConfig

    def constraint(self, image: Image, steps: int, seed: int = 0) -> PerSample | None:
        """``one_sided_lipschitz_lower``, or the norm of J minus ``NORM_LIMIT - T`` if larger."""
        one_sided = one_sided_lipschitz_lower(self.network, image, steps=steps, seed=seed)
        norm = lipschitz_lower(self.network, image, steps=steps, seed=seed)
        return torch.maximum(one_sided, norm - (NORM_LIMIT - (1 - self.m_network)))


NORM_LIMIT = 1.5
"""Training keeps the norm of J below this, by the same barrier. (5) does not need it, but the
solver does: without it F grows so stiff that training steps no longer reach their equilibrium."""
