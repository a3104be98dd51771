"""MOL with the ridge network: proved for every image; thresholds and lam follow the scan."""

from typing import Any, ClassVar, Literal

import torch

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.data_weight import TYPICAL_NOISE, ScanRule, ScanRuleConfig
from equipoise.methods.equilibrium_config import SolvedConfig
from equipoise.methods.method import MethodConfig, ParameterGroup
from equipoise.methods.mol import MOL, Conditioned
from equipoise.networks.conditioned import ConditionedNetwork
from equipoise.networks.ridge import Ridge, RidgeConfig
from equipoise.outcome import BadInputError
from equipoise.physics.linop import LinearOperator
from equipoise.shapes import Data, Image, PerSample

FASTER = 10.0
"""Factor of the learning rate of thresholds and shares. They are learned as logarithms and would
hardly move at the rate of the kernels."""

WINDOW = 10
"""Number of iterates that Anderson combines: 10 % fewer evaluations than with 5, at m = 0.01."""


LAM, THRESHOLD = 8.0, 0.03
"""Start values of the rules at a relative noise of 0.015 and 4-fold acceleration."""


class ConditionedConfig(SolvedConfig):
    """Settings of methods whose network has thresholds with a scale, and an m that it proves."""

    PARTS: ClassVar[tuple[str, ...]] = ("network", "data_weight", "threshold_rule")

    data_weight: ScanRuleConfig = ScanRuleConfig(value=LAM)  # type: ignore[assignment]
    threshold_rule: ScanRuleConfig = ScanRuleConfig(value=THRESHOLD, power=0.5)
    solver: SolverOptions = SolverOptions(window=WINDOW)


class RidgeLikeConfig(ConditionedConfig):
    """Settings of methods with a ridge."""

    network: RidgeConfig = RidgeConfig()


class MolRidgeConfig(RidgeLikeConfig):
    """See :class:`MolRidge`."""

    method: Literal["mol-ridge"] = "mol-ridge"


class MolRidge(MOL):
    """``lam A^H (A x* - b) + F_s(x*) = 0`` with F_s a ridge, s the scale of its thresholds (22).

    F_s is m-strongly monotone for every value of its weights and of s, so the equilibrium is unique
    and every bound is proved. x* minimises the convex function ``lam ||A x - b||^2 / 2 + R_s(x)``,
    with F_s the gradient of R_s. lam and s follow the relative noise and the acceleration of the
    scan by learned rules, or are the multiples of them that best
    predict samples that were left out; both may be given instead.

    Parameters
    ----------
    network
        The ridge, with its m, or another network with thresholds that proves one.
    data_weight
        Rule for lam.
    threshold_rule
        Rule for s.
    options
        Default solver options.
    """

    name = "mol-ridge"
    data_weight: ScanRule
    Config: ClassVar[type[MethodConfig]] = MolRidgeConfig
    by_construction = True
    usual_lam: Literal["auto", "rule"] = "auto"
    network: Any

    @classmethod
    def around(cls, network: Any, config: Any) -> "MolRidge":
        """The model of a configuration with a network that was built."""
        rules = config.data_weight.build(), config.threshold_rule.build(rising=True)
        return cls(network, *rules, options=config.solver)

    def __init__(
        self,
        network: Ridge | ConditionedNetwork,
        data_weight: ScanRule | None = None,
        threshold_rule: ScanRule | None = None,
        *,
        options: SolverOptions | None = None,
    ):
        super().__init__(
            network,
            data_weight or ScanRule(LAM, rising=False),
            network.m,
            options=options or SolverOptions(window=WINDOW),
        )
        self.threshold_rule = threshold_rule or ScanRule(THRESHOLD, rising=True, power=0.5)

    def settings(self) -> dict[str, Any]:
        """The solver options; m is a setting of the network."""
        return {"solver": self.options}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Kernels; thresholds and shares at ten times their rate; both rules."""
        body = self.network
        return [
            ParameterGroup(body.kernels()),
            ParameterGroup([body.log_threshold, body.share], factor=FASTER),
            ParameterGroup(
                [*self.data_weight.parameters(), *self.threshold_rule.parameters()], of_rules=True
            ),
        ]

    def refresh(self, exact: bool = False) -> None:
        """Does nothing, because the kernels are normalised in every evaluation."""

    def constraint(self, image: Image, steps: int, seed: int = 0) -> PerSample | None:
        """None: the constant is proved, so nothing is measured."""
        return None

    def training_options(self, rtol: float, max_iter: int) -> SolverOptions:
        """How training solves for the equilibrium."""
        return SolverOptions(rtol=rtol, max_iter=max_iter, window=WINDOW, exact=False)

    def denoise(self, image: Image) -> Image:
        """``H(x)`` at the threshold scale of a typical scan."""
        typical = torch.full((len(image),), TYPICAL_NOISE, dtype=torch.float64, device=image.device)
        return self.network.at(self.threshold_rule(typical))(image)

    def lam_for(self, operator: LinearOperator, relative_noise: PerSample) -> PerSample:
        """The learned data weight for the noise and the sampling of a scan."""
        return self.data_weight.of(operator, relative_noise)

    def threshold_for(self, operator: LinearOperator, relative_noise: PerSample) -> PerSample:
        """The learned scale of the thresholds for the noise and the sampling of a scan."""
        return self.threshold_rule.of(operator, relative_noise)

    def rule(self, operator: LinearOperator, relative_noise: PerSample) -> dict[str, PerSample]:
        """lam and the scale of the thresholds."""
        threshold = self.threshold_for(operator, relative_noise)
        return {**super().rule(operator, relative_noise), "threshold": threshold}

    def conditioned(
        self,
        operator: LinearOperator,
        data: Data,
        relative_noise: PerSample,
        threshold: PerSample | None,
        options: SolverOptions,
        start: Image | None = None,
    ) -> Conditioned:
        """The ridge at the threshold scale of the scan, or at the given one.

        Raises
        ------
        BadInputError
            If a threshold scale is not positive.
        """
        if threshold is None:
            threshold = self.threshold_for(operator, relative_noise)
        if not bool((threshold > 0).all()):
            raise BadInputError(f"threshold is {threshold.tolist()}: it must be positive")
        return Conditioned(self.network.at(threshold), (threshold,), threshold=threshold)
