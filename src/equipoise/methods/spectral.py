"""Equilibria whose network is Lipschitz by construction: MOL-SN and DE-GRAD."""

from typing import Any

import torch
from torch import Tensor, nn

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.equilibrium.mol import MOL
from equipoise.equilibrium.network import CNN
from equipoise.robustness.spectral_norm import NormEstimate, convolution_norm_upper
from equipoise.shapes import Image, PerSample

LINEAR_RANGE = 2.0
"""Offset that keeps the channels of the image positive, in units of the intensity scale: ReLU is
the identity there. Carrying +x and -x, as MOL-LR does, would cost a factor 2 of the bound."""

TRAINING_ITERATIONS, START_ITERATIONS = 2, 60
"""Power iterations for each training step, and before the first."""


class SpectralCNN(CNN):
    """The CNN with every kernel divided by its norm, times ``bound^(1 / layers)`` (15).

    Training divides by an estimate of the norm that follows the kernel and carries its gradient,
    times the ratio of the proved bound to that estimate when :meth:`refresh` last looked. Within a
    training step nothing changes, so all evaluations of one solve are of one operator.

    Parameters
    ----------
    bound
        Proved Lipschitz constant of what :meth:`baked` returns.
    features, layers, kernel_size, seed, channels
        As for :class:`CNN`.
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
        """Follow the kernels; with ``exact``, renew the ratio of proved to estimated norm."""
        for layer, kernel in enumerate(self.kernels()):
            estimate: Any = self.estimates[layer]
            estimate.update(kernel, iterations)
            if exact:
                proved = convolution_norm_upper(kernel.detach())
                self.excess[layer] = proved / float(estimate(kernel.detach()))

    def used_kernel(self, layer: int) -> Tensor:
        """The kernel, normalised."""
        kernel = self.kernels()[layer]
        scale = self.layer_bound / (self.estimates[layer](kernel) * self.excess[layer])
        return kernel * scale

    @torch.no_grad()
    def baked(self) -> CNN:
        """A plain CNN with the proved constant, the same function up to the last refresh."""
        network = CNN(**self.configuration(), gain=0.0).to(self.dtype)
        for layer, kernel in enumerate(self.kernels()):
            target: Any = network.convolutions[layer]
            target.weight.copy_(kernel * (self.layer_bound / convolution_norm_upper(kernel)))
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
        size = 4 * self.layers * self.kernel_size
        zero = torch.zeros((1, size, size), dtype=torch.complex64)
        middle = torch.view_as_real(self(zero)[0, size // 2, size // 2])
        last_convolution: Any = self.convolutions[-1]
        last_convolution.bias.sub_(middle[: self.channels])


RANDOM_FRACTION = 0.3
"""Scale of the random channels beside those that carry the image."""

BELOW = 1 - 1e-6
"""Single-precision kernels are rounded after they were scaled."""


class MOLSN(MOL):
    """MOL with a proved constant: the product of the layer bounds is at most ``1 - m`` (15)."""

    name = "mol-sn"

    def constraint(self, image: Image, steps: int, seed: int = 0) -> PerSample | None:
        """None: the constant is proved, there is nothing to measure."""
        return None

    def refresh(self, exact: bool = False) -> None:
        """Let the norms follow the kernels; a network that was baked has nothing to follow."""
        if isinstance(self.network, SpectralCNN):
            self.network.refresh(exact)

    def for_inference(self) -> "MOLSN":
        """The same model with the kernels scaled by their proved norms."""
        network = self.network.baked() if isinstance(self.network, SpectralCNN) else self.network
        return type(self)(network, self.data_weight, self.m_network, m_evidence="proved")


class DEGRAD(MOLSN):
    """``x <- x - eta (lam A^H (A x - b) + R(x))``, R = I - S, S spectrally normalised.

    Gilton, Ongie, Willett, IEEE Trans. Comput. Imaging 7:1123-1133, 2021, whose convergence
    theorem asks that R - I be a contraction. Their step size does not enter the equilibrium, which
    is the one of :class:`MOLSN` with a smaller m; the data weight stands where their R has a free
    scale. Images are reached by their own step, accelerated by Anderson as theirs are, and stop by
    their rule, the size of the step; training reaches the same equilibrium by the faster map (2).
    """

    name = "de-grad"

    def __init__(self, network: CNN, data_weight: nn.Module, m: float, **settings: Any):
        options = SolverOptions(rule="step", step="gradient", rtol=DEGRAD_RTOL, max_iter=500)
        settings.setdefault("options", options)
        super().__init__(network, data_weight, m, **settings)

    def training_options(self, rtol: float, max_iter: int) -> SolverOptions:
        """The step rule: with its small m, certified tolerances would cost many more steps."""
        return SolverOptions(rule="step", rtol=STEP_RTOL * rtol, max_iter=max_iter)


DEGRAD_RTOL = 1e-4
STEP_RTOL = 0.1
"""A step of the map (2) relative to the certified distance that it stands for."""

DEGRAD_M = 1e-3
"""Its layers have norm 1 in the paper; a product just below 1 keeps the equilibrium unique."""
