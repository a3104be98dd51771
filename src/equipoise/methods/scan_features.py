"""What a scan and its image show without a target: numbers that a calibration compares."""

import math
from typing import Any

import torch
from torch import Tensor

from equipoise.methods.regression import Features
from equipoise.outcome import Solution
from equipoise.physics.least_squares import conjugate_gradient
from equipoise.physics.linop import LinearOperator
from equipoise.physics.problem import Problem
from equipoise.shapes import Data, PerSample
from equipoise.vectors import norm, per_sample

FILLED_RTOL, FILLED_ITERATIONS = 1e-2, 30
"""Accuracy of the linear solve of ``filled``: far below the differences between scans."""


def features(
    operator: LinearOperator,
    data: Data,
    solution: Solution,
    noise_level: PerSample,
    sample_count: int,
) -> Features:
    """The features of the scan of one slice, without another network evaluation.

    ``misfit`` is ``||A x - b|| / (sigma sqrt(n))``, about 1 if the data are explained up to their
    noise. ``pull`` is ``lam ||A^H (A x - b)|| / ||x||``, at an equilibrium the relative size of
    ``x - H(x)``, the change that the network would make. ``evaluations`` counts network evaluations
    without the last one in double precision. ``noise`` is the noise level divided by the intensity
    scale. ``acceleration`` is the number of samples of a full scan over that of this one.
    ``filled`` is ``||(I + lam A^H A)^-1 x|| / ||x||``, the share of the image that does not come
    from the data at this lam. ``peak`` is ``max |x|`` over the root mean square of x.

    Parameters
    ----------
    operator, data
        A and b.
    solution
        The reconstruction of one slice.
    noise_level
        sigma, ``E|n|^2 = sigma^2``.
    sample_count
        n, the number of measured samples over all coils.
    """
    image = solution.value.detach()
    misfit = operator.forward(image) - data
    expected = noise_level.double() * math.sqrt(sample_count)
    pull = per_sample(solution.lam, image).to(image.real.dtype) * operator.adjoint(misfit)
    assert solution.scale is not None
    return {
        "misfit": _ratio(norm(misfit), expected),
        "pull": _ratio(norm(pull), norm(image)),
        "evaluations": float(solution.iterations[0]) + 1,
        "noise": _ratio(noise_level.double(), solution.scale.double()),
        "acceleration": data.numel() / max(sample_count, 1),
        "filled": _ratio(norm(_not_from_data(operator, image, solution.lam)), norm(image)),
        "peak": _ratio(image.abs().flatten(1).amax(1) * math.sqrt(image[0].numel()), norm(image)),
    }


def slice_features(problem: Problem[Any], solution: Solution) -> Features:
    """The features that are compared with the calibration."""
    return features(
        problem.operator,
        problem.data,
        solution,
        problem.noise_level,
        problem.sample_count,
    )


def _not_from_data(operator: LinearOperator, image: Tensor, lam: PerSample) -> Tensor:
    """``(I + lam A^H A)^-1 x``."""
    return conjugate_gradient(
        operator,
        image,
        lam,
        torch.ones_like(lam),
        rtol=FILLED_RTOL,
        max_iter=FILLED_ITERATIONS,
    ).value


def _ratio(a: Tensor, b: Tensor) -> float:
    return float((a / b.clamp(min=torch.finfo(torch.float64).tiny))[0])
