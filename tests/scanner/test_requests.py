"""What a client asks for, in each of the three ways."""

import json

import pytest

from equipoise.outcome import BadInputError
from equipoise.scanner.configuration import Configuration, by_json, by_name, by_xml

USUAL = Configuration("usual")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("recon", {}),
        ("recon.xml", {}),
        ("recon+certificate", {"certificate": True}),
        ("recon+noisemap+int16", {"noisemap": True, "images": "int16"}),
        ("sense+magnitude", {"method": "sense", "images": "magnitude"}),
        ("nullrecon", {"method": "nullrecon"}),
    ],
)
def test_a_name_is_a_method_and_further_words(name, changes):
    found, notes = by_name(name, USUAL)
    assert found == Configuration("usual", **changes)
    assert notes == []


@pytest.mark.parametrize("name", ["simplefft", "recon+more", "../../etc/passwd"])
def test_another_name_leaves_the_usual_configuration_and_says_so(name):
    found, (note,) = by_name(name, USUAL)
    assert found == USUAL
    assert "is not known, and the usual one is used" in note


def test_openrecon_sends_json_with_values_as_text():
    given = {
        "config": "recon",
        "lam": "3.5",
        "certificate": "true",
        "noisemap": False,
        "acceleration": 2,
        "images": "int16",
        "theirs": 1,
    }
    found, notes = by_json(json.dumps({"parameters": given}), USUAL)
    expected = {"lam": 3.5, "certificate": True, "acceleration": 2.0, "images": "int16"}
    assert found == Configuration("usual", **expected)
    assert notes == ["parameters that are not known: 'theirs'"]


def test_customconfig_replaces_config_and_empty_values_change_nothing():
    given = {"config": "recon", "customconfig": "sense", "lam": "", "acceleration": 0, "model": ""}
    found, _ = by_json(json.dumps({"parameters": given}), USUAL)
    assert found == Configuration("usual", method="sense")


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"parameters": 3}', "[" * 100000, "null"])
def test_text_that_is_no_such_json_is_no_configuration(content):
    assert by_json(content, USUAL) is None


@pytest.mark.parametrize(
    "xml",
    [
        "<c><lam>2</lam></c>",
        "<c><parameter name='lam' value='2'/></c>",
        "<g:c xmlns:g='g'><property><name>lam</name><value>2</value></property></g:c>",
    ],
)
def test_xml_has_parameters_as_elements_or_as_names_with_values(xml):
    assert by_xml(xml.encode(), USUAL) == (Configuration("usual", lam=2.0), [])


def test_text_that_is_no_xml_leaves_the_usual_configuration():
    found, (note,) = by_xml(b"recon", USUAL)
    assert found == USUAL
    assert "cannot be parsed" in note


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lam", "-1", "positive and finite"),
        ("lam", "x", "expected a number"),
        ("lam", "nan", "positive and finite"),
        ("acceleration", "0.5", "between 1 and 100"),
        ("images", "jpeg", "expected one of complex"),
        ("certificate", "maybe", "expected true or false"),
        ("method", "magic", "expected one of recon"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(name, value, message):
    with pytest.raises(BadInputError, match=message):
        by_json(json.dumps({"parameters": {name: value}}), USUAL)
