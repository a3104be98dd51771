"""MOL for images of three axes, a series in time or a volume, with a proved network."""

import math
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.method import MethodConfig
from equipoise.methods.mol import Amplification, Conditioned
from equipoise.methods.mol_ridge import ConditionedConfig, MolRidge
from equipoise.networks.ridge_volume import RidgeVolumeConfig
from equipoise.outcome import Solution
from equipoise.physics.dynamic import DynamicSenseOp, StillImage
from equipoise.physics.linop import LinearOperator
from equipoise.shapes import Data, Image, PerSample

LARGEST_REFERENCE = 1e4
"""Largest data weight of a still image: its bound is then 50."""


class MolRidge3DConfig(ConditionedConfig):
    """See :class:`MolRidge3D`."""

    method: Literal["mol-ridge-3d"] = "mol-ridge-3d"
    network: RidgeVolumeConfig = RidgeVolumeConfig()
    reference: float | None = Field(
        None,
        gt=0,
        le=LARGEST_REFERENCE,
        description="data weight of the still image that F pulls a series to; zero if not given",
    )

    @model_validator(mode="after")
    def _of_a_series(self) -> "MolRidge3DConfig":
        if self.reference is not None and self.network.axis != "time":
            raise ValueError(
                f"reference is {self.reference} and the axis of the network {self.network.axis}: "
                "only a series in time has a still image"
            )
        return self

    def started_by(self, frame: ConditionedConfig) -> "MolRidge3DConfig":
        """These settings with those that a method of one frame determines, whose weights start it.

        They are the kernels within a frame and their first factors, the terms of the shrinkage,
        the channels and the solver.
        """
        shared = ("features", "basis", "clips", "channels")
        taken = {name: getattr(frame.network, name) for name in shared}
        network = self.network.model_copy(update=taken)
        return self.model_copy(update={"network": network, "solver": frame.solver})


class MolRidge3D(MolRidge):
    """:class:`MolRidge` with a :class:`~equipoise.networks.ridge_volume.RidgeVolume`.

    ``lam A^H (A x* - b) + F_s(x*) = 0`` for x (batch, time, y, x) and A a
    :class:`~equipoise.physics.dynamic.DynamicSenseOp`, or for x (batch, z, y, x) and A the
    :class:`~equipoise.physics.cartesian.SenseOp` of a volume. Everything that is proved of
    :class:`MolRidge` is proved of it, with norms in three dimensions.

    With ``reference``, the term ``m x`` of F becomes ``m (x - y)``, y the :class:`StillImage` of
    the series at that data weight: what does not move is known from all frames together, and F does
    not pull it to zero. F is as monotone as before. y is linear in the data, with a norm of at most
    ``sqrt(reference) / 2``, which is what it adds to (8).
    """

    name = "mol-ridge-3d"
    Config: ClassVar[type[MethodConfig]] = MolRidge3DConfig
    network: Any
    reference: float | None = None

    @classmethod
    def around(cls, network: Any, config: Any) -> "MolRidge3D":
        """The model of a configuration with a network that was built."""
        model = super().around(network, config)
        assert isinstance(model, MolRidge3D)
        model.reference = config.reference
        # A still image moves with the data, and F with it.
        model.frozen = config.reference is not None
        return model

    def settings(self) -> dict[str, Any]:
        """The solver options, and the data weight of the still image."""
        return {**super().settings(), "reference": self.reference}

    def still_image(self, operator: LinearOperator) -> StillImage | None:
        """What gives the image that F pulls to; None if F pulls to zero."""
        if self.reference is None or not isinstance(operator, DynamicSenseOp):
            return None
        return StillImage(operator, self.reference)

    def conditioned(
        self,
        operator: LinearOperator,
        data: Data,
        relative_noise: PerSample,
        threshold: PerSample | None,
        options: SolverOptions,
        start: Image | None = None,
    ) -> Conditioned:
        """The network at the threshold scale of the scan, pulled to its still image."""
        found = super().conditioned(operator, data, relative_noise, threshold, options)
        still = self.still_image(operator)
        if still is None:
            return found
        # Rounded once, so that the equation is the same in double precision.
        y = still(data).to(self.network.dtype.to_complex())
        scales = found.inputs[0]
        network = self.network.at(scales, reference=y)
        return Conditioned(network, (scales, y), y, threshold=scales)

    def amplification(self, solution: Solution) -> Amplification:
        """(8), and (23) with ``l = m``: ``sqrt(reference) / 2`` more, as the still image moves."""
        held = super().amplification(solution).first_held
        moved = 0.0 if self.reference is None else math.sqrt(self.reference) / 2
        return Amplification(held, held + moved)

    @classmethod
    def after(cls, frame: MolRidge, config: MolRidge3DConfig, seed: int = 0) -> "MolRidge3D":
        """The method that starts with the kernels of a method of one frame.

        The rules are those of the configuration: a series needs less weight on its data than its
        frames do alone.
        """
        held: Any = frame.config
        started = config.started_by(held)
        model = cls.around(started.network.build(seed), started)
        model.network.start_from(frame.network)
        assert isinstance(model, MolRidge3D)
        return model
