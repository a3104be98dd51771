"""The blocks of docs/python.md run, from top to bottom, and print what they say."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_the_python_page_runs(tmp_path, monkeypatch, capsys):
    if not PAGE.exists():
        pytest.skip("the documentation is not part of this copy")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) > 4
    namespace = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), namespace)
    printed = capsys.readouterr().out
    for words in ("m 0.2 (claimed)", "converged", "Cartesian", "measured"):
        assert words in printed
