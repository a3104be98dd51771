"""A CNN whose Lipschitz constant is bounded by construction, layer by layer (15)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from equipoise.networks.cnn import CNN
from equipoise.networks.proved import convolution_norm_upper


class NormEstimate(nn.Module):
    """The norm of one convolution by warm-started power iteration, differentiable in the kernel.

    The estimate is measured, hence too low; saved kernels are scaled by the proved
    :func:`convolution_norm_upper`.

    Parameters
    ----------
    kernel_shape
        (out, in, k, k).
    size
        Side of the images that the power iteration acts on.
    seed
        Seed of the first image.
    """

    image: Tensor
    correlation: Tensor

    def __init__(self, kernel_shape: tuple[int, ...], size: int = 24, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        image = torch.randn((1, kernel_shape[1], size, size), generator=generator)
        self.register_buffer("image", image)
        self.register_buffer("correlation", torch.zeros(kernel_shape))

    @torch.no_grad()
    def update(self, kernel: Tensor, iterations: int) -> None:
        """Power iterations ``v <- W^T W v``; then store ``C`` with ``u^T W v = <w, C>``."""
        padding = kernel.shape[-1] // 2
        for _ in range(iterations):
            v = self.image / torch.linalg.vector_norm(self.image)
            u = F.conv2d(v, kernel, padding=padding)
            self.image = F.conv_transpose2d(u, kernel, padding=padding)
        # Only here: within the iterations the norm of u does not matter.
        u = u / torch.linalg.vector_norm(u)
        shape = list(kernel.shape)
        self.correlation = conv2d_weight(  # type: ignore[no-untyped-call]
            v, shape, u, padding=padding
        )

    def forward(self, kernel: Tensor) -> Tensor:
        """``u^T W v`` for the singular vectors of the last update."""
        return (kernel * self.correlation).sum()


LINEAR_RANGE = 2.0
"""Offset, in units of the intensity scale, that keeps the channels of the image positive, where
ReLU is the identity. Carrying +x and -x, as MOL-LR does, would cost a factor 2 of the bound."""


TRAINING_ITERATIONS, START_ITERATIONS = 2, 60
"""Power iterations for each training step, and before the first step."""


class SpectralCNN(CNN):
    """A CNN with every kernel divided by its norm, times ``bound^(1 / layers)`` (15).

    Training divides by an estimate of the norm that follows the kernel and carries its gradient,
    times the ratio of proved bound to estimate at the last exact :meth:`refresh`. Nothing changes
    within a training step, so all evaluations of one solve use the same operator.

    Parameters
    ----------
    bound
        Proved Lipschitz constant of the network that :meth:`baked` returns.
    features, layers, kernel_size, seed, channels
        See :class:`CNN`.
    """

    def __init__(self, bound: float, **configuration: Any):
        super().__init__(**configuration, gain=0.0)
        self.layer_bound = bound ** (1 / self.layers)
        self.estimates = nn.ModuleList(NormEstimate(tuple(k.shape)) for k in self.kernels())
        self.excess: Tensor
        self.register_buffer("excess", torch.ones(self.layers))
        self._carry_image()
        self.refresh(exact=True, iterations=START_ITERATIONS)
        self._remove_offset()

    def refresh(self, exact: bool = False, iterations: int = TRAINING_ITERATIONS) -> None:
        """Update the estimates; with ``exact``, also the ratio of proved to estimated norm."""
        for layer, kernel in enumerate(self.kernels()):
            estimate: Any = self.estimates[layer]
            estimate.update(kernel, iterations)
            # The proved bound is too slow for every step, and it changes slowly relative to the
            # estimate.
            if exact:
                proved = convolution_norm_upper(kernel.detach())
                self.excess[layer] = proved / float(estimate(kernel.detach()))

    def used_kernel(self, layer: int) -> Tensor:
        """The kernel, normalised."""
        kernel = self.kernels()[layer]
        scale = self.layer_bound / (self.estimates[layer](kernel) * self.excess[layer])
        return kernel * scale

    def lipschitz_upper(self) -> float:
        """The bound for the normalised kernels, which are used, not for the learned ones."""
        return super().lipschitz_upper() / BELOW

    @torch.no_grad()
    def baked(self) -> CNN:
        """A plain CNN with the proved constant; the same function up to the last refresh."""
        network = CNN(**self.config.model_dump(), gain=0.0).to(self.dtype)
        for layer, kernel in enumerate(self.kernels()):
            target: Any = network.convolutions[layer]
            target.weight.copy_(kernel * (self.layer_bound / convolution_norm_upper(kernel)))
            # After the scaling, because its rounding could lift the norm above the bound.
            target.weight.mul_(BELOW)
            target.bias.copy_(self.convolutions[layer].bias)
        return network

    @torch.no_grad()
    def _carry_image(self) -> None:
        """The first channels hold the real and imaginary part plus an offset."""
        centre = self.kernel_size // 2
        first, *middle, last = self.kernels()
        for kernel in (first, *middle, last):
            kernel.mul_(RANDOM_FRACTION)
        last.mul_(RANDOM_FRACTION)
        for part in range(self.channels):
            for kernel in (first, *middle, last):
                kernel[part] = 0
                kernel[:, part] = 0 if kernel is not first else kernel[:, part]
            for kernel in (first, *middle, last):
                kernel[part, part, centre, centre] = 1
        first_convolution: Any = self.convolutions[0]
        first_convolution.bias[: self.channels] = LINEAR_RANGE

    @torch.no_grad()
    def _remove_offset(self) -> None:
        """Subtract the response to zero, which is constant away from the border."""
        # Larger than twice the reach, so that the middle does not see the border.
        size = 4 * self.layers * self.kernel_size
        zero = torch.zeros((1, size, size), dtype=torch.complex64, device=self.excess.device)
        middle = torch.view_as_real(self(zero)[0, size // 2, size // 2])
        last_convolution: Any = self.convolutions[-1]
        last_convolution.bias.sub_(middle[: self.channels])


RANDOM_FRACTION = 0.3
"""Scale of the random channels next to those that carry the image."""


BELOW = 1 - 1e-6
"""Keeps the norm below its bound although kernels are rounded to single precision after scaling."""
