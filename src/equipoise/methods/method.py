"""The interface of every learned reconstruction: ``x = method(kspace, A)``."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from equipoise.arguments import Array, Number
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.data_weight import AnyWeightConfig, NoiseWeightConfig
from equipoise.methods.edge import in_order
from equipoise.methods.usual import Calibration
from equipoise.networks.network import NetworkConfig, Shapes
from equipoise.networks.own import OwnNetwork, as_network, name_of
from equipoise.outcome import BadInputError, Solution
from equipoise.physics.linop import LinearOperator
from equipoise.settings import Settings, checked
from equipoise.shapes import Image, PerSample

MODULE_CALL = 4
"""Stack level of a warning from ``forward``: torch adds two calls between it and the user's
line."""


PLANE, SERIES, VOLUME = ("y", "x"), ("time", "y", "x"), ("z", "y", "x")
"""The axes of a slice or a frame, of a series in time, and of a volume."""


class ParameterGroup(NamedTuple):
    """Parameters, and their learning rate as a factor of the rate of the network or the rules."""

    parameters: list[nn.Parameter]
    factor: float = 1.0
    of_rules: bool = False


class MethodConfig(Settings, ABC):
    """The settings of a method, with one class for each method.

    They are also the section ``model`` of a training configuration and the header of a model file.
    A class has no setting that its method does not have.

    Attributes
    ----------
    method
        The name of the method: a literal that is its own default.
    network, data_weight
        The trained parts. The fields that ``PARTS`` names have weights, and the method has a module
        with a ``config`` under each of these names, or None.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("network", "data_weight")

    method: str
    network: NetworkConfig
    data_weight: AnyWeightConfig = NoiseWeightConfig()

    def shapes(self) -> Shapes:
        """Names and shapes of all weights, as in the ``state_dict`` of the saved method."""
        return {
            f"{part}.{name}": shape
            for part in self.PARTS
            if getattr(self, part) is not None
            for name, shape in getattr(self, part).shapes().items()
        }


class Method(nn.Module, ABC):
    """A reconstruction with a network and a data weight.

    The data are divided by their intensity scale before the reconstruction, and the image is
    multiplied by it afterwards, so a reconstruction scales exactly with its data.

    Attributes
    ----------
    name
        The name of the method in configurations and model files.
    Config
        Its configuration class.
    network
        An image-to-image module; your own is an
        :class:`~equipoise.networks.own.OwnNetwork`.
    data_weight
        Module that gives lam, (batch,), from the relative noise level, (batch,).
    options
        Default solver options, for methods that iterate to an equilibrium.
    calibration
        The usual features of validation scans, if they were measured.
    """

    name: ClassVar[str]
    Config: ClassVar[type[MethodConfig]]
    calibration: Calibration | None = None
    by_construction: ClassVar[bool] = False
    """Whether every value of the weights proves m, so that weights which do not are damaged."""
    learned: ClassVar[bool] = True
    """Whether weights were trained; without them the rule for lam is fixed."""
    usual_lam: Literal["auto", "rule"] = "rule"
    """How the weights of a scan are chosen by default."""

    def __init__(
        self, network: nn.Module, data_weight: nn.Module, options: SolverOptions | None = None
    ):
        super().__init__()
        self.network, self.data_weight = as_network(network), data_weight
        self.options = options or SolverOptions()

    def __repr__(self) -> str:
        """The method with its m and evidence, and its network."""
        m = "no equilibrium" if self.m is None else f"m {self.m:.3g} ({self.m_evidence})"
        network = self.network
        kind = repr(network) if isinstance(network, OwnNetwork) else type(network).__name__
        weights = sum(p.numel() for p in network.parameters())
        return f"{type(self).__name__} ({self.name}): {m}\n  {kind} of {weights} weights"

    @classmethod
    def new(cls, config: Any, seed: int = 0) -> "Method":
        """An untrained method with random weights."""
        return cls.around(cls.untrained(config, seed), config)

    @classmethod
    def untrained(cls, config: Any, seed: int) -> nn.Module:
        """The network that training starts from."""
        return config.network.build(seed)

    @classmethod
    @abstractmethod
    def around(cls, network: nn.Module, config: Any) -> "Method":
        """The method of a configuration with a network that was built."""

    @property
    def config(self) -> MethodConfig:
        """The settings of the method; your own network is not part of them, see :attr:`own`.

        Raises
        ------
        BadInputError
            If its data weight is your own and has no ``config``.
        """
        parts = {}
        for part in self.Config.PARTS:
            module = getattr(self, part)
            if module is None:
                continue
            # Code cannot be stored as settings; the user passes the module again to load the
            # weights.
            if isinstance(module, OwnNetwork):
                continue
            if not hasattr(module, "config"):
                raise BadInputError(
                    f"the {part} is a {type(module).__name__}, which has no config: it cannot be "
                    "described in a file"
                )
            parts[part] = module.config.model_dump()
        return checked(self.Config, self.name, {**parts, **self.settings()})

    @property
    def own(self) -> str | None:
        """The class of your own network, which must be passed again to load; else None."""
        network = self.network
        return name_of(network.module) if isinstance(network, OwnNetwork) else None

    @property
    def m(self) -> float | None:
        """Monotonicity constant of F; None if the method is not monotone."""
        return None

    @property
    def m_evidence(self) -> str:
        """``proved``, ``measured`` or ``none``."""
        return "none"

    @property
    def real(self) -> bool:
        """Whether the images are real: the network has one channel."""
        return getattr(self.network, "channels", 2) == 1

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of its images after the batch; (y, x) unless the network says otherwise."""
        # Methods that minimise have no network.
        return getattr(getattr(self, "network", None), "axes", PLANE)

    def lam(self, relative_noise: PerSample) -> PerSample:
        """The learned data weight for noise levels relative to the intensity scale."""
        return self.data_weight(relative_noise)

    def lam_for(self, operator: LinearOperator, relative_noise: PerSample) -> PerSample:
        """The learned data weight for a scan, which here depends on its noise only."""
        return self.lam(relative_noise)

    def rule(self, operator: LinearOperator, relative_noise: PerSample) -> dict[str, PerSample]:
        """The weights of a scan by the learned rules, under their names in :meth:`solve`."""
        return {"lam": self.lam_for(operator, relative_noise)}

    @property
    def passes(self) -> tuple["Method", ...]:
        """This method, and the one that gives its first image, if there is one."""
        return (self,)

    def after_first(self, solution: Solution) -> "Method":
        """This method for the data of a solution, whose first image it does not solve for again."""
        return self

    def forward(
        self,
        data: Array | LinearOperator,
        operator: Array | LinearOperator,
        noise_level: Number | None = None,
    ) -> Tensor:
        """The image, differentiable in the data, lam and the weights.

        ``model(A, data)`` and ``model(data, A)`` are the same; the type tells the operator.

        Raises
        ------
        BadInputError
            If not exactly one of the two is an operator, or the data do not fit it.

        Warns
        -----
        ConvergenceWarning
            If a sample did not converge, in ``eval()`` mode only.
        """
        a, b = in_order(data, operator)
        solution = self.solve(a, b, noise_level=noise_level)
        # In training a loose solve is normal, and a warning in each step would hide all others.
        if not self.training:
            solution.warn_unless_converged("the solve", stacklevel=MODULE_CALL)
        return solution.value

    @abstractmethod
    def solve(
        self,
        operator: LinearOperator,
        data: Array,
        *,
        noise_level: Number | None = None,
        lam: Number | None = None,
        scale: Number | None = None,
        options: SolverOptions | None = None,
        backward_rtol: float | None = None,
    ) -> Solution:
        """The image and how it was reached; lam and the intensity scale may be given."""

    @abstractmethod
    def denoise(self, image: Image) -> Image:
        """The image-domain part, for images of intensity scale 1; a warm-up trains it alone."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The fields of the configuration other than its network and data weight."""

    def training_options(self, rtol: float, max_iter: int) -> SolverOptions | None:
        """How training solves for an equilibrium."""
        return None

    def constraint(self, image: Image, steps: int, seed: int = 0) -> PerSample | None:
        """The measured constant that training keeps below ``1 - m``; None if nothing is measured.

        It is measured at images of intensity scale 1 by an ascent with the given number of steps.
        """
        return None

    def parameter_groups(self) -> list[ParameterGroup]:
        """The groups of parameters that training learns, with their learning rates."""
        return [
            ParameterGroup(list(self.network.parameters())),
            ParameterGroup(list(self.data_weight.parameters()), of_rules=True),
        ]

    def refresh(self, exact: bool = False) -> None:
        """Called before each training step and, with ``exact``, before each validation."""

    def for_inference(self) -> "Method":
        """The method with the weights as they are saved."""
        return self

    def _refuse_other_axes(self, operator: LinearOperator) -> None:
        """Refuse images whose axes the network does not know; nothing is known of your own."""
        axes = getattr(self.network, "axes", None)
        shape, found = operator.image_shape[1:], operator.image_axes
        if axes is None or (len(shape) == len(axes) and found in ((), axes)):
            return
        named = f" ({', '.join(found)})" if found else ""
        raise BadInputError(
            f"the images of A have the shape {tuple(shape)}{named}, and {self.name} here is for "
            f"images ({', '.join(axes)}): solve them frame by frame or slice by slice with a model "
            "of (y, x), or choose a model for their axes"
        )

    def _scale(self, operator: LinearOperator, data: Tensor, scale: Tensor | None) -> Tensor:
        if scale is None:
            scale = operator.intensity_scale(data)
        # Zero data have no scale, and their image does not depend on one.
        return torch.where(scale > 0, scale, 1.0).to(torch.float64)

    def _weight(
        self,
        operator: LinearOperator,
        scale: Tensor,
        noise_level: Tensor | None,
        lam: Tensor | None,
    ) -> Tensor:
        if lam is None:
            lam = self.lam_for(operator, relative_noise_of(noise_level, scale))
        # With lam = 0 the data have no influence, and the equilibrium is that of the network alone.
        if not bool((lam > 0).all() & torch.isfinite(lam).all()):
            raise BadInputError(f"lam is {lam.tolist()}: it must be positive and finite")
        return lam.to(torch.float64)


def relative_noise_of(noise_level: Tensor | None, scale: Tensor) -> Tensor:
    """The noise level relative to the intensity scale; zero if it is not given."""
    return torch.zeros_like(scale) if noise_level is None else noise_level.to(scale) / scale
