"""Tensors take the device of their input: no card is needed to see whether they do."""

import ast
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import equipoise
from equipoise.certificate.effort import QUICK
from equipoise.cli.app import app
from equipoise.experiments.cases import Case
from equipoise.physics.linop import LinearOperator
from equipoise.recon.device import CPU, on_device
from equipoise.recon.problems import ScanProblem
from problems import model_of, sense_problem

SOURCE = Path(equipoise.__file__).parent

CREATORS = {
    *("zeros", "ones", "full", "empty", "eye", "tensor", "arange", "linspace", "logspace"),
    *("rand", "randn", "randint", "randperm"),
}

WITHOUT_INPUT = {
    "physics/linop.py": "an operator says what it measures, not where",
    "physics/generic.py": "nor does a pair of functions",
    "physics/superres.py": "matrices of numbers alone, moved to the image where they are used",
    "methods/sparsity.py": "responses of numbers alone, moved to the image as they are made",
    "networks/shrinkage.py": "the start of parameters, moved with their module",
    "networks/analysis.py": "the same",
}


def misplaced(path):
    """Calls that make a tensor with axes on the default device, and where they are."""
    tree = ast.parse(path.read_text())
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr not in CREATORS or ast.unparse(node.func.value) != "torch":
            continue
        without_axes = bool(node.args) and ast.unparse(node.args[0]) == "()"
        placed = any(keyword.arg == "device" for keyword in node.keywords)
        above = parents[node]
        moved = isinstance(above, ast.Attribute) and above.attr in ("to", "type_as")
        if not (without_axes or placed or moved or in_a_constructor(node, parents)):
            yield f"{path.name}:{node.lineno}: {ast.unparse(node)}"


def in_a_constructor(node, parents):
    """Parameters and buffers of a module are moved with it."""
    while node in parents:
        node = parents[node]
        if isinstance(node, ast.FunctionDef):
            return node.name == "__init__"
    return False


def test_tensors_take_the_device_of_their_input():
    found = [
        place
        for path in sorted(SOURCE.rglob("*.py"))
        if path.relative_to(SOURCE).as_posix() not in WITHOUT_INPUT
        for place in misplaced(path)
    ]
    assert found == []


def test_a_tensor_without_a_device_is_found(tmp_path):
    path = tmp_path / "one.py"
    path.write_text(
        "a = torch.zeros(3)\nb = torch.zeros(3, device=x.device)\nc = torch.zeros(())\n"
        "d = torch.randn(3, generator=g).to(x.device)\ne = torch.randn(3, generator=g)\n"
    )
    assert [place.split(":")[1] for place in misplaced(path)] == ["1", "5"]
    for name in WITHOUT_INPUT:
        assert list(misplaced(SOURCE / name)), name


def tensors(value):
    """All tensors of a value and of the objects in it."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, LinearOperator):
        return [found for one in vars(value).values() for found in tensors(one)]
    if is_dataclass(value):
        return [found for one in fields(value) for found in tensors(getattr(value, one.name))]
    return []


def test_problems_cases_and_certificates_are_moved_whole():
    operator, data = sense_problem(batch=1)
    level = torch.full((1,), 0.01, dtype=torch.float64)
    problem = ScanProblem(operator, data, level, 2.0, index=3, label={"slice": 3})
    case = Case("a", "b", 0, operator, data, data[:, 0], level)
    certified = equipoise.certify_slice(problem, model_of(), epsilon=0.1, effort=QUICK)
    assert certified.attack is not None
    for value in (problem, case, certified):
        moved = on_device(value, torch.device("meta"))
        assert type(moved) is type(value)
        assert len(tensors(moved)) > 2
        assert {one.device.type for one in tensors(moved)} == {"meta"}
        # The original stays where it is.
        assert {one.device for one in tensors(value)} == {CPU}
    assert (on_device(problem, CPU).label, on_device(problem, CPU).unit) == ({"slice": 3}, 2.0)


EXPERIMENTS = ("table1", "masks", "scans", "robustness", "superres", "detection", "cine")


@pytest.mark.parametrize("command", ["certify", *EXPERIMENTS])
def test_a_device_that_is_not_there_is_named_before_the_work(command, tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 32, 32)))
    words = [command, tmp_path / "a.npy"] if command == "certify" else ["experiment", command]
    if command in ("scans", "cine"):
        words += ["--data", tmp_path / "a.npy"]
    words += ["-o", tmp_path / "out", "--device", "cuda:99"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 1, result.output
    count = torch.cuda.device_count()
    assert f"--device cuda:99: this machine has {count} CUDA" in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()
