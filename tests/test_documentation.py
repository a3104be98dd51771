"""What the documentation shows runs: examples of docstrings, and Python blocks of the pages.

A block that needs another library says so behind its fence (```python needs=sigpy).
"""

import doctest
import importlib
import re
from pathlib import Path

import pytest
import torch

import equipoise as eq

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "equipoise"
MODULES = [path for path in sorted(SOURCE.rglob("*.py")) if ">>> " in path.read_text()]
BLOCK = re.compile(r"^```python *(?:needs=(\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PAGES = [
    path
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
    if BLOCK.search(path.read_text())
]


def given_to(page, scan_arrays):
    """The names that the reader of a page must define."""
    if page.name == "README.md":
        kspace, csm = (torch.as_tensor(scan_arrays[name]) for name in ("kspace", "csm"))
        mask = eq.make_mask("variable-density-2d", kspace.shape[-2:], 3.0, 16, 0)
        return {"csm": csm, "mask": mask, "kspace": kspace * mask}
    if page.name == "superres.md":
        photograph = (
            torch.as_tensor(scan_arrays["image"]).abs()[:, 20:52, 16:48].to(torch.complex64)
        )
        return {
            "forward": lambda x: 0.8 * x,
            "adjoint": lambda b: 0.8 * b,
            "data": 0.8 * photograph,
            "sigma": torch.tensor([0.02], dtype=torch.float64),
        }
    return {}


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
@pytest.mark.usefixtures("full_scan")
def test_the_python_blocks_of_a_page_run_in_order(path, scan_arrays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = given_to(path, scan_arrays)
    for needed, block in BLOCK.findall(path.read_text()):
        if needed:
            pytest.importorskip(needed)
        exec(compile(block, str(path), "exec"), names)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_the_examples_of_a_module_print_what_they_show(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    found = doctest.testmod(importlib.import_module(".".join(parts)))
    assert found.attempted > 0
    assert found.failed == 0


def test_there_are_pages_and_examples():
    assert {"README.md", "python.md", "superres.md"} <= {path.name for path in PAGES}
    assert MODULES
