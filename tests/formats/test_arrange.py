"""Arrays whose axes and centre only the data can tell, and maps that belong to another scan."""

import numpy as np
import pytest
import torch

import layouts
from equipoise.formats import read
from equipoise.formats.cfl import cfl_bytes
from equipoise.formats.checks import as_mask
from equipoise.outcome import BadInputError, InputWarning
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.coils.espirit import normalize_csm
from equipoise.physics.coils.fit import fitting_order, misfit
from equipoise.physics.fourier import image_to_kspace, kspace_to_image
from equipoise.recon.experiment import load_experiment
from equipoise.recon.maps_check import DOUBTFUL, WRONG


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.fixture
def square():
    """Image (64, 64) without symmetry, six maps, and k-space (1, 6, 64, 64) with noise."""
    y, x = np.meshgrid(*[np.arange(64) - 32] * 2, indexing="ij")
    image = 1.0 * ((y / 26) ** 2 + (x / 20) ** 2 < 1) + 0.8 * ((y + 12) ** 2 + (x + 8) ** 2 < 30)
    csm = biot_savart_maps((64, 64), 6, seed=3)
    kspace = image_to_kspace(csm * torch.from_numpy(image).to(torch.complex64))
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, *kspace.shape)) * 0.01
    return image, csm.numpy(), kspace.numpy() + (noise[0] + 1j * noise[1]).astype(np.complex64)


def rss(kspace):
    return kspace_to_image(torch.as_tensor(kspace)).abs().square().sum(1).sqrt().numpy()


class TestAxes:
    def test_coils_last_are_put_first_and_it_is_said(self, tmp_path, scan_arrays):
        kspace = np.repeat(scan_arrays["kspace"], 2, 0)
        found = read(save(tmp_path / "s.npz", kspace=np.moveaxis(kspace, 1, -1)))
        assert np.array_equal(found.kspace.numpy(), kspace)
        assert any("(slices, y, x, coils)" in note for note in found.notes)

    def test_the_usual_order_is_left_alone(self, tmp_path, scan_arrays):
        found = read(save(tmp_path / "s.npz", kspace=scan_arrays["kspace"]))
        assert np.array_equal(found.kspace.numpy(), scan_arrays["kspace"])
        assert not found.notes

    @pytest.mark.parametrize("order", [(2, 3, 0, 1), (0, 2, 1, 3), (1, 2, 3, 0), (2, 0, 1, 3)])
    def test_another_order_is_refused_with_the_one_that_is_right(
        self, order, tmp_path, scan_arrays
    ):
        kspace = np.repeat(scan_arrays["kspace"], 3, 0)
        path = save(tmp_path / "s.npz", kspace=kspace.transpose(order))
        with pytest.raises(BadInputError, match=r"must be \(slices, coils, y, x\)") as error:
            read(path)
        back = ", ".join(str(order.index(axis)) for axis in range(4))
        other = ", ".join(str(order.index(axis)) for axis in (1, 0, 2, 3))
        text = str(error.value)
        assert f"transpose({back})" in text or f"({back}) if" in text
        assert f"transpose({other})" in text or f"({other}) if" in text

    def test_noise_alone_says_nothing_and_is_left_alone(self, tmp_path, rng):
        noise = rng.standard_normal((2, 32, 20, 4)) + 1j * rng.standard_normal((2, 32, 20, 4))
        noise = noise.astype(np.complex64)
        assert np.array_equal(read(save(tmp_path / "s.npz", kspace=noise)).kspace.numpy(), noise)


class TestCentre:
    @pytest.mark.filterwarnings("ignore::equipoise.outcome.InputWarning")
    def test_a_spike_in_the_corner_does_not_move_dc(self, tmp_path, square):
        spiked = square[2].copy()
        spiked[..., 2, 3] = 100 * np.abs(spiked).max()
        found = read(save(tmp_path / "s.npz", kspace=spiked))
        assert np.array_equal(found.kspace.numpy(), spiked)

    @pytest.mark.parametrize("axis", [-2, -1])
    @pytest.mark.parametrize("shifted", [True, False])
    def test_dc_in_the_corner_of_one_axis_is_moved(self, tmp_path, square, axis, shifted):
        images = kspace_to_image(torch.from_numpy(square[2])).numpy()
        other = -3 - axis
        lines = np.fft.fft(np.fft.ifftshift(images, axes=other), axis=other)
        lines = np.fft.fftshift(lines, axes=other)
        corner = np.fft.fft(np.fft.ifftshift(lines, axes=axis) if shifted else lines, axis=axis)
        found = read(save(tmp_path / "s.npz", kspace=corner.astype(np.complex64)))
        wanted = np.sqrt((np.abs(images) ** 2).sum(1))
        got = rss(found.kspace)
        got *= (got * wanted).sum() / (got * got).sum()
        assert np.linalg.norm(got - wanted) < 1e-3 * np.linalg.norm(wanted)
        power = np.abs(found.kspace.numpy()).sum((0, 1))
        assert np.unravel_index(power.argmax(), power.shape) == (32, 32)
        assert any(f"along {'yx'[axis]} only" in note for note in found.notes)

    @pytest.mark.parametrize("shape", [(64, 64), (63, 57)])
    @pytest.mark.parametrize("shifted", [True, False])
    def test_dc_in_the_corner_is_moved(self, tmp_path, square, shape, shifted):
        y, x = shape
        images = kspace_to_image(torch.from_numpy(square[2][..., :y, :x])).numpy()
        corner = np.fft.fft2(np.fft.ifftshift(images, axes=(-2, -1)) if shifted else images)
        found = read(save(tmp_path / "s.npz", kspace=corner.astype(np.complex64)))
        wanted = np.sqrt((np.abs(images) ** 2).sum(1))
        got = rss(found.kspace)
        got *= (got * wanted).sum() / (got * got).sum()
        assert np.linalg.norm(got - wanted) < 1e-3 * np.linalg.norm(wanted)
        assert any("corner" in note for note in found.notes)

    def test_what_was_not_measured_stays_so(self, tmp_path, square):
        mask = np.zeros((64, 64), bool)
        mask[::2] = True
        corner = np.fft.fft2(kspace_to_image(torch.from_numpy(square[2])).numpy()) * mask
        found = read(save(tmp_path / "s.npz", kspace=corner.astype(np.complex64)))
        assert np.array_equal(found.mask[0].numpy(), np.fft.fftshift(mask))

    def test_with_a_mask_beside_it_is_refused(self, tmp_path, square):
        corner = np.fft.ifftshift(square[2], axes=(-2, -1))
        path = save(tmp_path / "s.npz", kspace=corner, mask=np.ones((64, 64)))
        with pytest.raises(BadInputError, match="energy of the k-space lies in the corner"):
            read(path)

    def test_a_peak_far_from_the_centre_is_warned_about(self, tmp_path, square):
        moved = np.roll(square[2], 16, -2)
        with pytest.warns(InputWarning, match=r"peaks at \(48, 32\).*\(32, 32\)"):
            read(save(tmp_path / "s.npz", kspace=moved))

    def test_large_samples_do_not_overflow(self, tmp_path, square):
        corner = np.fft.ifftshift(square[2], axes=(-2, -1)) * np.float32(1e25)
        found = read(save(tmp_path / "s.npz", kspace=corner))
        assert any("DC was moved" in note for note in found.notes)


class TestMaskOfLines:
    KSPACE = np.ones((1, 2, 8, 8), np.complex64)
    ROWS = np.array([1, 0, 1, 0, 1, 1, 0, 0])

    def test_zeros_of_kspace_say_that_it_means_rows(self):
        kspace = self.KSPACE * self.ROWS[:, None]
        found = as_mask(self.ROWS, kspace, "s")
        assert np.array_equal(found[0], np.broadcast_to(self.ROWS[:, None] != 0, (8, 8)))

    @pytest.mark.parametrize("sampled", ["whole", "columns"])
    def test_otherwise_it_means_columns(self, sampled):
        kspace = self.KSPACE * (self.ROWS if sampled == "columns" else 1)
        found = as_mask(self.ROWS, kspace, "s")
        assert np.array_equal(found[0], np.broadcast_to(self.ROWS != 0, (8, 8)))

    def test_a_column_of_rows_means_rows_whatever_the_samples(self):
        found = as_mask(self.ROWS[:, None], self.KSPACE, "s")
        assert np.array_equal(found[0], np.broadcast_to(self.ROWS[:, None] != 0, (8, 8)))

    def test_rows_of_a_matrix_that_is_not_square(self):
        kspace = np.ones((1, 2, 8, 6), np.complex64)
        found = as_mask(self.ROWS, kspace, "s")
        assert np.array_equal(found[0], np.broadcast_to(self.ROWS[:, None] != 0, (8, 6)))


CHANGES = {
    "right": lambda s: s,
    "scaled": lambda s: 3j * s,
    "coils reversed": lambda s: s[::-1],
    "two coils exchanged": lambda s: s[[1, 0, 2, 3, 4, 5]],
    "transposed": lambda s: s.swapaxes(-1, -2),
    "flipped": lambda s: s[:, ::-1],
    "conjugated": lambda s: s.conj(),
}


class TestMapsOfAnotherScan:
    @pytest.mark.parametrize("change", CHANGES)
    def test_are_refused_and_right_ones_are_not(self, tmp_path, square, change):
        _, csm, kspace = square
        scan = save(tmp_path / "s.npz", kspace=kspace)
        np.save(tmp_path / "m.npy", CHANGES[change](csm[0]))
        if change in ("right", "scaled"):
            load_experiment(scan, csm=tmp_path / "m.npy")
            return
        with pytest.raises(BadInputError, match=r"m\.npy: the coil maps leave \d+%") as error:
            load_experiment(scan, csm=tmp_path / "m.npy")
        fits = {
            "coils reversed": "in the coil order 5, 4, 3, 2, 1, 0",
            "two coils exchanged": "in the coil order 1, 0, 2, 3, 4, 5",
            "transposed": "when they are transposed (y and x exchanged)",
            "flipped": "when they are flipped along y",
            "conjugated": "when they are conjugated",
        }
        assert f"they fit {fits[change]};" in str(error.value)

    def test_maps_between_right_and_wrong_are_warned_about(self, tmp_path, square):
        _, csm, kspace = square
        scan = save(tmp_path / "s.npz", kspace=kspace)
        for shift in range(1, 32):
            moved = np.roll(csm[0], shift, -1)
            maps = normalize_csm(torch.from_numpy(moved[None]))
            left = misfit(torch.from_numpy(kspace), torch.ones(1, 64, 64, dtype=torch.bool), maps)
            if DOUBTFUL < left < WRONG:
                break
        assert DOUBTFUL < left < WRONG
        np.save(tmp_path / "m.npy", moved)
        with pytest.warns(InputWarning, match="another scan or other channels"):
            load_experiment(scan, csm=tmp_path / "m.npy")

    @pytest.mark.parametrize("noise", [0.01, 0.1, 0.3])
    def test_noise_is_not_taken_for_a_misfit(self, square, rng, noise):
        _, csm, kspace = square
        added = rng.standard_normal((2, *kspace.shape)) * noise
        noisy = torch.from_numpy((kspace + added[0] + 1j * added[1]).astype(np.complex64))
        mask = torch.ones(1, 64, 64, dtype=torch.bool)
        maps = normalize_csm(torch.from_numpy(csm))
        assert misfit(noisy, mask, maps) < DOUBTFUL / 2
        assert fitting_order(noisy, mask, maps) == list(range(6))

    def test_without_a_calibration_region_nothing_is_said(self, square):
        kspace, mask = torch.from_numpy(square[2]), torch.zeros(1, 64, 64, dtype=torch.bool)
        mask[:, ::3] = True
        assert misfit(kspace, mask, torch.from_numpy(square[1])) is None


class TestWhatIsNoImage:
    @pytest.mark.parametrize(
        ("factor", "text"),
        [(float("nan"), "slice 0 holds NaN or Inf"), (0.0, "slice 0 is zero everywhere")],
    )
    def test_an_image_that_is_lost_is_refused(self, tmp_path, square, monkeypatch, factor, text):
        from dataclasses import replace

        from equipoise.methods.solving import solve_slice
        from equipoise.outcome import Outcome
        from equipoise.recon import reconstruct
        from equipoise.recon.reconstruct_file import reconstruct_file
        from equipoise.recon.settings import ReconSettings

        def losing(*arguments, **options):
            found = solve_slice(*arguments, **options)
            return replace(found, value=found.value * factor, outcome=[Outcome.STAGNATED])

        monkeypatch.setattr(reconstruct, "solve_slice", losing)
        scan = save(tmp_path / "s.npz", kspace=square[2])
        with pytest.raises(BadInputError, match=text):
            reconstruct_file(scan, ReconSettings(lam="rule"), target=tmp_path / "o.npy")
        assert not (tmp_path / "o.npy").exists()

    @pytest.mark.parametrize("crop", [[0, 0], [0, 9], [-3, 9], [9], "99", [None, 9]])
    def test_a_crop_to_nothing_is_refused(self, tmp_path, square, crop):
        import json

        import h5py

        with h5py.File(tmp_path / "s.h5", "w") as file:
            file["kspace"] = square[2]
            file.attrs["header"] = json.dumps({"crop": crop})
        with pytest.raises(BadInputError, match="attribute 'header' cannot be used"):
            read(tmp_path / "s.h5")

    @pytest.mark.parametrize("shift", [-0.5, -0.02, float("nan"), float("inf")])
    def test_a_model_without_monotonicity_is_refused(self, shift):
        from equipoise import MOL
        from equipoise.methods.data_weight import FixedWeight
        from equipoise.networks.cnn import CNN

        with pytest.raises(BadInputError, match="must be positive"):
            MOL(CNN(features=4, layers=2), FixedWeight(1.0), 0.02, shift=shift)


@pytest.mark.parametrize("half", [False, True])
def test_spokes_without_their_trajectory_are_refused(half, tmp_path):
    """(1, sample, readout, coil): each readout crosses the centre, or begins there."""
    rng = np.random.default_rng(0)
    radius = np.arange(48) if half else np.abs(np.arange(48) - 24)
    draws = rng.standard_normal((2, 48, 30, 3))
    spokes = (draws[0] + 1j * draws[1]) / (1 + radius[:, None, None]) ** 2
    text, data = cfl_bytes(spokes[None].astype(np.complex64))
    (tmp_path / "s.hdr").write_bytes(text)
    (tmp_path / "s.cfl").write_bytes(data)
    with pytest.raises(BadInputError, match=r"looks like readouts of a trajectory"):
        read(tmp_path / "s.cfl")


@pytest.mark.parametrize("undersampled", [False, True])
def test_a_plane_without_its_readout_is_read(undersampled, tmp_path):
    """(1, ky, kz, coil), as of a volume after an inverse transform along its readout."""
    kspace = layouts.multicoil((40, 48), 1)[2][0]
    if undersampled:
        kspace = kspace * (np.random.default_rng(0).random((40, 48)) < 0.4)
    text, data = cfl_bytes(kspace.transpose(2, 1, 0)[None])
    (tmp_path / "s.hdr").write_bytes(text)
    (tmp_path / "s.cfl").write_bytes(data)
    assert np.allclose(read(tmp_path / "s.cfl").kspace.numpy(), kspace[None])


@pytest.mark.parametrize(("lines", "judged"), [(4, False), (6, False), (8, True), (16, True)])
def test_a_centre_of_few_lines_does_not_judge_maps(square, lines, judged):
    """Correct maps vary over its pixels, and would be warned about, as those of a cine."""
    _, csm, kspace = square
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[..., 32 - lines // 2 : 32 + lines // 2] = True
    left = misfit(torch.as_tensor(kspace), mask, normalize_csm(torch.as_tensor(csm)))
    assert (left is not None) == judged
    assert left is None or left < DOUBTFUL
