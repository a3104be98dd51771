"""A scan with an empty slice, and maps and masks that were made for all of its slices."""

import numpy as np
import pytest

import layouts
from equipoise.outcome import BadInputError, InputWarning
from equipoise.recon.experiment import load_experiment


@pytest.fixture
def scan(tmp_path):
    kspace = layouts.multicoil(n_slices=3)[2].copy()
    kspace[1] = 0
    np.savez(tmp_path / "scan.npz", kspace=kspace)
    return tmp_path / "scan.npz"


@pytest.mark.parametrize("which", [[0, 1, 2], [0, 2]], ids=["all slices", "those with samples"])
def test_masks_follow_their_slices(scan, tmp_path, which):
    """Each slice has a mask of its own, so that a shift by one slice shows."""
    masks = np.zeros((len(which), *layouts.SHAPE), bool)
    for mask, s in zip(masks, which):
        mask[:, s::4] = True
    np.save(tmp_path / "mask.npy", masks)
    with pytest.warns(InputWarning, match="slice 1 holds no sample"):
        found = load_experiment(scan, mask=tmp_path / "mask.npy").acquisition
    assert [int(mask.any(0).int().argmax()) for mask in found.mask] == [0, 2]


def test_the_right_maps_are_those_of_the_slices_that_are_left(scan, tmp_path):
    csm = layouts.multicoil(n_slices=3)[1]
    np.save(tmp_path / "csm.npy", np.concatenate([csm, 0 * csm, csm]))
    with pytest.warns(InputWarning, match="slice 1 holds no sample"):
        found = load_experiment(scan, csm=tmp_path / "csm.npy").acquisition
    assert np.array_equal(found.csm, np.concatenate([csm, csm]))


def test_another_number_of_maps_is_refused(scan, tmp_path):
    csm = layouts.multicoil(n_slices=3)[1]
    np.save(tmp_path / "csm.npy", np.concatenate([csm] * 4))
    with (
        pytest.warns(InputWarning, match="slice 1 holds no sample"),
        pytest.raises(BadInputError, match=r"this k-space needs .* \(2, 4, 40, 48\)"),
    ):
        load_experiment(scan, csm=tmp_path / "csm.npy")
