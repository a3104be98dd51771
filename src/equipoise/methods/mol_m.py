"""MOL with the weakest constraint that its theory needs: F monotone, H not a contraction."""

from typing import Literal

import torch

from equipoise.methods.mol import MOL, EquilibriumConfig
from equipoise.networks.cnn import SkipCNNConfig
from equipoise.networks.measured import lipschitz_lower, one_sided_lipschitz_lower
from equipoise.shapes import Image, PerSample


class MolMConfig(EquilibriumConfig):
    """See :class:`MOLM`."""

    method: Literal["mol-m"] = "mol-m"
    network: SkipCNNConfig = SkipCNNConfig()


class MOLM(MOL):
    """``mol-m``: the barrier (14) on the one-sided Lipschitz constant of H instead of Lip(H).

    The equilibrium is unique, and (7), (7b) and (8) hold, if F is m-strongly monotone (5); that
    H is a contraction is sufficient, not necessary. What is lost is the contraction factor (6): the
    step (2) is sure to converge only for ``alpha < 2 m / Lip(F)^2``, which the safeguard of the
    solver finds by halving alpha where the bound does not go down.
    """

    name = "mol-m"
    Config = MolMConfig

    def constraint(self, image: Image, steps: int, seed: int = 0) -> PerSample | None:
        """``one_sided_lipschitz_lower`` of H, or the norm of its J less ``NORM_LIMIT - T``."""
        one_sided = one_sided_lipschitz_lower(self.network, image, steps=steps, seed=seed)
        norm = lipschitz_lower(self.network, image, steps=steps, seed=seed)
        return torch.maximum(one_sided, norm - (NORM_LIMIT - (1 - self.m_network)))


NORM_LIMIT = 1.5
"""Training keeps the norm of J below this, by the same barrier. (5) does not need it, the solver
does: without it F grows stiff until no training step reaches its equilibrium any more."""
