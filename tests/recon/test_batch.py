"""Many scans: failures, resuming after kill -9, parts, a submitted array, the manifest."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

import fake_slurm
import layouts
from equipoise.cli.app import app
from equipoise.cli.batch import AUTO, part_command, part_of
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.formats.replacing import _machine
from equipoise.formats.writers.stamp import Stamp, read_stamp
from equipoise.methods.data_weight import FixedWeight
from equipoise.methods.mol import MOL
from equipoise.networks.cnn import CNN
from equipoise.outcome import BadInputError
from equipoise.recon.batch import MANIFEST, Manifest
from equipoise.recon.settings import ReconSettings, fingerprint, scan_identity
from equipoise.zoo.model_file import save_model


def run(*arguments, env=None):
    return CliRunner().invoke(app, [str(a) for a in arguments], env=env)


def lines_of(folder, name=MANIFEST):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def events(folder, name=MANIFEST):
    return [(r["event"], r["output"]) for r in lines_of(folder, name)]


def image(path):
    with h5py.File(path) as file:
        return file["image"][:]


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Four small scans of one or two slices."""
    folder = tmp_path_factory.mktemp("scans")
    for i in range(4):
        kspace = layouts.multicoil((40, 40), 1 + i % 2, noise=0.01 * (i + 1))[2]
        np.savez(folder / f"s.{i}.npz", kspace=kspace)
    return [folder / f"s.{i}.npz" for i in range(4)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model file that costs next to nothing."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(path, MOL(CNN(4, 2, gain=0.5), FixedWeight(5.0), 0.2), {})
    return path


LEFTOVER = ".equipoise-{}-{}-{}.tmp.s.1.h5".format(_machine(), 2**22 + 1, "0" * 16)
"""The temporary of a process that is gone: no process of Linux has a number above 2**22."""

OPTIONS = ("--acceleration", "2", "--rtol", "1e-2")


class TestFailures:
    def test_a_bad_file_does_not_stop_the_others_and_is_listed_at_the_end(self, scans, tmp_path):
        (tmp_path / "bad.h5").write_text("nonsense")
        missing = tmp_path / "missing.h5"
        out = tmp_path / "out"
        result = run("recon", scans[0], tmp_path / "bad.h5", missing, scans[1], "-o", out, *OPTIONS)
        assert result.exit_code == 4
        assert sorted(p.name for p in out.iterdir()) == [MANIFEST, "s.0.h5", "s.1.h5"]
        tail = result.stderr.splitlines()[-3:]
        assert tail[0] == "2 written, 2 failed"
        assert "bad.h5 has no known format" in tail[1]
        assert "missing.h5 does not exist" in tail[2]
        written = lines_of(out)[1]
        assert written["event"] == "written"
        assert written["outcome"] == "converged"
        assert written["slices"] == 1
        assert written["distance_bound"] <= 1e-2
        assert written["peak_memory_mb"] > 50
        ends = ("written", "failed", "failed", "written")
        assert [e for e, _ in events(out)] == [e for end in ends for e in ("begun", end)]

    def test_one_plain_line_a_scan_with_iterations_bound_seconds_eta_and_memory(
        self, scans, tmp_path
    ):
        result = run("recon", *scans[:2], "-o", tmp_path / "out", *OPTIONS)
        assert result.exit_code == 0
        lines = [line for line in result.stderr.splitlines() if re.match(r"\d/2 ", line)]
        pattern = (
            r"\d/2 s\.\d\.npz: converged, \d slices, [\d-]+ iterations, bound \d\.\de-\d\d, "
            r"\d+\.\d s, peak \d+ MB, ETA \d+ s"
        )
        assert len(lines) == 2
        assert all(re.fullmatch(pattern, line) for line in lines)
        assert result.stdout == ""

    def test_json_is_a_line_a_scan(self, scans, tmp_path):
        result = run("recon", *scans[:2], "-o", tmp_path / "out", *OPTIONS, "--json")
        records = [json.loads(line) for line in result.stdout.splitlines()]
        assert [r["event"] for r in records] == ["written", "written"]
        assert records == [r for r in lines_of(tmp_path / "out") if r["event"] == "written"]

    def test_a_scan_that_did_not_converge_fails_only_when_strict(self, scans, tmp_path):
        arguments = ("recon", *scans[::2], "--acceleration", 2, "--rtol", 1e-12, "-o")
        assert run(*arguments, tmp_path / "a").exit_code == 0
        assert run(*arguments, tmp_path / "b", "--strict").exit_code == 3

    def test_an_error_that_nobody_foresaw_is_recorded_too(self, scans, tmp_path, monkeypatch):
        import equipoise.recon.batch

        def fail(*args, **kwargs):
            raise RuntimeError("CUDA out of memory")

        monkeypatch.setattr(equipoise.recon.batch, "reconstruct_file", fail)
        result = run("recon", *scans[:2], "-o", tmp_path / "out")
        assert result.exit_code == 4
        assert "RuntimeError: CUDA out of memory" in result.stderr
        assert "Traceback" not in result.stderr

    @pytest.mark.parametrize(
        "options",
        [
            (),
            ("-o", "out", "--part-id", "0"),
            ("-o", "out", "--num-parts", "2", "--part-id", "2"),
            ("-o", "out", "--num-parts", "2"),
            ("-o", "out", "--slurm", "--part-id", "0"),
        ],
    )
    def test_usage_errors_end_with_2(self, options, scans, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert run("recon", *scans, *options).exit_code == 2
        assert list(tmp_path.iterdir()) == []

    def test_nothing_is_overwritten_and_nothing_leaves_the_folder(self, scans, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        (out / "s.1.h5").write_text("precious")
        before = run("recon", *scans[:2], "-o", out, *OPTIONS)
        assert before.exit_code == 1
        assert "--overwrite" in before.stderr
        for options in ((), ("--resume",)):
            assert run("recon", *scans[:2], "-o", out, *OPTIONS, *options).exit_code == 1
            assert [p.name for p in out.iterdir()] == ["s.1.h5"]
        assert run("recon", *scans[:2], "-o", out, *OPTIONS, "--overwrite").exit_code == 0
        assert image(out / "s.1.h5").shape == (2, 40, 40)
        sneaky = scans[0].parent / "x" / ".." / scans[0].name
        sneaky.parent.parent.mkdir()
        assert run("recon", sneaky, "-o", tmp_path / "other", *OPTIONS).exit_code == 0
        assert sorted(p.name for p in (tmp_path / "other").iterdir()) == [MANIFEST, "s.0.h5"]

    def test_two_scans_of_one_name_and_a_scan_over_itself_are_refused(self, scans, tmp_path):
        (tmp_path / "a").mkdir()
        twin = tmp_path / "a" / scans[0].name
        twin.write_bytes(scans[0].read_bytes())
        result = run("recon", scans[0], twin, "-o", tmp_path / "out")
        assert result.exit_code == 1
        assert "would both be written" in result.stderr
        with h5py.File(tmp_path / "a" / "scan.h5", "w") as file:
            file["kspace"] = layouts.multicoil((40, 40), 1)[2]
        content = (tmp_path / "a" / "scan.h5").read_bytes()
        result = run("recon", tmp_path / "a" / "scan.h5", "-o", tmp_path / "a", "--overwrite")
        assert result.exit_code == 1
        assert "overwritten" in result.stderr
        assert (tmp_path / "a" / "scan.h5").read_bytes() == content


class TestResume:
    def test_skips_what_is_complete_and_makes_the_rest(self, scans, tmp_path):
        out = tmp_path / "out"
        assert run("recon", *scans[:2], "-o", out, *OPTIONS).exit_code == 0
        time_of = (out / "s.0.h5").stat().st_mtime_ns
        result = run("recon", *scans, "-o", out, *OPTIONS, "--resume")
        assert result.exit_code == 0
        assert "2 written, 2 skipped" in result.stderr
        assert (out / "s.0.h5").stat().st_mtime_ns == time_of
        assert len(list(out.glob("*.h5"))) == 4

    @pytest.mark.parametrize("change", ["settings", "scan", "missing", "empty", "truncated"])
    def test_makes_again_what_is_not_complete(self, change, scans, tiny, tmp_path):
        out, scan, options = tmp_path / "out", tmp_path / "s.npz", [*OPTIONS, "--model", tiny]
        scan.write_bytes(scans[0].read_bytes())
        assert run("recon", scan, "-o", out, *options).exit_code == 0
        target = out / "s.h5"
        before = target.read_bytes()
        if change == "settings":
            options[1] = "3"
        if change == "scan":
            scan.write_bytes(scans[2].read_bytes())
        if change == "missing":
            target.unlink()
        if change == "empty":
            target.write_bytes(b"")
        if change == "truncated":
            target.write_bytes(before[: len(before) // 2])
        result = run("recon", scan, "-o", out, *options, "--resume")
        assert result.exit_code == 0, result.stderr
        assert "1 written" in result.stderr
        assert ("replaces a file that was made from other" in result.stderr) == (
            change != "missing"
        )
        assert len(image(target)) == 1
        assert "1 skipped" in run("recon", scan, "-o", out, *options, "--resume").stderr

    def test_the_file_is_asked_and_not_the_manifests_in_alphabetical_order(
        self, scans, tiny, tmp_path
    ):
        command = ("recon", *scans[:2], "-o", tmp_path, *OPTIONS, "--model", tiny)
        assert run(*command, "--lam", 50).exit_code == 0
        wanted = [image(tmp_path / f"s.{i}.h5") for i in range(2)]
        for part in range(2):
            parts = ("--num-parts", 2, "--part-id", part)
            assert run(*command, "--lam", 5, "--overwrite", *parts).exit_code == 0
        assert not np.array_equal(image(tmp_path / "s.0.h5"), wanted[0])
        result = run(*command, "--lam", 50, "--resume")
        assert result.exit_code == 0
        assert "2 written" in result.stderr
        assert all(np.array_equal(image(tmp_path / f"s.{i}.h5"), wanted[i]) for i in range(2))

    def test_a_model_of_the_same_name_with_other_weights_is_another(
        self, scans, tmp_path, monkeypatch
    ):
        monkeypatch.setenv("EQUIPOISE_MODELS", str(tmp_path / "installed"))
        command = ("recon", scans[0], "-o", tmp_path / "out", *OPTIONS, "--model", "own")
        for seed, events_then in ((0, "1 written"), (0, "1 skipped"), (1, "1 written")):
            model = MOL(CNN(6, 2, seed=seed), FixedWeight(5.0), 0.05)
            save_model(tmp_path / "own.safetensors", model, {})
            installed = run("models", "install", tmp_path / "own.safetensors", "--overwrite")
            assert installed.exit_code == 0
            assert events_then in run(*command, "--resume").stderr

    @pytest.mark.parametrize("suffix", [".npy", ".nii.gz", ".cfl", ".dcm", ".mrd", ".png"])
    def test_every_format_says_what_it_was_made_from_and_whether_it_is_whole(
        self, suffix, scans, tiny, tmp_path
    ):
        command = ("recon", scans[1], "-o", tmp_path, "--suffix", suffix, "--resume", "--model")
        assert "1 written" in run(*command, tiny).stderr
        assert "1 skipped" in run(*command, tiny).stderr
        assert "1 written" in run(*command, tiny, "--lam", 3).stderr
        target = tmp_path / f"s.1{suffix}"
        assert read_stamp(target).whole
        cut = sorted(target.iterdir())[0] if target.is_dir() else target
        whole = cut.read_bytes()
        cut.write_bytes(b"")
        assert not (read_stamp(target) or Stamp("", False)).whole
        cut.write_bytes(whole[: len(whole) * 3 // 4])
        assert not (read_stamp(target) or Stamp("", False)).whole
        assert "1 written" in run(*command, tiny, "--lam", 3).stderr
        assert read_stamp(target).whole
        if target.is_dir():
            cut.unlink()
            assert not read_stamp(target).whole

    def test_a_file_of_the_user_is_not_made_again(self, scans, tmp_path):
        (tmp_path / "s.0.h5").write_text("precious")
        result = run("recon", scans[0], "-o", tmp_path, *OPTIONS, "--resume")
        assert result.exit_code == 1
        assert "--overwrite" in result.stderr
        assert (tmp_path / "s.0.h5").read_text() == "precious"

    def test_a_torn_manifest_and_a_leftover_do_no_harm(self, scans, tmp_path):
        out = tmp_path / "out"
        assert run("recon", *scans[:2], "-o", out, *OPTIONS).exit_code == 0
        manifest = out / MANIFEST
        manifest.write_bytes(manifest.read_bytes()[:-30])
        (out / "s.1.h5").unlink()
        (out / LEFTOVER).write_text("half")
        result = run("recon", *scans[:2], "-o", out, *OPTIONS, "--resume")
        assert result.exit_code == 0
        assert "1 written, 1 skipped" in result.stderr
        assert sorted(p.name for p in out.iterdir()) == [MANIFEST, "s.0.h5", "s.1.h5"]
        assert manifest.read_bytes().endswith(b"\n")

    def test_kill_9_and_resume_give_the_outputs_of_an_uninterrupted_run(self, scans, tmp_path):
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        arguments = ["recon", *map(str, scans), *OPTIONS, "-o"]
        assert run(*arguments, whole).exit_code == 0
        command = [sys.executable, "-m", "equipoise", *arguments, str(killed)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 900
        manifest = killed / MANIFEST
        while not (manifest.exists() and b'"written"' in manifest.read_bytes()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert len(list(killed.glob("s.*.h5"))) < 4
        result = run(*arguments, killed, "--resume")
        assert result.exit_code == 0
        assert re.search(r"[1-3] skipped", result.stderr)
        names = sorted(p.name for p in killed.iterdir())
        assert names == sorted(p.name for p in whole.iterdir())
        for name in names[1:]:
            assert np.array_equal(image(killed / name), image(whole / name))


class TestParts:
    def test_parts_are_disjoint_and_together_everything(self, scans, tmp_path):
        out = tmp_path / "out"
        for part in range(3):
            options = ("--num-parts", 3, "--part-id", part)
            assert run("recon", *scans, "-o", out, *OPTIONS, *options).exit_code == 0
        made = [name for k in range(3) for name in events(out, f"manifest-{k}-of-3.jsonl")]
        written = [name for event, name in made if event == "written"]
        assert sorted(written) == [f"s.{i}.h5" for i in range(4)]
        result = run("recon", *scans, "-o", out, *OPTIONS, "--resume")
        assert "4 skipped" in result.stderr

    @pytest.mark.parametrize(
        ("ids", "step"), [((0, 10, 20, 30), "10"), ((5, 6, 7, 8), "1"), ((2, 4, 6, 8), "")]
    )
    def test_a_stepped_array_of_one_scan_a_task_does_each_once(self, ids, step):
        found = []
        for i in ids:
            task = {"COUNT": len(ids), "ID": i, "MIN": min(ids), "MAX": max(ids), "STEP": step}
            task = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in task.items()}
            assert part_of(None, None, task, 1) == (1, 0)  # its own scan: all of the work
            found.append(part_of(None, None, task, len(ids)))
        assert found == [(len(ids), k) for k in range(len(ids))]

    def test_a_listed_array_cannot_tell_its_parts(self):
        task = {"COUNT": "3", "ID": "2", "MIN": "1", "MAX": "6", "STEP": "1"}
        task = {f"SLURM_ARRAY_TASK_{name}": value for name, value in task.items()}
        assert part_of(None, None, task, 3) == (1, 0)
        with pytest.raises(typer.BadParameter, match="evenly spaced"):
            part_of(AUTO, None, task, 3)

    def test_a_part_with_nothing_to_do_says_so(self, scans, tmp_path):
        parts = ("--num-parts", "9", "--part-id", "8", "-q")
        result = run("recon", *scans, "-o", tmp_path / "out", *OPTIONS, *parts)
        assert result.exit_code == 0
        assert "warning: part 8 of 9 has nothing to do" in result.stderr

    def test_a_slurm_array_says_which_part_a_task_is(self, scans, tmp_path):
        task = {
            "SLURM_ARRAY_TASK_COUNT": "2",
            "SLURM_ARRAY_TASK_ID": "6",
            "SLURM_ARRAY_TASK_MIN": "5",
        }
        assert part_of(None, None, task, 2) == (2, 1)
        assert part_of(None, None, task, 4) == (1, 0)
        assert part_of(AUTO, None, task, 4) == (2, 1)
        assert part_of(3, None, task, 4) == (3, 1)
        assert part_of(4, 0, task, 4) == (4, 0)
        assert part_of(None, None, {}, 4) == (1, 0)
        assert part_of(3, None, task, 4, submits=True) == (3, 0)
        out = tmp_path / "out"
        parts = ("--num-parts", "auto")
        assert run("recon", *scans, "-o", out, *OPTIONS, *parts, env=task).exit_code == 0
        assert sorted(p.name for p in out.glob("*.h5")) == ["s.1.h5", "s.3.h5"]

    def test_more_parts_than_scans(self, scans, tmp_path):
        options = ("--num-parts", 9, "--part-id", 8)
        assert run("recon", scans[0], "-o", tmp_path / "out", *options).exit_code == 0

    def test_the_command_of_a_part(self):
        given = "equipoise recon a b -o out --slurm --num-parts 3 --slurm-option=x=1 --lam 2"
        found = part_command(given.split(), 3, 2)
        tail = "recon a b -o out --lam 2 --resume --num-parts 3 --part-id 2"
        assert found == [sys.executable, "-m", "equipoise", *tail.split()]

    def test_slurm_submits_all_parts_as_an_array_which_does_them(self, scans, tmp_path):
        pytest.importorskip("submitit")
        out, spool = tmp_path / "out", tmp_path / "spool"
        command = [sys.executable, "-m", "equipoise", "recon", *map(str, scans), *OPTIONS]
        command += ["-o", str(out), "--slurm", "--num-parts", "2"]
        # A name that submitit does not know goes to sbatch as it is.
        command += ["--slurm-option", "partition=gpu", "--slurm-option", "reservation=mri"]
        environment = fake_slurm.install(spool)
        result = subprocess.run(
            command, capture_output=True, text=True, env=environment, check=True, timeout=900
        )
        assert "2 parts submitted (SLURM)" in result.stderr
        assert fake_slurm.finished(spool, 2) == [0, 0]
        (script,) = spool.glob("*.sh")
        for option in ("array=0-1%2", "partition=gpu", "reservation=mri"):
            assert f"#SBATCH --{option}\n" in script.read_text()
        records = Manifest(out).records()
        written = [r["output"] for r in records if r["event"] == "written"]
        assert sorted(written) == sorted(p.name for p in out.glob("s.*.h5"))
        assert len(written) == 4
        assert (out / "manifest-1-of-2.jsonl").exists()


class TestFingerprint:
    def test_every_setting_changes_it(self, tmp_path):
        (tmp_path / "csm.npy").write_bytes(b"a")
        (tmp_path / "scan").write_bytes(b"scan")
        model = MOL(CNN(4, 2), FixedWeight(5.0), 0.05)
        made = [
            ReconSettings(),
            ReconSettings(lam=2.0),
            ReconSettings(rtol=1e-4),
            ReconSettings(acceleration=2.0),
            ReconSettings(acceleration=2.0, seed=1),
            ReconSettings(csm=tmp_path / "csm.npy"),
            ReconSettings(mask=tmp_path / "csm.npy"),
        ]
        prints = [fingerprint(s, model, tmp_path / "scan") for s in made]
        assert len(set(prints)) == len(made)
        (tmp_path / "csm.npy").write_bytes(b"bb")
        assert fingerprint(made[5], model, tmp_path / "scan") not in prints

    def test_the_model_is_known_by_what_it_computes_with_and_not_by_its_name(self, tmp_path):
        (tmp_path / "scan").write_bytes(b"scan")

        def found(bias=0.0, name="m", skip=0.0, **changes):
            model = MOL(CNN(4, 2, skip=skip), FixedWeight(5.0), **{"m": 0.05, **changes})
            with torch.no_grad():
                model.network.convolutions[1].bias.fill_(bias)
            return fingerprint(ReconSettings(name), model, tmp_path / "scan")

        same = found()
        assert found(name="n") == same
        others = [
            found(bias=1e-3),
            found(skip=0.5),
            found(m=0.06),
            found(options=SolverOptions(max_iter=7)),
        ]
        assert len({same, *others}) == 5

    def test_a_scan_of_the_same_size_and_time_is_known_by_its_content(self, tmp_path):
        scan, content = tmp_path / "scan", bytearray(10**6)
        scan.write_bytes(content)
        os.utime(scan, (1, 1))
        before = scan_identity(scan)
        assert scan_identity(scan) == before
        content[0] = 1
        scan.write_bytes(content)
        assert scan_identity(scan) != before  # the time
        os.utime(scan, (1, 1))
        assert scan_identity(scan) != before

    @pytest.mark.parametrize(
        "wrong", [{"lam": 0.0}, {"rtol": -1.0}, {"mask": Path("m"), "acceleration": 2.0}]
    )
    def test_settings_that_mean_nothing_are_refused(self, wrong):
        with pytest.raises(BadInputError):
            ReconSettings(**wrong)


def test_the_memory_estimate_is_checked_before_the_work(scans, tmp_path, monkeypatch):
    import equipoise.recon.memory

    monkeypatch.setattr(equipoise.recon.memory, "available_memory", lambda: 10**5)
    for output in (tmp_path / "o.h5", tmp_path / "out"):
        result = run("recon", scans[0], "-o", output)
        assert result.exit_code in (1, 4)
        assert "1 slices of 40 x 40 with 4 coils need about" in " ".join(result.stderr.split())
        assert "100 kB are free" in " ".join(result.stderr.split())
    assert not (tmp_path / "o.h5").exists()


def test_where_memory_is_short_maps_are_dropped_and_the_image_is_the_same(
    full_scan, tmp_path, monkeypatch
):
    import equipoise.recon.memory
    from equipoise.formats import read
    from equipoise.zoo.model_file import load_model

    acquisition, model = read(full_scan), load_model("mol-lr-brain-4x")
    monkeypatch.setattr(equipoise.recon.memory, "TILE", 32)
    last = equipoise.recon.memory.evaluation_of(model, 2**22)
    model.options = replace(model.options, exact=False)
    assert last == 2 * equipoise.recon.memory.evaluation_of(model, 2**22) >= 64 * 26 * 2**22
    model.options = replace(model.options, exact=True)
    estimates = [
        equipoise.recon.memory.estimate(acquisition, model, keep_maps=keep, tile=tile)
        for keep, tile in ((True, None), (False, None), (False, 32))
    ]
    assert estimates == sorted(estimates, reverse=True)
    images, scores = [], []
    command = ("recon", full_scan, "--acceleration", "3", "--model", "mol-lr-brain-4x")
    for name, free in zip("abc", estimates):
        monkeypatch.setattr(equipoise.recon.memory, "available_memory", lambda free=free: free)
        target = tmp_path / f"{name}.h5"
        result = run(*command, "-o", target, "--json")
        assert result.exit_code == 0, result.stderr
        assert ("memory is short" in result.stderr) == (name != "a")
        with h5py.File(target) as file:
            images.append(file["image"][:])
            assert ("csm" in file) == (name == "a")
        scores.append(json.loads(result.stdout)["slices"][0]["in_range"])
    many = run(*command, "-o", tmp_path / "many")
    assert "coil maps are not written" in " ".join(many.stderr.split())
    assert np.array_equal(images[0], images[1])
    assert np.abs(images[0] - images[2]).max() < 1e-4 * np.abs(images[0]).max()
    assert scores[0] is not None
    assert scores[0] == scores[1] == scores[2]


@pytest.mark.parametrize(
    ("name", "match"),
    [("cuda:99", "has 0 CUDA devices"), ("mps", "no float64"), ("toaster", "must be auto")],
)
def test_a_device_that_is_not_there_is_named(name, match, scans, tmp_path):
    import torch

    if torch.cuda.is_available():
        match = match.replace("has 0", f"has {torch.cuda.device_count()}")
    for output, code in ((tmp_path / "o.h5", 1), (tmp_path / "out", 1)):
        result = run("recon", scans[0], "-o", output, "--device", name)
        assert result.exit_code == code
        assert match in " ".join(result.stderr.split())
    assert run("recon", scans[0], "-o", tmp_path / "o.h5", "--device", "cpu").exit_code == 0
