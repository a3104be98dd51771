"""Monotone operator learning: the model whose reconstruction is an equilibrium.

Pramanik, Zimmerman, Jacob, IEEE Trans. Comput. Imaging 9:260-275, 2023.
"""

from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from equipoise.arguments import Array, Number
from equipoise.equilibrium.bounds import perturbation_bound
from equipoise.equilibrium.equation import MonotoneEquation
from equipoise.equilibrium.fixed_point import SolverOptions, solve_fixed_point
from equipoise.equilibrium.implicit import Adjoint, ImplicitProblem, attach_gradient
from equipoise.equilibrium.rounding import RoundingModel
from equipoise.equilibrium.tf32 import without_tf32
from equipoise.methods.edge import solve_arguments
from equipoise.methods.equilibrium_config import EquilibriumConfig
from equipoise.methods.exact import attainable, solve_with_rounding, with_delivery
from equipoise.methods.method import Method, MethodConfig, relative_noise_of
from equipoise.networks.cnn import CNN, SkipCNNConfig, in_bfloat16, in_double
from equipoise.networks.measured import lipschitz_lower
from equipoise.networks.network import OnSupport, monotonicity_of, rounding_of
from equipoise.networks.tiles import Tiled
from equipoise.outcome import BadInputError, Solution
from equipoise.physics.least_squares import tikhonov
from equipoise.physics.linop import LinearOperator
from equipoise.shapes import Data, Image, PerSample
from equipoise.vectors import norm, per_sample

CG_RTOL = 0.03
"""Inner tolerance relative to the outer residual. Anderson extrapolates steps, so they must be more
exact than Picard needs: 0.1 was measured to cost a fifth more network evaluations."""

START_RTOL = 0.05
"""Accuracy of the regularised SENSE image from which the iteration starts."""


class Conditioned(NamedTuple):
    """H for one scan, the tensors other than weights that it depends on, and a first iterate.

    ``first`` is the solution of a first pass that determined H, if there was one, and ``threshold``
    is the scale of its thresholds, if it has thresholds.
    """

    network: Any
    inputs: tuple[Tensor, ...] = ()
    start: Tensor | None = None
    first: Solution | None = None
    threshold: PerSample | None = None


class Amplification(NamedTuple):
    """The most that ``||dx*|| / ||db||`` can be: with a first image held fixed, and in all.

    The same number twice for one pass; None in all if nothing bounds what a first image moves.
    """

    first_held: float
    end_to_end: float | None


class MolConfig(EquilibriumConfig):
    """See :class:`MOL`."""

    method: Literal["mol-lr"] = "mol-lr"
    network: SkipCNNConfig = SkipCNNConfig()


class MOL(Method):
    """MOL-LR: ``x*`` with ``lam A^H (A x* - b) + F(x*) = 0``, ``F = (1 + shift) I - H`` (1).

    Where A sees nothing, outside the coil maps, the image is zero, see :class:`OnSupport`.

    Parameters
    ----------
    network
        H: a network of this package, or any module that maps complex images (batch, y, x) to images
        of the same shape, see :class:`~equipoise.networks.own.OwnNetwork`. Nothing is proved about
        such a module: its m is claimed until it is measured.
    data_weight
        Module that gives lam, (batch,), from the relative noise level, (batch,).
    m
        Monotonicity constant of ``I - H`` that the network was trained for.
    shift
        Added multiple of the identity in F; F is then (m + shift)-monotone.
    options
        Default solver options; a call may pass its own.

    Examples
    --------
    >>> import numpy as np
    >>> import equipoise as eq
    >>> A = eq.SenseOp(np.full((4, 24, 24), 0.5), np.arange(24) % 2 == 0)
    >>> model = eq.MOL(eq.CNN(features=4, layers=2, gain=0.5), eq.FixedWeight(20.0), m=0.4)
    >>> solution = model.solve(A, A(np.ones((24, 24))), noise_level=0.01)
    >>> solution.converged, solution.value.shape
    (True, torch.Size([24, 24]))
    """

    name = "mol-lr"
    Config: ClassVar[type[MethodConfig]] = MolConfig
    network: Any
    frozen = False
    """Whether F depends on the data, so that (8) says nothing about a change of the data."""

    robust = True
    """Whether :meth:`amplification` is bounded for all weights, and not only by their norms."""

    def __init__(
        self,
        network: nn.Module,
        data_weight: nn.Module,
        m: float,
        *,
        shift: float = 0.0,
        options: SolverOptions | None = None,
    ):
        super().__init__(network, data_weight, options)
        if not 0 < m < 1:
            raise BadInputError(f"m is {m}: it must lie between 0 and 1")
        if not 0 < m + shift < float("inf"):
            raise BadInputError(
                f"m is {m} and shift is {shift}: F is (m + shift)-monotone, and the sum must be "
                "positive, because otherwise neither an equilibrium nor a bound follows"
            )
        self.m_network, self.shift = m, shift

    @classmethod
    def around(cls, network: Any, config: Any) -> "MOL":
        """The model of a configuration with a network that was built."""
        weight = config.data_weight.build()
        return cls(network, weight, config.m, shift=config.shift, options=config.solver)

    @property
    def m(self) -> float:
        """Monotonicity constant of F."""
        return self.m_network + self.shift

    @property
    def m_evidence(self) -> str:
        """``proved`` if the weights, as they are now, prove that ``I - H`` is m-monotone.

        Otherwise it is ``claimed``, by training or by you, until a certificate measures m at an
        image. It is never read from a file.
        """
        proved = monotonicity_of(self.network).value
        if proved is not None and proved >= self.m_network:
            return "proved"
        return "claimed"

    def settings(self) -> dict[str, Any]:
        """m of the network, shift and solver options."""
        return {"m": self.m_network, "shift": self.shift, "solver": self.options}

    def refresh(self, exact: bool = False) -> None:
        """Keep the first kernels of a network with ``skip`` at zero mean."""
        if isinstance(self.network, CNN):
            self.network.centre_kernels()

    def denoise(self, image: Image) -> Image:
        """``H(x)``."""
        return self.network(image)

    def constraint(self, image: Image, steps: int, seed: int = 0) -> PerSample | None:
        """``lipschitz_lower`` of H."""
        return lipschitz_lower(self.network, image, steps=steps, seed=seed)

    def training_options(self, rtol: float, max_iter: int) -> SolverOptions:
        """How training solves for the equilibrium."""
        return SolverOptions(rtol=rtol, max_iter=max_iter, exact=False)

    def amplification(self, solution: Solution) -> Amplification:
        """``1/2 sqrt(lam / m)`` (8), of two equilibria at one lam, scale and A."""
        one = torch.ones_like(solution.lam)
        bound = float(perturbation_bound(solution.lam.detach(), self.m, one)[0])
        return Amplification(bound, bound)

    def conditioned(
        self,
        operator: LinearOperator,
        data: Data,
        relative_noise: PerSample,
        threshold: PerSample | None,
        options: SolverOptions,
        start: Image | None = None,
    ) -> Conditioned:
        """H for a scan whose data are divided by its intensity scale.

        Raises
        ------
        BadInputError
            If a threshold scale is given and the network has no thresholds.
        """
        if threshold is not None:
            raise BadInputError(f"{self.name} has no thresholds: leave threshold out")
        return Conditioned(self.network)

    def solve(
        self,
        operator: LinearOperator,
        data: Array,
        *,
        noise_level: Number | None = None,
        lam: Number | None = None,
        scale: Number | None = None,
        threshold: Number | None = None,
        start: Array | None = None,
        options: SolverOptions | None = None,
        adjoint: Adjoint = "adjoint",
        backward_rtol: float | None = None,
        cg_rtol: float = CG_RTOL,
        adjoint_start: Tensor | None = None,
    ) -> Solution:
        """Find the equilibrium of each sample.

        Parameters
        ----------
        operator, data
            A and b; b with or without the batch axis.
        noise_level
            Standard deviation of the complex noise in the data, from which lam follows. Zero if not
            given.
        lam
            Data weight, instead of the learned one.
        scale
            Intensity scale, instead of the one estimated from the data; 1 means normalised data.
        threshold
            Scale of the thresholds, instead of the learned one, if the network has thresholds.
        start
            First iterate in the units of the data; a regularised least-squares image if not given.
        options
            Solver options; those of the model if not given.
        adjoint
            ``adjoint`` solves (10); ``algorithm2`` is the Picard iteration of the supplement.
        backward_rtol
            Tolerance of the adjoint solve; that of the forward solve if not given.
        cg_rtol
            Inner tolerance relative to the outer residual.
        adjoint_start
            First iterate of the adjoint solve (10), such as an earlier ``solution.backward.value``.

        Returns
        -------
        Solution
            If gradients are enabled, ``value`` has gradients for the data (through the intensity
            scale too), lam and the weights. It has no batch axis if the data have none.

        Raises
        ------
        BadInputError
            If the data do not have the shape that A measures, lam is not positive, a tensor of the
            operator requires a gradient, or an option does not fit the network.
        """
        given = solve_arguments(operator, data, noise_level, lam, scale, start, threshold)
        data, options = given.data, options or self.options
        self._refuse_other_axes(operator)
        _refuse_operator_gradients(operator)
        scale = self._scale(operator, data, given.scale)
        weight = self._weight(operator, scale, given.noise_level, given.lam)
        # In double precision, because lam multiplies the rounding of A^H b.
        scaled = data / per_sample(scale, data)
        adjoint_image, data_norm = operator.adjoint(scaled), norm(scaled.detach())
        del scaled  # The coils of a volume in double precision are larger than all else.
        noise = relative_noise_of(given.noise_level, scale)
        units = per_sample(scale, data).to(data.real.dtype)
        near = None if given.start is None else given.start / per_sample(scale, given.start)
        body = self.conditioned(operator, data / units, noise, given.threshold, options, near)
        network = self._evaluated(body.network, operator.support(), options)
        constant = per_sample(weight, adjoint_image).detach() * adjoint_image.detach()
        equation = MonotoneEquation(
            operator=operator,
            lam=weight.detach(),
            network=network,
            constant=constant,
            m=self.m,
            shift=self.shift,
            cg_rtol=cg_rtol,
            single=self.network.dtype == torch.float32,
        )
        # Rounding to bfloat16 is written for the layers of the CNN only.
        if options.rough:
            if not isinstance(self.network, CNN):
                raise BadInputError(
                    f"rough is {options.rough}, and {self.network!r} has no evaluation in "
                    "bfloat16: leave rough out"
                )
            rough = in_bfloat16(self.network)
            equation.rough_network = self._evaluated(rough, operator.support(), options)
        with torch.no_grad(), without_tf32():
            first = self._start(operator, data / units, weight, near, body.start)
            solution = self._solved(equation, body.network, first, data_norm, options, data.dtype)
        if torch.is_grad_enabled():
            rtol = backward_rtol or options.rtol
            backward = replace(options, rtol=rtol, step="resolvent", rough=0)
            problem = ImplicitProblem(
                equation,
                network,
                backward,
                adjoint,
                solution.record,
                body.inputs,
                adjoint_start,
            )
            value = attach_gradient(problem, solution.value, adjoint_image, weight, data.dtype)
        else:
            value = solution.value.to(data.dtype)
        solution.value = value * per_sample(scale, value).to(value.real.dtype)
        solution.scale, solution.network = scale, body.network
        solution.threshold = body.threshold
        # The first pass costs time too, and the report must not hide it.
        if body.first is not None:
            solution.network_evaluations += body.first.network_evaluations
            solution.first = body.first
        return given.returned(solution)

    def _solved(
        self,
        equation: MonotoneEquation,
        body: nn.Module,
        first: Tensor,
        data_norm: Tensor,
        options: SolverOptions,
        dtype: torch.dtype,
    ) -> Solution:
        """The equilibrium, with a bound that includes rounding if that can be bounded."""
        operator = equation.operator
        network = self._evaluated(body, operator.support(), options)
        if not options.exact or rounding_of(network, first) is None:
            return solve_fixed_point(equation, first, options)
        # Rounding can only be bounded below the tolerance if the bound is evaluated in double
        # precision.
        network = self._evaluated(in_double(body), operator.support(), options)
        rounding = RoundingModel(
            lambda x: cast(Tensor, rounding_of(network, x)), operator.norm_bound(), data_norm
        )
        exact = replace(equation, network=network, rough_network=None, rounding=rounding)
        options = attainable(options, dtype)
        # A network in double precision needs no second equation: all its bounds include rounding.
        if self.network.dtype == torch.float64:
            exact = replace(exact, rough_network=equation.rough_network)
            solution = solve_fixed_point(exact, first, options)
        else:
            solution = solve_with_rounding(equation, exact, first, options)
        return with_delivery(solution, exact, dtype)

    def network_on(
        self,
        support: Tensor | None,
        options: SolverOptions | None = None,
        network: nn.Module | None = None,
    ) -> nn.Module:
        """H, restricted to the pixels that A can see, in the tiles of the options.

        ``network`` is the one of a solution, if H depends on the scan.
        """
        body = self.network if network is None else network
        return self._evaluated(body, support, options or self.options)

    @staticmethod
    def _evaluated(network: Any, support: Tensor | None, options: SolverOptions) -> nn.Module:
        evaluated: nn.Module = network
        if options.tile is not None or options.recompute:
            evaluated = Tiled(network, options.tile, options.recompute)
        return evaluated if support is None else OnSupport(evaluated, support)

    def first_iterate(self, operator: LinearOperator, data: Data, lam: PerSample) -> Image:
        """The regularised least-squares image from which the iteration starts, at scale 1."""
        return tikhonov(operator, data, lam, rtol=START_RTOL)

    def _start(
        self,
        operator: LinearOperator,
        data: Tensor,
        lam: Tensor,
        start: Tensor | None,
        known: Tensor | None = None,
    ) -> Tensor:
        if start is not None:
            # Outside the support the equilibrium is zero, and nothing would bring a start there.
            support = operator.support()
            image = start if support is None else support * start
        elif known is not None:
            # The image of a first pass is nearer to the equilibrium than least squares.
            image = known.detach()
        else:
            image = self.first_iterate(operator, data.detach(), lam.detach())
        return image.to(torch.complex128)


def _refuse_operator_gradients(operator: LinearOperator) -> None:
    """Refuse to return a wrong gradient: the adjoint equation gives none for A."""
    for name, value in vars(operator).items():
        if isinstance(value, Tensor) and value.requires_grad:
            raise BadInputError(
                f"{name} of the operator requires a gradient, and gradients for the operator are "
                "not available: pass it detached"
            )
