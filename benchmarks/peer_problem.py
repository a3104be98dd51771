"""The problem on which equilibrium codes are compared; it needs only torch.

It has one complex 128 x 128 image, 8 smooth coils, 4-fold random lines with 10 calibration lines,
noise 0.01, and lam = 20. ``H = 0.9 x + 0.08 N(x)``, where N has five 3 x 3 convolutions with 64
features and ReLU, each divided by its norm, so that ``Lip(H) <= 0.98``. The gradient that is
compared is that of the loss ``mean |x* - target|^2``.
"""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

SIZE, COILS, FEATURES, LAYERS = 128, 8, 64, 5
LAM, ALPHA, M = 20.0, 0.5, 0.02
CG_RTOL, CG_MAX_ITER = 1e-6, 50


class PeerNetwork(nn.Module):
    """``H(x) = 0.9 x + 0.08 N(x)`` on complex images (batch, y, x), N in the dtype of its weights.

    ``counts`` holds the evaluations and the products with the transposed Jacobian, copies included.
    """

    counts: ClassVar[dict[str, int]] = {"evaluations": 0, "products": 0}

    def __init__(self, seed: int = 0):
        super().__init__()
        widths = [2] + [FEATURES] * (LAYERS - 1) + [2]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.convolutions = nn.ModuleList(
                nn.Conv2d(i, o, 3, padding=1) for i, o in itertools.pairwise(widths)
            )
        self.to(memory_format=torch.channels_last)

    @property
    def dtype(self) -> torch.dtype:
        """Real dtype of the weights."""
        return self.convolutions[0].weight.dtype

    def channels(self, x: Tensor) -> Tensor:
        """``H`` on real images (batch, 2, y, x)."""
        self.counts["evaluations"] += 1
        h = x.to(self.dtype)
        for layer in self.convolutions[:-1]:
            h = torch.relu_(layer(h))
        h = 0.9 * x + 0.08 * self.convolutions[-1](h).to(x.dtype)
        if h.requires_grad:
            h.register_hook(self._count_product)
        return h

    def _count_product(self, gradient: Tensor) -> None:
        self.counts["products"] += 1

    def forward(self, image: Tensor) -> Tensor:
        """``H`` on complex images, in the precision of the weights."""
        dtype = torch.complex128 if self.dtype == torch.float64 else torch.complex64
        h = self.channels(torch.view_as_real(image.to(dtype)).permute(0, 3, 1, 2))
        return torch.view_as_complex(h.permute(0, 2, 3, 1).contiguous()).to(image.dtype)


@dataclass
class Problem:
    """A network, an acquisition, and what is known of the solution."""

    network: PeerNetwork
    csm: Tensor
    mask: Tensor
    kspace: Tensor
    target: Tensor
    reference: Tensor | None = None
    reference_gradient: list[Tensor] | None = None

    def distance(self, image: Tensor) -> float:
        """``||x - x*|| / ||x*||``."""
        assert self.reference is not None
        error = image.detach().to(self.reference.dtype) - self.reference
        return float(error.norm() / self.reference.norm())

    def loss(self, image: Tensor) -> Tensor:
        """``mean |x - target|^2``."""
        return (image - self.target).abs().square().mean()

    def gradient_error(self) -> float:
        """Relative error of the gradients that the weights hold, all in one vector."""
        assert self.reference_gradient is not None
        wrong = right = 0.0
        for p, exact in zip(self.network.parameters(), self.reference_gradient):
            gradient = torch.zeros_like(p) if p.grad is None else p.grad
            wrong += float((gradient.double() - exact).square().sum())
            right += float(exact.square().sum())
        return (wrong / right) ** 0.5

    def save(self, path: str) -> None:
        """To a file that :meth:`load` reads."""
        names = ("csm", "mask", "kspace", "target", "reference", "reference_gradient")
        content = {name: getattr(self, name) for name in names}
        torch.save({**content, "state": self.network.state_dict()}, path)

    @classmethod
    def load(cls, path: str) -> "Problem":
        """From a file of :meth:`save`."""
        content = torch.load(path, weights_only=True)
        network = PeerNetwork()
        network.load_state_dict(content.pop("state"))
        return cls(network, **content)
