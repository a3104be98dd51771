"""Tensors take the device of their input: no card is needed to see whether they do."""

import ast
from pathlib import Path

import equipoise

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
    "networks/ridge_volume.py": "the same",
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
