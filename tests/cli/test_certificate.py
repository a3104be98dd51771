"""The command ``certify`` from one end to the other, and the flag ``in_range``."""

import json
from pathlib import Path

import h5py
import jsonschema
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import equipoise.certificate.certify
from equipoise.certificate.certify import certify_slice
from equipoise.certificate.noise import agreement
from equipoise.certificate.noise_map import replica_noise_map, slice_noise_map
from equipoise.cli.app import app
from equipoise.methods.data_weight import DataWeight
from equipoise.methods.mol import MOL
from equipoise.methods.mol_sn import MOLSN
from equipoise.methods.regression import Regression
from equipoise.methods.solving import solve_slice
from equipoise.methods.usual import Calibration, PsnrCalibration
from equipoise.recon.experiment import load_experiment
from equipoise.recon.problems import slice_problem
from equipoise.recon.reconstruct import reconstruct
from equipoise.report.certificate_file import certificate_schema
from equipoise.vectors import norm
from equipoise.zoo.model_file import load_model, provenance, save_model
from problems import contractive_cnn, labelled_images, new_method

KEYS = {
    "distance_bound",
    "perturbation_bound",
    "paper_bound",
    "m",
    "m_evidence",
    "lipschitz_lower",
    "lipschitz_upper",
    "measured_amplification",
    "in_range",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One model whose constant is proved, one that claims more than it holds, one without."""
    folder = tmp_path_factory.mktemp("models")
    network = {"features": 6, "layers": 3, "kernel_size": 3}
    options = {"network": network, "lam": 20.0, "m": 0.2, "iterations": 2, "seed": 0}
    origin = {"config": {"simulation": {"acceleration": 3.0}, "data": {"held_out": ["s10"]}}}
    save_model(folder / "proved.safetensors", new_method("mol-sn", **options), origin)
    save_model(folder / "wrong.safetensors", new_method("mol-lr", **options), {})
    save_model(folder / "modl.safetensors", new_method("modl", **options), {})
    ridge = {"features": 4, "basis": 3}
    guided = new_method("mol-guided", network=ridge, lam=20.0, m=0.2)
    torch.nn.init.constant_(guided.adaptation.last, 0.1)  # as trained: factors follow the image
    save_model(folder / "guided.safetensors", guided, {})
    return folder


def certify(scan, model, folder, *options):
    command = ["certify", str(scan), "--model", str(model), "--acceleration", "3"]
    result = CliRunner().invoke(app, [*command, "-o", str(folder), "--json", *options])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout), result.stderr


def test_a_proved_model_gives_proved_statements_and_the_attack_stays_below(
    full_scan, models, tmp_path
):
    options = ("--worst-case", "0.05", "--noise-map", "--probes", "8", "--steps", "4")
    report, text = certify(full_scan, models / "proved.safetensors", tmp_path / "c", *options)
    (only,) = report["slices"]
    assert set(only) >= KEYS
    assert only["m_evidence"] == "proved"
    assert only["lipschitz_lower"] <= only["lipschitz_upper"] <= 0.8
    assert min(only["m_local"]) >= 0.2
    evidence = {name: s["evidence"] for name, s in only["statements"].items()}
    assert evidence.pop("noise_bound") == "measured"  # the noise level is an estimate
    assert set(evidence.values()) == {"proved"}
    assert only["contraction"] == pytest.approx(0.8)
    assert only["lam_source"] == "rule"
    assert only["choice"]["trials"] == []
    attack = {**only["attack"]}
    assert 0 < attack.pop("error") < 0.5 * only["measured_amplification"]
    assert attack == {"epsilon": 0.05, "krylov": 4, "steps": 4, "starts": 1, "seed": 0}
    assert list(only["stages"]) == ["image", "constants", "noise", "attack"]
    assert all(stage["evaluations"] > 0 for stage in only["stages"].values())
    assert only["noise"]["probes"] == 8
    assert 0 < only["noise"]["missing"] <= 0.05
    assert only["noise_level"] > 0
    bound = 0.5 * (only["lam"] / 0.2) ** 0.5
    assert only["perturbation_bound"] == pytest.approx(bound)
    assert only["paper_bound"] == pytest.approx(only["lam"] / 0.2)
    assert only["random_amplification"] < only["measured_amplification"] < bound
    assert "proved" in text
    with h5py.File(tmp_path / "c" / "maps.h5") as file:
        assert file["noise_std"].shape == file["noise_error"].shape == (1, 72, 64)
        assert file["attack"].shape == (1, 6, 72, 64)
    assert (tmp_path / "c" / "certificate.png").stat().st_size > 1000
    assert json.loads((tmp_path / "c" / "certificate.json").read_text()) == report
    jsonschema.validate(report, certificate_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(
            {**report, "slices": [{**only, "m_local": "0.1"}]}, certificate_schema()
        )


def test_two_passes_get_every_stage_and_say_what_is_not_promised(full_scan, models, tmp_path):
    """The noise map and the attack are those of both passes; (8) holds for one pass only."""
    options = ("--worst-case", "0.05", "--noise-map", "--quick")
    report, text = certify(full_scan, models / "guided.safetensors", tmp_path / "c", *options)
    (only,) = report["slices"]
    assert list(only["stages"]) == ["image", "constants", "noise", "attack"]
    assert all(stage["evaluations"] > 0 for stage in only["stages"].values())
    assert only["m_evidence"] == "proved"
    assert only["statements"]["distance_bound"]["evidence"] == "proved"
    # The proved bound of both passes is larger, and the attack stays below it.
    assert only["perturbation_bound"] > only["second_pass_bound"] > 0
    assert only["random_amplification"] < only["measured_amplification"]
    assert only["measured_amplification"] < only["perturbation_bound"]
    assert only["noise_response"]["mean"] > 0
    assert only["noise"]["median"] > 0
    assert "through both passes" in text
    with h5py.File(tmp_path / "c" / "maps.h5") as file:
        assert file["noise_std"][0].max() > 0
    jsonschema.validate(report, certificate_schema())


def test_the_schema_in_the_docs_is_that_of_the_code():
    written = (Path(__file__).parents[2] / "docs" / "certificate.schema.json").read_text()
    assert json.loads(written) == certificate_schema()


def test_a_constant_that_is_violated_at_the_image_promises_nothing(full_scan, models, tmp_path):
    """The start of MOL-LR is 0.9 times the identity: m is 0.1 there, not the 0.2 that it claims."""
    report, text = certify(full_scan, models / "wrong.safetensors", tmp_path / "c")
    (only,) = report["slices"]
    assert only["distance_bound"] is None
    assert only["statements"]["distance_bound"]["evidence"] == "not available"
    assert min(only["m_local"]) < 0.2
    assert only["m_evidence"] == "refuted"
    assert "REFUTED" in text


def test_a_method_without_equilibrium_says_so(full_scan, models, tmp_path):
    options = ("--worst-case", "0.05", "--steps", "2", "--starts", "1")
    report, text = certify(full_scan, models / "modl.safetensors", tmp_path / "c", *options)
    (only,) = report["slices"]
    assert only["m"] is None
    assert only["m_evidence"] == "none"
    assert only["perturbation_bound"] is None
    assert only["measured_amplification"] > 0
    assert "no equilibrium" in " ".join(text.split())
    command = ["certify", str(full_scan), "--model", str(models / "modl.safetensors")]
    result = CliRunner().invoke(app, [*command, "--noise-map", "-o", str(tmp_path / "d")])
    assert result.exit_code == 1
    assert "needs a MOL model" in " ".join(result.stderr.split())


def test_nothing_is_overwritten_unasked(full_scan, models, tmp_path):
    model = models / "proved.safetensors"
    certify(full_scan, model, tmp_path / "c", "--quick")
    command = ["certify", str(full_scan), "--model", str(model), "-o", str(tmp_path / "c")]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1
    assert "--overwrite" in refused.stderr
    certify(full_scan, model, tmp_path / "c", "--quick", "--overwrite")
    wrong = "--worst-case=2 --worst-case=1e-9 --lam=x --lam=1e300 --rtol=2 --rtol=inf --seed=1"
    for option in wrong.split():
        assert CliRunner().invoke(app, [*command, option]).exit_code == 2


def test_what_is_complete_stays_when_the_command_is_ended(full_scan, models, tmp_path, monkeypatch):
    def end(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(equipoise.certificate.certify, "worst_case", end)
    model = str(models / "proved.safetensors")
    command = ["certify", str(full_scan), "--model", model, "--acceleration", "3"]
    options = ["--worst-case", "0.05", "-o", str(tmp_path)]
    assert CliRunner().invoke(app, [*command, *options]).exit_code != 0
    (only,) = json.loads((tmp_path / "certificate.json").read_text())["slices"]
    assert list(only["stages"]) == ["image", "constants", "noise"]
    assert only["noise_response"]["mean"] > 0
    assert only["measured_amplification"] is None


def test_a_quick_certificate_costs_less_and_says_what_it_measured(full_scan, models, tmp_path):
    options, cost = ("--worst-case", "0.05", "--noise-map"), {}
    for name, more in (("whole", ()), ("quick", ("--quick",))):
        folder = tmp_path / name
        report, _ = certify(full_scan, models / "proved.safetensors", folder, *options, *more)
        (only,) = report["slices"]
        cost[name] = sum(stage["evaluations"] for stage in only["stages"].values())
        assert only["lam_source"] == "rule"
        assert only["noise"]["probes"] == (2 if more else 16)
        assert only["attack"]["steps"] == (0 if more else 2)
        assert only["attack"]["error"] < (1.0 if more else 0.5)
    assert cost["quick"] < 0.6 * cost["whole"]


def test_the_noise_map_of_a_scan_agrees_with_pseudo_replicas(full_scan):
    model = MOL(contractive_cnn(0.7).float(), DataWeight(lam=5.0), 0.3).eval()
    problem = slice_problem(load_experiment(full_scan, acceleration=3).acquisition, 0)
    with torch.no_grad():
        solution = solve_slice(problem, model, None, None)
    linear = slice_noise_map(problem, model, solution, probes=200)
    assert linear.accuracy <= 0.01
    replicas = replica_noise_map(problem, model, solution, probes=200, seed=1)
    inside = solution.value[0] != 0
    assert agreement(linear.std, replicas.std, inside).ratio == pytest.approx(1, abs=0.02)
    error = (linear.error.square() + replicas.error.square()).sqrt()
    deviation = ((linear.std - replicas.std) / error)[inside]
    assert float(deviation.square().mean().sqrt()) == pytest.approx(1, abs=0.15)


def test_the_short_certificate_costs_no_network_evaluation(full_scan, models):
    model = load_model(models / "proved.safetensors")
    calls = []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    experiment = load_experiment(full_scan, acceleration=3)
    (only,) = reconstruct(experiment.acquisition, model).slices
    assert only.perturbation_bound is not None
    assert len(calls) == only.network_evaluations


def test_certificates_need_no_options(full_scan, models):
    problem = slice_problem(load_experiment(full_scan, acceleration=3).acquisition, 0)
    found = certify_slice(problem, load_model(models / "proved.safetensors"))
    assert found.noise is None
    assert found.attack is None
    assert found.certificate.measured_amplification is None
    assert float(norm(found.image)) > 0


# ---- in_range ------------------------------------------------------------------------------------


def test_calibrate_writes_a_model_that_knows_its_range(full_scan, models, tmp_path):
    images = labelled_images(tmp_path / "images.h5", 11)
    source, target = models / "proved.safetensors", tmp_path / "calibrated.safetensors"
    command = ["calibrate", str(source), "--data", str(images), "-o", str(target)]
    few = CliRunner().invoke(app, [*command, "--scans", "12", "--rate", "0.2"])
    assert few.exit_code == 1
    assert "--level 0.833" in few.stderr
    shares = ("--rate", "0.2", "--level", "0.8", "--zoom", "1", "1")
    result = CliRunner().invoke(app, [*command, "--scans", "12", *shares])
    assert result.exit_code == 0, result.stderr
    assert "80% of scans like these (5 subjects; measured, not proved)" in " ".join(
        result.stderr.split()
    )
    model = load_model(target)
    assert isinstance(model, MOLSN)
    # The eleventh subject is held out: training kept it for tests.
    assert (model.calibration.count, model.calibration.subjects) == (12, 10)
    assert provenance(target)["calibration"]["level"] == 0.8
    assert CliRunner().invoke(app, command).exit_code == 1
    report, text = certify(full_scan, target, tmp_path / "c")
    only = report["slices"][0]
    assert only["in_range"] in (True, False)
    assert only["false_alarm_rate"] == 0.2
    assert (only["psnr_bound"] is None) == (not only["in_range"])
    other, text = certify(full_scan, target, tmp_path / "other", "--lam", "20")
    assert other["slices"][0]["in_range"] is None
    assert other["slices"][0]["psnr_bound"] is None
    assert other["slices"][0]["lam_source"] == "given"
    assert "in range: not known" in text
    noisy, _ = certify(full_scan, target, tmp_path / "noisy", "--noise", "1e-3")
    assert noisy["slices"][0]["noise_level"] == pytest.approx(1e-3)
    unknown = CliRunner().invoke(
        app,
        [
            "calibrate",
            str(models / "modl.safetensors"),
            *command[2:-1],
            str(tmp_path / "x.safetensors"),
        ],
    )
    assert unknown.exit_code == 1
    assert "does not say how" in unknown.stderr
    compared = {"misfit", "pull", "evaluations", "noise", "acceleration"}
    assert set(only["deviations"]) == compared


def test_the_bound_on_the_psnr_is_shown_wherever_an_image_is(full_scan, models, tmp_path):
    model = load_model(models / "proved.safetensors")
    psnr = PsnrCalibration(Regression(30.0, {"noise": -1.0}), 4.0, 0.95, 25, 60)
    usual = {"misfit": 0.0}
    model.calibration = Calibration(usual, {"misfit": 100.0}, 1.0, 0.05, 120, psnr=psnr)
    save_model(tmp_path / "m.safetensors", model, {})
    page = tmp_path / "page.html"
    command = ["recon", str(full_scan), "--acceleration", "3", "--json", "--report", str(page)]
    target = ["--model", str(tmp_path / "m.safetensors"), "-o", str(tmp_path / "x.h5")]
    result = CliRunner().invoke(app, [*command, *target])
    assert result.exit_code == 0, result.stderr
    (only,) = json.loads(result.stdout)["slices"]
    report, text = certify(full_scan, tmp_path / "m.safetensors", tmp_path / "c")
    noise = report["slices"][0]["features"]["noise"]
    bound = {"value": 26.0 - np.log(noise), "level": 0.95, "subjects": 25, "evidence": "measured"}
    assert only["psnr_bound"] == pytest.approx(bound)
    assert report["slices"][0]["psnr_bound"] == pytest.approx(bound)
    words = f"PSNR at least {bound['value']:.1f} dB with 0.95 coverage"
    for told in (result.stderr, text):
        assert words in " ".join(told.split())
        assert "25 subjects; measured, not proved" in " ".join(told.split())
    assert f"{bound['value']:.1f} dB, from 25 subjects" in page.read_text()
    given = CliRunner().invoke(app, [*command, *target, "--lam", "20", "--overwrite"])
    assert json.loads(given.stdout)["slices"][0]["psnr_bound"] is None
    assert "coverage" not in given.stderr
