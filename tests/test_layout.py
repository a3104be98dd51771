"""Imports only descend, files and functions stay small, and the public names exist."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import equipoise

SOURCE = Path(equipoise.__file__).parent
FLOORS = [  # modules on the same floor may import each other
    {"shapes", "outcome", "optional"},
    {"physics"},
    {"formats", "robustness"},
    {"equilibrium"},
    {"methods"},
    {"learning"},
    {
        "problem",
        "slice_noise",
        "reconstruction",
        "retrospective",
        "calibration_maps",
        "superresolution",
        "html_page",
        "html_report",
        "result_file",
        "memory",
        "device",
        "batch",
        "certification",
        "range_check",
        "report",
        "demo",
        "experiments",
    },
    {
        "cli",
        "cli_batch",
        "cli_calib",
        "cli_certify",
        "cli_doctor",
        "cli_experiments",
        "cli_files",
        "cli_models",
        "cli_scan",
        "cli_superres",
        "cli_verbosity",
        "__main__",
        "__init__",
    },
]
FORBIDDEN_NAMES = {"utils", "misc", "common", "helpers"}
LONGEST_FILE, MEDIAN_FILE, MEDIAN_FUNCTION = 400, 150, 15


def files():
    return sorted(SOURCE.rglob("*.py"))


def floor_of(module: str) -> int:
    top = module.removeprefix("equipoise").lstrip(".").split(".")[0] or "__init__"
    return next(i for i, names in enumerate(FLOORS) if top in names)


def module_of(path: Path) -> str:
    return ".".join(("equipoise", *path.relative_to(SOURCE).with_suffix("").parts))


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_only_descend(path):
    here = floor_of(module_of(path))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("equipoise."):
            assert floor_of(node.module) <= here, f"{path.name} imports {node.module}"


def median(values):
    return sorted(values)[len(values) // 2]


def test_files_and_functions_stay_small():
    lengths = {path: len(path.read_text().splitlines()) for path in files()}
    assert max(lengths.values()) <= LONGEST_FILE
    assert median(lengths.values()) < MEDIAN_FILE
    functions = [
        node.end_lineno - node.body[0].lineno + 1
        for path in files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    assert median(functions) < MEDIAN_FUNCTION


def test_no_file_is_named_after_nothing():
    assert not [p for p in files() if p.stem in FORBIDDEN_NAMES]


def test_the_public_names_exist():
    for name in equipoise.__all__:
        assert getattr(equipoise, name) is not None
    with pytest.raises(AttributeError):
        equipoise.nothing  # noqa: B018


def test_help_does_not_import_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from equipoise.cli import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
