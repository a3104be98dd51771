"""What cannot be printed costs no result; what cannot be written is found out before the work."""

import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from typer.testing import CliRunner

from equipoise.cli.app import app
from equipoise.formats.writers.target import check_files, check_new_folder, check_target
from equipoise.outcome import BadInputError

FULL = """
import os, sys
sys.argv = ["equipoise", *sys.argv[1:]]
os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
from equipoise.cli.app import main
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /dev/full")
@pytest.mark.parametrize(("name", "code"), [("s.h5", 0), ("none.h5", 1)])
def test_messages_on_a_full_disk_do_not_change_the_exit_code(tmp_path, scan_arrays, name, code):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["kspace"] = scan_arrays["kspace"]
    line = [sys.executable, "-c", FULL, "convert", name, "o.npy"]
    result = subprocess.run(line, cwd=tmp_path, capture_output=True, check=False)
    assert result.returncode == code
    assert (tmp_path / "o.npy").exists() == (code == 0)


@pytest.mark.parametrize("place", ["file/e", "x" * 300, "file"])
def test_an_experiment_refuses_a_folder_that_cannot_be_before_it_begins(tmp_path, place):
    (tmp_path / "file").write_text("of the user")
    result = CliRunner().invoke(app, ["experiment", "memory", "-o", str(tmp_path / place)])
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr or "is not a folder" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_names_that_cannot_be_are_refused_and_others_are_not(tmp_path):
    (tmp_path / "file").write_text("of the user")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("file/o.npy", "x" * 256, "circle/o.npy"):
        with pytest.raises(BadInputError, match=r"cannot be written: .*use another name"):
            check_files([tmp_path / name], overwrite=True)
    check_new_folder(tmp_path / "a" / "b")
    check_target(tmp_path / "o.npy", overwrite=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["circle", "file"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_a_file_system_that_takes_no_files_is_refused_to_the_administrator_too():
    with pytest.raises(BadInputError, match="/proc cannot be written to"):
        check_new_folder(Path("/proc/o"))
    with pytest.raises(BadInputError, match="/proc cannot be written to"):
        check_target(Path("/proc/o.npy"), overwrite=False)


@pytest.mark.parametrize("command", ["recon", "superres"])
def test_a_tolerance_that_processors_take_for_zero_is_refused(command, tmp_path):
    line = [command, str(tmp_path / "s.png"), "-o", str(tmp_path / "o.png"), "--rtol", "1e-320"]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 2
    assert "must lie between 0 and 1" in result.stderr


@pytest.mark.parametrize("host", ["../x", "a" * 70])
def test_a_host_that_is_no_name_cannot_be_reached(host, tmp_path, scan_arrays):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["kspace"] = scan_arrays["kspace"]
    for line in (["send", str(tmp_path / "s.h5"), "-o", str(tmp_path / "o.h5")], ["serve"]):
        result = CliRunner().invoke(app, [*line, "--host", host, "--port", "9"])
        assert result.exit_code == 1, result.stderr
        assert "cannot be" in result.stderr
        assert "unexpected" not in result.stderr


@pytest.mark.parametrize(
    ("value", "words"),
    [*((v, "than or equal to") for v in ("0", "1e-320", "1.5")), ("1", "smaller number first")],
)
def test_a_zoom_beyond_its_limits_is_refused(value, words, tmp_path):
    line = ["calibrate", "mol-ridge-universal", "--data", str(tmp_path / "x.npy")]
    result = CliRunner().invoke(
        app, [*line, "-o", str(tmp_path / "m.safetensors"), "--zoom", value, "0.5"]
    )
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("line", "limit"),
    [
        (["send", "s.h5", "--timeout", "-1"], "than or equal to 0.1"),
        (["finetune", "m", "s.h5", "-o", "o", "--acceleration", "1e300"], "than or equal to 1000"),
    ],
)
def test_numbers_without_a_meaning_are_refused_with_their_limits(line, limit):
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 2
    assert limit in " ".join(result.stderr.replace("│", " ").split())
