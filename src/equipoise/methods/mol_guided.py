"""MOL in two passes: the image of the first sets the thresholds of the second, pixel by pixel
(23)."""

import math
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.data_weight import ScanRule
from equipoise.methods.method import Method, MethodConfig, ParameterGroup
from equipoise.methods.mol import Amplification, Conditioned
from equipoise.methods.mol_ridge import MolRidge, MolRidgeConfig, RidgeLikeConfig
from equipoise.networks.adaptation import AdaptationConfig, FactorNetwork, Units
from equipoise.networks.network import Network
from equipoise.networks.proved import convolution_norm_upper
from equipoise.networks.ridge import Ridge, RidgeConfig
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

    def started_by(self, ridge: RidgeLikeConfig) -> "MolGuidedConfig":
        """These settings with those that a first pass determines, whose weights start both passes.

        m of both passes, the width and the limit of the factors remain.
        """
        parts = {name: getattr(ridge, name) for name in RidgeLikeConfig.PARTS}
        first = _with_m(ridge.network, self.guide.network)
        guide = self.guide.model_copy(update={**parts, "network": first, "solver": ridge.solver})
        width = {"features": ridge.network.features}
        parts["network"] = _with_m(ridge.network, self.network)
        adaptation = self.adaptation.model_copy(update=width)
        return self.model_copy(update={**parts, "guide": guide, "adaptation": adaptation})

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


def _with_m(network: RidgeConfig, asked: RidgeConfig) -> RidgeConfig:
    """A network with the m that is asked for, if one was given: it does not belong to weights."""
    given = "m" in asked.model_fields_set
    return network.model_copy(update={"m": asked.m}) if given else network


class MolGuided(MolRidge):
    """``lam A^H (A x* - b) + F(x*; y) = 0``, with y the image of a :class:`MolRidge`, then fixed.

    ``F(x; y) = m (x - y) + U^T s(U x; tau(y))``: the thresholds of the ridge times factors for
    every channel and pixel that a :class:`~equipoise.networks.adaptation.FactorNetwork` reads off
    y, and a pull to y instead of zero, so that a large m costs little. For a fixed y, F is
    m-strongly monotone in x for every value of the weights, so the second equilibrium is unique and
    the distance to it is certified like that of any other. How far x* moves with the data through y
    is bounded by :meth:`amplification`; with a ``limit`` of the factors the bound is a few times
    that of the first pass, for every scan and all weights.

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
    consistent = False
    """Whether the second pass follows from ``A^H b`` too, and not only from the first image."""

    first: Solution | None = None
    """The solution of the first pass, where it is known."""

    reference: Image | None = None
    """y, where it is known."""

    def __init__(
        self,
        network: Ridge,
        guide: MolRidge,
        adaptation: FactorNetwork,
        data_weight: ScanRule | None = None,
        threshold_rule: ScanRule | None = None,
        *,
        options: SolverOptions | None = None,
    ):
        super().__init__(network, data_weight, threshold_rule, options=options)
        # A guide that changed would change F for all scans, and the calibration with it.
        self.guide, self.adaptation = guide.requires_grad_(False), adaptation
        self.robust = adaptation.config.limit is not None

    @classmethod
    def after(cls, guide: MolRidge, config: MolGuidedConfig, seed: int = 0) -> "MolGuided":
        """Two passes that start as the first one, with factors of 1."""
        held: Any = guide.config
        started = config.started_by(held)
        model = cls.around(started.network.build(), started)
        model.adaptation = started.adaptation.build(seed)
        for part in (model, model.guide):
            for name in RidgeLikeConfig.PARTS:
                part.get_submodule(name).load_state_dict(guide.get_submodule(name).state_dict())
        return model

    @classmethod
    def around(cls, network: Any, config: Any) -> "MolGuided":
        """The model of a configuration with a network that was built."""
        guide = MolRidge.around(config.guide.network.build(), config.guide)
        rules = config.data_weight.build(), config.threshold_rule.build(rising=True)
        return cls(network, guide, config.adaptation.build(), *rules, options=config.solver)

    @property
    def passes(self) -> tuple[Method, ...]:
        """Both, the second one first."""
        return self, self.guide

    def after_first(self, solution: Solution) -> "MolGuided":
        """This method, with the first image of a solution for the same data, A and noise level."""
        assert solution.first is not None
        none = torch.zeros_like(solution.first.network_evaluations)
        model = copy(self)
        model.first = replace(solution.first, network_evaluations=none)
        model.reference = solution.network.reference
        return model

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
        start: Image | None = None,
    ) -> Conditioned:
        """The ridge with the thresholds that follow from the first image, which is also the start.

        Gradients pass through the first pass too, so attacks and sensitivities include it.
        """
        ridge = super().conditioned(operator, data, relative_noise, threshold, options)
        scale = torch.ones_like(relative_noise)
        first = self.first or self.guide.solve(
            operator,
            data,
            noise_level=relative_noise,
            scale=scale,
            start=start,
            options=self._first_options(options),
        )
        if self.consistent and first.adjoint_image is None:
            first.adjoint_image = operator.adjoint(data)
        scales = ridge.inputs[0]
        first_scales = self.guide.threshold_for(operator, relative_noise)
        guide = self.reference
        if guide is None:
            handed = self.handed(first.value, first.adjoint_image)
            guide = self._refined(handed, operator, first.lam)
        factors = self._factors(guide, first_scales, self._units(scales, first_scales))
        # A copy, so that a gradient reaches y once as the reference and once through the factors;
        # and rounded once, so that the equation is the same in double precision.
        y = guide.to(self.network.dtype.to_complex(), copy=True)
        network = self.network.at(scales, factors, reference=y)
        return Conditioned(network, (scales, factors, y), guide, first, scales)

    def handed(self, first: Image, seen: Image | None) -> Tensor:
        """What y follows from, of a first image and of ``A^H b``: the image alone.

        It is linear in both. ``seen`` is not used unless the method is ``consistent``.
        """
        return first

    def taken(self, handed: Tensor) -> tuple[Image, Image | None]:
        """The adjoint of :meth:`handed`."""
        return handed, None

    def _refined(self, handed: Tensor, operator: LinearOperator | None, lam: PerSample) -> Image:
        """y: the first image itself."""
        return handed

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

    def of_first(self, solution: Solution) -> Callable[[Tensor, LinearOperator | None], Network]:
        """H of the second pass as a function of what is :meth:`handed` on, and of A.

        At the thresholds of a solution; images in the units of the network. A may be left out
        unless the method is ``consistent``.
        """
        units, first = self._units_of(solution)
        assert solution.first is not None
        lam = solution.first.lam.detach()

        def network(handed: Tensor, operator: LinearOperator | None = None) -> Any:
            count = len(handed)
            scale, guide = first.expand(count), self._refined(handed, operator, lam.expand(count))
            each = units._replace(ratio=units.ratio.expand(count))
            factors = self._factors(guide, scale, each)
            second = solution.network.threshold.expand(count)
            return self.network.at(second, factors, reference=guide)

        return network

    def amplification(self, solution: Solution) -> Amplification:
        """Both numbers of (23), with lam, the intensity scale and the thresholds held.

        ``||x*(b + d) - x*(b)||`` is at most ``1/2 sqrt(lam / m) ||d||`` with the first image held,
        and more by ``l / (2 m) sqrt(lam_1 / m_1) ||d||`` as it moves, l the Lipschitz constant of
        ``y -> F(x; y)``: m, and ``||U||`` times that of the thresholds.
        """
        assert solution.first is not None
        second = super().amplification(solution).first_held
        first = self.guide.amplification(solution.first).first_held
        moved = self._first_lipschitz(solution) / self.m * first
        return Amplification(second, second + moved)

    @torch.no_grad()
    def _first_lipschitz(self, solution: Solution) -> float:
        """Bound of ``||F(x; y) - F(x; y')|| / ||y - y'||``, for all images x."""
        # |s(z; t) - s(z; t')| <= sum_j a_j |t_j - t'_j|, and factors multiply sum_j a_j t_j.
        units, _ = self._units_of(solution)
        norms = (
            convolution_norm_upper(one.kernel().to(self.network.dtype))
            for one in (self.network, self.guide.network)
        )
        return self.m + math.prod(norms) * self.adaptation.lipschitz_upper(units)

    @torch.no_grad()
    def _units(self, scales: PerSample, first_scales: PerSample) -> Units:
        second, first = self.network.used(), self.guide.network.used()
        sizes = (second.thresholds * second.shares).sum(0)
        return Units(first.thresholds.log().mean(0).exp(), sizes, scales / first_scales)

    def _units_of(self, solution: Solution) -> tuple[Units, PerSample]:
        """The units of a solution, and the scale of the thresholds of its first pass."""
        assert solution.first is not None
        first = solution.first.network.threshold
        return self._units(solution.network.threshold, first), first

    def _factors(self, image: Tensor, threshold: PerSample, units: Units) -> Tensor:
        return self.adaptation(self.guide.network.coefficients(image, threshold), units)
