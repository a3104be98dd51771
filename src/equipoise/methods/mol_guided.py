"""MOL in two passes: the image of the first sets the thresholds of the second, pixel by pixel
(23)."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.data_weight import ScanRule
from equipoise.methods.method import MethodConfig, ParameterGroup
from equipoise.methods.mol import Amplification, Conditioned
from equipoise.methods.mol_ridge import MolRidge, MolRidgeConfig, RidgeLikeConfig
from equipoise.networks.adaptation import Adaptation, AdaptationConfig
from equipoise.networks.network import Network
from equipoise.networks.proved import convolution_norm_upper
from equipoise.networks.ridge import Ridge
from equipoise.outcome import Solution
from equipoise.physics.linop import LinearOperator
from equipoise.shapes import Data, Image, PerSample

FIRST_RTOL = 0.03
"""Certified accuracy of the first image, which is a guide. A solver of the guide that asks for more
is not followed in this; its other options are used."""


class MolGuidedConfig(RidgeLikeConfig):
    """See :class:`MolGuided`; all its networks have the same number of features."""

    PARTS: ClassVar[tuple[str, ...]] = (*RidgeLikeConfig.PARTS, "guide", "adaptation")

    method: Literal["mol-guided"] = "mol-guided"
    guide: MolRidgeConfig = MolRidgeConfig()
    adaptation: AdaptationConfig = AdaptationConfig()

    @classmethod
    def after(cls, guide: MolRidgeConfig, hidden: int) -> "MolGuidedConfig":
        """The configuration of two passes that start with equal weights."""
        parts = {name: getattr(guide, name) for name in RidgeLikeConfig.PARTS}
        adaptation = AdaptationConfig(features=guide.network.features, hidden=hidden)
        return cls(**parts, guide=guide, adaptation=adaptation)

    @model_validator(mode="after")
    def _same_features(self) -> "MolGuidedConfig":
        networks = (self.network, self.guide.network, self.adaptation)
        widths = [network.features for network in networks]
        if len({*widths}) > 1:
            raise ValueError(
                "features of network, guide.network and adaptation are "
                f"{', '.join(map(str, widths))}: they must be the same"
            )
        return self


class MolGuided(MolRidge):
    """``lam A^H (A x* - b) + F(x*; y) = 0``, with y the image of a :class:`MolRidge`, then fixed.

    ``F(x; y) = m x + U^T s(U x; tau(y))``: the thresholds of the ridge times factors for every
    channel and pixel that an :class:`Adaptation` reads off y. For a fixed y, F is m-strongly
    monotone in x for every value of the weights, so the second equilibrium is unique and the
    distance to it is certified like that of any other. How far x* moves with the data through y is
    bounded by :meth:`amplification`.

    Parameters
    ----------
    network
        The ridge of the second pass.
    guide
        The method of the first pass.
    adaptation
        The network that gives the factors.
    data_weight, threshold_rule
        Rules of the second pass.
    options
        Default solver options of the second pass.
    """

    name = "mol-guided"
    Config: ClassVar[type[MethodConfig]] = MolGuidedConfig
    frozen = True

    def __init__(
        self,
        network: Ridge,
        guide: MolRidge,
        adaptation: Adaptation,
        data_weight: ScanRule | None = None,
        threshold_rule: ScanRule | None = None,
        *,
        options: SolverOptions | None = None,
    ):
        super().__init__(network, data_weight, threshold_rule, options=options)
        # A guide that changed would change F for all scans, and the calibration with it.
        self.guide, self.adaptation = guide.requires_grad_(False), adaptation

    @classmethod
    def after(cls, guide: MolRidge, hidden: int = 32, seed: int = 0) -> "MolGuided":
        """A second pass that starts as the first one, with factors of 1."""
        network = copy.deepcopy(guide.network).requires_grad_()
        weight: Any = copy.deepcopy(guide.data_weight).requires_grad_()
        threshold = copy.deepcopy(guide.threshold_rule).requires_grad_()
        adaptation = Adaptation(network.features, hidden, seed)
        return cls(network, guide, adaptation, weight, threshold)

    @classmethod
    def around(cls, network: Any, config: Any) -> "MolGuided":
        """The model of a configuration with a network that was built."""
        guide = MolRidge.around(config.guide.network.build(), config.guide)
        rules = config.data_weight.build(), config.threshold_rule.build(rising=True)
        return cls(network, guide, config.adaptation.build(), *rules, options=config.solver)

    @property
    def predictor(self) -> MolRidge:
        """The first pass, which costs half, and whose best weights are the same multiples."""
        return self.guide

    def parameter_groups(self) -> list[ParameterGroup]:
        """The groups of the second pass; the first pass is trained before and stays fixed."""
        return [*super().parameter_groups(), ParameterGroup(list(self.adaptation.parameters()))]

    def conditioned(
        self,
        operator: LinearOperator,
        data: Data,
        relative_noise: PerSample,
        threshold: PerSample | None,
        options: SolverOptions,
    ) -> Conditioned:
        """The ridge with the thresholds that follow from the first image, which is also the start.

        Gradients pass through the first pass too, so attacks and sensitivities include it.
        """
        ridge = super().conditioned(operator, data, relative_noise, threshold, options)
        scale = torch.ones_like(relative_noise)
        first = self.guide.solve(
            operator,
            data,
            noise_level=relative_noise,
            scale=scale,
            options=self._first_options(options),
        )
        factors = self._factors(first.value, self.guide.threshold_for(operator, relative_noise))
        scales = ridge.inputs[0]
        network = self.network.at(scales, factors)
        return Conditioned(network, (scales, factors), first.value, first, scales)

    def _first_options(self, options: SolverOptions) -> SolverOptions:
        """Those of the guide, at the accuracy of a guide and in the tiles of the second pass."""
        own = self.guide.options
        return replace(
            own,
            rtol=max(own.rtol, FIRST_RTOL),
            exact=False,
            tile=options.tile,
            recompute=options.recompute,
        )

    def of_first(self, solution: Solution) -> Callable[[Image], Network]:
        """``y -> H(.; y)``, the network of the second pass as a function of the first image.

        At the thresholds of a solution; y in the units of the network.
        """
        assert solution.first is not None
        threshold, scales = solution.first.network.threshold, solution.network.threshold
        return lambda y: self.network.at(scales, self._factors(y, threshold.expand(len(y))))

    def amplification(self, solution: Solution) -> Amplification:
        """Both numbers of (23), with lam, the intensity scale and the thresholds held.

        ``||x*(b + d) - x*(b)||`` is at most ``1/2 sqrt(lam / m) ||d||`` with the first image held,
        and more by ``l / (2 m) sqrt(lam_1 / m_1) ||d||`` as it moves, l the Lipschitz constant of
        ``y -> F(x; y)``: ``||U||`` times that of the thresholds, which is proved layer by layer.
        """
        assert solution.first is not None
        second = super().amplification(solution).end_to_end
        first = self.guide.amplification(solution.first).end_to_end
        moved = self._first_lipschitz(solution) / self.m * first
        return Amplification(second, second + moved)

    @torch.no_grad()
    def _first_lipschitz(self, solution: Solution) -> float:
        """Bound of ``||F(x; y) - F(x; y')|| / ||y - y'||``, for all images x."""
        assert solution.first is not None
        second, first = self.network.used(), self.guide.network.used()
        # |s(z; t) - s(z; t')| <= sum_j a_j |t_j - t'_j|, and t are these sizes times the factors.
        sizes = (second.thresholds * second.shares).sum(0) * float(solution.network.threshold[0])
        kernel = self.guide.network.kernel().to(self.network.dtype)
        unit = first.thresholds.log().mean(0).exp() * float(solution.first.network.threshold[0])
        coefficients = convolution_norm_upper(kernel / unit[:, None, None, None])
        u = convolution_norm_upper(self.network.kernel().to(self.network.dtype))
        return u * self.adaptation.lipschitz_upper(sizes) * coefficients

    def _factors(self, image: Tensor, threshold: PerSample) -> Tensor:
        return self.adaptation(self.guide.network.coefficients(image, threshold))
