"""The label of the container follows the rules of published labels, and breaks none."""

import copy
import json
import re

import pytest
from typer.testing import CliRunner

from equipoise.cli.app import app
from equipoise.outcome import BadInputError
from equipoise.scanner.configuration import Configuration, by_json
from equipoise.scanner.openrecon import checked_label, label_of

USUAL = Configuration("mol-ridge-universal", images="int16")


def content(**changes):
    made = label_of(USUAL, 9002).model_dump(mode="json", exclude_none=True)
    return {**copy.deepcopy(made), **changes}


def test_the_command_writes_the_label_and_opens_no_port(tmp_path):
    path = tmp_path / "OpenReconLabel.json"
    command = ["serve", "--images", "int16", "--port", "9010", "--openrecon-label", str(path)]
    assert CliRunner().invoke(app, command).exit_code == 0
    found = json.loads(path.read_text())
    assert found["reconstruction"]["port"] == 9010
    assert found["reconstruction"]["emitter"] == "raw"
    assert found["reconstruction"]["injector"] == "image"
    assert len(found["parameters"]) <= 14
    assert all(re.fullmatch("[A-Za-z0-9]+", one["id"]) for one in found["parameters"])
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 1
    assert "exists" in again.output


def test_only_models_that_a_server_can_use_are_offered(tmp_path):
    (model,) = (one for one in content()["parameters"] if one["id"] == "model")
    offered = [one["id"] for one in model["values"]]
    assert {"mol-ridge-universal", "mol-sn-brain-4x", "unet-brain-4x"} <= set(offered)
    assert not {"mol-ridge-cine", "mol-lr-superres-3x", "modl-superres-3x"} & set(offered)
    path = tmp_path / "label.json"
    command = ["serve", "--model", "mol-ridge-cine", "--openrecon-label", str(path)]
    assert "is for images (time, y, x)" in CliRunner().invoke(app, command).output
    assert not path.exists()


def test_the_injector_follows_the_pixels():
    assert label_of(USUAL, 9002).reconstruction.injector == "image"
    complex_images = label_of(Configuration("tv"), 9002)
    assert complex_images.reconstruction.injector == "compleximage"


def test_the_server_takes_the_defaults_of_the_label():
    defaults = {one.id: one.default for one in label_of(USUAL, 9002).parameters}
    found, notes = by_json(json.dumps({"parameters": defaults}), Configuration("other"))
    assert found == USUAL
    assert notes == []


def parameter(**changes):
    made = {
        "id": "x",
        "label": {"en": "x"},
        "type": "int",
        "default": 1,
        "minimum": 0,
        "maximum": 2,
        "information": {"en": "x"},
    }
    return {**made, **changes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parameters": [parameter(id=f"x{i}") for i in range(15)]}, "at most 14"),
        ({"parameters": [parameter(), parameter()]}, "the same id"),
        ({"parameters": [parameter(id="a-b")]}, "should match pattern"),
        ({"parameters": [parameter(unit="degrees")]}, "at most 3"),
        ({"parameters": [parameter(maximum=None)]}, "needs a minimum, a maximum"),
        ({"parameters": [parameter(default=5)]}, "a default between"),
        ({"parameters": [parameter(type="boolean")]}, "is not of type boolean"),
        ({"parameters": [parameter(type="choice", default="a", values=[])]}, "none of its values"),
        ({"reconstruction": {"emitter": "dicom"}}, "emitter"),
        ({"general": {}}, "general"),
    ],
)
def test_a_label_that_breaks_a_rule_is_refused(changes, words):
    with pytest.raises(BadInputError, match=words):
        checked_label(content(**changes))
