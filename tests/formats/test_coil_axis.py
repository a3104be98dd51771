"""Coils and slices in the wrong order, told from the calibration region."""

import h5py
import numpy as np
import pytest
import torch

from equipoise.formats import read
from equipoise.formats.coil_axis import CLEAR_COILS, NOISY_COILS, independence
from equipoise.outcome import BadInputError, InputWarning
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.fourier import image_to_kspace

SIZE = 48


def objects(count):
    """Different slices (count, y, x) of one head: ellipses with details in other places."""
    y, x = np.meshgrid(*[np.linspace(-1, 1, SIZE)] * 2, indexing="ij")
    found, rng = [], np.random.default_rng(1)
    for i in range(count):
        inside = (y / (0.8 - 0.06 * i)) ** 2 + (x / 0.6) ** 2 < 1
        image = np.kron(rng.random((12, 12)), np.ones((SIZE // 12, SIZE // 12))) * inside
        found.append(image * np.exp(1j * (x * np.cos(i) + y * np.sin(i))))
    return np.stack(found)


def measured(images, coils=6, noise=0.005):
    """K-space (slices, coils, y, x) with noise."""
    csm = biot_savart_maps((SIZE, SIZE), coils, seed=3)
    kspace = image_to_kspace(csm * torch.from_numpy(images)[:, None].to(torch.complex64)).numpy()
    parts = np.random.default_rng(0).standard_normal((2, *kspace.shape)) * noise
    return kspace + (parts[0] + 1j * parts[1]).astype(np.complex64)


def lines(count):
    """Every third column and the middle ones."""
    mask = np.arange(SIZE) % 3 == 0
    mask[SIZE // 2 - count // 2 : SIZE // 2 + count // 2] = True
    return mask


def save(path, kspace, **others):
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            for name, array in {"kspace": kspace, **others}.items():
                file[name] = array
    else:
        np.savez(path, kspace=kspace, **others)
    return path


@pytest.fixture(scope="module")
def stack():
    return measured(objects(4))


@pytest.mark.parametrize("sampled", [SIZE, 24, 12])
@pytest.mark.parametrize("name", ["s.npz", "s.h5"])
def test_coils_before_slices_change_places_and_it_is_said(tmp_path, stack, name, sampled):
    kspace = stack * lines(sampled)
    found = read(save(tmp_path / name, kspace.swapaxes(0, 1)))
    assert np.array_equal(found.kspace.numpy(), kspace)
    assert any("axis 0 of (6, 4, 48, 48) holds the coils" in note for note in found.notes)


@pytest.mark.parametrize("sampled", [SIZE, 24, 12, 4])
@pytest.mark.parametrize("part", [np.s_[:], np.s_[:2, :3], np.s_[:, :2], np.s_[:1], np.s_[:, :1]])
def test_the_right_order_is_left_alone(tmp_path, stack, part, sampled):
    kspace = stack[part] * lines(sampled)
    found = read(save(tmp_path / "s.npz", kspace))
    assert np.array_equal(found.kspace.numpy(), kspace)
    assert not found.notes


def test_with_maps_beside_it_is_refused_and_named_axes_are_read(tmp_path, stack):
    swapped, mask = stack.swapaxes(0, 1), np.ones((SIZE, SIZE))
    with pytest.raises(BadInputError, match=r"axis 0 of .* holds the coils.*swapaxes\(0, 1\)"):
        read(save(tmp_path / "s.npz", swapped, mask=mask))
    for axes in (["coil", "slice", "y", "x"], "Coils, Slices, y, x"):
        found = read(save(tmp_path / "s.npz", swapped, mask=mask, axes=axes))
        assert np.array_equal(found.kspace.numpy(), stack)


def test_repetitions_are_not_taken_for_coils(tmp_path):
    kspace = measured(np.repeat(objects(1), 5, 0))
    assert np.array_equal(read(save(tmp_path / "s.npz", kspace)).kspace.numpy(), kspace)
    with pytest.raises(BadInputError, match="axis 1 holds the same image 5 times"):
        read(save(tmp_path / "s.npz", kspace.swapaxes(0, 1)))


@pytest.mark.parametrize("shape", [(6, SIZE, SIZE), (6, 1, SIZE, SIZE)])
def test_coils_that_are_read_as_slices_are_warned_about(tmp_path, stack, shape):
    with pytest.warns(InputWarning, match="look like the coils of one slice"):
        read(save(tmp_path / "s.h5", stack[0].reshape(shape)))


def test_slices_that_are_read_as_coils_are_warned_about(tmp_path, stack):
    with pytest.warns(InputWarning, match=r"as independent as slices.*kspace\[0\]\[:, None\]"):
        read(save(tmp_path / "s.npz", stack[:, 0]))


def test_two_axes_that_both_look_like_coils_are_warned_about(tmp_path):
    """Frames that differ by smooth factors, as echoes may; here by those of the coils."""
    frames = objects(1) * biot_savart_maps((SIZE, SIZE), 6, seed=3)[0].numpy()
    with pytest.warns(InputWarning, match="may both hold the coils"):
        found = read(save(tmp_path / "s.npz", measured(frames)))
    assert np.array_equal(found.kspace.numpy(), measured(frames))


def test_independence_is_that_of_the_space_that_the_coils_span(stack):
    """Mixing the coils, as coil compression does, and their scale change nothing."""
    kspace = stack[:, :4].astype(complex)
    rng = np.random.default_rng(1)
    mixing, _ = np.linalg.qr(rng.standard_normal((4, 4)) + 1j * rng.standard_normal((4, 4)))
    slices, coils = independence(kspace)
    assert coils.independence < CLEAR_COILS < NOISY_COILS < slices.independence
    mixed = 1e6 * np.einsum("dc,scyx->sdyx", mixing, kspace)
    assert independence(mixed)[1].independence == pytest.approx(coils.independence, abs=1e-9)
    phases = np.exp(1j * np.arange(4))[:, None, None, None]
    assert independence(kspace * phases)[1].independence == pytest.approx(coils.independence)


def test_noise_is_independent_along_both_axes(rng):
    noise = rng.standard_normal((4, 5, 32, 32)) + 1j * rng.standard_normal((4, 5, 32, 32))
    assert min(axis.independence for axis in independence(noise)) > 0.95
