"""One scan, independent of the format of its file."""

import warnings
from dataclasses import dataclass, field, replace
from pathlib import PurePath

import numpy as np
import torch
from torch import Tensor

from equipoise.arguments import Array, as_images, as_kspace, as_tensor
from equipoise.formats.arrange import warn_off_centre
from equipoise.formats.calibration import Calibration, shared_calibration
from equipoise.formats.checks import as_maps, as_mask, check_samples, check_target, matrix_axes
from equipoise.formats.encoding import CartesianEncoding, Encoding, TrajectoryEncoding
from equipoise.formats.header import Header
from equipoise.outcome import BadInputError, InputWarning
from equipoise.physics.coils.channels import combine


@dataclass(frozen=True, repr=False)
class Acquisition:
    """Multi-coil k-space: where its samples lie, the samples, and what each frame is.

    Attributes
    ----------
    encoding
        The points of a matrix with a mask, or a trajectory.
    samples
        complex64. Of a Cartesian scan, (frame, coil, y, x) or (frame, coil, z, y, x), with DC at
        index ``n // 2`` and zeros where nothing was measured; of a trajectory, (frame, coil,
        readout, sample). See :attr:`axes`.
    csm
        Coil maps (1 or frames, coil, matrix) if the file has them.
    target
        Ground truth (frame, matrix) if the file has one.
    source, layout
        The file, and the name of its format.
    notes
        What the reader assumed or left out.
    header
        Everything else in the file: geometry, labels, crop, noise covariance.
    calibration
        The lines from which coil maps are estimated, if the frames do not hold them.
    """

    encoding: Encoding
    samples: Tensor
    csm: Tensor | None
    target: Tensor | None
    source: str
    layout: str
    notes: list[str] = field(default_factory=list)
    header: Header = field(default_factory=Header)
    calibration: Calibration | None = None

    @classmethod
    def from_arrays(
        cls,
        kspace: Array,
        *,
        mask: Array | None = None,
        csm: Array | None = None,
        target: Array | None = None,
    ) -> "Acquisition":
        """A stack of 2D slices from arrays, numpy or torch.

        Parameters
        ----------
        kspace
            (slices, coils, y, x), or (coils, y, x) of one slice; DC at index ``n // 2``.
        mask
            Where it was measured, (1 or slices, y, x), (y, x) or (x,). If not given, it is where
            any coil is not zero.
        csm
            Coil maps, (1 or slices, coils, y, x) or (coils, y, x); estimated if not given.
        target
            The true images, (slices, y, x) or (y, x).

        Raises
        ------
        BadInputError
            If the arrays do not belong to one scan, hold NaN or Inf, or are zero everywhere.
        """
        samples = _numpy(as_kspace(kspace).value)
        wanted = None if target is None else _numpy(as_images(target, "the target").value)
        return make_acquisition(
            samples,
            "the given arrays",
            "arrays",
            mask=None if mask is None else _numpy(as_tensor(mask, "the sampling mask")),
            csm=None if csm is None else _numpy(as_tensor(csm, "the array of coil maps")),
            target=wanted,
        )

    def __repr__(self) -> str:
        """The samples, their encoding, and the file."""
        sizes = ", ".join(f"{axis} {n}" for axis, n in zip(self.axes, self.samples.shape))
        brings = {"coil maps": self.csm, "a target": self.target}
        known = " and ".join(name for name, array in brings.items() if array is not None)
        file = PurePath(self.source).name
        return f"Acquisition ({sizes}): {self.encoding!r}\n  from {file} ({self.layout})" + (
            f", with {known}" if known else ""
        )

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the axes of :attr:`samples`."""
        return ("frame", "coil", *self.encoding.axes)

    @property
    def labels(self) -> list[dict[str, int]]:
        """The labels of each frame: slice, time, phase, repetition, contrast, average, set."""
        return self.header.labels

    @property
    def kspace(self) -> Tensor:
        """The samples of a stack of 2D slices, (slices, coils, y, x).

        Raises
        ------
        BadInputError
            If this is a volume or a trajectory, whose samples are in :attr:`samples`.
        """
        self._need_slices("kspace")
        return self.samples

    @property
    def mask(self) -> Tensor:
        """The mask of a stack of 2D slices, (1 or slices, y, x), True where measured.

        Raises
        ------
        BadInputError
            If this is a volume or a trajectory, see :attr:`encoding`.
        """
        return self._need_slices("mask").mask

    def _need_slices(self, name: str) -> CartesianEncoding:
        if self.axes != STACK or not isinstance(self.encoding, CartesianEncoding):
            raise BadInputError(
                f"{self.source}: only a stack of 2D slices has {name}, and this scan has the axes "
                f"{self.axes}: `equipoise.formats.as_slices` makes a stack from a volume whose "
                "readout is fully sampled; the original samples are in `samples`"
            )
        return self.encoding

    @property
    def acceleration(self) -> float:
        """Samples of the matrix divided by measured samples, for a Cartesian scan.

        Raises
        ------
        BadInputError
            If this is a trajectory.
        """
        if isinstance(self.encoding, CartesianEncoding):
            return self.encoding.acceleration
        raise BadInputError(f"{self.source}: a trajectory has no matrix, hence no acceleration")

    def calibration_lines(self, frame: int) -> tuple[Tensor, Tensor]:
        """The calibration lines of a frame, for its coil maps: k-space (1, coil, matrix), mask."""
        mask = self._need_slices("calibration_lines").mask
        lines = None
        if self.calibration is not None:
            lines = self.calibration.lines(frame, tuple(mask.shape[1:]))
        if lines is not None:
            return lines
        return self.samples[frame : frame + 1], of_frame(mask, frame)

    def of(self, frames: list[int]) -> "Acquisition":
        """Some of the frames, with the calibration lines that belong to them."""

        def chosen(array: Tensor | None) -> Tensor | None:
            return array if array is None or len(array) == 1 else array[frames]

        encoding = self.encoding
        if isinstance(encoding, CartesianEncoding):
            encoding = CartesianEncoding(
                encoding.mask if len(encoding.mask) == 1 else encoding.mask[frames]
            )
        else:
            own = len(encoding.coordinates) > 1
            encoding = replace(
                encoding,
                coordinates=encoding.coordinates[frames] if own else encoding.coordinates,
                density=chosen(encoding.density),
            )
        return replace(
            self,
            encoding=encoding,
            samples=self.samples[frames],
            csm=chosen(self.csm),
            target=None if self.target is None else self.target[frames],
            header=self.header.of(frames),
            calibration=None if self.calibration is None else self.calibration.of(frames),
        )

    def in_channels(self, matrix: Tensor) -> "Acquisition":
        """The scan with its coils combined by a matrix (channel, coil)."""
        shared = self.calibration
        if shared is not None:
            shared = replace(shared, blocks=combine(matrix, shared.blocks), maps={})
        return replace(self.with_kspace(combine(matrix, self.samples)), calibration=shared)

    def with_kspace(self, kspace: Tensor, mask: Tensor | None = None) -> "Acquisition":
        """The same scan with other samples, and another mask if given."""
        encoding = self.encoding if mask is None else CartesianEncoding(mask)
        return replace(self, samples=kspace, encoding=encoding)


def of_frame(array: Tensor, frame: int) -> Tensor:
    """What belongs to one frame, with its batch axis, of an array of all frames or for all."""
    return array if len(array) == 1 else array[frame : frame + 1]


def _numpy(array: Tensor) -> np.ndarray:
    return array.detach().cpu().resolve_conj().numpy()


STACK = ("frame", "coil", "y", "x")
"""The axes of a stack of 2D slices, the form in which scans are solved."""


def make_acquisition(
    kspace: np.ndarray,
    source: str,
    layout: str,
    *,
    mask: np.ndarray | None = None,
    csm: np.ndarray | None = None,
    target: np.ndarray | None = None,
    notes: list[str] | None = None,
    header: Header | None = None,
    calibration: Calibration | None = None,
    volume: bool = False,
) -> Acquisition:
    """Check arrays of a file and build the acquisition of a Cartesian scan.

    Samples that are zero in every coil are padding and count as not measured, whatever the mask
    says. Frames without labels are numbered as slices. Frames without samples are left out. Without
    maps and calibration, frames without a calibration region take that of other frames of their
    slice.

    Raises
    ------
    BadInputError
        If k-space is not complex with the axes (slices, coils, y, x), or with ``volume`` (frames,
        coils, z, y, x); if it holds NaN or Inf, or is zero everywhere; or if mask, maps or target
        do not fit its matrix.

    Warns
    -----
    InputWarning
        If the energy of a stack of slices peaks far from ``n // 2``, or frames are left out.
    """
    check_samples(kspace, source, ("frames, coils, z, y, x" if volume else "slices, coils, y, x"))
    header, frames = _labelled(header or Header(), len(kspace)), np.asarray(kspace.any(axis=1))
    there = np.flatnonzero(frames.any(axis=matrix_axes(frames)))
    sampled = frames
    if mask is not None:
        sampled = sampled & as_mask(mask, kspace, source)
        # Checked after the zeros are excluded: a mask may lie beside the samples of one frame.
        if not sampled[there].any(axis=matrix_axes(sampled)).all():
            raise BadInputError(f"{source}: the mask selects only samples that are zero")
    if csm is not None:
        csm = as_maps(csm, kspace.shape, source)
    if target is not None:
        check_target(target, (len(kspace), *kspace.shape[2:]), source)
    # An empty frame has no solution, and one of a series must not stop the others.
    if len(there) < len(kspace):
        header = header.without_empty(there)
        kspace, sampled = kspace[there], sampled[there]
        csm = csm if csm is None or len(csm) == 1 else csm[there]
        target = None if target is None else target[there]
        calibration = None if calibration is None else calibration.of(there.tolist())
    warn_of_left_out(header.left_out, source)
    if not volume:
        warn_off_centre(kspace, source)
    samples = _tensor(kspace * sampled[:, None])
    measured = torch.from_numpy(np.ascontiguousarray(sampled))
    # Taken now, because a later cut to single frames would lose the frames that hold the centre.
    if csm is None and calibration is None:
        calibration = shared_calibration(samples, measured, header.labels)
    return Acquisition(
        encoding=CartesianEncoding(measured),
        samples=samples,
        csm=None if csm is None else _tensor(csm),
        target=None if target is None else _tensor(target),
        source=source,
        layout=layout,
        notes=notes or [],
        header=header,
        calibration=calibration,
    )


def warn_of_left_out(left_out: list[str], source: str) -> None:
    """Warn about the frames of a scan that cannot be reconstructed.

    Warns
    -----
    InputWarning
        If there are any.
    """
    if left_out:
        warnings.warn(
            f"{source}: incomplete parts are left out: {'; '.join(left_out)}",
            InputWarning,
            stacklevel=3,
        )


def make_trajectory_acquisition(
    samples: np.ndarray,
    encoding: TrajectoryEncoding,
    source: str,
    layout: str,
    *,
    notes: list[str] | None = None,
    header: Header | None = None,
) -> Acquisition:
    """Check arrays of a file and build the acquisition of a scan along a trajectory.

    Raises
    ------
    BadInputError
        If the samples are not complex (frames, coils, readouts, samples), hold NaN or Inf or are
        zero in a whole frame, or if the coordinates do not belong to them.
    """
    check_samples(samples, source, "frames, coils, readouts, samples")
    frames, _, readouts, length = samples.shape
    found, axes = tuple(encoding.coordinates.shape), len(encoding.matrix)
    if found not in [(n, readouts, length, axes) for n in (1, frames)]:
        raise BadInputError(
            f"{source}: the coordinates have the shape {found}; {readouts} readouts of {length} "
            f"samples in {axes} dimensions need (1 or {frames}, {readouts}, {length}, {axes})"
        )
    density = encoding.density
    if density is not None and tuple(density.shape) not in [found[:3], (1, *found[1:3])]:
        raise BadInputError(
            f"{source}: the density has the shape {tuple(density.shape)}, not {found[:3]}"
        )
    for name, array in (("coordinates", encoding.coordinates), ("density", density)):
        if array is not None and not bool(torch.isfinite(array).all()):
            raise BadInputError(f"{source}: the {name} of the trajectory hold NaN or Inf")
    header = _labelled(header or Header(), frames)
    warn_of_left_out(header.left_out, source)
    return Acquisition(
        encoding=encoding,
        samples=_tensor(samples),
        csm=None,
        target=None,
        source=source,
        layout=layout,
        notes=[*(notes or []), *_beyond(encoding)],
        header=header,
    )


FITTING = (0.5, 1.1)
"""Range of the largest coordinate, relative to half the matrix, in which matrix and unit are
plausible."""


def _beyond(encoding: TrajectoryEncoding) -> list[str]:
    """A note if the coordinates do not fit the matrix."""
    reached = max(e / (n / 2) for e, n in zip(encoding.extent, encoding.matrix))
    if FITTING[0] < reached < FITTING[1]:
        return []
    return [f"the coordinates reach {reached:.2g} of half the matrix: it may be another matrix, or "
            "their unit may not be cycles per field of view"]  # fmt: skip


def _labelled(header: Header, frames: int) -> Header:
    if len(header.labels) == frames:
        return header
    return replace(header, labels=[{"slice": i} for i in range(frames)])


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.require(array, np.complex64, ["C", "W"]))
