"""The experiments run on any images, and their numbers are what they say."""

import csv
import json

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from equipoise.certificate.attack import worst_case
from equipoise.cli.app import app
from equipoise.cli.progress import Bar
from equipoise.equilibrium.bounds import perturbation_bound
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.experiments import memory, table1
from equipoise.experiments.cases import number_of_cases
from equipoise.experiments.subjects import paired_difference
from equipoise.methods.unrolled import ModlConfig
from equipoise.outcome import BadInputError
from equipoise.physics.least_squares import tikhonov
from equipoise.training.sources.images import load_labelled
from equipoise.vectors import norm
from equipoise.zoo.model_file import save_model
from problems import (
    OF_PLANES,
    dense_normal,
    labelled_images,
    model_of,
    new_method,
    sense_problem,
)

NETWORK = {"features": 8, "layers": 3, "kernel_size": 3}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Untrained models of every method, as the value of --methods."""
    folder = tmp_path_factory.mktemp("models")
    entries = ["sense"]
    for name in OF_PLANES:
        method = new_method(name, network=NETWORK, lam=5.0, m=0.05, iterations=3, seed=0)
        save_model(folder / f"{name}.safetensors", method, {})
        entries.append(f"{name}={folder / name}.safetensors")
    return ",".join(entries)


@pytest.fixture
def images(tmp_path, scan_arrays):
    image = scan_arrays["image"][0]
    np.save(tmp_path / "heads.npy", np.stack([image, image[::-1]]))
    return tmp_path / "heads.npy"


def invoke(*arguments):
    return CliRunner().invoke(app, ["experiment", *map(str, arguments)])


def test_table1_compares_every_method_on_the_same_data(models, images, tmp_path):
    arguments = ["--data", images, "--methods", models, "--seeds", 2, "-o", tmp_path / "out"]
    result = invoke("table1", *arguments, "--acceleration", 2.5, "--json")
    assert result.exit_code == 0, result.stderr
    table = json.loads(result.stdout)
    assert list(table["methods"]) == ["sense", *OF_PLANES]
    with (tmp_path / "out" / "slices.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * (1 + len(OF_PLANES))
    for name, entry in table["methods"].items():
        own = [float(row["psnr"]) for row in rows if row["method"] == name]
        assert entry["n"] == 4
        assert entry["psnr"] == pytest.approx([np.mean(own), np.std(own)])
    difference = table["methods"]["mol-lr"]["psnr"][0] - table["methods"]["modl"]["psnr"][0]
    assert table["paired"]["modl"]["mean"] == pytest.approx(difference)
    outcomes = {row["method"]: row["outcome"] for row in rows}
    assert outcomes["mol-sn"] == "converged"
    assert outcomes["unet"] == "feed_forward"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"table1.md", "table1.csv", "table1.json", "slices.csv", "figure1.png"}
    assert (tmp_path / "out" / "table1.md").read_text().count("\n| ") == 2 + len(OF_PLANES)


def test_table1_takes_fully_sampled_scans(full_scan, models, tmp_path):
    result = invoke(
        "table1", "--data", full_scan, "--methods", models, "--seeds", 1, "-o", tmp_path / "o"
    )
    assert result.exit_code == 0, result.stderr
    table = json.loads((tmp_path / "o" / "table1.json").read_text())
    assert table["settings"]["data"] == [full_scan.name]
    assert table["methods"]["sense"]["psnr"][0] > 20


def test_every_experiment_knows_how_many_parts_remain(images, full_scan, tmp_path, monkeypatch):
    """The bar counts to its end: the number that is announced is the number of results."""
    told = []
    monkeypatch.setattr(
        Bar, "_tell", lambda bar, what, text, done, total: told.append((done, total))
    )
    assert number_of_cases([images, full_scan], 3) == 3 * (2 + 1)
    arguments = ["--data", images, "--methods", "sense", "--seeds", 2, "-o", tmp_path / "o"]
    result = invoke("table1", *arguments)
    assert result.exit_code == 0, result.stderr
    assert told == [(done, 4) for done in range(5)]


@pytest.mark.parametrize(
    ("methods", "message"),
    [("sense,sense", "a different name"), ("nothing", "there is no model")],
)
def test_methods_that_do_not_exist_are_refused(methods, message, tmp_path):
    result = invoke("table1", "--methods", methods, "-o", tmp_path / "o")
    assert result.exit_code == 1
    assert message in result.stderr
    assert not (tmp_path / "o").exists()


def paired_rows(gains):
    """Rows of two masks a slice; ``gains`` are, of each subject, those of its slices in dB."""
    return [
        {"subject": str(n), "slice": str(s), "seed": seed, "method": m, "psnr": 30.0 + s + won}
        for n, own in enumerate(gains)
        for s, gain in enumerate(own)
        for seed in range(2)
        for m, won in (("mol-lr", gain), ("modl", 0.0))
    ]


class TestSubjects:
    def test_an_interval_is_drawn_over_subjects_and_not_over_their_slices(self):
        two = [[1.0] * 40, [3.0] * 40]  # within each subject there is nothing to vary
        paired = paired_difference(paired_rows(two), "mol-lr", "modl")
        assert paired == {
            "mean": pytest.approx(2.0),
            "interval": pytest.approx([1.0, 3.0]),
            "subjects": 2,
            "slices": 80,
        }
        slices_of_one = paired_difference(paired_rows([two[0] + two[1]]), "mol-lr", "modl")
        assert slices_of_one["mean"] == pytest.approx(2.0)
        assert slices_of_one["interval"] is None

    def test_the_interval_of_many_subjects_is_that_of_their_mean(self):
        gains = np.random.default_rng(1).normal(2.0, 1.0, 50)
        low, high = paired_difference(paired_rows([[g] for g in gains]), "mol-lr", "modl")[
            "interval"
        ]
        error = 1.96 * gains.std() / np.sqrt(50)  # of the normal approximation
        assert low == pytest.approx(gains.mean() - error, abs=0.06)
        assert high == pytest.approx(gains.mean() + error, abs=0.06)

    def test_a_subject_is_what_the_file_says_else_the_file(self, tmp_path, scan_arrays):
        image = np.abs(scan_arrays["image"][0])
        with h5py.File(tmp_path / "many.h5", "w") as file:
            file["magnitude"] = np.stack([image, 0 * image, image, image])
            file["subject"] = ["ann", "ann", "bob", "bob"]
        with h5py.File(tmp_path / "one.h5", "w") as file:
            file["magnitude"], file["subject"] = image[None], "ann"
        np.save(tmp_path / "plain.npy", image[None])
        found = load_labelled([tmp_path])
        subjects = [label.subject for label in found]
        assert subjects == ["ann", "bob", "bob", "ann", str(tmp_path / "plain.npy")]
        with h5py.File(tmp_path / "one.h5", "r+") as file:
            del file["subject"]
            file["subject"] = ["ann", "bob"]
        with pytest.raises(BadInputError, match="2 subjects for 1 slices"):
            load_labelled([tmp_path / "one.h5"])

    def test_the_table_says_who_has_seen_the_data_and_that_one_subject_has_no_interval(
        self, images, tmp_path
    ):
        method = new_method("mol-lr", network=NETWORK, lam=5.0, m=0.05, iterations=3, seed=0)
        origin = {"config": {"data": {"train": ["other.h5"], "validation": [images.name]}}}
        save_model(tmp_path / "m.safetensors", method, origin)
        save_model(tmp_path / "n.safetensors", method, {"config": {"data": {"train": ["x.h5"]}}})
        chosen = f"sense,mol-lr={tmp_path / 'm.safetensors'},modl={tmp_path / 'n.safetensors'}"
        command = ["table1", "--data", images, "--methods", chosen, "--seeds", 1]
        command += ["-o", tmp_path / "out", "--json"]
        result = invoke(*command)
        assert result.exit_code == 0, result.stderr
        table, text = json.loads(result.stdout), (tmp_path / "out" / "table1.md").read_text()
        assert table["paired"]["sense"]["interval"] is None
        assert "One subject: no interval." in text
        assert table["seen"] == [
            "NOT UNSEEN DATA: heads.npy was validation data that chose the weights, the learning "
            "rate and T of mol-lr."
        ]
        assert table["seen"][0] in text
        again = invoke(*command)
        assert again.exit_code == 1
        assert "table1.md exists" in again.stderr
        assert invoke(*command, "--overwrite").exit_code == 0


def test_robustness_falls_with_the_perturbation(models, scan_arrays, tmp_path):
    image = tmp_path / "head.npy"
    np.save(image, scan_arrays["image"][:, 12:60, 8:56])
    names = ",".join(e for e in models.split(",") if e.split("=")[0] in ("sense", "mol-sn", "modl"))
    arguments = ["--data", image, "--methods", names, "--seeds", 1]
    arguments += ["--steps", 2, "--starts", 1]
    result = invoke("robustness", *arguments, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    study = json.loads(result.stdout)
    for name in ("sense", "mol-sn", "modl"):
        noise = [v["psnr"][0] for v in study["noise"][name].values()]
        attack = [v["psnr"][0] for v in study["worst case"][name].values()]
        assert noise[0] > noise[-1]
        assert attack == sorted(attack, reverse=True)
    assert (tmp_path / "out" / "robustness.png").exists()
    chosen = [*arguments, "--epsilon", 0.03, "-o", tmp_path / "one", "--json"]
    assert list(json.loads(invoke("robustness", *chosen).stdout)["worst case"]["modl"]) == ["0.03"]
    assert invoke("robustness", *arguments, "--epsilon", 5).exit_code == 2


def test_the_worst_case_of_a_linear_reconstruction_is_its_norm():
    operator, data = sense_problem(shape=(8, 6), batch=1)
    normal = dense_normal(operator, (8, 6))
    # One dense inverse: 400 steps of conjugate gradients would take most of the time.
    inverse = torch.linalg.inv(torch.eye(48, dtype=normal.dtype) + 5 * normal)
    found = worst_case(
        lambda b: (5 * inverse @ operator.adjoint(b).flatten()).reshape(1, 8, 6),
        data,
        operator.mask[:, None],
        0.1,
        steps=400,
        starts=1,
    )
    spectrum = torch.linalg.eigvalsh(normal).clamp(min=0)
    # x = (I + lam A^H A)^-1 lam A^H b has the singular values lam s / (1 + lam s^2).
    expected = float((5 * spectrum.sqrt() / (1 + 5 * spectrum)).max())
    assert float(found.amplification) == pytest.approx(expected, rel=1e-3)
    assert float(norm(found.perturbation) / norm(data)) == pytest.approx(0.1)
    assert found.history.shape == (1, 401, 1)
    assert bool((found.history[0].diff(dim=0) >= -1e-9).all())  # the power method
    assert not bool(found.perturbation[(~operator.mask[:, None]).expand_as(data)].abs().any())


def test_a_single_step_of_an_attack_beats_its_random_start():
    operator, data = sense_problem(shape=(8, 6), batch=1)
    lam, measured = torch.tensor([5.0], dtype=torch.float64), operator.mask[:, None]

    def attack(steps):
        found = worst_case(
            lambda b: differentiable_sense(operator, b, lam), data, measured, 0.1, steps=steps
        )
        return found.random_amplification, found.amplification

    random, one = attack(1)
    same, three = attack(3)
    assert torch.equal(random, same)
    assert float(random) < float(one) < float(three)


def differentiable_sense(operator, data, lam):
    from equipoise.methods.feed_forward import data_consistency

    return data_consistency(operator, 5.0 * operator.adjoint(data), lam)


def test_no_attack_exceeds_the_proved_bound_and_attacks_beat_noise():
    operator, data = sense_problem()
    model = model_of(0.8, lam=5.0)
    options = SolverOptions(rtol=1e-8, max_iter=300)
    scale = operator.intensity_scale(data)

    def reconstruct(b):
        return model.solve(operator, b, scale=scale, options=options).value

    found = worst_case(reconstruct, data, operator.mask[:, None], 0.05, steps=15)
    bound = perturbation_bound(torch.full((2,), 5.0).double(), 0.2, norm(found.perturbation))
    assert bool((found.movement <= bound).all())
    noise = torch.randn(data.shape, dtype=data.dtype, generator=torch.Generator().manual_seed(9))
    noise = noise * operator.mask[:, None]
    noise = noise * (0.05 * norm(data) / norm(noise)).reshape(-1, 1, 1, 1)
    with torch.no_grad():
        moved = norm(reconstruct(data + noise) - reconstruct(data))
    assert bool((found.movement > 1.3 * moved).all())


def test_memory_of_an_equilibrium_does_not_grow_and_that_of_an_unrolled_network_does(tmp_path):
    rows = memory.study((4, 24), size=48, n_coils=2)
    peak = {(row["method"], row["iterations"]): row["peak_mb"] for row in rows}
    assert peak["mol-lr", 24] < 1.05 * peak["mol-lr", 4]
    assert peak["modl", 24] > 2 * peak["modl", 4]
    result = memory.write_study(tmp_path, rows, {})
    assert len(result["rows"]) == 4
    assert (tmp_path / "memory.png").exists()


@pytest.mark.parametrize("iterations", memory.ITERATIONS)
def test_an_unrolled_network_can_have_as_many_iterations_as_memory_is_measured_with(iterations):
    assert ModlConfig(iterations=iterations).iterations == iterations


def test_sense_in_the_table_is_one_tikhonov_solve(images):
    from equipoise.experiments.cases import cases

    case = next(cases([images], 2.5, 1))
    comparison = table1.compare({"sense": None}, [case])
    from equipoise.methods.sense import best_sense

    lam = best_sense(case.operator, case.kspace, case.target).lam
    expected = tikhonov(case.operator, case.kspace, lam, rtol=1e-4)
    assert torch.equal(comparison.images["sense"], expected)


def test_detection_flags_scans_that_are_unlike_the_calibration(images, tmp_path):
    """Spikes of the size of the largest sample are noticed; the table holds every kind."""
    method = new_method("mol-sn", network=NETWORK, lam=5.0, m=0.2, iterations=3, seed=0)
    simulation = {"acceleration": 3.0, "noise": (0.01, 0.02), "coils": (5, 6)}
    source, model = tmp_path / "m.safetensors", tmp_path / "c.safetensors"
    save_model(source, method, {"config": {"simulation": simulation}})
    heads = labelled_images(tmp_path / "heads.h5", 18, (48, 48))
    command = ["calibrate", str(source), "--data", str(heads), "-o", str(model)]
    shares = ("--rate", "0.1", "--level", "0.9", "--zoom", "1", "1")
    result = CliRunner().invoke(app, [*command, "--scans", "18", *shares])
    assert result.exit_code == 0, result.stderr
    arguments = ["--model", model, "--data", heads, "--others", images, "--scans", 4]
    result = invoke("detection", *arguments, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    kinds = json.loads(result.stdout)["kinds"]
    assert kinds["spikes in k-space"]["flagged"] == 1
    assert kinds["like the calibration"]["flagged"] <= 0.5
    assert kinds["spikes in k-space"]["score"] > kinds["like the calibration"]["score"]
    assert set(kinds) >= {"motion", "displaced coil maps", "attacked, 5 %", "other images"}
    assert (tmp_path / "out" / "detection.md").exists()
    assert invoke("detection", "--model", source, "-o", tmp_path / "o").exit_code == 1
