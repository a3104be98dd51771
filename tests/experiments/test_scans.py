"""Real scans beside tuned wavelets and total variation: what the table compares with."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from equipoise.cli.app import app
from equipoise.experiments import masks, oracle, scans
from equipoise.experiments.table1 import guarantee
from equipoise.methods.variational import TV
from equipoise.zoo.model_file import load_model


def row(case, method, psnr):
    return {"slice": case, "seed": 0, "method": method, "psnr": psnr, "ssim": 0.9}


def test_the_better_of_the_two_is_chosen_case_by_case():
    rows = [
        *[row("a", "wavelet, oracle", 30.0), row("a", "tv, oracle", 31.0), row("a", "x", 32.0)],
        *[row("b", "wavelet, oracle", 34.0), row("b", "tv, oracle", 33.0), row("b", "x", 32.5)],
    ]
    found = {entry["method"]: entry for entry in scans.against_tuned(rows)}["x"]
    assert found["mean_difference"] == pytest.approx(-0.25)
    assert found["worst_difference"] == pytest.approx(-1.5)
    assert (found["better_in"], found["cases"]) == (1, 2)


def test_without_a_tuned_method_there_is_no_difference():
    (found,) = scans.against_tuned([row("a", "x", 32.0)])
    assert found["mean_difference"] is None


@pytest.fixture
def quick(monkeypatch):
    """One mask, two weights, few iterations."""
    monkeypatch.setattr(scans, "MASKS", {"uniform": 2.0})
    monkeypatch.setattr(oracle, "WEIGHTS", (100.0, 1.0))
    monkeypatch.setattr(oracle, "SEARCH_ITERATIONS", 5)


def test_scans_writes_both_weights_of_what_is_not_trained(quick, full_scan, tmp_path):
    out = tmp_path / "out"
    arguments = ["scans", "--data", full_scan, "--methods", "sense,tv", "-o", out, "--json"]
    result = CliRunner().invoke(app, ["experiment", *map(str, arguments)])
    assert result.exit_code == 0, result.stderr
    table = json.loads(result.stdout)
    cases = {entry["method"]: entry for entry in table["cases"]}
    assert list(cases) == ["sense", "tv, oracle", "tv, auto"]
    assert cases["tv, oracle"]["lam"] in (100.0, 1.0)
    assert cases["tv, auto"]["objective_gap"] >= 0
    assert {path.name for path in out.iterdir()} == {*scans.FILES}
    summary = {entry["method"]: entry for entry in table["summary"]}
    difference = cases["sense"]["psnr"] - cases["tv, oracle"]["psnr"]
    assert summary["sense"]["mean_difference"] == pytest.approx(difference)


def test_lam_by_prediction_is_a_column_with_what_it_costs(quick, full_scan, tmp_path):
    out = tmp_path / "out"
    arguments = ["scans", "--data", full_scan, "--methods", "tv,mol-ridge,unet", "-o", out]
    command = ["experiment", *map(str, arguments), "--lam", "rule,auto", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    cases = {entry["method"]: entry for entry in json.loads(result.stdout)["cases"]}
    # U-Net is defined for the weights of its training only.
    tv = [f"tv, {weight}" for weight in ("oracle", "rule", "auto")]
    assert list(cases) == [*tv, "mol-ridge, rule", "mol-ridge", "unet"]
    ridge, predicted = cases["mol-ridge, rule"], cases["mol-ridge"]
    assert predicted["trials"] > ridge["evaluations"]
    assert ridge["trials"] == 0
    wrong = CliRunner().invoke(app, [*command[:-2], "best", "-o", str(tmp_path / "x")])
    assert wrong.exit_code == 1
    assert "it must be rule, auto, or rule,auto" in wrong.stderr


def test_every_mask_of_the_grid_has_its_row(monkeypatch, full_scan, tmp_path):
    monkeypatch.setattr(masks, "GRID", (("uniform", 2.0), ("variable-density-1d", 2.0)))
    out = tmp_path / "out"
    arguments = ["masks", "--data", full_scan, "--methods", "sense,mol-ridge", "-o", out, "--json"]
    result = CliRunner().invoke(app, ["experiment", *map(str, arguments)])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    named = ["uniform 2-fold", "variable-density-1d 2-fold"]
    assert [entry["mask"] for entry in found["means"]] == named
    for entry in found["means"]:
        own = [row for row in found["cases"] if row["slice"].endswith(entry["mask"])]
        assert entry["psnr"] == {row["method"]: row["psnr"] for row in own}
    text = (out / "masks.md").read_text()
    assert "mol-ridge: distance, change of data: proved" in text
    assert {path.name for path in out.iterdir()} == {*masks.FILES}


def test_what_is_not_fully_sampled_is_refused(tmp_path):
    np.save(tmp_path / "images.npy", np.ones((2, 16, 16)))
    arguments = ["scans", "--data", tmp_path / "images.npy", "-o", tmp_path / "o"]
    result = CliRunner().invoke(app, ["experiment", *map(str, arguments), "--methods", "tv"])
    assert result.exit_code == 1
    assert "is not a fully sampled scan" in result.stderr


def test_guarantees_are_said_as_they_are():
    assert guarantee(None) == "none"
    assert guarantee(TV()) == "objective: proved"
    found = {
        name: guarantee(load_model(name))
        for name in ("mol-guided-universal", "mol-guided-sharp", "modl-brain-4x")
    }
    assert list(found.values()) == ["distance, change of data: proved", "distance: proved", "none"]
