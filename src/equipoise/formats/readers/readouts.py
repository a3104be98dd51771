"""From single readouts to k-space on its matrix, for formats that store readouts one by one.

A readout with the counters (line, partition) and its centre sample belongs at
``(line - centre line + n // 2, ...)``, so DC is at ``n // 2`` also for partial Fourier, partial
echo and off-centre k-space. Readout oversampling is removed in the image domain.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from equipoise.formats.header import SAME_DIRECTION, Geometry, Plane, as_vector
from equipoise.formats.limits import check_size
from equipoise.formats.readers.xml_header import Limit, XmlHeader
from equipoise.outcome import BadInputError
from equipoise.physics.fourier import image_to_kspace, kspace_to_image

MAX_CONDITION = 1e8
"""Largest condition number of the noise covariance; above it a coil is dead, or the noise scan is
too short."""


@dataclass
class Readouts:
    """Samples (coil, sample) of each readout, and the numbers that place them.

    ``centre`` is the index of the sample at the centre of k-space. ``discard`` is the number of
    samples to drop at the beginning and end. ``counters`` tell the images apart.
    """

    samples: list[np.ndarray]
    centre: np.ndarray
    reverse: np.ndarray
    discard: np.ndarray
    lines: np.ndarray
    partitions: np.ndarray
    counters: dict[str, np.ndarray]

    @property
    def coils(self) -> int:
        """Number of coils."""
        return self.samples[0].shape[0]

    def take(self, indices: np.ndarray) -> "Readouts":
        """The readouts with the given indices."""
        return Readouts(
            [self.samples[i] for i in indices],
            self.centre[indices],
            self.reverse[indices],
            self.discard[indices],
            self.lines[indices],
            self.partitions[indices],
            {name: counter[indices] for name, counter in self.counters.items()},
        )

    def joined(self, others: "Readouts") -> "Readouts":
        """These readouts followed by others."""
        both = {n: np.concatenate([c, others.counters[n]]) for n, c in self.counters.items()}
        return Readouts(
            self.samples + others.samples,
            np.concatenate([self.centre, others.centre]),
            np.concatenate([self.reverse, others.reverse]),
            np.concatenate([self.discard, others.discard]),
            np.concatenate([self.lines, others.lines]),
            np.concatenate([self.partitions, others.partitions]),
            both,
        )

    def frames(self) -> np.ndarray:
        """The counters that keep images apart, (readout, counter)."""
        return np.stack(list(self.counters.values()), 1)

    def whiten(self, matrix: np.ndarray) -> None:
        """Multiply the coils by a matrix."""
        self.samples = [(matrix @ s).astype(np.complex64) for s in self.samples]

    def conjugate(self) -> None:
        """Change the sign of the Fourier transform."""
        self.samples = [s.conj() for s in self.samples]

    def forward_centre(self) -> np.ndarray:
        """Centre samples after reversed readouts are turned.

        If the file counts in the stored order, this is ``n - 1 - centre``. If that is not the
        centre of the other readouts but the number itself is, the file counts in k-space order.
        """
        lengths = np.array([s.shape[1] for s in self.samples])
        turned = np.where(self.reverse, lengths - 1 - self.centre, self.centre)
        # Files disagree on the order in which reversed readouts are counted; the forward ones tell.
        usual = self.centre[~self.reverse]
        if len(usual):
            same = self.reverse & np.isin(self.centre, usual) & ~np.isin(turned, usual)
            turned = np.where(same, self.centre, turned)
        return turned


def whitening_of(
    noise: list[np.ndarray], n_coils: int, scale: float, notes: list[str]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """``L^-1`` with ``L L^H`` the noise covariance, and the covariance itself."""
    # Adjustments may use another coil, whose noise has other channels.
    usable = [n for n in noise if n.shape[0] == n_coils]
    samples = np.concatenate(usable, axis=1).astype(complex) if usable else np.zeros((n_coils, 0))
    count = samples.shape[1]
    # With fewer samples the estimate is singular or nearly so, and its inverse amplifies noise.
    if count < 2 * n_coils:
        others = sorted({n.shape[0] for n in noise})
        other = f"{others} coils and the images have {n_coils}"
        why = f"only {count} samples" if usable else other
        notes.append(f"the noise scan has {why}: k-space is not whitened")
        return None, None
    covariance = scale * (samples @ samples.conj().T) / count
    if not np.isfinite(covariance).all() or np.linalg.cond(covariance) > MAX_CONDITION:
        notes.append("the noise covariance is singular: k-space is not whitened")
        return None, covariance
    notes.append(f"k-space is whitened with {count} noise samples: its noise has variance 1")
    return np.linalg.inv(np.linalg.cholesky(covariance)), covariance


@dataclass
class Stack:
    """K-space with its mask and the labels of its frames.

    ``kspace`` is (frame, coil, y, x), or (frame, coil, z, y, x) of volumes. ``first`` is the first
    readout of each frame.
    """

    kspace: np.ndarray
    mask: np.ndarray
    labels: list[dict[str, int]]
    first: list[int]
    crop: tuple[int, ...] | None
    centre: tuple[int, ...]

    @property
    def volumetric(self) -> bool:
        """Whether the frames are volumes."""
        return self.kspace.ndim == 5

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """K-space and mask."""
        return torch.from_numpy(self.kspace), torch.from_numpy(self.mask)


def place(
    labels: list[dict[str, int]],
    spacing: tuple[float, ...],
    directions: np.ndarray | None,
    positions: np.ndarray,
    notes: list[str],
    *,
    partitions: int = 1,
) -> Geometry:
    """The geometry of frames.

    Parameters
    ----------
    labels
        What each frame is.
    spacing
        Of pixels along (slice, phase, read), mm.
    directions
        Unit vectors (frame, 3, 3) of slice, phase and read; None if the file has none.
    positions
        Of the centre of each frame, (frame, 3).
    notes
        Receives notes on what is not known.
    partitions
        The number of voxels of a volume along the slice direction.
    """
    slices = np.array([label["slice"] for label in labels])
    placed = directions is not None and bool(np.isfinite(positions).all())
    if not placed:
        notes.append("orientation is not in the file: it is marked as unknown in the images")
    elif _in_one_place(slices, positions, directions):
        notes.append(
            "all slices have one position in the file: their positions are marked as unknown in "
            "the images, and touching slices are assumed"
        )
        placed = False
    if not placed or directions is None:
        # Touching slices about the origin: distances along the stack stay usable.
        offsets = (slices - (slices.max() + 1) // 2) * spacing[0] * partitions
        centres = [(0.0, 0.0, float(z)) for z in offsets]
        return Geometry(as_vector(spacing), centres=centres, oriented=False)
    # One plane for all is the rule, so planes are kept only where they differ.
    planes = [_as_plane(d) for d in directions]
    same = np.abs(directions - directions[:1]).max() < SAME_DIRECTION
    centres = [as_vector(p) for p in positions]
    return Geometry(as_vector(spacing), *planes[0], centres, planes=[] if same else planes)


def _as_plane(directions: np.ndarray) -> Plane:
    first, second, third = (as_vector(d) for d in directions)
    return first, second, third


def _in_one_place(slices: np.ndarray, positions: np.ndarray, directions: np.ndarray | None) -> bool:
    """Whether slices of one orientation, parallel to each other, all have the same position."""
    assert directions is not None
    normal = directions[:, 0]
    for index in range(len(slices)):
        alike = np.abs(normal - normal[index]).max(1) < SAME_DIRECTION
        several = len(np.unique(slices[alike])) > 1
        # Different slices cannot lie in one place, so the converter wrote a constant.
        if several and np.ptp(positions[alike], axis=0).max() == 0:
            return True
    return False


def assemble(lines: Readouts, xml: XmlHeader, source: str, notes: list[str]) -> Stack:
    """Put readouts on the matrix of the header; lines that were measured repeatedly are averaged.

    Raises
    ------
    BadInputError
        If counters lie outside the matrix, or the matrix cannot belong to the readouts.
    """
    assert xml.encoded is not None
    volumetric = bool(lines.partitions.max() > 0)
    nx, ny, nz = (max(n, 1) for n in xml.encoded.matrix)
    nz = nz if volumetric else 1
    kept = _kept_columns(xml)
    keys = lines.frames()
    # Sorted by counters, so the order of acquisition (interleaved slices) does not matter.
    images, first, index = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    shape = (len(images), lines.coils, nz, ny, kept)
    stored = sum(s.nbytes for s in lines.samples)
    # A damaged header may declare any matrix.
    check_size(f"{source}: the matrix {shape}", 8 * math.prod(shape), stored)
    check_size(f"{source}: the readouts {nx} long", 8 * nx * lines.coils, stored)
    limits = dict(xml.limits)
    if STEP_1 not in limits and not volumetric:
        _find_centre(lines, limits, ny, notes)
    row, centre_y = _rows(lines.lines, limits, STEP_1, ny, source, notes)
    slab, centre_z = _rows(lines.partitions, xml.limits, STEP_2, nz, source, notes)
    kspace, count = np.zeros(shape, np.complex64), np.zeros((*shape[:1], *shape[2:]), np.uint16)
    centre_x = _centre_samples(lines, notes)
    for i in range(len(lines.samples)):
        line, measured = _line(lines, i, int(centre_x[i]), nx, kept)
        # The shape of the inverse index differs between numpy 1 and 2; ``flat`` reads both.
        kspace[index.flat[i], :, slab[i], row[i]] += line
        count[index.flat[i], slab[i], row[i]] += measured
    # Each sample by its own count, because averages may end early.
    kspace /= np.maximum(count, 1)[:, None]
    _say(lines, nx, kept, count, notes)
    labels = labels_of(images, list(lines.counters))
    crop = _crop(xml, (nz, ny, kept), volumetric)
    centre = (centre_y, int(np.median(centre_x)))
    mask = count > 0
    if volumetric:
        return Stack(kspace, mask, labels, first.tolist(), crop, (centre_z, *centre))
    return Stack(kspace[:, :, 0], mask[:, 0], labels, first.tolist(), crop, centre)


STEP_1, STEP_2 = "kspace_encoding_step_1", "kspace_encoding_step_2"

PROMINENT = 5
"""Smallest ratio of the energy of the strongest line to the mean that identifies the centre."""

NEAR = 2
"""The strongest line may be off the middle by this many lines because of the phase of the image."""


def _find_centre(lines: Readouts, limits: dict[str, Limit], ny: int, notes: list[str]) -> None:
    """Without limits the middle of the matrix is the centre, unless the energy shows otherwise.

    Partial Fourier whose lines are counted from the first measured one has its centre elsewhere.
    """
    # Lines may be numbered beyond the matrix here; they are refused later, with a better message.
    energy = np.zeros(max(int(lines.lines.max()) + 1, ny))
    power = [float(np.square(np.abs(s)).sum(dtype=float)) for s in lines.samples]
    np.add.at(energy, lines.lines, power)
    measured = np.unique(lines.lines)
    peak = int(energy.argmax())
    if abs(peak - ny // 2) <= NEAR or energy[peak] < PROMINENT * energy[measured].mean():
        return
    row = measured - peak + ny // 2
    # With this centre the lines do not fit, so the peak is not that of the object.
    if row.min() < 0 or row.max() >= ny:
        return
    limits[STEP_1] = Limit(int(measured.min()), int(measured.max()), peak)
    notes.append(
        f"the header has no limits of the lines: line {peak}, which has the most energy, is "
        f"taken as the centre, not line {ny // 2} of {ny}"
    )


def _kept_columns(xml: XmlHeader) -> int:
    """Samples of a readout without oversampling, by the reconstructed field of view."""
    assert xml.encoded is not None
    nx = max(xml.encoded.matrix[0], 1)
    if xml.recon is None:
        return nx
    encoded, wanted = xml.encoded.fov[0], xml.recon.fov[0]
    if encoded > 0 and wanted > 0:
        return max(round(nx * min(wanted / encoded, 1.0)), 1)
    # Without fields of view only the usual factor of two is believed.
    return xml.recon.matrix[0] if nx == 2 * xml.recon.matrix[0] else nx


def kept_field(xml: XmlHeader) -> tuple[float, float, float]:
    """The field of view (z, y, x) in mm of the matrix that :func:`assemble` makes."""
    assert xml.encoded is not None
    fx, fy, fz = xml.encoded.fov
    return fz, fy, fx * _kept_columns(xml) / max(xml.encoded.matrix[0], 1)


def _rows(
    counter: np.ndarray, limits: dict[str, Limit], name: str, n: int, source: str, notes: list[str]
) -> tuple[np.ndarray, int]:
    """Indices on an axis of length n with the centre line at ``n // 2``, and the centre line."""
    limit = limits.get(name)
    # A 2D scan may have limits of the partitions that mean nothing.
    if n == 1 and not counter.any():
        return np.zeros(len(counter), int), 0
    centre = n // 2 if limit is None else limit.center
    if limit is not None and limit.center == 0 and limit.maximum > 1:
        # Converters that do not know the centre write 0.
        centre = (limit.maximum + 1) // 2
        notes.append(f"{name}: the header calls counter 0 the centre; {centre} is used instead")
    row = counter - centre + n // 2
    outside = (row < 0) | (row >= n)
    if outside.any():
        raise BadInputError(
            f"{source}: {name} {int(counter[outside][0])} with the centre {centre} lies outside "
            f"the encoded matrix of {n} lines: header and readouts contradict each other"
        )
    return row, centre


def _centre_samples(lines: Readouts, notes: list[str]) -> np.ndarray:
    lengths = np.array([s.shape[1] for s in lines.samples])
    # Zero for all is a field that was never filled, not an echo at the first sample.
    if not lines.centre.any() and lengths.max() > 1:
        notes.append("no readout names its centre sample: the middle is used")
        return lengths // 2
    return lines.forward_centre()


def _line(
    lines: Readouts, i: int, centre: int, nx: int, kept: int
) -> tuple[np.ndarray, np.ndarray]:
    """One readout (coil, x) without oversampling, and the mask of its measured samples."""
    samples, (before, after) = lines.samples[i], lines.discard[i]
    # The counts of discarded samples refer to the stored order.
    if lines.reverse[i]:
        samples, before, after = samples[:, ::-1], after, before
    n = samples.shape[1]
    # Some files store more samples than the header's matrix; cutting them would change the
    # resolution.
    length = max(nx, n)
    start = length // 2 - centre
    used = slice(max(before, -start, 0), max(min(n - after, length - start), 0))
    placed = np.zeros((len(samples), length), np.complex64)
    placed[:, used.start + start : max(used.stop, used.start) + start] = samples[:, used]
    # Sample j lies at k = (j - length // 2) / length, and in the same way on the shorter readout.
    position = (np.arange(kept) - kept // 2) * (length / kept) + length // 2
    measured = (position >= used.start + start) & (position <= used.stop - 1 + start)
    if kept == length:
        return placed, measured
    image = kspace_to_image(torch.from_numpy(placed), 1)
    begin = length // 2 - kept // 2
    line = image_to_kspace(image[:, begin : begin + kept], 1).numpy()
    # Cropping the image spreads the signal to samples that were not measured.
    return line * measured, measured


def _say(lines: Readouts, nx: int, kept: int, count: np.ndarray, notes: list[str]) -> None:
    length = max(nx, max(s.shape[1] for s in lines.samples))
    if kept != length:
        notes.append(f"readout oversampling removed: {length} samples to {kept}")
    if lines.reverse.any():
        notes.append(f"{int(lines.reverse.sum())} reversed readouts were turned")
    if lines.discard.any():
        notes.append("discarded samples at the ends of readouts are not used")
    if count.max() > 1:
        # Segments hold different lines, averages and overlaps the same: the number tells which.
        repeated = int((count > 1).any(-1).reshape(len(count), -1).sum(1).max())
        notes.append(f"{repeated} lines that were measured up to {count.max()} times are averaged")


def labels_of(images: np.ndarray, names: list[str]) -> list[dict[str, int]]:
    """The labels of each image: its slice, and the other counters if they vary."""
    varies = [len(np.unique(images[:, j])) > 1 or name == "slice" for j, name in enumerate(names)]
    return [{name: int(row[j]) for j, name in enumerate(names) if varies[j]} for row in images]


def _crop(xml: XmlHeader, shape: tuple[int, int, int], volumetric: bool) -> tuple[int, ...] | None:
    """The matrix of the reconstructed field of view, if phase oversampling makes it smaller."""
    assert xml.encoded is not None
    if xml.recon is None or min(*xml.encoded.fov, *xml.recon.fov) <= 0:
        return None
    shares = [min(r / e, 1.0) for r, e in zip(xml.recon.fov, xml.encoded.fov)]
    z, y = (max(round(n * share), 1) for n, share in zip(shape[:2], (shares[2], shares[1])))
    if volumetric:
        return None if (z, y) == shape[:2] else (z, y, shape[2])
    return None if y == shape[1] else (y, shape[2])
