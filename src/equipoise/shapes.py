"""The names of array types that every public signature uses.

Images and k-space are native complex tensors. ``*space`` is ``y x`` in 2D and ``z y x`` in 3D.
"""

from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

Image = Complex[Tensor, "batch *space"]
"""A batch of complex images."""

KSpace = Complex[Tensor, "batch coil *space"]
"""Multi-coil k-space, DC at index ``n // 2`` of every axis."""

CoilMaps = Complex[Tensor, "#batch coil *space"]
"""Coil sensitivity maps, sum of squares over coils 1 on the support and 0 outside."""

Mask = Bool[Tensor, "#batch *space"]
"""Sampling mask, True where k-space was measured, DC at index ``n // 2``."""

Data = Complex[Tensor, "batch *data"]
"""Measurements of any linear operator."""

PerSample = Float[Tensor, "batch"]
"""One real number for each sample of the batch."""

Numbers = Float[Tensor, "*batch"]
"""One real number for each sample, or a single one if no batch axis was given."""

Count = Int[Tensor, "batch"]
"""One whole number for each sample of the batch."""
