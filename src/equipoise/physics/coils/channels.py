"""Receiver channels: whitening of their noise and compression to fewer virtual coils.

Both are a matrix ``W`` (virtual coils, coils) that acts on the coil axis of k-space; coil maps that
are estimated afterwards belong to ``W b``.
"""

import torch
from torch import Tensor

from equipoise.outcome import BadInputError
from equipoise.physics.sampling.masks import calibration_region
from equipoise.shapes import KSpace, Mask

OUTER_SHARE = 0.1
"""Share of the samples, those farthest from DC, that count as noise."""

SINGULAR = 1e-6
"""A noise covariance whose smallest eigenvalue is below this share of the largest is singular."""

SAMPLES_PER_COIL = 10
"""Noise samples for each coil that a covariance needs."""


def combine(matrix: Tensor, kspace: Tensor) -> Tensor:
    """``W b`` of k-space (batch, coil, matrix): (batch, virtual coil, matrix)."""
    return torch.einsum("vc,bc...->bv...", matrix.to(kspace), kspace)


def noise_whitening(kspace: KSpace, mask: Mask) -> Tensor:
    """``L^-1`` with ``L L^H`` the noise covariance of the channels, (coil, coil) complex128.

    The covariance is that of the outermost tenth of the samples, which holds little but noise. A
    noise scan is better; the readers use it if the file has one. The result is scaled so that the
    mean noise of the channels keeps its level.

    Raises
    ------
    BadInputError
        If there are too few samples, or the channels are linearly dependent.
    """
    n_coils, shape = kspace.shape[1], kspace.shape[2:]
    device = kspace.device
    axes = ((torch.arange(n, device=device) - n // 2) / n for n in shape)
    grids = torch.meshgrid(*axes, indexing="ij")
    radius = torch.stack(grids).square().sum(0).sqrt()
    found = []
    for i in range(len(kspace)):
        measured = mask[i if len(mask) > 1 else 0] & (kspace[i] != 0).any(0)
        order = radius[measured].argsort()
        outer = order[int(len(order) * (1 - OUTER_SHARE)) :]
        found.append(kspace[i][:, measured][:, outer].to(torch.complex128))
    samples = torch.cat(found, 1)
    if samples.shape[1] < SAMPLES_PER_COIL * n_coils:
        raise BadInputError(
            f"{samples.shape[1]} samples at the edge of k-space are too few to estimate the noise "
            f"of {n_coils} coils: leave out --whiten"
        )
    covariance = samples @ samples.mH / samples.shape[1]
    power = covariance.diagonal().real
    # Checked before the Cholesky factorisation, which can succeed on a singular matrix by rounding.
    spectrum = torch.linalg.eigvalsh(covariance)
    if not bool(spectrum[0] > SINGULAR * spectrum[-1]):
        raise BadInputError(
            "the channels are linearly dependent, or one is empty: their noise cannot be whitened"
        )
    return torch.linalg.inv(torch.linalg.cholesky(covariance)) * power.mean().sqrt()


def compression(kspace: KSpace, mask: Mask, virtual: int) -> Tensor:
    """The ``virtual`` strongest combinations of channels, (virtual, coil) complex128.

    Left singular vectors of the fully sampled centre of k-space (Buehrer et al., MRM 57:1131-1139,
    2007; Huang et al., MRI 26:133-141, 2008). Its rows are orthonormal, so noise stays white.

    Raises
    ------
    BadInputError
        If there are fewer coils than that, or less than one is asked for.
    """
    n_coils, shape = kspace.shape[1], kspace.shape[2:]
    if not 1 <= virtual <= n_coils:
        raise BadInputError(
            f"{virtual} virtual coils were asked for: {n_coils} channels give 1 to {n_coils}"
        )
    parts = []
    for i in range(len(kspace)):
        region = calibration_region(mask[i if len(mask) > 1 else 0])
        y, x = (slice(n // 2 - w // 2, n // 2 - w // 2 + w) for n, w in zip(shape, region))
        parts.append(kspace[i, :, y, x].flatten(1).to(torch.complex128))
    centre = torch.cat(parts, 1)
    vectors = torch.linalg.eigh(centre @ centre.mH).eigenvectors
    return vectors[:, -virtual:].flip(1).mH.contiguous()
