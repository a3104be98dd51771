"""The training curve: which entries of a log count, its picture, and TensorBoard."""

import json
import sys
import types

import numpy as np
import pytest
import torch

from equipoise.training import curve
from equipoise.training.step import Progress
from problems import sense_problem


def entry(step, psnr):
    return {"step": step, "loss": -psnr, "psnr": psnr, "iterations": 3.0, "validation": {}}


@pytest.fixture
def folder(tmp_path):
    lines = [entry(step, 20.0 + step) for step in range(1, 5)]
    lines += [{"step": 4, "validation": {"psnr": 24.5}, "best": {}}]
    lines += [entry(step, 30.0 + step) for step in range(3, 121)]  # rolled back to step 2
    lines += [{"step": 120, "validation": {"psnr": 27.5}, "best": {}}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def progress(step, validation):
    return Progress(step, 9, -3.0, 25.0, 0.0, 7.0, 4.0, validation)


def test_a_step_that_was_taken_again_counts_once(folder):
    log = curve.read_log(folder / "log.jsonl")
    assert log.step.tolist() == list(range(1, 121))
    assert log.psnr[:4].tolist() == [21, 22, 33, 34]
    assert dict(zip(log.validated.tolist(), log.validation_psnr.tolist())) == {4: 24.5, 120: 27.5}


def test_the_picture_is_drawn_at_a_validation(folder):
    record = curve.recorder(folder)
    record(progress(1, {}))
    assert not (folder / curve.CURVE).exists()
    record(progress(2, {"psnr": 27.5}))
    assert (folder / curve.CURVE).read_bytes().startswith(b"\x89PNG")


def test_tensorboard_gets_every_step_where_it_is_installed(folder, monkeypatch):
    written = []

    class Writer:
        def __init__(self, path):
            assert path == str(folder)

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def flush(self):
            written.append("flushed")

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(curve, "find_spec", lambda name: name == "tensorboard")
    record = curve.recorder(folder)
    record(progress(1, {}))
    record(progress(2, {"psnr": 27.5}))
    assert ("psnr", 25.0, 1) in written
    assert ("adjoint_iterations", 4.0, 2) in written
    assert written[-2:] == [("validation/psnr", 27.5, 2), "flushed"]


def test_an_operator_moves_with_all_that_it_holds():
    operator, data = sense_problem()
    expected = operator.normal(operator.adjoint(data))
    assert operator.norm_bound() is not None  # fills what is computed once
    moved = operator.to(torch.device("meta"))
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) >= 3
    assert all(value.device.type == "meta" for value in tensors)
    back = operator.to(torch.device("cpu"))
    np.testing.assert_array_equal(back.normal(back.adjoint(data)), expected)
