"""One story of a reconstruction: one scan, many, and Python; what it says and to whom."""

import logging
import warnings

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from equipoise import ConvergenceWarning, ReconSettings, reconstruct, reconstruct_file
from equipoise.cli.app import app
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.formats.writers.stamp import read_stamp
from equipoise.methods.data_weight import FixedWeight
from equipoise.methods.mol import MOL
from equipoise.networks.cnn import CNN
from equipoise.outcome import BadInputError
from equipoise.recon.experiment import load_experiment
from equipoise.zoo.model_file import save_model
from problems import sense_problem


def small_model(**options):
    network = CNN(4, 2, gain=0.5)
    return MOL(network, FixedWeight(5.0), 0.2, options=SolverOptions(**options)).eval()


@pytest.fixture
def settings(tmp_path):
    save_model(tmp_path / "m.safetensors", small_model(), {})
    return ReconSettings(str(tmp_path / "m.safetensors"), acceleration=2.0)


def test_a_scan_goes_from_file_to_file_and_nothing_is_printed(
    settings, full_scan, tmp_path, capsys
):
    told = []
    done = reconstruct_file(
        full_scan,
        settings,
        target=tmp_path / "image.h5",
        on_ready=lambda prepared: told.append(prepared.experiment.acquisition.source),
        on_slice=lambda found: told.append(found.index),
    )
    assert told == [str(full_scan), 0]
    assert capsys.readouterr() == ("", "")
    assert done.result.outcome.value == "converged"
    assert done.prepared.experiment.full is not None
    assert done.method == "mol-lr"
    with h5py.File(done.target) as file:
        assert np.array_equal(file["image"][:], done.result.image.numpy())
    assert read_stamp(done.target) == (done.fingerprint, True)
    again = reconstruct_file(full_scan, settings)
    assert again.target is None
    assert again.fingerprint == done.fingerprint
    assert torch.equal(again.result.image, done.result.image)
    with pytest.raises(BadInputError, match="exists"):
        reconstruct_file(full_scan, settings, target=done.target)
    with pytest.raises(BadInputError, match="is read and would be overwritten"):
        reconstruct_file(full_scan, settings, target=full_scan, overwrite=True)


def test_one_scan_and_many_are_reconstructed_alike(settings, full_scan, tmp_path):
    command = ["recon", str(full_scan), "--model", settings.model, "--acceleration", "2", "-o"]
    for output in (tmp_path / "one.h5", tmp_path / "many"):
        assert CliRunner().invoke(app, [*command, str(output)]).exit_code == 0
    one, many = tmp_path / "one.h5", tmp_path / "many" / "scan.h5"
    assert read_stamp(one) == read_stamp(many)
    with h5py.File(one) as a, h5py.File(many) as b:
        assert set(a) == set(b)
        assert np.array_equal(a["image"][:], b["image"][:])


def test_a_slice_that_did_not_converge_is_a_warning_and_one_that_did_is_none(full_scan, caplog):
    acquisition = load_experiment(full_scan, acceleration=2.0).acquisition
    with warnings.catch_warnings(), caplog.at_level(logging.INFO, "equipoise"):
        warnings.simplefilter("error")
        reconstruct(acquisition, small_model())
    assert [r.getMessage()[:25] for r in caplog.records] == ["slice 0 of 1: converged, "]
    with pytest.warns(ConvergenceWarning, match=r"slice 0 did not converge \(max_iter") as found:
        reconstruct(acquisition, small_model(max_iter=1, rtol=1e-9))
    assert len(found) == 1


def test_a_call_of_the_model_warns_outside_of_training_only():
    operator, data = sense_problem(shape=(8, 6), batch=2)
    model = small_model(max_iter=1, rtol=1e-9).to(torch.float64)
    with pytest.warns(ConvergenceWarning, match="the solve, sample 0, did not converge") as found:
        model(data, operator)
    assert len(found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.train()(data, operator)


@pytest.mark.parametrize("options", [(), ("-v",), ("-q",)])
def test_the_command_says_once_that_a_slice_did_not_converge(
    options, settings, full_scan, tmp_path
):
    command = ["recon", str(full_scan), "--model", settings.model, "-o", str(tmp_path / "o.npy")]
    command += ["--acceleration", "2", "--rtol", "1e-30", *options]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0
    text = " ".join(result.stderr.split())
    assert text.count("did not converge") == 1
    assert "warning: " in text
    assert ("slice 0 of 1: " in text) == (options == ("-v",))
