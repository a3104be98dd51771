"""Parallel MRI: ``A = M F S``."""

import math
import warnings
from collections.abc import Iterator
from functools import cached_property

import torch

from equipoise.arguments import Array, Given, as_maps, as_mask, refuse_real
from equipoise.outcome import BadInputError
from equipoise.physics.fourier import image_to_kspace, kspace_to_image
from equipoise.physics.linop import LinearOperator, NormBound, percentile
from equipoise.physics.sampling.masks import calibration_region
from equipoise.readable import counted, matrix
from equipoise.shapes import Image, KSpace, Mask, PerSample


class SenseOp(LinearOperator):
    """``A = M F S``: coil maps, centred orthonormal Fourier transform, sampling mask.

    With maps normalised to ``sum_c |S_c|^2 <= 1``, ``||A|| <= 1``. The number of spatial axes
    of the maps decides between 2D and 3D.

    Parameters
    ----------
    csm
        Coil maps, (batch or 1, coil, y, x) or (coil, y, x); in 3D with the batch axis.
    mask
        Sampling mask, (batch or 1, y, x), (y, x), or (x,) for whole columns; True or 1 where
        measured.

    Raises
    ------
    BadInputError
        If the shapes do not match, the mask selects nothing, or the maps are zero everywhere.

    Warns
    -----
    UserWarning
        If the root sum of squares of the maps exceeds 1 at a pixel; the text says what it costs.

    Examples
    --------
    >>> import numpy as np
    >>> import equipoise as eq
    >>> csm = np.full((4, 32, 32), 0.5)  # four coils, numpy or torch
    >>> A = eq.SenseOp(csm, np.arange(32) % 2 == 0)  # every second column
    >>> kspace = A(np.ones((32, 32)))
    >>> kspace.shape, A.H(kspace).shape
    (torch.Size([4, 32, 32]), torch.Size([32, 32]))
    """

    def __init__(self, csm: Array, mask: Array):
        csm = as_maps(csm).value
        self._hold(csm, as_mask(mask, csm.shape[2:]), csm.ndim - 2)

    def _hold(self, csm: torch.Tensor, mask: torch.Tensor, n_axes: int) -> None:
        """Check maps and mask of an operator that transforms the last ``n_axes`` axes."""
        batches = csm.shape[0], mask.shape[0]
        if 1 not in batches and batches[0] != batches[1]:
            raise BadInputError(
                f"the coil maps have a batch of {batches[0]} and the mask one of {batches[1]}: "
                "the two must be equal, or one of them 1 (a volume needs its batch axis)"
            )
        if not mask.flatten(1).any(1).all():
            raise BadInputError("the sampling mask is empty: nothing was measured")
        if not (csm != 0).flatten(1).any(1).all():
            raise BadInputError(
                "the coil maps are zero everywhere: estimate them again, or give other maps"
            )
        self.csm = csm
        self.mask = mask
        self.n_axes = n_axes
        self._weigh(mask.to(csm.real.dtype))
        _warn_of_large_norm(float(self.norm_bound().value.max()))

    def _weigh(self, weights: torch.Tensor) -> None:
        """Take over M^H M, whose diagonal is (batch or 1, *space), for :meth:`normal`."""
        # F^H M F is invariant to the centring of F when M is moved to corner DC: the phase that
        # centring adds in k-space is diagonal, so it commutes with the mask and cancels.
        axes = tuple(range(-self.n_axes, 0))
        self._weights = torch.fft.ifftshift(weights, dim=axes)[:, None]
        # Along an axis on which M is constant, F^H M F is M, so whole lines need no transform.
        self._axes = tuple(a for a in axes if not _constant_along(self._weights, a))

    def __repr__(self) -> str:
        """Number of coils, matrix, acceleration and batch."""
        batch, *space = self.image_shape
        acceleration = self.mask.numel() / int(self.mask.sum())
        coils = counted(self.csm.shape[1], "coil")
        return f"SenseOp of {coils}, {matrix(space)}, {acceleration:.2f}-fold, batch {batch}"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(batch, y, x)."""
        batch = max(self.csm.shape[0], self.mask.shape[0])
        return (batch, *self.mask.shape[1:])

    @property
    def data_shape(self) -> tuple[int, ...]:
        """(batch, coil, y, x)."""
        batch, *space = self.image_shape
        return (batch, self.csm.shape[1], *space)

    @property
    def data_axes(self) -> tuple[str, ...]:
        """The coil axis, and the axes of the image."""
        return ("coil", *self.image_axes)

    @property
    def image_axes(self) -> tuple[str, ...]:
        """(y, x), or (z, y, x) of a volume."""
        return ("z", "y", "x")[-self.n_axes :]

    def given_data(self, data: Array) -> Given:
        """The k-space of a user as a batch of complex tensors.

        Raises
        ------
        BadInputError
            If it is real, or has another number of coils or another matrix than the maps.
        """
        return super().given_data(refuse_real(data))

    def forward(self, image: Image) -> KSpace:
        """``M F S x``, shape (batch, coil, y, x)."""
        coil_images = self._maps_for(image) * image[:, None]
        return self.mask[:, None] * image_to_kspace(coil_images, self.n_axes)

    def adjoint(self, data: KSpace) -> Image:
        """``S^H F^H M b``, shape (batch, y, x)."""
        return self._combined(self.mask[:, None], data, self._maps_for(data))

    def _combined(self, weights: torch.Tensor, data: KSpace, maps: torch.Tensor) -> Image:
        """``S^H F^H W b`` for as many coils at a time as fit the cache."""
        total = None
        for csm, part in self._coils(data[:, 0], maps, data):
            coil_images = kspace_to_image(weights * part, self.n_axes)
            image = (csm.conj() * coil_images).sum(1)
            total = image if total is None else total.add_(image)
        assert total is not None
        return total

    @staticmethod
    def _coils(image: Image, *arrays: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """Arrays (batch, coil, ...) in parts of as many coils as fit the cache."""
        n_coils = max(1, CACHE_BYTES // (image.numel() * image.element_size()))
        return zip(*(torch.split(array, n_coils, dim=1) for array in arrays))

    def normal(self, image: Image) -> Image:
        """``S^H F^H M F S x`` without shifts, for as many coils at a time as fit the cache."""
        total = None
        for (csm,) in self._coils(image, self._maps_for(image)):
            part = self._normal_of(csm, image)
            total = part if total is None else total.add_(part)
        assert total is not None
        return total

    def planes(self, x: slice) -> "SenseOp | None":
        """Those of a readout x whose lines were measured as a whole."""
        if -1 in self._axes:
            return None
        found = self._without_cache()
        found.csm, found.mask = self.csm[..., x], self.mask[..., x]
        found._weights = self._weights[..., x]
        return found

    def _maps_for(self, array: torch.Tensor) -> torch.Tensor:
        """The maps in the precision of the array, so that single precision stays single."""
        return self._single_csm if array.dtype == torch.complex64 else self.csm

    @cached_property
    def _single_csm(self) -> torch.Tensor:
        return self.csm.to(torch.complex64)

    def _normal_of(self, csm: torch.Tensor, image: Image) -> Image:
        """The part of some coils in :meth:`normal`."""
        coil_images = csm * image[:, None]
        if self._axes:
            coil_images = torch.fft.fftn(coil_images, dim=self._axes)
        coil_images = coil_images.mul_(self._weights.to(csm.real.dtype))
        if self._axes:
            coil_images = torch.fft.ifftn(coil_images, dim=self._axes)
        return coil_images.mul_(csm.conj()).sum(1)

    def norm_bound(self) -> NormBound:
        """The maximum over pixels of ``sqrt(sum_c |S_c|^2)``, because M and F have the norm 1.

        In double precision a Fourier transform of n numbers, with factors of any size, has a
        relative error of at most ``TRANSFORM log2(4 n) u`` (Higham 2002, theorem 24.2, three times
        for a prime length). The products with the maps and the sum over coils add their own.
        """
        largest = self._largest_norm.expand(self.image_shape[0])
        n_coils, n_pixels = self.csm.shape[1], self.csm[0, 0].numel()
        operations = 2 * TRANSFORM * math.log2(4 * n_pixels) + n_coils + OF_MAPS
        rounding = operations * torch.finfo(torch.float64).eps / 2
        return NormBound(largest * (1 + rounding), True, rounding)

    @cached_property
    def _largest_norm(self) -> PerSample:
        squares = torch.zeros((), dtype=torch.float64, device=self.csm.device)
        for csm in self.csm.detach().unbind(1):
            squares = squares + csm.to(torch.complex128).abs().square()
        return squares.sqrt().flatten(1).amax(1)

    def support(self) -> Mask | None:
        """Pixels where some coil map is not zero."""
        seen = (self.csm != 0).any(1)
        return None if bool(seen.all()) else seen

    def acceleration(self) -> PerSample:
        """Points of the matrix divided by measured points."""
        measured = self.mask.flatten(1).double().mean(1)
        return (1 / measured).expand(self.image_shape[0])

    def intensity_scale(self, data: KSpace) -> PerSample:
        """99th percentile of the low-resolution image of the fully sampled k-space centre.

        The centre is smoothed by a Hann window. Without a fully sampled centre it is the percentile
        of ``|A^H b|`` times the square root of the acceleration, which makes up for the energy that
        was not measured.
        """
        scales = []
        for i in range(data.shape[0]):
            mask = self.mask[i if len(self.mask) > 1 else 0]
            csm = self.csm[i if len(self.csm) > 1 else 0]
            scales.append(self._scale_of(data[i], mask, csm))
        return torch.cat(scales)

    def _scale_of(
        self, kspace: torch.Tensor, mask: torch.Tensor, csm: torch.Tensor
    ) -> torch.Tensor:
        """The intensity scale of one sample (coil, *space), (1,)."""
        region = calibration_region(mask)
        if min(region) < MIN_CENTRE:
            weights = torch.full_like(mask, 1, dtype=csm.real.dtype)
            weights *= (mask.numel() / mask.sum()).sqrt()
        else:
            weights = hann_window(mask.shape, region, mask.device).to(csm.real)
        image = self._combined(weights * mask, kspace[None], csm[None])
        return percentile(image.abs(), 0.99)


TRANSFORM = 24
"""Roundings of each number for each factor 2 of the length of a Fourier transform."""

OF_MAPS = 16
"""Roundings of the products with the maps, their conjugates and the intensity scale."""

NORM_SLACK = 1e-3
"""The norm of maps may exceed 1 by this much without a warning, by rounding or interpolation."""


def _warn_of_large_norm(bound: float) -> None:
    """Warn of maps whose root sum of squares exceeds 1, so that ``||A||`` may exceed 1 too."""
    if bound <= 1 + NORM_SLACK:
        return
    warnings.warn(
        f"||A|| is at most {bound:.3g}, the largest root sum of squares of the coil maps, and maps "
        f"of norm 1 make it at most 1: lam acts up to {bound**2:.3g} times as strongly as "
        "in training, the network sees a different intensity, the bound lam / m of the paper is "
        "multiplied by ||A||, and gradient steps contract less. "
        "equipoise.normalize_csm(csm) divides the maps by their root sum of squares",
        stacklevel=4,
    )


CACHE_BYTES = 2**21
"""Bytes of coil images that are transformed together. More than this does not fit the second-level
cache, and a transform in double precision of 12 coils of 256 x 240 takes three times as long."""

MIN_CENTRE = 4
"""With fewer fully sampled central lines than this, a low-resolution image is not usable."""


def _constant_along(mask: torch.Tensor, axis: int) -> bool:
    return bool((mask == mask.narrow(axis, 0, 1)).all())


def hann_window(shape: torch.Size, region: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Separable Hann window over the central ``region`` of a grid, zero outside."""
    window = torch.ones((), device=device)
    for n, width in zip(shape, region):
        distance = (torch.arange(n, device=device) - n // 2).abs() / (width / 2)
        axis = torch.where(distance < 1, 0.5 + 0.5 * torch.cos(torch.pi * distance), 0.0)
        window = window[..., None] * axis
    return window
