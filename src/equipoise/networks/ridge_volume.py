"""The ridge for images of three axes: a series in time, or a volume (19)."""

import math
from collections.abc import Iterator
from operator import attrgetter
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from equipoise.networks.analysis import (
    Factors,
    VolumeUsed,
    absolute_norm,
    applied,
    as_matrices,
    differences,
    norms_squared,
    size_of,
)
from equipoise.networks.blocks import (
    KERNEL,
    PRODUCTS,
    analysed,
    between_blocks,
    synthesised,
)
from equipoise.networks.conditioned import ConditionedNetwork, Used, kept
from equipoise.networks.low_rank import (
    BLOCK,
    SHIFTS,
    clipped,
    clipping_rounding,
    image_of,
    matrices_of,
)
from equipoise.networks.network import Monotonicity, NetworkConfig, Shapes
from equipoise.networks.proved import one_input_norm_squared
from equipoise.networks.ridge import (
    BELOW,
    HALF,
    LARGEST_WIDTH,
    MOST_CLIPS,
    Ridge,
    composed_kernels,
    zero_mean_kernels,
)
from equipoise.networks.rounding import AnalysisNorms, shrinkage_rounding
from equipoise.networks.shrinkage import Layer, shrunk, start_of_thresholds
from equipoise.networks.spectrum import frequencies, harmonics
from equipoise.settings import checked
from equipoise.shapes import Image, PerSample
from equipoise.vectors import norm, repeated, still_of

MOST_FILTERS, MOST_TAPS = 16, 31
"""Largest sizes that a file or a configuration may ask for."""

START_ACROSS = 0.5
"""Norm of the kernels across frames relative to those within them, before any training."""

START_WITHIN = 0.1
"""Size of all kernels but those of single pixels, relative to these, where a ridge starts one."""


class RidgeVolumeConfig(NetworkConfig):
    """See :class:`RidgeVolume`."""

    axis: Literal["time", "z"] = Field("time", description="the axis before y and x")
    m: float = Field(0.01, ge=1e-9, lt=1, description="monotonicity constant of F")
    features: int = Field(32, ge=1, le=LARGEST_WIDTH, description="kernels within a frame")
    basis: int = Field(8, ge=1, le=LARGEST_WIDTH, description="kernels in the first factor of each")
    filters: int = Field(3, ge=1, le=MOST_FILTERS, description="filters along the axis")
    across: int = Field(16, ge=1, le=LARGEST_WIDTH, description="kernels of each filter")
    taps: int = Field(5, ge=2, le=MOST_TAPS, description="frames that a filter combines")
    spectral: bool = Field(False, description="a term of the temporal frequencies of every pixel")
    low_rank: bool = Field(False, description="a term of blocks of pixels that change alike")
    grids: int = Field(1, ge=1, le=len(SHIFTS), description="shifted grids of these blocks")
    still: bool = Field(False, description="kernels of the mean over time, not of every frame")
    clips: int = Field(2, ge=1, le=MOST_CLIPS, description="terms of the shrinkage")
    channels: Literal[1, 2] = Field(2, description="1 for real images")

    @model_validator(mode="after")
    def _terms_of_a_series(self) -> "RidgeVolumeConfig":
        for name in ("spectral", "low_rank", "still"):
            if getattr(self, name) and (self.axis != "time" or self.channels == 1):
                raise ValueError(
                    f"{name} is set, the axis is {self.axis} and channels is {self.channels}: it "
                    "is for complex images in time"
                )
        return self

    def build(self, seed: int = 0) -> "RidgeVolume":
        """The network with random kernels."""
        return RidgeVolume(**self.model_dump(), seed=seed)

    def shapes(self) -> Shapes:
        """Filters, both factors of all kernels, and thresholds and shares of all features."""
        without_kernels = int(self.spectral) + int(self.low_rank)
        clips = (self.clips, self.features + self.filters * self.across + without_kernels)
        return {
            "log_spectral": (int(self.spectral),),
            "log_low_rank": (int(self.low_rank),),
            "first": (self.basis, 1, HALF, HALF),
            "second": (self.features, self.basis, HALF, HALF),
            "taps": (self.filters, self.taps),
            "first_across": (self.filters, self.basis, 1, HALF, HALF),
            "second_across": (self.filters, self.across, self.basis, HALF, HALF),
            "log_threshold": clips,
            "share": clips,
        }


class RidgeVolume(ConditionedNetwork):
    """``F(x) = m x + sum_g T_g^T S_g^T s(S_g T_g x)`` for images (batch, time or z, y, x) (19).

    ``T_0`` is the identity and S_0 has zero-mean kernels of 9 x 9: these are the terms of
    :class:`~equipoise.networks.ridge.Ridge` in every frame. Every other T_g is a filter along the
    first axis with taps of mean zero, and S_g has kernels of 9 x 9 of any mean, so the kernels of
    U, the stack of all ``S_g T_g``, are products of a filter and a plane. U of a constant image is
    zero. With ``spectral``, a last term has the unitary Fourier transform along time without the
    frequency zero, times a learned size, and thresholds that are proportional to the frequency:
    what repeats with the heartbeat has few harmonics, and high ones are small (compare Jung et al.,
    MRM 61:103-116, 2009). With ``low_rank``, another has what changes in time, ``x - mean_t x``,
    times a learned size, in blocks of 8 x 8 pixels whose singular values are shrunk: pixels that
    are close to each other change alike (compare Zhang et al., MRM 73:655-661, 2015). With
    ``still``, T_0 is ``n^(1/2)`` times the mean over n frames, an isometry of what does not move,
    which no other term sees: S_0 is then the ridge of one image, with a norm of its own. s is that
    of the ridge, with slopes in [0, 1], or :mod:`~equipoise.networks.low_rank`: F is m-strongly
    monotone for any U, and the gradient of a convex function. U is normalised by its symbol in
    three dimensions, ``sup sum_g |T_g|^2 sum_f |S_gf|^2`` and the squares of those sizes, to
    ``||U||^2 <= 2 (1 - m)``, hence ``Lip(H) <= 1 - m``; with ``still``, S_0 and the rest each.

    Time is periodic, as the heartbeat of a cine is. A jump between the last and the first frame of
    a series that is not periodic costs one coefficient, as an edge does. Along z, y and x the image
    is zero beyond its border.

    Parameters
    ----------
    axis
        ``time`` or ``z``.
    m
        Monotonicity constant of F.
    features
        Kernels of S_0.
    basis
        Number of 5 x 5 kernels in the first factor of each S_g.
    filters, across, taps
        Number of the other T_g, kernels of each S_g, and taps of each T_g.
    clips
        Number of terms of s.
    channels
        2 for complex images, 1 for real ones.
    seed
        Seed of the kernels.
    spectral, low_rank, still
        Whether there are terms of temporal frequencies and of blocks of pixels that change alike,
        and whether the kernels of S_0 act on the mean over time.
    grids
        Number of grids of these blocks, shifted by half a block, so that their edges are seen less.
    """

    symmetric = True
    """J is symmetric: F is the gradient of a convex function."""

    def __init__(
        self,
        axis: Literal["time", "z"] = "time",
        m: float = 0.01,
        features: int = 32,
        basis: int = 8,
        filters: int = 3,
        across: int = 16,
        taps: int = 5,
        clips: int = 2,
        channels: int = 2,
        seed: int = 0,
        spectral: bool = False,
        low_rank: bool = False,
        grids: int = 1,
        still: bool = False,
    ):
        super().__init__()
        shape = {"features": features, "basis": basis, "filters": filters, "across": across}
        content = {"axis": axis, "m": m, "taps": taps, "clips": clips, "channels": channels}
        content |= {"spectral": spectral, "low_rank": low_rank, "grids": grids, "still": still}
        self.config = checked(RidgeVolumeConfig, "ridge in three dimensions", {**content, **shape})
        self.axis, self.m, self.channels, self.grids = axis, m, channels, grids
        self.features, self.across, self.still = features, across, still
        generator = torch.Generator().manual_seed(seed)
        planes = Ridge(m, features, basis, clips, channels, seed)
        self.first, self.second = planes.first, planes.second
        self.taps = nn.Parameter(differences(filters, taps))
        size = (filters, basis, 1, HALF, HALF)
        first = torch.randn(size, generator=generator) / HALF
        second = torch.randn((filters, across, *size[1:2], HALF, HALF), generator=generator)
        self.first_across = nn.Parameter(first)
        self.second_across = nn.Parameter(second * START_ACROSS / (HALF * math.sqrt(basis)))
        self.log_spectral = nn.Parameter(torch.zeros(int(spectral)))
        self.log_low_rank = nn.Parameter(torch.zeros(int(low_rank)))
        start = start_of_thresholds(clips, features + filters * across + spectral + low_rank)
        self.log_threshold = nn.Parameter(start)
        self.share = nn.Parameter(torch.zeros_like(start))

    @property
    def axes(self) -> tuple[str, str, str]:
        """The names of the axes of an image after the batch."""
        return self.axis, "y", "x"

    @property
    def reach(self) -> int:
        """Largest distance, in y and x, of the input of an output pixel; a tile has all frames."""
        return KERNEL - 1

    @property
    def grid(self) -> int:
        """Multiples at which a tile may begin: blocks stay whole."""
        return BLOCK if len(self.log_low_rank) else 1

    def kernels(self) -> list[nn.Parameter]:
        """Filters, both factors of all kernels, and the sizes of the terms without kernels."""
        planes = [self.first, self.second, self.first_across, self.second_across]
        return [*planes, self.taps, self.log_spectral, self.log_low_rank]

    @torch.no_grad()
    def start_from(self, ridge: Ridge) -> None:
        """Take over the kernels, thresholds and shares of a ridge of one frame: ``T_0 = I``.

        They begin weak, beside one kernel of every filter that is a pixel: with the first filter
        that is total variation along the axis, of which training knows from the start how much it
        is worth.
        """
        kernel = zero_mean_kernels(ridge.first.double(), ridge.second.double())
        size = math.sqrt(2 / float(one_input_norm_squared(kernel)))
        self.first.copy_(ridge.first)
        self.second.copy_(ridge.second * (START_WITHIN * size))
        centre = HALF // 2
        for kernel in (self.first_across[:, 0, 0], self.second_across[:, 0, 0]):
            kernel.zero_()
            kernel[:, centre, centre] = 1.0
        self.second_across[:, 0, 1:] = 0.0
        self.second_across[:, 1:] *= START_WITHIN
        for name in ("log_threshold", "share"):
            getattr(self, name)[:, : self.features] = getattr(ridge, name)

    def factors(self) -> Factors:
        """What U is made of, as it is used, in double precision."""
        within = zero_mean_kernels(self.first.double(), self.second.double())
        pairs = zip(self.first_across.double(), self.second_across.double())
        across = torch.stack([composed_kernels(first, second) for first, second in pairs])
        taps = self.taps.double()
        taps = taps - taps.mean(1, keepdim=True)
        spectral, one = (v.double().exp() for v in (self.log_spectral, self.log_low_rank))
        low_rank = one.repeat(self.grids) / math.sqrt(self.grids)
        squares = norms_squared(Factors(taps, within, across, spectral, low_rank), self.still)
        own, rest = (torch.sqrt(2 * (1 - self.m) / v) * BELOW for v in squares)
        return Factors(taps, within * own, across * rest, spectral * rest, low_rank * rest)

    def used(self) -> VolumeUsed:
        """What an evaluation uses, differentiable in the weights."""
        taps, within, across, spectral, low_rank = self.factors()
        # In units of the norm of the kernel, in which white noise has one size in every channel.
        of_filters = (size_of(across) * taps.norm(dim=1, keepdim=True)).flatten()
        sizes = [size_of(within), of_filters, spectral, low_rank[: len(self.log_low_rank)]]
        thresholds = self.log_threshold.exp() * torch.cat(sizes).to(self.dtype)
        return VolumeUsed(
            taps.to(self.dtype),
            between_blocks(within.to(self.dtype)),
            torch.stack([between_blocks(kernel) for kernel in across.to(self.dtype)]),
            spectral.to(self.dtype),
            low_rank.to(self.dtype),
            thresholds,
            torch.softmax(self.share, 0),
        )

    def shrinkage(self, image: Image, scale: Tensor, used: Used) -> list[Layer]:
        """``s(S_g T_g x)`` of every g."""
        return list(self._layers(image, scale, used))

    def _layers(self, image: Image, scale: Tensor, used: Used) -> Iterator[Layer]:
        """``s(S_g T_g x)`` of one g after the other, each made when it is asked for."""
        _, _, across, spectral, low_rank, thresholds, shares = used
        scale = scale.expand(len(image))
        of_frames = scale.repeat_interleave(image.shape[1])
        scales = [scale if self.still else of_frames] + [of_frames] * len(across)
        scales += [of_frames * harmonics(image).repeat(len(image))] * len(spectral)
        counts = [self.features] + [self.across] * len(across) + [1] * len(spectral)
        begin, coefficients = 0, self._coefficients(image, used)
        for of_rows, count in zip(scales, counts):
            own = slice(begin, begin + count)
            # Without a name, because it would keep them while the next ones are made.
            yield shrunk(next(coefficients), thresholds[:, own], shares[:, own], of_rows)
            begin = own.stop
        for _ in low_rank:
            # The largest singular value of white noise grows so (Marchenko and Pastur).
            edge = scale * (BLOCK + math.sqrt(image.shape[1]))
            yield clipped(next(coefficients), thresholds[:, -1], shares[:, -1], edge)

    def moved(self, image: Image, scale: Tensor, used: Used) -> Image:
        """``H(x) = (1 - m) x - U^T s(U x)``, with the coefficients of one g in memory at a time."""
        values = map(attrgetter("value"), self._layers(image, scale, used))
        return kept(image, self.m, self.channels) - self._back(values, image, used)

    def product(self, change: Image, layers: list[Layer], used: Used) -> Image:
        """``(1 - m) d - U^T s'(U x) U d``."""
        changes = self._coefficients(change, used)
        moved = (layer.change(next(changes)) for layer in layers)
        return kept(change, self.m, self.channels) - self._back(moved, change, used)

    def _coefficients(self, image: Image, used: Used) -> Iterator[Tensor]:
        """``S_g T_g x`` of every g, (batch and frame, part, feature, ...), or matrices at last."""
        taps, within, across, spectral, low_rank, *_ = used
        x = image.to(self.dtype.to_complex())
        yield analysed(still_of(x) if self.still else x.flatten(0, 1), within, self.channels)
        for matrix, kernel in zip(as_matrices(taps, x, self.axis == "time"), across):
            yield analysed(applied(matrix, x).flatten(0, 1), kernel, self.channels)
        for size in spectral:
            z = size * applied(frequencies(x), x).flatten(0, 1)
            yield torch.view_as_real(z).movedim(-1, 1)[:, :, None]
        change = x - x.mean(1, keepdim=True) if len(low_rank) else x
        for size, shift in zip(low_rank, SHIFTS):
            yield matrices_of(size * change, shift=shift)

    def _back(self, values: Iterator[Tensor], image: Image, used: Used) -> Image:
        """``U^T`` of coefficients: ``sum_g T_g^T S_g^T z_g``."""
        taps, within, across, spectral, low_rank, *_ = used
        x = image.to(self.dtype.to_complex())
        frames = x.flatten(0, 1)
        if self.still:
            total = repeated(synthesised(next(values), x[:, 0], within), x.shape[1])
        else:
            total = synthesised(next(values), frames, within).reshape(x.shape)
        for matrix, kernel in zip(as_matrices(taps, x, self.axis == "time"), across):
            of_filter = synthesised(next(values), frames, kernel).reshape(x.shape)
            total = total + applied(matrix.mT, of_filter)
        for size in spectral:
            of_rows = next(values)[:, :, 0].movedim(1, -1)
            z = torch.view_as_complex(of_rows.contiguous()).reshape(x.shape)
            total = total + size * applied(frequencies(x).mH, z)
        for size, shift in zip(low_rank, SHIFTS):
            # Their mean over time is zero as that of the matrices is, so none is taken off again.
            total = total + size * image_of(next(values), x.shape, shift=shift)
        return total.to(image.dtype)

    @torch.no_grad()
    def _rounded(self) -> tuple[Factors, float]:
        """The factors as they are rounded, and a proved bound on ``||U||^2`` for them."""
        rounded = Factors(*(v.to(self.dtype).double() for v in self.factors()))
        return rounded, max(map(float, norms_squared(rounded, self.still))) * (1 + ROUNDING)

    def lipschitz_upper(self) -> float:
        """Proved bound on Lip(H), as of a ridge; infinite for NaN or Inf."""
        if not self.finite():
            return math.inf
        (_, norm), above = self._rounded(), 1 - self.m
        return max(above, norm - above) if math.isfinite(norm) else math.inf

    def monotonicity(self) -> Monotonicity:
        """m, by construction (19); nothing for weights that are NaN or Inf, or m outside (0, 1)."""
        upper = self.lipschitz_upper()
        if not 0 < self.m < 1 or math.isinf(upper):
            found = f"m is {self.m}, and the bound of Lip(H) is {upper}: kernels without a norm"
            return self.unproved(found)
        reason = f"F - {self.m:.4g} I = U^T s(U x) with s increasing; Lip(H) <= {upper:.4g}"
        return Monotonicity(self.m, "proved", reason)

    @torch.no_grad()
    def rounding(self, image: Image) -> PerSample:
        """A proved bound on the rounding of one evaluation, for every threshold scale.

        As for a ridge, with :func:`~equipoise.networks.analysis.absolute_norm` and the products of
        a filter added to those of a kernel. A change in time is a mean over n frames and a
        difference, of at most twice the norm of the image;
        :func:`~equipoise.networks.low_rank.clipping_rounding` bounds the rest of that term, and
        its factor 2 the rounding of what it is given.
        """
        factors, norm_squared = self._rounded()
        spectral, low_rank = factors.spectral, factors.low_rank
        absolute = absolute_norm(factors, image.shape[1]) * (1 + ROUNDING)
        norms = AnalysisNorms(math.sqrt(norm_squared), absolute)
        frames = image.shape[1] * len(spectral)
        filters, count = factors.taps.shape
        means = max(2 * len(self.log_low_rank), int(self.still))
        count = max(count, OF_A_COMPLEX_SUM * frames, means * (image.shape[1] + 3))
        of_frame = PRODUCTS + count + 1
        without = len(spectral) + len(low_rank)
        back = PRODUCTS * max(self.features, self.across) + count + filters + without + 1
        found = shrinkage_rounding(norms, (of_frame, back), image, self.dtype)
        if not len(low_rank):
            return found
        share = 2 * clipping_rounding(image.shape[1], BLOCK**2, self.dtype)
        return found + share * float(low_rank.square().sum()) * norm(image)


ROUNDING = 1e-9
"""Covers the rounding of the bounds, which are computed in double precision."""

OF_A_COMPLEX_SUM = 4
"""Rounding errors to count for each term of a complex sum: two real products to a part, their sum,
and those of the entries of the Fourier transform."""
