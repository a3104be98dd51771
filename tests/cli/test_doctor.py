"""``equipoise doctor`` on this machine, and on one where something is wrong."""

import json

from typer.testing import CliRunner

from equipoise.cli import doctor as cli_doctor
from equipoise.cli.app import app


def test_it_reconstructs_a_phantom_and_names_versions():
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["problems"] == []
    assert found["devices"][0]["device"] == "cpu"
    assert found["devices"][0]["outcome"] == "converged"
    assert found["versions"]["torch"]
    assert found["memory_free"] > 0


def test_what_is_missing_comes_with_the_command_that_mends_it(monkeypatch):
    monkeypatch.setattr(cli_doctor, "_installed", lambda module: False)
    monkeypatch.setattr(cli_doctor, "CORE", ("torch", "no-such-package"))
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "DICOM series: pip install 'equipoise[dicom]'" in done.stdout
    assert "problem: no-such-package is not installed: pip install no-such-package" in done.stdout
    assert "not everything works" in done.stdout
