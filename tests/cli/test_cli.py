"""What all commands share: instant help, levels of output, tracebacks only with --debug."""

import os
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner
from typer.utils import get_params_from_function

import equipoise.recon.reconstruct_file
import layouts
from equipoise.cli.app import app
from equipoise.outcome import BadInputError
from equipoise.training.config import load_config
from equipoise.version import __version__

CONFIG = """
name: x
data: {train: [a.h5], validation: [b.h5]}
"""


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def scan(tmp_path):
    np.savez(tmp_path / "s.npz", kspace=layouts.multicoil((40, 40), 1, noise=0.01)[2])
    return tmp_path / "s.npz"


def test_help_loads_nothing_heavy():
    """The modules that ``--help`` must not import; a time would also measure the machine's load."""
    program = (
        "import sys\nfrom equipoise.cli.app import main\nsys.argv[1:] = ['--help']\n"
        "try:\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "Usage" in result.stdout
    loaded = set(result.stderr.split())
    assert "equipoise.cli.recon" in loaded
    assert not loaded & {"torch", "numpy", "h5py", "matplotlib", "nibabel", "pydantic", "PIL"}


def test_the_version_is_printed():
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout == f"equipoise {__version__}\n"


def test_the_older_word_for_maps_still_works():
    assert run("calib", "--help").exit_code == run("maps", "--help").exit_code == 0
    listed = run("--help").stdout
    assert " maps " in listed
    assert " calib " not in listed


class TestVerbosity:
    @pytest.mark.parametrize("before", [True, False])
    def test_quiet_says_nothing_and_errors_are_still_said(self, before, scan, tmp_path):
        command = ["recon", scan, "-o", tmp_path / "o.npy", "--acceleration", 2]
        arguments = ["-q", *command] if before else [*command, "--quiet"]
        assert run(*arguments).stderr == ""
        result = run(*arguments)
        assert result.exit_code == 1
        assert "--overwrite" in result.stderr
        assert "written" in run(*command, "--overwrite").stderr

    def test_quiet_still_names_a_slice_that_did_not_converge(self, scan, tmp_path):
        options = ("--acceleration", 2, "--rtol", 1e-12, "-q")
        result = run("recon", scan, "-o", tmp_path / "o.npy", *options)
        assert "slice 0 did not converge" in " ".join(result.stderr.split())

    def test_quiet_batches_still_list_what_failed(self, scan, tmp_path):
        result = run("recon", scan, tmp_path / "none.h5", "-o", tmp_path / "out", "-q")
        assert result.exit_code == 4
        assert result.stderr.startswith("failed: ")

    def test_verbose_says_more(self, scan, tmp_path):
        command = ("recon", scan, "--acceleration", 2, "-o")
        brief = run(*command, tmp_path / "a.npy").stderr
        more = run(*command, tmp_path / "b.npy", "-v").stderr
        assert "torch" in more
        assert "memory in addition to the scan" in more
        assert "memory in addition to the scan" not in brief
        assert "slice 0 of 1: converged" in run("-v", *command, tmp_path / "out").stderr

    def test_a_traceback_only_with_debug(self, tmp_path):
        (tmp_path / "s.h5").write_text("nonsense")
        command = [sys.executable, "-m", "equipoise", "info", str(tmp_path / "s.h5")]
        found = [
            subprocess.run([*command, *o], capture_output=True, text=True, check=False)
            for o in ([], ["--debug"])
        ]
        assert [f.returncode for f in found] == [1, 1]
        assert "Traceback" not in found[0].stderr
        assert "Traceback" in found[1].stderr
        assert "BadInputError" in found[1].stderr

    def test_what_nobody_foresaw_ends_in_one_line(self, scan, tmp_path, monkeypatch):
        def fail(*args, **kwargs):
            raise ZeroDivisionError("by nothing")

        monkeypatch.setattr(equipoise.recon.reconstruct_file, "reconstruct", fail)
        command = ("recon", scan, "-o", tmp_path / "o.npy")
        result = run(*command)
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit)
        assert "unexpected ZeroDivisionError: by nothing" in result.stderr
        assert isinstance(run(*command, "--debug").exception, ZeroDivisionError)


class TestConfiguration:
    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("learning_rat: 1", "learning_rat is not a setting: did you mean learning_rate?"),
            (
                "model: {network: {feature: 3}}",
                "model.network.feature is not a setting of mol-lr: did you mean features?",
            ),
            ("zzz: 1", "zzz is not a setting: the settings are name, data,"),
            ("batch: 0", "batch: Input should be greater than or equal to 1, not 0"),
            ("model: {method: molr}", "model.method: must be one of mol-lr, mol-m,"),
        ],
    )
    def test_a_wrong_entry_is_named_with_the_nearest_right_one(self, line, message, tmp_path):
        (tmp_path / "c.yaml").write_text(CONFIG + line)
        with pytest.raises(BadInputError) as caught:
            load_config(tmp_path / "c.yaml")
        assert message in str(caught.value)
        assert str(caught.value).count("c.yaml") == 1

    def test_a_missing_entry_and_no_yaml(self, tmp_path):
        (tmp_path / "c.yaml").write_text("name: x")
        with pytest.raises(BadInputError, match="data: Field required; give --data"):
            load_config(tmp_path / "c.yaml")
        for content in (b"a: [", b"\xff\xfe\x00"):
            (tmp_path / "c.yaml").write_bytes(content)
            with pytest.raises(BadInputError, match="it is not YAML"):
                load_config(tmp_path / "c.yaml")
        (tmp_path / "c.yaml").write_text("3")
        with pytest.raises(BadInputError, match="it has no keys"):
            load_config(tmp_path / "c.yaml")


def test_a_reader_that_stops_early_is_no_fault():
    command = f"{sys.executable} -m equipoise models show mol-m-brain-4x | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "mol-m-brain-4x" in done.stdout
    assert done.stderr == ""


MISSING = {
    "info": ("info", "none.h5"),
    "convert": ("convert", "none.h5", "o.nii"),
    "maps": ("maps", "none.h5", "-o", "o.h5"),
    "recon": ("recon", "none.h5", "-o", "o.h5"),
    "model of recon": ("recon", "s.npz", "--model", "none.safetensors", "-o", "o.h5"),
    "maps of recon": ("recon", "s.npz", "--csm", "none.h5", "-o", "o.h5"),
    "certify": ("certify", "none.h5", "-o", "o"),
    "superres": ("superres", "none.png", "-o", "o.png"),
    "send": ("send", "none.h5", "-o", "o.h5"),
    "calibrate": ("calibrate", "none.safetensors", "--data", "none.npy", "-o", "o.safetensors"),
    "train": ("train", "none.yaml"),
    "finetune": ("finetune", "none.safetensors", "none.h5", "-o", "o.safetensors"),
    "import-model": ("import-model", "none.tar", "-o", "o.safetensors"),
    "models show": ("models", "show", "none"),
    "models export": ("models", "export", "none", "-o", "o.safetensors"),
    "models install": ("models", "install", "none.safetensors"),
    "experiment table1": ("experiment", "table1", "--data", "none.h5"),
    "experiment scans": ("experiment", "scans", "--data", "none.h5"),
}


class TestExitCodes:
    @pytest.mark.parametrize("command", MISSING)
    def test_a_file_that_is_missing_is_bad_input(self, command, scan, monkeypatch):
        monkeypatch.chdir(scan.parent)
        result = run(*MISSING[command])
        assert result.exit_code == 1, result.output
        assert "none" in result.stderr
        assert not list(scan.parent.glob("o*"))

    @pytest.mark.parametrize("command", sorted({line[0] for line in MISSING.values()}))
    def test_an_option_that_does_not_exist_is_wrong_usage(self, command):
        assert run(command, "--no-such-option").exit_code == 2


def _numbers(group, path=()):
    """The commands, and their options that are numbers."""
    for one in group.registered_commands:
        name = one.name or one.callback.__name__
        for option, found in get_params_from_function(one.callback).items():
            if "float" in str(found.annotation):
                yield (*path, name), found.default.param_decls or [f"--{option}".replace("_", "-")]
    for below in group.registered_groups:
        yield from _numbers(below.typer_instance, (*path, below.name))


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_no_command_takes_a_number_that_is_not_finite(number):
    # Whatever else is missing, so that no command begins its work.
    options = list(_numbers(app))
    assert len(options) > 20
    given = {"calibrate": ["m", "--data", "d", "-o", "o"], "superres": ["p.png", "-o", "o.png"],
             "finetune": ["m", "s", "-o", "o"], "import-model": ["c", "-o", "o"], "send": ["s"],
             "recon": ["s"], "certify": ["s"], "experiment cine": ["--data", "d"],
             "experiment volume": ["--data", "d"], "serve": []}  # fmt: skip
    for path, (name, *_) in options:
        values = [number, number] if name == "--zoom" else [number]
        arguments = [*path, *given.get(" ".join(path), []), name, *values]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert name in result.stderr, (arguments, result.stderr)


LONG = "x" * 300


@pytest.mark.parametrize(
    "command",
    [("recon", "s.npz", "-o", LONG), ("certify", "s.npz", "-o", LONG), ("demo", "-o", LONG),
     ("serve", "--openrecon-label", LONG), ("experiment", "memory", "-o", LONG),
     ("recon", "s.npz", "-o", f"{LONG}.h5"), ("recon", LONG, "-o", "o.h5")],
)  # fmt: skip
def test_a_name_that_is_too_long_is_no_bug(command, scan, monkeypatch):
    monkeypatch.chdir(scan.parent)
    result = run(*command)
    assert result.exit_code == 1
    assert "bug" not in result.stderr
    assert "too long" in result.stderr.replace("\n", "")


@pytest.mark.parametrize(
    "command",
    [("convert", ".", "o.npy"), ("send", ".", "-o", "o.h5"), ("send", "s.npz", "-o", "."),
     ("maps", ".", "-o", "o.h5"), ("certify", ".", "-o", "c"), ("superres", ".", "-o", "o.png")],
)  # fmt: skip
def test_the_current_folder_is_no_file(command, scan, monkeypatch):
    monkeypatch.chdir(scan.parent)
    result = run(*command)
    assert result.exit_code == 1
    assert "bug" not in result.stderr
    assert [p.name for p in scan.parent.iterdir()] == [scan.name]


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are text")
def test_a_scan_whose_name_is_not_utf8_has_a_page(scan, monkeypatch):
    monkeypatch.chdir(scan.parent)
    named = scan.rename(os.fsdecode(b"\xff.npz"))
    result = run("recon", named, "-o", "o.h5", "--report", "p.html", "--lam", 20, "--rtol", 0.1)
    assert result.exit_code == 0, result.stderr
    assert r"\udcff.npz" in (scan.parent / "p.html").read_text()
