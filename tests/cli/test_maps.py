"""Coil maps as a command, and the channels that they belong to."""

import json

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from equipoise.cli.app import app
from equipoise.formats import read
from equipoise.outcome import BadInputError
from equipoise.physics.coils.channels import combine, compression, noise_whitening
from equipoise.physics.coils.espirit import espirit, unexplained
from equipoise.physics.fourier import kspace_to_image


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def acquisition(full_scan):
    return read(full_scan)


@pytest.fixture
def correlated(full_scan, tmp_path):
    """The scan with noise that is correlated between its channels."""
    rng = np.random.default_rng(3)
    path = tmp_path / "correlated.h5"
    with h5py.File(full_scan) as file:
        kspace = file["kspace"][:]
    mixing = rng.standard_normal((6, 6)) + 1j * rng.standard_normal((6, 6))
    white = rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape)
    noise = np.einsum("ab,nbyx->nayx", mixing, white) * 0.004
    with h5py.File(path, "w") as file:
        file["kspace"] = (kspace + noise).astype(np.complex64)
    return path, mixing


class TestChannels:
    def test_white_noise_stays_white_under_compression(self, acquisition):
        matrix = compression(acquisition.kspace, acquisition.mask, 4)
        assert matrix.shape == (4, 6)
        assert torch.allclose(matrix @ matrix.mH, torch.eye(4, dtype=matrix.dtype), atol=1e-12)

    def test_compression_keeps_the_strongest_channels(self, acquisition):
        energy = acquisition.kspace.norm()
        kept = [
            float(
                combine(
                    compression(acquisition.kspace, acquisition.mask, n), acquisition.kspace
                ).norm()
                / energy
            )
            for n in (2, 4, 6)
        ]
        assert kept == sorted(kept)
        assert kept[1] > 0.98
        assert kept[2] == pytest.approx(1, abs=1e-4)

    def test_whitening_undoes_a_correlation(self, rng):
        mixing, white = (
            rng.standard_normal(s) + 1j * rng.standard_normal(s) for s in ((6, 6), (2, 6, 80, 80))
        )
        smooth = 1e3 * np.exp(-(np.linspace(-6, 6, 80) ** 2))
        kspace = np.einsum("ab,nbyx->nayx", mixing, white) + np.outer(smooth, smooth)
        mask = torch.ones((1, 80, 80), dtype=torch.bool)
        matrix = noise_whitening(torch.from_numpy(kspace), mask).numpy()
        covariance = mixing @ mixing.conj().T
        white = matrix @ covariance @ matrix.conj().T
        assert np.linalg.cond(white) < 1.3 < 20 < np.linalg.cond(covariance)

    def test_channels_that_depend_on_each_other_cannot_be_whitened(self, rng):
        white = rng.standard_normal((1, 3, 40, 40)) + 1j * rng.standard_normal((1, 3, 40, 40))
        kspace = np.concatenate([white, white[:, :1] + white[:, 1:2]], 1)
        mask = torch.ones((1, 40, 40), dtype=torch.bool)
        with pytest.raises(BadInputError, match="linearly dependent"):
            noise_whitening(torch.from_numpy(kspace), mask)


class TestCommand:
    @pytest.mark.parametrize("suffix", [".h5", ".npy", ".cfl"])
    def test_its_maps_are_those_of_recon(self, full_scan, tmp_path, suffix):
        maps = tmp_path / f"maps{suffix}"
        done = run("maps", full_scan, "-o", maps, "--json")
        assert done.exit_code == 0, done.output
        (row,) = json.loads(done.stdout)["slices"]
        assert row["operator_norm"] <= 1 + 1e-4
        assert row["unexplained"] < 0.03
        assert row["eigenvalue"] > 0.99
        images = []
        for options in ((), ("--csm", maps)):
            target = tmp_path / f"{len(images)}.npy"
            assert run("recon", full_scan, "-o", target, *options).exit_code == 0
            images.append(np.load(target))
        assert np.abs(images[0] - images[1]).max() < 2e-3 * np.abs(images[0]).max()

    @pytest.mark.parametrize(
        "options", [("--coils", "4"), ("--whiten",), ("--coils", 5, "--whiten")]
    )
    def test_maps_bring_their_channels(self, correlated, tmp_path, options):
        scan, _ = correlated
        maps = tmp_path / "maps.h5"
        done = run("maps", scan, "-o", maps, *options, "--json")
        assert done.exit_code == 0, done.output
        with h5py.File(maps) as file:
            virtual = file["csm"].shape[1]
            assert file["transform"].shape == (virtual, 6)
            assert file["eigenvalue"].shape == (1, 72, 64)
        assert json.loads(done.stdout)["virtual_coils"] == virtual
        target = tmp_path / "image.npy"
        done = run("recon", scan, "--csm", maps, "-o", target, "--acceleration", 3, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["slices"][0]["psnr"] > 20
        done = run("maps", scan, "-o", tmp_path / "maps.npy", *options)
        assert done.exit_code == 1
        assert "use .h5" in done.stderr

    def test_the_crop_decides_the_support(self, full_scan, tmp_path):
        supports = []
        for crop in ("0.5", "0.9", "0.99"):
            done = run("maps", full_scan, "-o", tmp_path / f"{crop}.h5", "--crop", crop, "--json")
            supports.append(json.loads(done.stdout)["slices"][0]["support"])
        assert supports[0] > supports[1] > supports[2] > 0

    def test_bad_input(self, full_scan, tmp_path):
        maps = tmp_path / "maps.h5"
        for options, message in (
            (("--coils", "9"), "9 virtual coils were asked for: 6 channels"),
            (("--crop", "0.99999999"), "lower --crop"),
        ):
            done = run("maps", full_scan, "-o", maps, *options)
            assert done.exit_code == 1
            assert message in done.stderr
            assert not maps.exists()
        for crop in ("x", "2"):
            assert run("maps", full_scan, "-o", maps, "--crop", crop).exit_code == 2
        assert run("maps", full_scan, "-o", maps).exit_code == 0
        before = maps.read_bytes()
        assert run("maps", full_scan, "-o", maps).exit_code == 1
        assert maps.read_bytes() == before
        other = tmp_path / "other.h5"
        with h5py.File(full_scan) as file, h5py.File(other, "w") as copy:
            copy["kspace"] = file["kspace"][:, :4]
        done = run("recon", other, "--csm", maps, "-o", tmp_path / "x.h5")
        assert done.exit_code == 1
        assert "was made for 6 channels" in done.stderr


def test_the_eigenvalue_is_the_confidence(scan_arrays):
    kspace = torch.from_numpy(scan_arrays["kspace"])
    found = espirit(kspace, torch.ones((1, 72, 64), dtype=torch.bool))
    inside = (found.csm != 0).any(1)
    assert float(found.eigenvalue[inside].min()) > float(found.eigenvalue[~inside].median())
    images = kspace_to_image(kspace)
    assert float(unexplained(images, found.csm)) < 0.06
    wrong = torch.roll(found.csm, 1, dims=1)
    assert float(unexplained(images, wrong)) > 0.3
