"""Reconstructions that are not trained: l1 of wavelets, and total variation."""

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from equipoise.arguments import Array, Number
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.equilibrium.tf32 import without_tf32
from equipoise.methods.convex import minimise
from equipoise.methods.data_weight import LARGEST_LAM, SMALLEST_LAM, TYPICAL_NOISE
from equipoise.methods.edge import solve_arguments
from equipoise.methods.method import Method
from equipoise.methods.sparsity import Differences, Sparsity, Wavelets
from equipoise.outcome import BadInputError, Outcome, Solution
from equipoise.physics.least_squares import tikhonov
from equipoise.physics.linop import LinearOperator
from equipoise.settings import Settings
from equipoise.shapes import Image, PerSample
from equipoise.vectors import per_sample

START_RTOL = 0.05
"""Accuracy of the regularised least-squares image that the iteration starts from."""

IMAGE_AXES = 3


class WeightRuleConfig(Settings):
    """``lam(s) = value ((s^2 + floor^2) / 0.015^2)^(-power / 2)``, s the relative noise level."""

    value: float = Field(
        ge=SMALLEST_LAM, le=LARGEST_LAM, description="lam at a relative noise of 0.015"
    )
    power: float = Field(1.0, gt=0, le=10)
    floor: float = Field(0.005, gt=0, le=1)

    def __call__(self, relative_noise: PerSample) -> PerSample:
        """lam of each relative noise level, (batch,)."""
        variance = relative_noise.double() ** 2 + self.floor**2
        return self.value * (variance / TYPICAL_NOISE**2) ** (-self.power / 2)


class VariationalConfig(Settings):
    """See :class:`Variational`."""

    method: str
    rule: WeightRuleConfig
    rtol: float = Field(1e-2, gt=0, lt=1, description="duality gap relative to the objective")
    max_iter: int = Field(200, ge=1, le=100_000, description="iterations of ADMM")


class WaveletConfig(VariationalConfig):
    """See :class:`Wavelet`."""

    method: Literal["wavelet"] = "wavelet"
    rule: WeightRuleConfig = WeightRuleConfig(value=650.0, power=1.5)
    wavelet: str = Field("db2", description="an orthogonal wavelet of PyWavelets")
    coarsest: int = Field(16, ge=4, le=4096, description="smallest band that is divided further")
    averaged: bool = Field(True, description="over all shifts; false: one shift, as pics -n")

    @field_validator("wavelet")
    @classmethod
    def _orthogonal(cls, name: str) -> str:
        import pywt

        known = pywt.wavelist(kind="discrete")
        if name not in known or not pywt.Wavelet(name).orthogonal:
            raise ValueError(f"{name!r} is not an orthogonal wavelet of PyWavelets, such as db2")
        return name


class TVConfig(VariationalConfig):
    """See :class:`TV`."""

    method: Literal["tv"] = "tv"
    rule: WeightRuleConfig = WeightRuleConfig(value=750.0, power=1.25)


class Variational(Method):
    """``argmin_x lam / 2 ||A x - b||^2 + R(x)`` of the data at intensity scale 1, R convex.

    Nothing is trained and no file holds weights. A reconstruction takes the lam that best predicts
    samples that were left out, see :func:`equipoise.choose_weights`; :meth:`solve` by itself
    follows the noise of the scan by a fixed rule. In units of the data, and with the data weight
    1 / 2, the weight of R is ``scale / lam``: that is the number ``pics -w 1`` of BART takes.

    A solve ends when the duality gap proves that the objective is at most ``rtol`` of itself above
    its minimum, in exact arithmetic: rounding in double precision is not bounded. The gap also
    bounds ``||A (x - x*)|| <= sqrt(2 gap / lam)``. Nothing bounds the distance of the images:
    where A is blind, R need not be strongly convex, so m is None and no statement about
    perturbations is made.

    Parameters
    ----------
    config
        All settings. Of solver options ``rtol`` and ``max_iter`` apply.
    """

    Config: ClassVar[Any] = VariationalConfig
    learned = False
    usual_lam = "auto"

    def __init__(self, config: Any = None):
        nn.Module.__init__(self)
        self._config = self.Config() if config is None else config
        self.options = SolverOptions(rtol=self._config.rtol, max_iter=self._config.max_iter)

    def __repr__(self) -> str:
        """The method and its settings."""
        settings = self._config.model_dump(exclude={"method", "rule"})
        given = ", ".join(f"{key} {value}" for key, value in settings.items())
        return f"{type(self).__name__} ({self.name}): nothing trained, {given}"

    @classmethod
    def around(cls, network: Any, config: Any) -> "Variational":
        """The method of a configuration, which has no network."""
        return cls(config)

    @property
    def config(self) -> Any:
        """The settings."""
        return self._config

    @property
    def own(self) -> None:
        """None: there is no network."""
        return None

    @property
    def real(self) -> bool:
        """False."""
        return False

    def settings(self) -> dict[str, Any]:
        """All settings."""
        found: dict[str, Any] = self._config.model_dump()
        return found

    def lam(self, relative_noise: PerSample) -> PerSample:
        """lam of the rule."""
        found: Tensor = self._config.rule(relative_noise)
        return found

    def denoise(self, image: Image) -> Image:
        """Not available: there is no network that a warm-up could train."""
        raise BadInputError(f"{self.name} has no network: there is nothing to train")

    @abstractmethod
    def sparsity(self, image: Image) -> Sparsity:
        """R for images of the shape, precision and device of one."""

    def forward(
        self,
        data: Array | LinearOperator,
        operator: Array | LinearOperator,
        noise_level: Number | None = None,
    ) -> Tensor:
        """The image. It has no gradient.

        Raises
        ------
        BadInputError
            If the data require a gradient.
        """
        if any(isinstance(one, Tensor) and one.requires_grad for one in (data, operator)):
            raise self._no_gradient()
        return super().forward(data, operator, noise_level)

    def solve(
        self,
        operator: LinearOperator,
        data: Array,
        *,
        noise_level: Number | None = None,
        lam: Number | None = None,
        scale: Number | None = None,
        start: Array | None = None,
        options: SolverOptions | None = None,
        backward_rtol: float | None = None,
    ) -> Solution:
        """Find the minimum for each sample.

        Parameters
        ----------
        operator, data
            A and b; b with or without the batch axis.
        noise_level
            Standard deviation of the complex noise in the data, for lam. Zero if not given.
        lam
            Data weight, instead of that of the rule.
        scale
            Intensity scale, instead of the one read off the data.
        start
            First iterate in the units of the data; a regularised least-squares image if not given.
        options
            ``rtol`` and ``max_iter``; those of the configuration if not given.
        backward_rtol
            Without effect: there is no gradient.

        Raises
        ------
        BadInputError
            If the data do not have the shape that A measures or require a gradient, the images are
            not of two dimensions, or lam is not positive.
        """
        given = solve_arguments(operator, data, noise_level, lam, scale, start)
        data, options = given.data, options or self.options
        if data.requires_grad:
            raise self._no_gradient()
        if len(operator.image_shape) != IMAGE_AXES:
            raise BadInputError(
                f"the images have the shape {tuple(operator.image_shape[1:])}: {self.name} is for "
                "images of two dimensions; reconstruct a volume slice by slice"
            )
        scale = self._scale(operator, data, given.scale)
        weight = self._weight(operator, scale, given.noise_level, given.lam)
        exact = data.to(torch.complex128) / per_sample(scale, data)
        with torch.no_grad(), without_tf32():
            scaled = exact.to(data.dtype)
            if given.start is None:
                first = tikhonov(operator, scaled, weight, rtol=START_RTOL)
            else:
                first = (given.start / per_sample(scale, given.start)).to(data.dtype)
            sparsities = self.sparsity(first), self.sparsity(first.to(torch.complex128))
            found = minimise(
                operator,
                exact,
                weight,
                sparsities,
                first,
                rtol=options.rtol,
                max_iter=options.max_iter,
            )
            support = operator.support()
            image = found.image if support is None else support * found.image
            value = (image * per_sample(scale, image)).to(data.dtype)
        unknown = torch.full_like(weight, torch.inf)
        solution = Solution(
            value=value,
            outcome=found.outcome,
            iterations=found.iterations,
            network_evaluations=torch.zeros_like(found.iterations),
            cg_iterations=found.cg_iterations,
            relative_residual=unknown,
            distance_bound=unknown,
            lam=weight,
            m=None,
            history=[torch.stack([unknown, unknown])] * (int(found.iterations.max()) + 1),
            scale=scale,
            objective=found.objective,
            objective_gap=found.gap,
        )
        return given.returned(solution)

    def _no_gradient(self) -> BadInputError:
        return BadInputError(
            f"the data require a gradient, and {self.name} has none: detach the data, or attack "
            "and differentiate a MOL model"
        )


class Wavelet(Variational):
    """R is the l1 norm of a wavelet transform, averaged over all shifts, see :class:`Wavelets`.

    Lustig, Donoho, Pauly, Magn. Reson. Med. 58:1182-1195, 2007; averaged over shifts as in
    Coifman, Donoho, Translation-invariant de-noising, 1995.
    """

    name = "wavelet"
    Config = WaveletConfig

    def sparsity(self, image: Image) -> Sparsity:
        """The wavelets of the configuration."""
        c = self._config
        return Wavelets(image, c.wavelet, c.coarsest, c.averaged)


class TV(Variational):
    """R is the isotropic total variation of the complex image, see :class:`Differences`.

    Rudin, Osher, Fatemi, Physica D 60:259-268, 1992; in MRI Block, Uecker, Frahm, Magn. Reson.
    Med. 57:1086-1098, 2007.
    """

    name = "tv"
    Config = TVConfig

    def sparsity(self, image: Image) -> Sparsity:
        """Differences to neighbours."""
        return Differences(image)


UNTRAINED: dict[str, type[Variational]] = {kind.name: kind for kind in (Wavelet, TV)}
"""Methods without weights, by their names."""


def gap_of(solution: Solution) -> float | None:
    """The bound on how far the objective is above its minimum, relative to it; None without one."""
    if solution.objective_gap is None or solution.outcome[0] is Outcome.DIVERGED:
        return None
    return float(solution.objective_gap[0])
