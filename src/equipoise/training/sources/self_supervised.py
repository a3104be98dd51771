"""Training without targets: measured samples are split, and the loss is on those not solved with.

Yaman, Hosseini, Moeller, Ellermann, Ugurbil, Akcakaya, MRM 84:3172-3191, 2020 (SSDU), and with
several splits of every scan Yaman, Gu, Hosseini, Demirel, Moeller, Ellermann, Ugurbil, Akcakaya,
NMR in Biomedicine 35:e4798, 2022.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.problem import Problem
from equipoise.physics.sampling.left_out import density_weights, leave_out
from equipoise.training.sources.scan import stacked_operators, with_coils
from equipoise.training.sources.source import Measured


@dataclass(frozen=True, repr=False)
class SplitScan(Measured):
    """A scan in two parts: one is solved with, the other is predicted.

    The loss is ``sum_k w_k sum_c |(E x - b)_kc|^2`` over the samples k that were held back, with E
    the coil maps and the Fourier transform, and w inversely proportional to the density of the
    sampling, of sum 1. For a random split its mean is that of the squared error of the whole
    k-space, and by Parseval that of the image, plus the variance of the noise.

    Attributes
    ----------
    operator, data, noise_level
        A and b of the samples that are solved with; the noise level is that of the scan.
    held_back
        E with the mask of the samples that are held back.
    held_data
        These samples, (batch, coil, y, x).
    weights
        w, (batch, y, x), zero elsewhere.
    scale
        The intensity scale of the whole scan, which is that of its reconstruction.
    """

    operator: SenseOp
    data: Tensor
    noise_level: Tensor
    held_back: SenseOp
    held_data: Tensor
    weights: Tensor
    scale: Tensor | None = None

    def error(self, image: Tensor, scale: Tensor) -> Tensor:
        """The loss of each image at intensity scale 1, (batch,)."""
        return self._misfit(image) / scale.to(image.real.dtype).square()

    def quality(self, image: Tensor) -> dict[str, float]:
        """``10 log10`` of the weighted energy of the held-back samples over that of the misfit."""
        energy, misfit = self._misfit(torch.zeros_like(image)), self._misfit(image)
        return {"kspace_snr": float((10 * torch.log10(energy / misfit)).mean())}

    def _misfit(self, image: Tensor) -> Tensor:
        misfit = self.held_back.forward(image) - self.held_data
        return (self.weights * misfit.abs().square().sum(1)).flatten(1).sum(1)


@dataclass(frozen=True)
class Splitting:
    """How the samples of a scan are split.

    Attributes
    ----------
    fraction
        Share of the samples outside the very centre that is held back; of the lines, if whole lines
        were measured.
    masks
        Number of splits of each slice, of which every use draws one; None draws a new split.
    """

    fraction: float = 0.4
    masks: int | None = None

    def split(self, mask: Tensor, rng: np.random.Generator, of_slice: int = 0) -> Tensor:
        """The samples of a mask (y, x) that are held back, (y, x).

        Parameters
        ----------
        mask
            Where the scan was measured.
        rng
            Draws the split, or its number.
        of_slice
            Tells the splits of one slice from those of another.

        Raises
        ------
        BadInputError
            If too few samples lie outside the centre.
        """
        seed = int(rng.integers(2**31))
        if self.masks is not None:
            seed = int(np.random.default_rng([of_slice, seed % self.masks]).integers(2**31))
        parts = leave_out(mask, self.fraction, seed)
        if parts is None:
            raise BadInputError(
                f"only {int(mask.sum())} of {mask.numel()} samples were measured, too few outside "
                "the centre to hold some back: leave the scan out"
            )
        return parts.left_out


def split_problem(
    problem: Problem[SenseOp],
    held_back: Tensor,
    seen: Tensor | None = None,
    kspace: Tensor | None = None,
) -> SplitScan:
    """A problem without the samples that are held back, and with a loss on these.

    Parameters
    ----------
    problem
        The scan, with its coil maps, noise level and intensity scale.
    held_back
        The samples of the loss, (1, y, x).
    seen
        The samples that are solved with; all others of the problem if not given.
    kspace
        Where the held-back samples are; in the data of the problem if not given.
    """
    maps, measured = problem.operator.csm, problem.operator.mask
    seen = measured & ~held_back if seen is None else seen
    kspace = problem.data if kspace is None else kspace
    return SplitScan(
        operator=SenseOp(maps, seen),
        data=problem.data * seen[:, None],
        noise_level=problem.noise_level,
        held_back=SenseOp(maps, held_back),
        held_data=kspace * held_back[:, None],
        weights=density_weights(seen | held_back, held_back).to(kspace.real.dtype),
        scale=problem.operator.intensity_scale(problem.data),
    )


def stacked_splits(samples: Sequence[SplitScan]) -> SplitScan:
    """Split scans of one shape as one batch; zero maps make up for missing coils."""
    n_coils, scales = max(s.data.shape[1] for s in samples), [s.scale for s in samples]
    return SplitScan(
        operator=stacked_operators([s.operator for s in samples]),
        data=torch.cat([with_coils(s.data, n_coils) for s in samples]),
        noise_level=torch.cat([s.noise_level for s in samples]),
        scale=None if None in scales else torch.cat([s for s in scales if s is not None]),
        held_back=stacked_operators([s.held_back for s in samples]),
        held_data=torch.cat([with_coils(s.held_data, n_coils) for s in samples]),
        weights=torch.cat([s.weights for s in samples]),
    )
