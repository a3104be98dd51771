"""MOL for images of three axes, a series in time or a volume, with a proved network."""

from typing import Any, ClassVar, Literal

from equipoise.methods.method import MethodConfig
from equipoise.methods.mol_ridge import ConditionedConfig, MolRidge
from equipoise.networks.ridge_volume import RidgeVolumeConfig


class MolRidge3DConfig(ConditionedConfig):
    """See :class:`MolRidge3D`."""

    method: Literal["mol-ridge-3d"] = "mol-ridge-3d"
    network: RidgeVolumeConfig = RidgeVolumeConfig()

    def started_by(self, frame: ConditionedConfig) -> "MolRidge3DConfig":
        """These settings with those that a method of one frame determines, whose weights start it.

        They are m, the kernels within a frame and their first factors, the terms of the shrinkage,
        the channels, both rules and the solver.
        """
        shared = ("m", "features", "basis", "clips", "channels")
        taken = {name: getattr(frame.network, name) for name in shared}
        network = self.network.model_copy(update=taken)
        parts = {"data_weight": frame.data_weight, "threshold_rule": frame.threshold_rule}
        return self.model_copy(update={"network": network, **parts, "solver": frame.solver})


class MolRidge3D(MolRidge):
    """:class:`MolRidge` with a :class:`~equipoise.networks.ridge_volume.RidgeVolume`.

    ``lam A^H (A x* - b) + F_s(x*) = 0`` for x (batch, time, y, x) and A a
    :class:`~equipoise.physics.dynamic.DynamicSenseOp`, or for x (batch, z, y, x) and A the
    :class:`~equipoise.physics.cartesian.SenseOp` of a volume. Everything that is proved of
    :class:`MolRidge` is proved of it, with norms in three dimensions.
    """

    name = "mol-ridge-3d"
    Config: ClassVar[type[MethodConfig]] = MolRidge3DConfig
    network: Any

    @classmethod
    def after(cls, frame: MolRidge, config: MolRidge3DConfig, seed: int = 0) -> "MolRidge3D":
        """The method that starts with the kernels and rules of a method of one frame."""
        held: Any = frame.config
        started = config.started_by(held)
        model = cls.around(started.network.build(seed), started)
        model.network.start_from(frame.network)
        for rule in ("data_weight", "threshold_rule"):
            getattr(model, rule).load_state_dict(getattr(frame, rule).state_dict())
        assert isinstance(model, MolRidge3D)
        return model
