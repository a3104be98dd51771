"""How well the image of some weights predicts samples that were left out (25)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.method import VOLUME, Method
from equipoise.physics.cartesian import SenseOp, hann_window
from equipoise.physics.dynamic import DynamicSenseOp
from equipoise.physics.fourier import image_to_kspace, kspace_to_image
from equipoise.physics.problem import Problem
from equipoise.physics.sampling.left_out import (
    LeftOut,
    density_weights,
    density_weights_of_series,
    weights_of_full_scan,
)
from equipoise.shapes import Image

LOOSE = 0.1
"""Certified accuracy of a trial. The bound is many times the distance: prediction errors were
within 1 % of those at a bound of 0.03, which led to the same choices with a third more
evaluations."""

LOOSE_TWO = 0.01
"""The same for a method with two passes: its m is larger, so the bound is close to the distance,
and at 0.1 trials ended where they started."""

LOOSE_SERIES, LOOSE_VOLUME = 0.02, 0.003
"""The same for a series, and for two passes of a volume."""

TRIAL_ITERATIONS, FIRST_ITERATIONS = 10, 30
"""Most iterations of a trial of a method without a network, which starts from the last one, and of
the first trial. With ten for the first one too its image was less accurate than the others, and
a right rule was left."""

PHASE_REGION = 0.3
"""Side of the centre of k-space, relative to the matrix, whose image gives the phase. Between 0.1
and 0.6 the comparisons were much the same."""


class FullScan(NamedTuple):
    """What an image is expected to differ from that of a full scan, with the noise of all samples.

    Attributes
    ----------
    seen
        The part of what the image was made from, which is known.
    unmeasured
        The part that the samples or lines left out stand for, (units,).
    """

    seen: float
    unmeasured: Tensor

    @property
    def error(self) -> float:
        """The mean squared error."""
        return self.seen + float(self.unmeasured.sum())


class Prediction(NamedTuple):
    """How well an image predicts.

    Attributes
    ----------
    errors
        Squared errors of the samples or lines left out, (units,), which sum to a mean in units of
        the noise of the coils.
    full_scan
        The error of what all samples would show, in the same units; None where it is not computed.
    evaluations, cost
        Network evaluations, and what counts towards a budget.
    """

    errors: Tensor
    full_scan: FullScan | None
    evaluations: int
    cost: int


class Predictor:
    """From weights to the errors of the samples left out, warm-started by the last image.

    ``e_k = sum_c |(E x - b)_kc|^2``, with E the coil maps and the Fourier transform. In phase it is
    ``e_k = w_k sum_c |(E (u Re (conj(u) x)) - b)_kc|^2``, with u the phase of the first trial at
    low resolution and w inversely proportional to the density of the sampling, as it is for a
    series, whose samples are mostly near the centre. Of an image in phase the error of the full
    scan is computed too, see :func:`~equipoise.physics.sampling.left_out.weights_of_full_scan`:
    measured samples are a part of it, with the noise that they have.
    """

    def __init__(
        self,
        problem: Problem[SenseOp],
        model: Method,
        parts: LeftOut,
        scale: Tensor,
        options: SolverOptions,
        *,
        in_phase: bool = False,
    ) -> None:
        csm = problem.operator.csm
        kept, measured = parts.kept.to(csm.device), parts.measured.to(csm.device)
        self.parts, self.model, self.scale = parts, model, scale
        self.noise_level = problem.noise_level
        self.rule = model.rule(problem.operator, self.noise_level.double() / scale)
        self.series = isinstance(problem.operator, DynamicSenseOp)
        self.planes = csm.shape[-1] if problem.operator.image_axes == VOLUME else 0
        if self.series:
            csm = csm[:, :, 0]
        if self.planes:
            kept, measured = (m[..., None].expand(-1, -1, self.planes) for m in (kept, measured))
        kind = DynamicSenseOp if self.series else SenseOp
        self.kept, self.all = kind(csm, kept[None]), kind(csm, measured[None])
        self.all_data, self.data = problem.data, problem.data * kept
        of_two = LOOSE_VOLUME if self.planes else LOOSE_TWO
        loose = LOOSE_SERIES if self.series else LOOSE if len(model.passes) == 1 else of_two
        self.options = replace(options, rtol=max(loose, options.rtol), exact=False)
        self.max_iter = options.max_iter
        variance = float(problem.noise_level[0]) ** 2
        # Without a noise level errors keep the unit of the data; their order is the same.
        self.unit = variance * self.data.shape[1] * (self.planes or 1) if variance > 0 else 1.0
        self.in_phase = in_phase
        self.weights = self._weights() / self.unit
        self.of_full_scan = self._of_full_scan()
        self.image: Image | None = None
        self.phase: Image | None = None

    def __call__(self, factors: Sequence[float], left: int | None = None) -> Prediction:
        """The prediction of multiples of the rule; ``left`` is the most that it may cost."""
        weights = {name: value * f for (name, value), f in zip(self.rule.items(), factors)}
        given: dict[str, Any] = {"start": self.image, **weights}
        solution = self.model.solve(
            self.kept,
            self.data,
            noise_level=self.noise_level,
            scale=self.scale,
            options=replace(self.options, max_iter=self._iterations(left)),
            **given,
        )
        if self.image is None:
            # A first pass has the weights of its rule in every trial, and so the same image.
            self.model = self.model.after_first(solution)
        # Neighbouring weights have neighbouring images, so this start saves evaluations.
        self.image = solution.value
        predicted = self.all.forward(self._predicting(solution.value))[0]
        power = torch.zeros_like(self.weights)
        # Coil by coil, because all coils of a series in double precision are larger than the solve.
        for coil, data in zip(predicted, self.all_data[0]):
            squares = (coil - data).abs().double().square().cpu()
            # A line along x is left out as a whole.
            power += squares.sum(-1) if self.planes else squares
        evaluations = int(solution.network_evaluations[0])
        # Without a network the iterations are the cost.
        cost = evaluations if self.model.learned else int(solution.iterations[0])
        errors = self.parts.by_unit(power * self.weights)
        return Prediction(errors, self._full_scan(power), evaluations, cost)

    def _full_scan(self, power: Tensor) -> FullScan | None:
        if self.of_full_scan is None:
            return None
        power = power * self.of_full_scan
        return FullScan(float(power[~self.parts.left_out].sum()), self.parts.by_unit(power))

    def _weights(self) -> Tensor:
        """w, in the shape of the mask."""
        out, measured = self.parts.left_out, self.parts.measured
        if self.series:
            return density_weights_of_series(measured, out)
        if self.in_phase:
            return density_weights(measured[None], out[None])[0]
        return out.double() / out.sum()

    def _of_full_scan(self) -> Tensor | None:
        """The weights of the full scan, in the shape of the mask; None if it does not decide."""
        if self.series or not self.in_phase:
            return None
        measured, out = self.parts.measured, self.parts.left_out
        return weights_of_full_scan(measured[None], out[None])[0] / self.unit

    def _predicting(self, image: Image) -> Image:
        """The part of an image that predicts; in phase its error is that of the magnitude.

        What is in quadrature is mostly noise, and half of all noise. A magnitude image does not
        show it, but it would be half of the reason for a small lam.
        """
        if not self.in_phase:
            return image
        if self.phase is None:
            # Of the first trial, so that all trials are compared in the same part.
            self.phase = smooth_phase(image, of_volume=bool(self.planes))
        return self.phase * (self.phase.conj() * image).real

    def _iterations(self, left: int | None) -> int:
        most = self.max_iter if left is None else min(self.max_iter, left)
        if self.model.learned:
            return most
        return min(most, FIRST_ITERATIONS if self.image is None else TRIAL_ITERATIONS)


def smooth_phase(image: Image, *, of_volume: bool = False) -> Image:
    """``u / |u|`` with u the image of the centre of k-space, see :data:`PHASE_REGION`.

    Of a volume (z, y, x) it is that of every plane (z, y).
    """
    if of_volume:
        return smooth_phase(image.movedim(-1, 1)).movedim(1, -1)
    shape = image.shape[-2:]
    region = tuple(max(1, round(PHASE_REGION * n)) for n in shape)
    window = hann_window(shape, region, image.device).to(image.real.dtype)
    smooth = kspace_to_image(image_to_kspace(image) * window)
    return torch.polar(torch.ones_like(smooth.real), smooth.angle())
