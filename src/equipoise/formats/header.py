"""The metadata of a scan: where the pixels lie, and what each image of a stack is."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from equipoise.outcome import BadInputError

Vector = tuple[float, float, float]
Plane = tuple[Vector, Vector, Vector]
"""Unit vectors in which the slice, y and x index grow."""

ASSUMED: Plane = ((0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0))
"""The directions if a file does not state them: to the head, the front and the left. Readers of
NIfTI assume the same for an image whose orientation is marked as unknown."""

SAME_DIRECTION = 1e-3
"""Components of unit vectors that differ by less are those of one direction, rounded."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""In DICOM and MRD the axes point to the left, back and head of the patient; in NIfTI to the right,
front and head."""

PLANES = {0: "sagittal", 1: "coronal", 2: "axial"}
"""Planes by the patient axis of their normal."""

TIMES = ("repetition", "time", "phase")
"""Labels whose values are points in time, those that change most slowly first."""

OBLIQUE = 0.95
"""Cosine between the slice normal and a patient axis below which a plane is called oblique."""


@dataclass
class Geometry:
    """Where the pixels of a stack lie in the patient, in DICOM's LPS coordinates, mm.

    Attributes
    ----------
    spacing
        Distance of neighbouring pixels along the slice, y and x index.
    slice_dir, y_dir, x_dir
        Unit vectors along which these three indices grow.
    planes
        These three for each image, if they differ, as in a three-plane localizer; else empty.
    centres
        Position of pixel ``n // 2``, the centre of the Fourier transform, of each image; of a
        volume, the position of its voxel ``n // 2``.
    oriented
        False if the file does not say where the images lie; directions are ``ASSUMED`` then.
    """

    spacing: Vector
    slice_dir: Vector = ASSUMED[0]
    y_dir: Vector = ASSUMED[1]
    x_dir: Vector = ASSUMED[2]
    centres: list[Vector] = field(default_factory=list)
    oriented: bool = True
    planes: list[Plane] = field(default_factory=list)

    def directions(self, index: int) -> Plane:
        """Slice, y and x direction of an image."""
        return self.planes[index] if self.planes else (self.slice_dir, self.y_dir, self.x_dir)

    def planes_of(self, index: int) -> int:
        """A number that images of one orientation share."""
        if not self.planes:
            return 0
        found = np.array(self.planes)
        same = np.abs(found - found[index]).max((1, 2)) < SAME_DIRECTION
        return int(same.argmax())

    def sorted(self, indices: list[int]) -> list[int]:
        """Images of one orientation in the order of their positions along the slice direction."""
        normal = np.array(self.directions(indices[0])[0])
        return sorted(indices, key=lambda i: float(normal @ np.array(self.centres[i])))

    def of(self, indices: np.ndarray) -> "Geometry":
        """The geometry of some of the images."""
        planes = [self.planes[i] for i in indices] if self.planes else []
        return replace(self, centres=[self.centres[i] for i in indices], planes=planes)

    def first_pixel(self, index: int, shape: tuple[int, int]) -> np.ndarray:
        """Position of the centre of pixel (0, 0) of an image of shape (y, x)."""
        y, x = (n // 2 * d for n, d in zip(shape, self.spacing[1:]))
        _, y_dir, x_dir = self.directions(index)
        offset = y * np.array(y_dir) + x * np.array(x_dir)
        return np.asarray(np.array(self.centres[index]) - offset)

    def affine(self, shape: tuple[int, int], indices: list[int]) -> np.ndarray:
        """(x, y, slice, 1) to LPS mm, (4, 4), of images of one orientation, by their indices."""
        _, y_dir, x_dir = self.directions(indices[0])
        matrix = np.eye(4)
        matrix[:3, 0] = self.spacing[2] * np.array(x_dir)
        matrix[:3, 1] = self.spacing[1] * np.array(y_dir)
        matrix[:3, 2] = self.step(indices)
        matrix[:3, 3] = self.first_pixel(indices[0], shape)
        return matrix

    def step(self, indices: list[int]) -> np.ndarray:
        """The step from slice to slice, mm, from the positions or, for one slice, the spacing."""
        if len(indices) > 1:
            first, last = np.array(self.centres[indices[0]]), np.array(self.centres[indices[-1]])
            # The frames of a series lie in one place, and give no distance between slices.
            if np.linalg.norm(last - first) > 0:
                return np.asarray((last - first) / (len(indices) - 1))
        return self.spacing[0] * np.array(self.directions(indices[0])[0])

    def equidistant(self, indices: list[int]) -> bool:
        """Whether the slices are equidistant to a tenth of a step, as one affine map requires."""
        centres, step = np.array([self.centres[i] for i in indices]), self.step(indices)
        expected = centres[0] + np.arange(len(indices))[:, None] * step
        return bool(np.abs(centres - expected).max() <= 0.1 * np.linalg.norm(step))

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Geometry":
        """The inverse of ``dataclasses.asdict``, from lists of numbers."""
        made = cls(
            spacing=as_vector(content["spacing"]),
            slice_dir=as_vector(content["slice_dir"]),
            y_dir=as_vector(content["y_dir"]),
            x_dir=as_vector(content["x_dir"]),
            centres=[as_vector(v) for v in content["centres"]],
            oriented=bool(content["oriented"]),
            planes=[_as_plane(p) for p in content.get("planes", [])],
        )
        if len(made.planes) not in (0, len(made.centres)):
            raise ValueError(f"{len(made.planes)} orientations for {len(made.centres)} images")
        if min(made.spacing) <= 0:
            raise ValueError(f"the spacing is {made.spacing}: it must be positive")
        return made

    @property
    def plane(self) -> str:
        """axial, coronal or sagittal, or oblique with the nearest of them; all that occur."""
        chosen = self.planes or [self.directions(0)]
        return ", ".join(dict.fromkeys(_name(y_dir, x_dir) for _, y_dir, x_dir in chosen))


def nearest_plane(y_dir: Vector, x_dir: Vector) -> str:
    """Axial, coronal or sagittal, by the patient axis nearest to the normal."""
    return PLANES[int(np.abs(np.cross(x_dir, y_dir)).argmax())]


def _name(y_dir: Vector, x_dir: Vector) -> str:
    nearest = nearest_plane(y_dir, x_dir)
    oblique = np.abs(np.cross(x_dir, y_dir)).max() < OBLIQUE
    return f"oblique, nearest {nearest}" if oblique else nearest


def _as_plane(numbers: Any) -> Plane:
    first, second, third = (as_vector(v) for v in numbers)
    return first, second, third


def unknown_geometry(volumes: Sequence[Sequence[int]]) -> Geometry:
    """Touching slices of unit voxels, for a file without geometry.

    All ``volumes``, the images of each of which are given, lie at the same place.
    """
    place = {index: float(z) for indices in volumes for z, index in enumerate(indices)}
    centres = [(0.0, 0.0, place[index]) for index in sorted(place)]
    return Geometry((1.0, 1.0, 1.0), centres=centres, oriented=False)


def as_vector(numbers: Any) -> Vector:
    """Three finite numbers.

    Raises
    ------
    ValueError
        If they are not.
    """
    x, y, z = (float(v) for v in numbers)
    if not np.isfinite([x, y, z]).all():
        raise ValueError(f"{numbers} is not a vector of three numbers")
    return x, y, z


@dataclass
class Header:
    """What is known about a scan; everything may be missing.

    Attributes
    ----------
    geometry
        Position, orientation and pixel size.
    crop
        The matrix (y, x), or (z, y, x) of a volume, to which images are cut about their centre to
        remove oversampling.
    centre
        The position of DC according to the file, (y, x) or (z, y, x), before the samples were
        placed on the matrix.
    labels
        The slice of each image of the stack, and its time, phase, repetition, contrast, average or
        set if they vary.
    noise_covariance
        (coil, coil), of the noise readouts.
    whitening
        The matrix with which k-space was multiplied; maps from other sources need the same.
    system
        Vendor, field strength, sequence and so on, as named in the file.
    study
        Patient and study by the keywords of DICOM; they are written to DICOM only.
    ignored
        Content of the file that the reader did not use.
    left_out
        The images that cannot be made, each with the reason: a scan that was stopped, a slice
        without samples.
    frame_ms
        Time between the frames of a series in ms.
    kept, in_file
        Where frames without samples are left out: which were kept, of how many in the file.
    """

    geometry: Geometry | None = None
    crop: tuple[int, ...] | None = None
    centre: tuple[int, ...] | None = None
    labels: list[dict[str, int]] = field(default_factory=list)
    noise_covariance: np.ndarray | None = None
    whitening: np.ndarray | None = None
    system: dict[str, str] = field(default_factory=dict)
    study: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    frame_ms: float | None = None
    kept: list[int] = field(default_factory=list)
    in_file: int = 0

    def of(self, frames: list[int]) -> "Header":
        """The header of some of the frames."""
        geometry = None if self.geometry is None else self.geometry.of(np.array(frames))
        labels = [self.labels[i] for i in frames] if self.labels else []
        kept = [self.kept[i] for i in frames] if self.kept else []
        return replace(self, labels=labels, geometry=geometry, kept=kept)

    def without_empty(self, kept: np.ndarray) -> "Header":
        """The header of the frames that are kept; the others hold no sample."""
        gone = [i for i in range(len(self.labels)) if i not in set(kept.tolist())]
        named = [f"{name_of(self.labels[i])} holds no sample" for i in gone]
        found = self.of(kept.tolist())
        return replace(
            found, left_out=self.left_out + named, kept=kept.tolist(), in_file=len(self.labels)
        )

    def of_kept(self, array: np.ndarray, axes: int) -> np.ndarray:
        """The frames that were kept, of maps or masks for all frames of the file (frame, ...).

        An array that has not ``axes`` axes, or another number of frames, is left as it is.
        """
        every = array.ndim == axes and len(array) == self.in_file
        return array[self.kept] if every and self.kept else array

    def of_orientation(self, frames: list[int]) -> "Header":
        """The header of some of the frames, which have one orientation."""
        found = self.of(frames)
        if found.geometry is None or not found.geometry.planes:
            return found
        slice_dir, y_dir, x_dir = found.geometry.planes[0]
        geometry = replace(found.geometry, slice_dir=slice_dir, y_dir=y_dir, x_dir=x_dir, planes=[])
        return replace(found, geometry=geometry)

    def orientations(self) -> dict[str, list[int]]:
        """The images of each orientation, named after the nearest plane: ``axial``, ``axial-2``.

        Empty if all images have one orientation.
        """
        geometry = self.geometry
        if geometry is None or not geometry.planes:
            return {}
        groups: dict[int, list[int]] = {}
        for index in range(len(geometry.planes)):
            groups.setdefault(geometry.planes_of(index), []).append(index)
        found: dict[str, list[int]] = {}
        for first, indices in groups.items():
            plane = nearest_plane(*geometry.directions(first)[1:])
            same = sum(name.split("-")[0] == plane for name in found)
            found[f"{plane}-{same + 1}" if same else plane] = indices
        return found

    def whitened(self, maps: np.ndarray) -> np.ndarray:
        """Maps (frame, coil, matrix) of other sources, for the whitened coils of this scan."""
        if self.whitening is None:
            return maps
        return np.einsum("ij,fj...->fi...", self.whitening, maps).astype(np.complex64)

    def moments(self, n_images: int) -> list[int]:
        """The number of the point in time of each image, from 0; all 0 without a series."""
        if len(self.labels) != n_images:
            return [0] * n_images
        found = [moment(label) for label in self.labels]
        varying = [counts for counts in zip(*found) if len(set(counts)) > 1]
        # One counter tells more than the order: the time of an image that is missing has passed.
        if len(varying) == 1:
            steps = [count - min(varying[0]) for count in varying[0]]
            unit = math.gcd(*steps)
            return [step // unit for step in steps]
        number = {one: i for i, one in enumerate(sorted(set(found)))}
        return [number[one] for one in found]

    def as_json(self) -> dict[str, Any]:
        """The metadata of the images, for files that can store it."""
        return {
            "geometry": None if self.geometry is None else asdict(self.geometry),
            "crop": self.crop,
            "labels": self.labels,
            "system": self.system,
            "frame_ms": self.frame_ms,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Header":
        """The inverse of :meth:`as_json`."""
        found, crop = content.get("geometry"), content.get("crop")
        if crop is not None and not (
            isinstance(crop, list | tuple) and len(crop) in (2, 3) and min(int(n) for n in crop) > 0
        ):
            raise ValueError(f"the crop is {crop}: expected 2 or 3 positive numbers")
        return cls(
            geometry=None if found is None else Geometry.from_json(found),
            crop=None if crop is None else tuple(int(n) for n in crop),
            labels=[
                {str(name): int(value) for name, value in label.items()}
                for label in content.get("labels", [])
            ],
            system=dict(content.get("system", {})),
            frame_ms=_as_duration(content.get("frame_ms")),
        )

    def volumes(self, n_images: int) -> list[list[int]]:
        """Indices of the images that form one volume: one orientation, labels equal but the slice.

        In the order of the positions along the slice direction, where those are known.
        """
        labels = self.labels if len(self.labels) == n_images else [{}] * n_images
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index, label in enumerate(labels):
            plane = 0 if self.geometry is None else self.geometry.planes_of(index)
            key = (plane, *sorted((k, v) for k, v in label.items() if k != "slice"))
            groups.setdefault(key, []).append(index)
        if self.geometry is None or not self.geometry.oriented:
            return list(groups.values())
        return [self.geometry.sorted(indices) for indices in groups.values()]


def moment(label: dict[str, int]) -> tuple[int, ...]:
    """The point in time of an image, in an order that can be sorted."""
    return tuple(label.get(name, 0) for name in TIMES)


def _as_duration(found: Any) -> float | None:
    if found is not None and not 0 < float(found) < float("inf"):
        raise ValueError(f"the time between frames is {found}: it must be positive")
    return None if found is None else float(found)


def name_of(label: dict[str, int]) -> str:
    """A frame in words, with the labels that vary over time first."""
    return ", ".join(f"{n} {v}" for n, v in sorted(label.items(), key=lambda p: p[0] == "slice"))


def cut(images: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    """The central part of (..., y, x); pixel ``n // 2`` remains the centre pixel."""
    if shape is None:
        return images
    start = [max(n // 2 - c // 2, 0) for n, c in zip(images.shape[-2:], shape)]
    return images[..., start[0] : start[0] + shape[0], start[1] : start[1] + shape[1]]


def stored_header(text: Any, n_images: int, source: str) -> Header:
    """The header that a file of this package stores as JSON.

    Raises
    ------
    BadInputError
        If it cannot be used, or belongs to another number of images.
    """
    if text is None:
        return Header()
    try:
        header = Header.from_json(json.loads(text))
        # Another program may have removed slices but kept the attribute.
        centres = n_images if header.geometry is None else len(header.geometry.centres)
        if centres != n_images:
            raise ValueError(f"{centres} positions for {n_images} images")
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise BadInputError(f"{source}: its attribute 'header' cannot be used: {error}") from error
    return header
