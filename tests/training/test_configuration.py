"""Presets, changes on the command line, and the page that describes every key."""

import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner

from equipoise.cli import slurm_train
from equipoise.cli.app import app
from equipoise.outcome import BadInputError
from equipoise.settings import parts
from equipoise.training import reference
from equipoise.training.config import TrainConfig, load_config
from equipoise.training.overrides import presets

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
DATA = ["data.train=[images]", "data.validation_share=0.2"]


def test_the_page_of_the_configuration_is_that_of_the_schema():
    if not PAGE.exists():
        pytest.skip("the pages are not installed with the package")
    assert PAGE.read_text() == reference.reference(), "run `make configuration`"


def test_every_key_has_a_meaning():
    def keys(schema):
        for name, field in schema.model_fields.items():
            yield schema, name
            inner = reference._settings(field.annotation)
            for below in [*reference.branches(field.annotation).values(), *filter(None, [inner])]:
                yield from keys(below)

    found = list(keys(TrainConfig))
    assert len(found) > 100
    assert [(s.__name__, n) for s, n in found if not reference.meaning(s, n)] == []


@pytest.mark.parametrize("name", presets())
def test_presets_are_valid_and_their_printed_form_is_the_same(name, tmp_path):
    config = load_config(Path(name), DATA)
    assert config.data.train == [Path.cwd() / "images"]
    printed = tmp_path / "printed.yaml"
    printed.write_text(reference.as_yaml(config))
    assert load_config(printed) == config
    assert config.start is None or config.start.is_file()


def test_there_are_presets_and_the_command_names_all_of_them():
    assert presets() == [
        *("brain-4x", "brain-4x-whole", "cine"),
        *("superres-3x", "universal", "volume"),
    ]
    with pytest.raises(BadInputError, match=r"no preset 'brian-4x'.*brain-4x-whole"):
        load_config(Path("brian-4x"))


def test_changes_reach_every_depth_and_wrong_ones_are_named(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"name": "a", "data": {"train": ["x"], "validation": ["y"]}}))
    changes = ["training.steps=7", "model.network.features=9", "learning_rate=1e-4", "crop=null"]
    config = load_config(path, [*changes, "data.validation=[z]"])
    assert (config.steps, config.model.network.features, config.crop) == (7, 9, None)
    assert config.learning_rate == 1e-4
    # A file is relative to its folder, the command line to the working folder.
    assert config.data.train == [tmp_path / "x"]
    assert config.data.validation == [Path.cwd() / "z"]
    with pytest.raises(BadInputError, match="data: Field required; give --data"):
        load_config(Path("universal"))
    for change, words in (
        ("stepz=3", "stepz is not a setting: did you mean steps"),
        ("steps", "KEY=VALUE"),
        ("steps=[", "not YAML"),
        ("name.first=a", "first is not a setting of 'a'"),
        ("steps=many", "steps"),
    ):
        with pytest.raises(BadInputError, match=words):
            load_config(path, [change])


def run(*arguments: str):
    return CliRunner().invoke(app, ["train", *arguments])


def test_one_line_trains_a_preset_on_a_folder(tmp_path, monkeypatch):
    """A tenth of the subjects is set aside, and every option arrives."""
    images = np.random.default_rng(0).random((3, 40, 40)).cumsum(1).cumsum(2)
    (tmp_path / "images").mkdir()
    for i, image in enumerate(images):
        np.save(tmp_path / "images" / f"{i}.npy", image)
    (tmp_path / "images" / "bad.npy").write_bytes(b"nothing")
    monkeypatch.chdir(tmp_path)
    small = ["steps=2", "pool=0", "crop=24", "validation_crop=24", "model.network.features=4"]
    done = run(
        "universal", "--data", "images", "-o", "run", "--workers", "0",
        "--set", "simulation.acceleration=3", *(a for s in small for a in ("--set", s)),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "1 file could not be used" in done.stderr
    assert "bad.npy" in done.stderr
    assert "validation of the weights as written" in done.stderr
    for path in (tmp_path / "run").iterdir():
        if path.is_file():
            assert path.stat().st_mode & 0o044 == 0o044, path
    printed = run("universal", "--data", "images", "--precision", "bfloat16", "--print-config")
    assert yaml.safe_load(printed.stdout)["precision"] == "bfloat16"


def test_a_job_of_slurm_joins_its_processes_and_resumes(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    assert slurm_train.task_arguments(
        ["equipoise", "train", "c.yaml", "--slurm", "--nodes", "2", "--tasks=4", "--set", "steps=2"]
    ) == ["train", "c.yaml", "--set", "steps=2"]
    ran = []
    monkeypatch.setattr("runpy.run_module", lambda *_, **__: ran.append(sys.argv[1:]))
    monkeypatch.setattr("sys.argv", ["equipoise"])
    monkeypatch.setenv("MASTER_PORT", "29511")
    for name in ("MASTER_ADDR", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "debug")
    monkeypatch.setenv("SUBMITIT_DEBUG_JOB_ID", "1")
    task = slurm_train.TrainingTask(["train", "c.yaml"], tmp_path)
    task()
    (tmp_path / "last.ckpt").touch()
    task.checkpoint().function()
    assert ran == [["train", "c.yaml"], ["train", "c.yaml", "--resume"]]


EXTREMES = [".nan", ".inf", "-1", "1e300", "1" + "0" * 30, "[]", "{}", "word", "true", "[1, 2, 3]",
            "[.nan, 1]", "[-1, 5]", "[1, 1000000]"]  # fmt: skip
ANY_LIST = {"data.train", "data.validation", "data.scans", "data.validation_scans", "data.stills",
            "data.held_out"}  # fmt: skip
"""Their entries are names, and any text may be a name."""


def _numeric(schema, path=""):
    """The keys below a schema whose values hold numbers."""
    for name, field in schema.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        below = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if below:
            yield from (key for one in below[:1] for key in _numeric(one, f"{path}{name}."))
        elif f"{path}{name}" not in ANY_LIST and {int, float} & parts(field.annotation):
            yield f"{path}{name}"


@pytest.mark.parametrize("value", EXTREMES)
def test_no_number_takes_an_extreme_value(value):
    keys = list(_numeric(TrainConfig))
    assert len(keys) > 40
    for key in [*keys, "model.data_weight.lam", "model.solver.rtol", "model.solver.max_iter",
                "model.solver.alpha", "model.solver.window", "model.network.features"]:  # fmt: skip
        more = ["model.data_weight.kind=fixed"] if "weight.lam" in key else []
        with pytest.raises(BadInputError, match=rf"\b{key.split('.')[-1]}\b") as error:
            load_config(Path("brain-4x"), [*DATA, "cine=null", *more, f"{key}={value}"])
        assert len(str(error.value)) < 1200


def test_a_file_of_unknown_keys_is_refused_in_a_short_message(tmp_path):
    (tmp_path / "c.yaml").write_text("".join(f"k{i}: 1\n" for i in range(9000)))
    with pytest.raises(BadInputError, match=r"k0 is not a setting.*and [0-9]+ more") as error:
        load_config(tmp_path / "c.yaml")
    assert len(str(error.value)) < 10000
