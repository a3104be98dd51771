"""The model of series in the package: proved, certified, and better than frame by frame."""

import numpy as np
import torch

from equipoise.formats.sample_head import head_slice
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.dynamic import DynamicSenseOp
from equipoise.physics.noise_level import complex_noise
from equipoise.physics.sampling.dynamic import kt_mask
from equipoise.training.sources.cine import moving
from equipoise.vectors import norm
from equipoise.zoo.model_file import load_model

FRAMES, SIGMA = 16, 0.01
MOTION = 0.01
"""Of the side: where everything moves fast, a frame alone is as good."""


def test_frames_together_are_better_than_one_by_one():
    head = head_slice()[0][::5, ::5].abs()
    rng = np.random.default_rng(0)
    truth = (moving(head / head.max(), FRAMES, MOTION, rng) + 0j)[None]
    csm = biot_savart_maps(tuple(truth.shape[2:]), 4)
    operator = DynamicSenseOp(csm, kt_mask(tuple(truth.shape[1:]), 6.0, 2, seed=0))
    clean = operator.forward(truth)
    noise = SIGMA * complex_noise(tuple(clean.shape), rng) * operator.mask[:, None]
    data, level = clean + noise, torch.tensor([SIGMA], dtype=torch.float64)
    together, alone = load_model("mol-ridge-cine"), load_model("mol-ridge-universal")
    assert (together.axes, together.m, together.m_evidence) == (("time", "y", "x"), 0.003, "proved")
    with torch.no_grad():
        series = together.solve(operator, data, noise_level=level)
        frames = alone.solve(
            operator.frames(), data[0].movedim(1, 0), noise_level=level.expand(FRAMES)
        )
    assert series.converged
    assert float(series.distance_bound) <= 1e-3
    error = float(norm(series.value - truth) / norm(truth))
    # Half the error is 6 dB.
    assert error < 0.5 * float(norm(frames.value[None] - truth) / norm(truth))
