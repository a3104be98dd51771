"""MOL in two passes for volumes whose lines along the readout x are fully measured."""

from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from equipoise.methods.feed_forward import data_consistency
from equipoise.methods.method import MethodConfig, ParameterGroup
from equipoise.methods.mol import Amplification
from equipoise.methods.mol_guided import MolGuided, MolGuidedConfig
from equipoise.methods.mol_ridge import MolRidge, MolRidgeConfig
from equipoise.methods.predictor import smooth_phase
from equipoise.networks.adaptation import Units
from equipoise.networks.refinement import Refinement, RefinementConfig
from equipoise.networks.ridge_planes import (
    NEIGHBOURS,
    PlanarRidgeConfig,
    recomputed,
    with_neighbours,
)
from equipoise.outcome import Solution
from equipoise.physics.linop import LinearOperator
from equipoise.shapes import Image, PerSample
from equipoise.vectors import times

_phase_of = partial(smooth_phase, of_volume=True)

CENTRE, BESIDE = 0.5, 0.25
"""Weights of a plane and of each of its neighbours in the coefficients that set its factors."""


class PlanarGuideConfig(MolRidgeConfig):
    """The first pass of :class:`MolGuided3D`."""

    network: PlanarRidgeConfig = PlanarRidgeConfig()


class MolGuided3DConfig(MolGuidedConfig):
    """See :class:`MolGuided3D`."""

    PARTS: ClassVar[tuple[str, ...]] = (*MolGuidedConfig.PARTS, "refinement")

    method: Literal["mol-guided-3d"] = "mol-guided-3d"  # type: ignore[assignment]
    network: PlanarRidgeConfig = PlanarRidgeConfig()
    guide: PlanarGuideConfig = PlanarGuideConfig()
    refinement: RefinementConfig | None = Field(
        None, description="a network that refines the first image; none if null"
    )


class MolGuided3D(MolGuided):
    """:class:`MolGuided` for x (batch, z, y, x) and A the ``SenseOp`` of a volume.

    Both passes solve the whole volume, at one lam and one threshold scale, with a
    :class:`~equipoise.networks.ridge_planes.PlanarRidge`, whose kernels lie in the planes (z, y):
    there the volume is undersampled. The factors of the thresholds of a plane follow from its
    coefficients in the first image and from those of its neighbours along x, ``1/4, 1/2, 1/4``,
    which see the same tissue with other errors. This mean does not expand, so everything that is
    proved of :class:`MolGuided` is proved of it, with the same numbers.

    With a refinement N, y is N of the first image: the factors follow from it, and F pulls to it.
    The second equilibrium is unique, and the distance to it certified, whatever N returns, and the
    data have their say after it. It consists of blocks N_k, with the data between them::

        z_1 = N_1(y_1),   x_k = (I + w A^H A)^-1 (z_k + w A^H b),   z_(k+1) = N_(k+1)(x_k, z_k)

    y_1 is the first image, y the last z, and w a multiple of the lam of the first pass. How far the
    image moves with the data through N is not bounded: :meth:`amplification` is known with y held,
    and not end to end.

    Parameters
    ----------
    network, guide, adaptation, data_weight, threshold_rule, options
        See :class:`MolGuided`.
    refinement
        N, if there is one.
    """

    name = "mol-guided-3d"
    Config: ClassVar[type[MethodConfig]] = MolGuided3DConfig

    def __init__(self, *args: Any, refinement: Refinement | None = None, **settings: Any):
        super().__init__(*args, **settings)
        self.refinement = refinement

    @classmethod
    def around(cls, network: Any, config: Any) -> "MolGuided3D":
        """The model of a configuration with a network that was built."""
        model = super().around(network, config)
        assert isinstance(model, MolGuided3D)
        if config.refinement is not None:
            model.refinement = config.refinement.build()
        return model

    @property
    def neighbours(self) -> int:
        """Planes along x, at each side of a plane, from whose first image its F follows."""
        blocks = 0 if self.refinement is None else self.refinement.config.blocks
        return (blocks + 1) * NEIGHBOURS

    @property
    def refining_features(self) -> int:
        """Features of all blocks of the refinement; 0 without one."""
        if self.refinement is None:
            return 0
        return self.refinement.config.features * self.refinement.config.blocks

    @property
    def consistent(self) -> bool:  # type: ignore[override]
        """Whether the refinement has more than one block."""
        return self.refinement is not None and self.refinement.config.blocks > 1

    def parameter_groups(self) -> list[ParameterGroup]:
        """The groups of two passes, and the refinement."""
        groups = super().parameter_groups()
        if self.refinement is not None:
            groups.append(ParameterGroup(list(self.refinement.parameters())))
        return groups

    @classmethod
    def of_planes(cls, frame: MolGuided) -> "MolGuided3D":
        """The method with the weights of a method of one plane, which need no further training."""
        held: Any = frame.config
        config = MolGuided3DConfig.model_validate(held.model_dump(exclude={"method"}))
        model = cls.around(config.network.build(), config)
        model.load_state_dict(frame.state_dict())
        assert isinstance(model, MolGuided3D)
        return model

    def handed(self, first: Image, seen: Image | None) -> Tensor:
        """The image, or both of them, (batch, 2, z, y, x)."""
        if not self.consistent:
            return first
        assert seen is not None
        return torch.stack([first, seen], 1)

    def taken(self, handed: Tensor) -> tuple[Image, Image | None]:
        """The adjoint of :meth:`handed`."""
        return (handed[:, 0], handed[:, 1]) if self.consistent else (handed, None)

    def _refined(self, handed: Tensor, operator: LinearOperator | None, lam: PerSample) -> Image:
        """N of a first image."""
        x, seen = self.taken(handed)
        if self.refinement is None:
            return x
        first, *later = self.refinement.blocks
        z: Image = first(x, _phase_of(x))
        if not later:
            return z
        assert operator is not None
        assert seen is not None
        weight = self.refinement.config.data_weight * lam
        of_data = times(weight, seen)
        for block in later:
            x = data_consistency(operator, z + of_data, weight, z)
            z = block(x, _phase_of(x), z)
        return z

    def amplification(self, solution: Solution) -> Amplification:
        """As of two passes; with a refinement, nothing is known end to end."""
        if self.refinement is None:
            return super().amplification(solution)
        return MolRidge.amplification(self, solution)._replace(end_to_end=None)

    def _factors(self, image: Image, threshold: PerSample, units: Units) -> Tensor:
        """The factors of every plane, (batch, x, features, z, y)."""
        parts = with_neighbours(image)
        return torch.cat([self._of_planes(part, threshold, units) for part in parts], 1)

    def _of_planes(self, image: Image, threshold: PerSample, units: Units) -> Tensor:
        """Of the planes of a part, which has one more at both ends."""

        def factors(image: Image, threshold: PerSample) -> Tensor:
            found = self.guide.network.coefficients(image, threshold)
            c = found.reshape(len(image), -1, *found.shape[1:])
            c = CENTRE * c[:, 1:-1] + BESIDE * (c[:, :-2] + c[:, 2:])
            each = units._replace(ratio=units.ratio.repeat_interleave(c.shape[1]))
            return self.adaptation(c.flatten(0, 1), each).reshape(c.shape)

        return recomputed(factors, image, threshold)
