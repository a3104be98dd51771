"""No text of a file, and no file name, can command the terminal."""

import h5py
import numpy as np
import pytest
from rich.table import Table
from typer.testing import CliRunner

import layouts
from equipoise.cli.app import app
from equipoise.cli.terminal import CleanConsole, cleaned

KSPACE = layouts.multicoil((20, 24), 1)[2]
TITLE = "\x1b]0;owned\x07"
CONTROLS = [TITLE, "\x1b[2J", "\x9b2J", "\r", "\nwritten: all", "\b", "\u202e", "\x7f"]


def is_clean(text):
    return not any(c in text for c in ("\x1b", "\x07", "\x9b", "\r", "\b", "\u202e", "\x7f"))


class TestCleaned:
    @pytest.mark.parametrize("control", CONTROLS)
    def test_controls_become_visible(self, control):
        assert is_clean(cleaned(f"a{control}b"))
        assert cleaned(f"a{control}b") not in ("ab", f"a{control}b")

    def test_a_name_that_is_not_utf8_can_be_printed(self):
        name = b"scan\xff.h5".decode("utf-8", "surrogateescape")
        assert cleaned(name) == "scan\\xff.h5"
        cleaned(name).encode("utf-8")

    def test_ordinary_text_is_left_alone(self):
        text = "Schädel\t5 µm ±1 ░▒▓█ 日本"
        assert cleaned(text) == text

    def test_tables_are_cleaned_too(self, capsys):
        table = Table("name", box=None)
        table.add_row(TITLE)
        CleanConsole().print(table)
        assert is_clean(capsys.readouterr().out)


class TestCommands:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["info", "NAME"],
            ["recon", "NAME"],
            ["recon", "none", "NAME"],
            ["NAME"],
            ["info", "none", "NAME"],
            ["info", "--NAME"],
            ["models", "show", "NAME"],
            ["recon", "none.h5", "--lam", "NAME"],
        ],
        ids=" ".join,
    )
    def test_a_name_in_an_error(self, arguments):
        result = CliRunner().invoke(app, [a.replace("NAME", f"x{TITLE}.h5") for a in arguments])
        assert result.exit_code != 0
        assert is_clean(result.output)
        assert is_clean(result.stderr)

    def test_a_name_begins_no_line_of_its_own(self, tmp_path):
        path = tmp_path / "s\nwritten: all images.h5"
        path.write_bytes(b"nothing")
        for arguments in (["info", str(path)], ["recon", str(path), "-o", str(tmp_path)]):
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code != 0
            assert not any(line.startswith("written") for line in result.output.splitlines())
            assert "s\\x0awritten: all images.h5" in result.output.replace("\n", "")

    def test_names_and_metadata_of_a_scan(self, tmp_path):
        path = tmp_path / f"s{TITLE}.h5"
        with h5py.File(path, "w") as file:
            file["kspace"] = KSPACE
            file[f"other{TITLE}"] = np.ones(3)
            file.attrs[f"note{TITLE}"] = TITLE
        result = CliRunner().invoke(app, ["info", str(path)])
        assert result.exit_code == 0
        assert is_clean(result.stdout)
        assert "other\\x1b]0;owned\\x07" in result.stdout
        result = CliRunner().invoke(app, ["convert", str(path), str(tmp_path / f"{TITLE}.npy")])
        assert result.exit_code == 0
        assert is_clean(result.stderr)
