"""Parallel MRI of a series in time: a mask for each frame, and coil maps shared by all frames."""

from typing import Any

import torch
from torch import Tensor

from equipoise.arguments import Array, as_maps, as_mask, as_tensor
from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import CACHE_BYTES, SenseOp
from equipoise.physics.coils.espirit import KERNEL, estimate_csm
from equipoise.physics.coils.wide import wide_csm
from equipoise.physics.least_squares import conjugate_gradient
from equipoise.physics.noise_level import noise_level
from equipoise.shapes import Data, Image, PerSample
from equipoise.vectors import repeated, still_of

MATRIX_AXES, MAP_AXES = 2, 4
"""Axes of the matrix (y, x), and of maps with their batch and coil axes."""


class DynamicSenseOp(SenseOp):
    """``(A x)_t = M_t F S x_t`` for images (batch, time, y, x): Cartesian k-t sampling.

    The maps S are the same in all frames, so A is block-diagonal in time, and
    ``||A|| = max_t ||M_t F S|| <= 1`` for maps normalised to ``sum_c |S_c|^2 <= 1``.

    Parameters
    ----------
    csm
        Coil maps, (batch or 1, coil, y, x) or (coil, y, x). They are held as
        (batch or 1, coil, 1, y, x).
    mask
        A mask for each frame, (batch or 1, time, y, x) or (time, y, x); True or 1 where measured.

    Raises
    ------
    BadInputError
        If the shapes do not match, the mask selects nothing, or the maps are zero everywhere.

    Examples
    --------
    >>> import numpy as np
    >>> import equipoise as eq
    >>> mask = eq.kt_mask((6, 32, 32), 4.0, seed=0)  # (time, y, x)
    >>> A = eq.DynamicSenseOp(np.full((4, 32, 32), 0.5), mask)
    >>> kspace = A(np.ones((6, 32, 32)))
    >>> kspace.shape, A.H(kspace).shape
    (torch.Size([4, 6, 32, 32]), torch.Size([6, 32, 32]))
    """

    def __init__(self, csm: Array, mask: Array):
        maps = as_maps(csm).value
        given = as_tensor(mask, "the sampling mask")
        if maps.ndim != MAP_AXES or given.ndim not in (MATRIX_AXES + 1, MATRIX_AXES + 2):
            raise BadInputError(
                f"the coil maps have the shape {tuple(maps.shape)} and the mask "
                f"{tuple(given.shape)}: a series needs maps (coil, y, x) and a mask (time, y, x), "
                "with or without a batch axis before them"
            )
        frames = given.shape[-MATRIX_AXES - 1]
        self._hold(maps[:, :, None], as_mask(given, (frames, *maps.shape[2:])), MATRIX_AXES)

    def __repr__(self) -> str:
        """Number of frames, and the rest as for one frame."""
        return f"Dynamic{super().__repr__()}, {self.mask.shape[1]} frames"

    @property
    def image_axes(self) -> tuple[str, ...]:
        """(time, y, x)."""
        return ("time", "y", "x")

    def frames(self) -> SenseOp:
        """The operator of the frames of one series, with the frames as its batch.

        Raises
        ------
        BadInputError
            If there are several series.
        """
        if self.image_shape[0] != 1:
            raise BadInputError(f"{self!r} holds several series: take one of them")
        return SenseOp(self.csm[:, :, 0], self.mask[0])

    def normal(self, image: Image) -> Image:
        """``A^H A x``, for as many frames at a time as fit the cache."""
        maps = self._maps_for(image)
        frame_bytes = image[:, 0].numel() * image.element_size() * maps.shape[1]
        count = max(1, CACHE_BYTES // frame_bytes)
        parts = []
        for frames, weights in zip(
            torch.split(image, count, 1), torch.split(self._weights, count, 2)
        ):
            coil_images = maps * frames[:, None]
            if self._axes:
                coil_images = torch.fft.fftn(coil_images, dim=self._axes)
            coil_images = coil_images.mul_(weights.to(maps.real.dtype))
            if self._axes:
                coil_images = torch.fft.ifftn(coil_images, dim=self._axes)
            parts.append(coil_images.mul_(maps.conj()).sum(1))
        return torch.cat(parts, 1)

    def _scale_of(self, kspace: Tensor, mask: Tensor, csm: Tensor) -> Tensor:
        """That of the mean over time, because frames alone hold few central lines."""
        mean, measured = temporal_mean(kspace, mask)
        return super()._scale_of(mean, measured, csm[:, 0])


class StaticOp(SenseOp):
    """``A_s = A E``, E an image repeated in all n frames and divided by ``sqrt(n)``.

    E is an isometry, so ``||A_s|| <= ||A||``, and ``A_s^H A_s = S^H F^H W F S`` with W the share of
    the frames in which a point was measured.

    Parameters
    ----------
    series
        A.
    """

    def __init__(self, series: DynamicSenseOp):
        self._series = series
        self._hold(series.csm[:, :, 0], series.mask.any(1), MATRIX_AXES)
        self._weigh(series.mask.to(series.csm.real.dtype).mean(1))

    @property
    def data_shape(self) -> tuple[int, ...]:
        """That of the series."""
        return self._series.data_shape

    def still(self, image: Tensor) -> Tensor:
        """``E s``, (batch, time, y, x)."""
        return repeated(image, self._series.mask.shape[1])

    def summed(self, series: Tensor) -> Tensor:
        """``E^H x``, (batch, y, x)."""
        return still_of(series)

    def forward(self, image: Image) -> Data:
        """``A E s``."""
        return self._series.forward(self.still(image))

    def adjoint(self, data: Data) -> Image:
        """``E^H A^H b``."""
        return self.summed(self._series.adjoint(data))


STATIC_RTOL = 1e-4
"""Accuracy of conjugate gradients for a still image."""


class StillImage:
    """``R b = E (I + lam A_s^H A_s)^-1 lam A_s^H b``: regularised SENSE of what does not move.

    ``||R b|| <= sqrt(lam) / 2 ||b||``, as for every Tikhonov image.

    Parameters
    ----------
    series
        A.
    lam
        Data weight.
    """

    def __init__(self, series: DynamicSenseOp, lam: float):
        self.operator, self.lam = StaticOp(series), lam

    def __call__(self, data: Data) -> Image:
        """``R b``, (batch, time, y, x), with gradients for b."""
        found: Image = _Still.apply(data, self)  # type: ignore[no-untyped-call]
        return found

    def of(self, data: Data) -> Image:
        """``R b``."""
        return self.operator.still(self._solved(self.operator.adjoint(data)))

    def transposed(self, image: Image) -> Data:
        """``R^H v``."""
        return self.operator.forward(self._solved(self.operator.summed(image)))

    def _solved(self, image: Tensor) -> Tensor:
        """``(I + lam A_s^H A_s)^-1 lam v``."""
        lam = torch.full((len(image),), self.lam, dtype=torch.float64, device=image.device)
        one = torch.ones_like(lam)
        rhs = self.lam * image
        return conjugate_gradient(self.operator, rhs, lam, one, rtol=STATIC_RTOL).value


class _Still(torch.autograd.Function):
    """R with its transpose as the backward pass, so that no iteration is recorded."""

    @staticmethod
    def forward(ctx: Any, data: Tensor, still: StillImage) -> Tensor:
        ctx.still = still
        return still.of(data)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.still.transposed(grads[0]), None


def temporal_mean(kspace: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the samples over the frames in which they were measured.

    Parameters
    ----------
    kspace, mask
        (coil, time, y, x) and (time, y, x).

    Returns
    -------
    The mean (coil, y, x), and where any frame was measured, (y, x).
    """
    count = mask.sum(0)
    return (kspace * mask).sum(1) / count.clamp(min=1), count > 0


def shared_views(kspace: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Samples that a frame lacks, from the frame nearest in time that has them.

    Of two frames that are equally near, from the earlier one (view sharing, Markl and Hennig, Magn.
    Reson. Imaging 19:669-676, 2001).

    Parameters
    ----------
    kspace, mask
        (batch, coil, time, y, x) and (batch, time, y, x), bool.

    Returns
    -------
    The filled k-space, and where it is filled.
    """
    shared, filled = kspace * mask[:, None], mask.clone()
    for step in range(1, mask.shape[1]):
        before, after = slice(None, -step), slice(step, None)
        for frames, source in ((after, before), (before, after)):
            new = mask[:, source] & ~filled[:, frames]
            shared[:, :, frames] += kspace[:, :, source] * new[:, None]
            filled[:, frames] |= new
    return shared, filled


def dynamic_csm(kspace: Array, mask: Array, kernel: int = KERNEL) -> Tensor:
    """ESPIRiT maps (1, coil, y, x) of a series, from the mean of its samples over time.

    Where tissue reaches the border they are those of :mod:`equipoise.physics.coils.wide`, for which
    all frames together measure enough.

    Parameters
    ----------
    kspace
        Multi-coil k-space (coil, time, y, x), DC at index ``n // 2``.
    mask
        (time, y, x), True where measured.
    kernel
        See :func:`equipoise.estimate_csm`.

    Raises
    ------
    BadInputError
        If all frames together hold less than 4 x 4 samples about DC, or no signal there.

    Examples
    --------
    >>> import numpy as np
    >>> import equipoise as eq
    >>> mask = eq.kt_mask((6, 48, 48), 4.0, seed=0)[0]
    >>> smooth = np.hanning(48)[:, None] * np.hanning(48)  # the k-space of two equal coils
    >>> kspace = np.stack([smooth, 1j * smooth])[:, None] * mask.numpy()
    >>> maps = eq.dynamic_csm(kspace, mask)
    >>> maps.shape, round(float(maps.abs().max()), 3)
    (torch.Size([1, 2, 48, 48]), 0.707)
    """
    samples, measured = as_tensor(kspace, "the k-space"), as_tensor(mask, "the sampling mask") != 0
    mean, somewhere = temporal_mean(samples, measured)
    found = wide_csm(mean, somewhere, kernel)
    return estimate_csm(mean[None], somewhere[None], kernel) if found is None else found[None]


def dynamic_noise_level(kspace: Tensor, mask: Tensor) -> PerSample:
    """The noise level of a series: the median of those of its frames, (1,).

    Parameters
    ----------
    kspace, mask
        (coil, time, y, x) and (time, y, x).
    """
    return noise_level(kspace.movedim(1, 0), mask).median()[None]
