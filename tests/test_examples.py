"""The configurations that the README names are valid."""

from pathlib import Path

import pytest

from equipoise.training.config import load_config

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_example_configurations_are_valid(path):
    config = load_config(path)
    assert config.data.train[0].is_absolute()


def test_there_are_examples():
    assert len(EXAMPLES) == 4
