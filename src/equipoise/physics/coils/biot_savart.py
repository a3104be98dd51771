"""Simulated receive coils: circular loops around the head, by the Biot-Savart law."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from equipoise.physics.coils.espirit import normalize_csm
from equipoise.shapes import CoilMaps

SEGMENTS = 32
"""Number of straight segments of a loop."""

FIELD_GRID = 24
"""Points per axis on which the field is computed before it is interpolated: it is smooth outside
the wires."""

RING_RADIUS, LOOP_RADIUS, JITTER = 1.3, 0.55, 0.1
"""Distance of the loops from the centre and their radius, in longer half axes, and the relative
standard deviation of both."""

Vector = np.ndarray


def biot_savart_maps(
    shape: tuple[int, int],
    n_coils: int,
    seed: int = 0,
    *,
    ring_radius: float = RING_RADIUS,
    loop_radius: float = LOOP_RADIUS,
    jitter: float = JITTER,
) -> CoilMaps:
    """Maps of ``n_coils`` loops on a ring around the slice, normalised, (1, coil, y, x).

    By reciprocity the receive sensitivity is the transverse field ``B_x - i B_y`` of a unit
    current in the loop (Roemer et al., MRM 16:192-225, 1990); the slice lies in the x-y plane.

    Parameters
    ----------
    shape
        Matrix (y, x). The longer half axis is the unit of length.
    n_coils
        Number of loops, evenly spaced in angle.
    seed
        Seed of the start angle and of the jitter of each loop.
    ring_radius, loop_radius
        Distance of the loops from the centre, and their radius, in longer half axes.
    jitter
        Relative standard deviation of the loop positions and radii.
    """
    rng = np.random.default_rng(seed)
    y, x = (np.linspace(-n / max(shape), n / max(shape), FIELD_GRID) for n in shape)
    points = np.stack(np.broadcast_arrays(x[None, :], y[:, None], np.zeros([FIELD_GRID] * 2)), -1)
    start = rng.uniform(0, 2 * np.pi)
    maps = []
    for c in range(n_coils):
        angle = start + 2 * np.pi * (c + jitter * rng.standard_normal()) / n_coils
        # Only outwards: a loop that came nearer could cut through the object.
        distance = ring_radius * (1 + jitter * abs(rng.standard_normal()))
        radius = loop_radius * (1 + jitter * rng.uniform(-1, 1))
        height = jitter * 3 * rng.standard_normal()
        field = _loop_field(points, angle, distance, radius, height)
        maps.append(field[..., 0] - 1j * field[..., 1])
    return normalize_csm(resize_maps(torch.from_numpy(np.stack(maps).astype(np.complex64)), shape))


def biot_savart_volume(shape: tuple[int, int, int], n_coils: int, seed: int = 0) -> CoilMaps:
    """Maps of loops on two rings around the z axis, normalised, (1, coil, z, y, x).

    Neighbouring loops lie on different rings, ``RINGS`` above and below the centre in longer half
    axes. Distance, radius and jitter are as for :func:`biot_savart_maps`.

    Parameters
    ----------
    shape
        Matrix (z, y, x).
    n_coils, seed
        As for a slice.
    """
    rng = np.random.default_rng(seed)
    z, y, x = (np.linspace(-n / max(shape), n / max(shape), FIELD_GRID) for n in shape)
    points = np.stack(np.meshgrid(z, y, x, indexing="ij")[::-1], -1)
    start = rng.uniform(0, 2 * np.pi)
    maps = []
    for c in range(n_coils):
        turn, outwards, wider, up = rng.standard_normal(4) * JITTER
        angle = start + 2 * np.pi * (c + turn) / n_coils
        distance, radius = RING_RADIUS * (1 + abs(outwards)), LOOP_RADIUS * (1 + wider)
        height = RINGS * (1 if c % 2 else -1) + up
        field = _loop_field(points, angle, distance, radius, height)
        maps.append(field[..., 0] - 1j * field[..., 1])
    coarse = torch.from_numpy(np.stack(maps).astype(np.complex64))
    return normalize_csm(resize_volumes(coarse, shape)[None])


RINGS = 0.45
"""Heights of the two rings of loops around a volume, in longer half axes."""


def resize_volumes(volumes: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Bicubic interpolation of smooth complex arrays (n, z, y, x) to another matrix."""
    n, z = volumes.shape[:2]
    planes = resize_maps(volumes.flatten(0, 1), shape[1:])[0].reshape(n, z, -1)
    return resize_maps(planes, (shape[0], planes.shape[2]))[0].reshape(n, *shape)


def resize_maps(maps: Tensor, shape: tuple[int, int]) -> CoilMaps:
    """Bicubic interpolation of smooth maps (coil, y, x) to another matrix, (1, coil, y, x)."""
    parts = torch.view_as_real(maps).permute(3, 0, 1, 2)
    resized = F.interpolate(parts, size=shape, mode="bicubic", align_corners=True)
    return torch.complex(resized[0], resized[1])[None]


def _loop_field(
    points: Vector, angle: float, distance: float, radius: float, height: float
) -> Vector:
    """Field of a loop that faces the axis: ``sum dl x r / |r|^3`` over its segments."""
    outward = np.array([np.cos(angle), np.sin(angle), 0.0])
    tangent = np.array([-np.sin(angle), np.cos(angle), 0.0])
    axial = np.array([0.0, 0.0, 1.0])
    centre = distance * outward + height * axial
    t = 2 * np.pi * np.arange(SEGMENTS) / SEGMENTS
    corners = centre + radius * (np.cos(t)[:, None] * tangent + np.sin(t)[:, None] * axial)
    field = np.zeros_like(points)
    for a, b in zip(corners, np.roll(corners, -1, axis=0)):
        r = points - (a + b) / 2
        field += np.cross(b - a, r) / (np.linalg.norm(r, axis=-1, keepdims=True) ** 3)
    return field
