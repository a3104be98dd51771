"""``equipoise info`` and ``equipoise convert``."""

import json

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

import layouts
from equipoise.cli import app


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def scan():
    """Image, maps and k-space of three slices."""
    return layouts.multicoil()


class TestInfo:
    def found(self, path):
        result = run("info", path, "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    def test_says_what_was_understood(self, scan, tmp_path):
        layouts.write_mrd(tmp_path / "s.mrd", scan[2])
        found = self.found(tmp_path / "s.mrd")
        assert found["format"] == "ISMRMRD"
        assert (found["images"], found["coils"], found["matrix"]) == (3, 4, [40, 48])
        assert found["pixel_mm"] == [4.0, 2.0, 2.5]
        assert found["field_of_view_mm"] == [80.0, 120.0]
        assert found["plane"] == "coronal"
        assert found["labels"] == {"slice": 3}
        assert found["acceleration"] == 1
        assert found["calibration_region"] == [40, 48]
        assert found["centre_in_file"] == [20, 48]
        text = run("info", tmp_path / "s.mrd").stdout
        assert "40 x 48" in text
        assert "4 x 2 x 2.5 mm" in text
        assert "readout oversampling removed" in text
        assert "█" * 48 in text

    def test_measures_noise_sampling_and_centre(self, tmp_path):
        _, _, kspace = layouts.multicoil((64, 64), noise=0.1)
        kspace = np.roll(kspace, (2, -1), (2, 3))
        columns = (np.arange(64) % 2 == 0) | (np.abs(np.arange(64) - 32) < 6)
        np.savez(tmp_path / "s.npz", kspace=kspace * columns)
        found = self.found(tmp_path / "s.npz")
        assert found["noise_level"] == pytest.approx(0.1, rel=0.3)
        assert found["centre_by_energy"] == [34, 31]
        assert found["acceleration"] == pytest.approx(64 / columns.sum())
        assert found["calibration_region"] == [64, 12]
        text = run("info", tmp_path / "s.npz").stdout
        assert "peaks +2, -1 samples" in text
        drawn = text.splitlines()[-1]
        assert len(drawn) == 64
        assert [c == "█" for c in drawn] == columns.tolist()

    def test_says_what_was_ignored(self, scan, tmp_path):
        layouts.write_fastmri(tmp_path / "s.h5", scan[2])
        with h5py.File(tmp_path / "s.h5", "r+") as file:
            file["something"] = 1
        found = self.found(tmp_path / "s.h5")
        assert found["ignored"] == ["something", "attribute acquisition", "attribute max"]
        assert any("orientation" in note for note in found["assumed"])
        assert "something" in run("info", tmp_path / "s.h5").stdout

    def test_a_file_that_is_none_ends_with_1_and_one_line(self, tmp_path):
        (tmp_path / "s.h5").write_text("nonsense")
        result = run("info", tmp_path / "s.h5")
        assert result.exit_code == 1
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1
