"""Fully sampled scans of series and volumes as data of the comparisons: only masks are drawn."""

import numpy as np
import pytest
import torch

from equipoise.experiments.series import series_cases
from equipoise.experiments.volumes import volume_cases
from equipoise.outcome import BadInputError
from equipoise.physics.coils.biot_savart import biot_savart_maps, biot_savart_volume
from equipoise.physics.fourier import image_to_kspace
from equipoise.vectors import norm

N = 20


def written(path, kspace, axes):
    np.savez(path, kspace=kspace.numpy().astype(np.complex64), axes=axes)
    return path


@pytest.fixture
def cine(tmp_path):
    y, x = np.mgrid[:N, :N] - N // 2
    frames = np.stack([np.hypot(y, x) < 6 + t for t in range(4)]) + 0.0
    csm = biot_savart_maps((N, N), 3)[0]
    kspace = image_to_kspace(csm[:, None] * torch.from_numpy(frames)[None])
    return written(tmp_path / "cine.npz", kspace, ["coil", "time", "y", "x"])


@pytest.fixture
def volume(tmp_path):
    z, y, x = np.mgrid[:16, :N, :8] - np.array([8, N // 2, 4])[:, None, None, None]
    ball = (z**2 + y**2 + 2 * x**2 < 40) + 0.0
    csm = biot_savart_volume((16, N, 8), 3)[0]
    return written(
        tmp_path / "v.npz",
        image_to_kspace(csm * torch.from_numpy(ball), 3),
        ["coil", "z", "y", "x"],
    )


def explained(case):
    """Share of the data that the target does not explain."""
    return float(norm(case.operator.forward(case.target) - case.kspace) / norm(case.kspace))


def test_every_slice_of_a_scan_is_a_series_with_masks_of_its_own(cine):
    one, other = series_cases([cine], 2.0, 2)
    assert one.operator.image_shape == (1, 4, N, N)
    assert not torch.equal(one.operator.mask, other.operator.mask)
    assert one.operator.mask.numel() / int(one.operator.mask.sum()) == pytest.approx(2.0)
    assert explained(one) < 0.1
    assert (one.name, one.subject) == ("cine-0", str(cine))


def test_a_scan_of_a_volume_is_undersampled_in_both_directions(volume):
    (case,) = volume_cases([volume], 2.0, 1)
    assert case.operator.image_shape == (1, 16, N, 8)
    assert explained(case) < 0.2
    assert float(case.noise_level) > 0


def test_a_crop_is_the_centre_of_a_scan_too(cine, volume):
    (whole,), (part,) = (list(series_cases([cine], 2.0, 1, crop=n)) for n in (None, N - 8))
    assert part.target.shape[-2:] == (N - 8, N - 8)
    centre = whole.target.abs()[..., 4:-4, 4:-4]
    ratio = (part.target.abs() * centre).sum() / centre.square().sum()
    seen = (part.target != 0) & (whole.target[..., 4:-4, 4:-4] != 0)
    assert torch.allclose(part.target.abs()[seen], (ratio * centre)[seen], rtol=0.05, atol=0.02)
    (slab,) = volume_cases([volume], 2.0, 1, crop=4)
    assert slab.target.shape[1:] == (16, N, 4)


def test_an_undersampled_scan_has_no_truth(cine, tmp_path):
    kspace = np.load(cine)["kspace"]
    kspace[..., 1::2] = 0
    half = written(tmp_path / "half.npz", torch.from_numpy(kspace), ["coil", "time", "y", "x"])
    with pytest.raises(BadInputError, match="needs a fully sampled scan"):
        next(series_cases([half], 2.0, 1))
