"""Imports only descend, files and functions stay small, and the public names exist."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import equipoise

SOURCE = Path(equipoise.__file__).parent
STAIRS = {  # each room and those that it may import from; the words are open to everybody
    "words": set(),
    "physics": {"words"},
    "formats": {"words", "physics"},
    "networks": {"words"},
    "equilibrium": {"words", "physics"},
    "methods": {"words", "physics", "networks", "equilibrium"},
}
STAIRS["zoo"] = STAIRS["methods"] | {"methods", "formats"}
STAIRS["certificate"] = STAIRS["methods"] | {"methods"}
STAIRS["recon"] = STAIRS["zoo"] | {"zoo", "certificate"}
STAIRS["training"] = STAIRS["recon"] | {"recon"}
STAIRS["report"] = STAIRS["recon"] | {"recon"}
STAIRS["experiments"] = STAIRS["report"] | {"report", "training"}
STAIRS["scanner"] = STAIRS["report"] | {"report"}
STAIRS["cli"] = STAIRS["experiments"] | {"experiments", "scanner"}
WORDS = {
    "arguments", "readable", "settings", "shapes", "outcome", "optional", "vectors", "metrics",
    "threads", "version",
}  # fmt: skip
ROOF = {"__init__", "__main__"}
FORBIDDEN_NAMES = {"utils", "misc", "common", "helpers"}
LONGEST_FILE, MEDIAN_FILE, MEDIAN_FUNCTION = 400, 150, 15


def files():
    return sorted(SOURCE.rglob("*.py"))


def module_of(path: Path, source: Path = SOURCE) -> str:
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    room = module.split(".")[0]
    assert room in STAIRS or module in WORDS | ROOF, f"{module} is in no room"
    return room if room in STAIRS else "words"


def imports_of(path: Path, modules: set[str]) -> set[str]:
    """The modules that a file imports, also by `from equipoise import name`; "" is the root."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "equipoise":
                full, parent = ".".join(parts[1:]), ".".join(parts[1:-1])
                found.add(full if full in modules else parent)
    return found


def graph_of(source: Path = SOURCE) -> dict[str, set[str]]:
    paths = {module_of(path, source): path for path in sorted(source.rglob("*.py"))}
    return {module: imports_of(path, set(paths)) for module, path in paths.items()}


def wrong_steps(graph: dict[str, set[str]]) -> list[str]:
    """Imports that the order of the rooms does not allow."""
    wrong = []
    for module, targets in graph.items():
        if module in ROOF:
            continue
        room = room_of(module)
        for target in targets:
            if target in {"", *ROOF}:
                wrong.append(f"{module} imports the root of the package")
            elif room_of(target) not in STAIRS[room] | {room}:
                wrong.append(f"{module} ({room}) imports {target} ({room_of(target)})")
    return wrong


def circle_of(graph: dict[str, set[str]]) -> list[str]:
    """The files that remain after those without imports are removed repeatedly."""
    left = {module: targets - {module} for module, targets in graph.items() if module not in ROOF}
    while True:
        free = {m for m, targets in left.items() if not targets & set(left)}
        if not free:
            return sorted(left)
        left = {m: targets for m, targets in left.items() if m not in free}


def test_imports_follow_the_stairs():
    assert not wrong_steps(graph_of())


def test_no_file_is_part_of_a_circle():
    assert not circle_of(graph_of())


def test_the_rules_find_what_is_wrong(tmp_path):
    for name, text in {
        "outcome.py": "",
        "physics/linop.py": "from equipoise import outcome, methods\n",
        "methods/mol.py": "import equipoise.physics.linop\nfrom equipoise import MOL\n",
        "methods/__init__.py": "from equipoise.methods import mol\n",
        "cli/app.py": "from equipoise.cli import recon\n",
        "cli/recon.py": "def f():\n    from equipoise.cli.app import g\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    graph = graph_of(tmp_path)
    assert wrong_steps(graph) == [
        "methods.mol imports the root of the package",
        "physics.linop (physics) imports methods (methods)",
    ]
    assert {"cli.app", "cli.recon", "physics.linop", "methods.mol"} <= set(circle_of(graph))


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
        "import sys; from typer.testing import CliRunner; from equipoise.cli.app import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_two_test_modules_have_one_name():
    """pytest imports them by their names alone, and would take one for the other."""
    names = [path.name for path in Path(__file__).parent.rglob("*.py")]
    assert len(names) == len(set(names)), sorted(n for n in set(names) if names.count(n) > 1)
