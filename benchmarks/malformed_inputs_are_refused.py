"""Malformed inputs through every command: right, refused, or a fault of the program.

    OMP_NUM_THREADS=1 python benchmarks/malformed_inputs_are_refused.py [--sample N] [--log FILE]

--sample takes N of about 3,900 inputs, from the fixed seed: at least one of every kind (every
command with every format and every way to damage it, every option, every setting), and of the rest
as many of each kind as there are. All take five minutes, and 800 two and a half.

The scans are those of tests/cli/test_fuzz.py, from its fixed seed. Each is converted and then given
to one of the other commands that read scans, in turn. Damaged photographs, models, checkpoints,
configurations, training images, masks and maps are tried too, in the experiments and in fine-tuning
as well, and extreme values of every option and of every setting (extreme_values.py). What a server
does with malformed sessions is measured by a_server_survives_malformed_traffic.py; here its command
and that of the client are given extreme options only.

The output is counts by command, the largest resident memory of the process that runs them one after
the other, and the longest processor time. The exit code is 1 if anything ends in a traceback, in
"unexpected", or with an undocumented exit code.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

CLI = Path(__file__).resolve().parent.parent / "tests" / "cli"
sys.path[:0] = [str(CLI), str(CLI.parent)]

import extreme_values  # noqa: E402
from test_fuzz import SEED, Cases  # noqa: E402

from equipoise.zoo.find import DEFAULT_MODEL, find_model  # noqa: E402

OTHERS = (
    ["info", "FILE", "--json"],
    ["recon", "FILE", "-o", "OUT/o.npy", "--lam", "20", "--rtol", "0.1"],
    ["calib", "FILE", "-o", "OUT/o.h5"],
    ["convert", "FILE", "OUT/o.npz", "--kspace"],
    ["recon", "FILE", "-o", "OUT/many", "--suffix", ".nii.gz", "--lam", "20", "--rtol", "0.1"],
    ["convert", "FILE", "OUT/o.dcm"],
)
"""Commands that read a scan, beside ``convert`` to npy."""

EXIT_CODES = (0, 1, 2, 3, 4, 5)
TRAINING = {
    "name": "tiny",
    "simulation": {"acceleration": 2, "calibration": 8, "coils": [2, 2]},
    "model": {"network": {"features": 4, "layers": 2}, "m": 0.01},
    "lipschitz": {"beta": 1.0, "every": 1, "steps": 1, "validation_steps": 1},
    "crop": 16,
    "warmup_steps": 1,
    "steps": 1,
    "validate_every": 1,
    "validation_samples": 1,
    "validation_crop": 16,
}


def scans(cases: Cases) -> None:
    """Every malformed scan by another command, in turn."""
    for number, (name, arguments) in enumerate(list(cases.commands)):
        if arguments[0] == "convert":
            other = OTHERS[number % len(OTHERS)]
            cases.commands.append((name, [a.replace("FILE", arguments[1]) for a in other]))


def damaged(cases: Cases, content: bytes, count: int) -> list[bytes]:
    """A file cut short, and with bytes changed."""
    found = []
    for i in range(count):
        if i % 2:
            found.append(content[: int(cases.rng.integers(0, len(content)))])
            continue
        changed = bytearray(content)
        for place in cases.rng.integers(0, len(content), 2 ** int(cases.rng.integers(0, 7))):
            changed[place] = cases.rng.integers(0, 256)
        found.append(bytes(changed))
    return found


def put(cases: Cases, kind: str, suffix: str, content: bytes) -> str:
    """Write a file under a name of its own."""
    path = cases.path(kind, suffix)
    path.write_bytes(content)
    return str(path)


def photographs(cases: Cases) -> None:
    """Damaged pictures for ``superres``."""
    image = Image.fromarray(cases.rng.integers(0, 255, (12, 14, 3), dtype=np.uint8))
    for suffix in (".png", ".jpg", ".tif", ".bmp"):
        good = cases.folder / f"good{suffix}"
        image.save(good)
        for content in damaged(cases, good.read_bytes(), 12):
            file = put(cases, "photo", suffix, content)
            arguments = ["superres", file, "-o", "OUT/o.png", "--rtol", "0.1"]
            cases.commands.append((Path(file).name, arguments))


def models(cases: Cases) -> None:
    """Damaged model files and checkpoints, in each place where one may be named."""
    good, scan = find_model(DEFAULT_MODEL).read_bytes(), str(cases.good["fastMRI"])
    head = 4000  # the header, where a change means something
    for number, content in enumerate(damaged(cases, good[:head], 36)):
        file = put(cases, "model", ".safetensors", content + good[head:])
        commands = (
            ["recon", scan, "--model", file, "-o", "OUT/o.npy", "--lam", "20", "--rtol", "0.1"],
            ["models", "verify", file],
            ["models", "show", file],
            ["models", "export", file, "-o", "OUT/m.safetensors"],
            ["models", "install", file],
            ["import-model", file, "-o", "OUT/m.safetensors"],
            ["calibrate", file, "--data", scan, "-o", "OUT/m.safetensors"],
            ["certify", scan, "--model", file, "-o", "OUT/c"],
            ["experiment", "detection", "--data", scan, "--model", file, "-o", "OUT/e"],
        )
        cases.commands.append((Path(file).name, commands[number % len(commands)]))


def trainings(cases: Cases) -> None:
    """Configurations and training images that are damaged."""
    images = cases.folder / "images.npy"
    np.save(images, cases.rng.random((2, 20, 24)))
    good = TRAINING | {"data": {"train": [str(images)], "validation": [str(images)]}}
    text = yaml.safe_dump(good).encode()
    for content in damaged(cases, text, 24):
        file = put(cases, "config", ".yaml", content)
        cases.commands.append((Path(file).name, ["train", file, "-o", "OUT/run"]))
    for content in damaged(cases, images.read_bytes(), 12):
        data = put(cases, "images", ".npy", content)
        changed = good | {"data": {"train": [data], "validation": [str(images)]}}
        file = put(cases, "config", ".yaml", yaml.safe_dump(changed).encode())
        cases.commands.append((Path(file).name, ["train", file, "-o", "OUT/run"]))


COMPARED = (
    ["table1", "--methods", "sense", "--seeds", "1"],
    ["masks", "--methods", "sense"],
    ["scans", "--methods", "sense"],
    ["robustness", "--methods", "sense", "--steps", "1", "--starts", "1", "--epsilon", "0.1"],
    ["cine", "--crop", "16", "--acceleration", "2"],
    ["volume", "--crop", "2", "--acceleration", "2"],
    ["detection", "--scans", "1"],
)
"""Experiments of images and scans, as short as they can be."""


def experiments(cases: Cases) -> None:
    """Damaged images, series, scans, photographs and models in each experiment."""
    series = cases.folder / "series.npy"
    np.save(series, cases.rng.random((4, 20, 24)))
    contents = damaged(cases, series.read_bytes(), 28)
    scan = cases.good["fastMRI"]
    contents += damaged(cases, scan.read_bytes(), 28)
    for number, content in enumerate(contents):
        file = put(cases, "data", ".npy" if number < 28 else ".h5", content)
        line = COMPARED[number % len(COMPARED)]
        cases.commands.append(
            (Path(file).name, ["experiment", *line, "--data", file, "-o", "OUT/e"])
        )
    picture = cases.folder / "good.png"
    for content in damaged(cases, picture.read_bytes(), 6):
        file = put(cases, "photo", ".png", content)
        line = ["experiment", "superres", "--methods", "bicubic", "--data", file, "-o", "OUT/e"]
        cases.commands.append((Path(file).name, line))
    good = find_model(DEFAULT_MODEL).read_bytes()
    for number, content in enumerate(damaged(cases, good[:4000], 12)):
        file = put(cases, "model", ".safetensors", content + good[4000:])
        which = (["cine", "--crop", "16"], ["volume", "--model-3d", file], ["table1"])[number % 3]
        line = ["experiment", *which, "--methods", f"a={file}", "--data", str(series)]
        cases.commands.append((Path(file).name, [*line, "-o", "OUT/e"]))


def finetunings(cases: Cases) -> None:
    """Damaged scans and models for ``finetune``, and damaged scans for ``send``."""
    scan = cases.good["fastMRI"]
    good = find_model(DEFAULT_MODEL).read_bytes()
    for content in damaged(cases, good[:4000], 12):
        file = put(cases, "model", ".safetensors", content + good[4000:])
        line = ["finetune", file, str(scan), "-o", "OUT/m.safetensors", "--steps", "1"]
        cases.commands.append((Path(file).name, line))
    for number, content in enumerate(damaged(cases, scan.read_bytes(), 24)):
        file = put(cases, "scan", ".h5", content)
        line = (
            ["finetune", "mol-ridge-universal", file, "-o", "OUT/m.safetensors", "--steps", "1"],
            ["send", file, "-o", "OUT/o.h5", "--port", "9", "--timeout", "1"],
        )[number % 2]
        cases.commands.append((Path(file).name, line))


def places(cases: Cases) -> None:
    """Outputs in places that cannot be, and the commands that read nothing."""
    scan, file, pipe = str(cases.good["fastMRI"]), cases.folder / "plain", cases.folder / "pipe.h5"
    images = str(cases.folder / "images.npy")
    file.write_text("of the user")
    os.mkfifo(pipe)
    lines = (
        *(["recon", scan, "-o"], ["maps", scan, "-o"], ["convert", scan], ["certify", scan, "-o"]),
        *(["send", scan, "--port", "9", "-o"], ["serve", "--openrecon-label"]),
        *(["serve", "--port", "-1", "--save-dir"], ["models", "export", DEFAULT_MODEL, "-o"]),
        *(
            ["experiment", *COMPARED[1], "--data", images, "-o"],
            ["train", tiny_training(cases), "-o"],
        ),
    )
    for place in (file, file / "o.h5", pipe, pipe / "o.h5", Path("/proc/o.h5"), Path("x" * 300),
                  Path("x" * 250 + ".h5"), cases.folder / "none" / "o.h5", Path("a\nb\x1b[31m.h5"),
                  Path("a\0.h5"), Path()):  # fmt: skip
        for line in lines:
            cases.commands.append((f"{line[0]} to {place}"[:60], [*line, str(place)]))
    for place in (file, pipe, Path("/proc/o"), Path("x" * 300)):
        cases.commands.append((f"demo to {place}"[:60], ["demo", "-o", str(place)]))
    cases.commands += [("doctor", ["doctor"]), ("models", ["models"])]


def tiny_training(cases: Cases) -> str:
    """A training of one step."""
    images, config = str(cases.folder / "images.npy"), cases.folder / "good.yaml"
    data = {"data": {"train": [images], "validation": [images]}}
    config.write_text(yaml.safe_dump(TRAINING | data))
    return str(config)


def extremes(cases: Cases) -> None:
    """Extreme values of every option and every setting, beside small good inputs."""
    scan, images = str(cases.good["fastMRI"]), str(cases.folder / "images.npy")
    train = ["train", tiny_training(cases), "-o", "OUT/run", "--workers", "0"]
    series, result = str(cases.folder / "series.npy"), ["-o", "OUT/e", "--data", images]
    sense = ["--methods", "sense", "--acceleration", "2"]
    good: dict[tuple[str, ...], list[str]] = {
        ("recon",): ["recon", scan, "-o", "OUT/o.npy", "--lam", "20", "--rtol", "0.1"],
        ("certify",): ["certify", scan, "-o", "OUT/c", "--quick", "--worst-case", "0.1",
                       "--noise-map"],
        ("calibrate",): ["calibrate", DEFAULT_MODEL, "--data", images, "-o", "OUT/m.safetensors",
                         "--scans", "4"],
        ("superres",): ["superres", str(cases.folder / "good.png"), "-o", "OUT/o.png"],
        ("train",): train,
        ("finetune",): ["finetune", DEFAULT_MODEL, scan, "-o", "OUT/m.safetensors", "--steps", "1"],
        ("maps",): ["maps", scan, "-o", "OUT/o.h5"],
        ("send",): ["send", scan, "-o", "OUT/o.h5", "--port", "9"],
        ("serve",): ["serve", "--openrecon-label", "OUT/label.json"],
        ("import-model",): ["import-model", scan, "-o", "OUT/m.safetensors"],
        ("experiment", "table1"): ["experiment", "table1", *sense, *result, "--seeds", "1"],
        ("experiment", "masks"): ["experiment", "masks", "--methods", "sense", *result],
        ("experiment", "scans"): ["experiment", "scans", "--methods", "sense", "--data", scan,
                                  "-o", "OUT/e"],
        ("experiment", "robustness"): ["experiment", "robustness", *sense, *result, "--steps", "1",
                                       "--starts", "1", "--epsilon", "0.1"],
        ("experiment", "memory"): ["experiment", "memory", "--size", "32", "--coils", "1", "-o",
                                   "OUT/e"],
        ("experiment", "superres"): ["experiment", "superres", "--methods", "bicubic", "--data",
                                     str(cases.folder / "good.png"), "-o", "OUT/e"],
        ("experiment", "detection"): ["experiment", "detection", "--scans", "1", *result],
        ("experiment", "cine"): ["experiment", "cine", "--data", series, "-o", "OUT/e"],
        ("experiment", "volume"): ["experiment", "volume", "--data", series, "-o", "OUT/e"],
    }  # fmt: skip
    for name, line in (*extreme_values.options(good), *extreme_values.settings(train)):
        # Whatever the folder is called, the study of memory takes minutes.
        if "memory --output" not in name:
            cases.commands.append((name, line))


def beside(cases: Cases) -> None:
    """Maps and masks that are damaged, for the commands that take them."""
    maps = cases.folder / "maps.npy"
    np.save(maps, np.ones((4, 20, 24), np.complex64))
    scan = str(cases.good["fastMRI"])
    for number, content in enumerate(damaged(cases, maps.read_bytes(), 16)):
        file = put(cases, "maps", ".npy", content)
        option = ("--csm", "--mask")[number % 2]
        command = (
            ["certify", scan, option, file, "-o", "OUT/c"],
            ["recon", scan, option, file, "-o", "OUT/o.npy", "--lam", "20", "--rtol", "0.1"],
        )[number // 2 % 2]
        cases.commands.append((Path(file).name, command))


def run(cases: Cases, log: Path) -> list[dict]:
    """The record of every command, from a process of its own."""
    listing = cases.folder / "cases.json"
    listing.write_text(json.dumps(cases.commands))
    # Models that are installed go into the folder of this run.
    homes = dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"), str(cases.folder / "home"))
    # The worker works in the folder of the inputs.
    log = log.absolute()
    worker = [sys.executable, "-W", "error", str(CLI / "fuzz_worker.py"), str(listing), str(log)]
    process = subprocess.run(worker, env=os.environ | homes, cwd=cases.folder, check=False)
    found = [json.loads(line) for line in log.read_text().splitlines()]
    if process.returncode or len(found) != len(cases.commands):
        sys.exit(f"died after {found[-1]['name'] if found else 'none'}: {process.returncode}")
    return found


def kind_of(name: str, arguments: list[str]) -> tuple[str, ...]:
    """What an input has in common with others: command, format and damage, or option or setting."""
    experiment = arguments[1:2] if arguments[0] == "experiment" else []
    # The file is named after its damage and numbered; a value follows the option after "=".
    what = re.sub(r"-\d+(?=\.)", "", name.split("=")[0])
    return (arguments[0], *experiment, what)


def sampled(
    commands: list[tuple[str, list[str]]], count: int, rng: np.random.Generator
) -> list[tuple[str, list[str]]]:
    """One of every kind, and then as many others as are missing, in the order of the list."""
    kinds: dict[tuple[str, ...], list[int]] = {}
    for number, command in enumerate(commands):
        kinds.setdefault(kind_of(*command), []).append(number)
    if count < len(kinds):
        sys.exit(f"--sample {count} is less than one of each of the {len(kinds)} kinds")
    chosen = {int(rng.choice(members)) for members in kinds.values()}
    rest = [n for n in range(len(commands)) if n not in chosen]
    chosen.update(rng.choice(rest, min(count - len(chosen), len(rest)), replace=False).tolist())
    print(f"{len(chosen)} of {len(commands)} inputs, of {len(kinds)} kinds", flush=True)
    return [commands[n] for n in sorted(chosen)]


def outcome(record: dict) -> str:
    """How a command ended, as a word."""
    foreseen = record["code"] in EXIT_CODES and record["exception"] is None
    if not foreseen or "unexpected" in record["stderr"]:
        return "unexpected"
    return "refused" if record["code"] else "right"


def main() -> None:
    """Run all, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="those whose command line contains this text")
    parser.add_argument("--sample", type=int, metavar="N", help="as many inputs, of every kind")
    parser.add_argument("--log", type=Path, help="where the record of each input goes")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = Cases(Path(folder))
        cases.all()
        for more in (scans, photographs, models, trainings, beside, experiments, finetunings,
                     places, extremes):  # fmt: skip
            more(cases)
        if chosen.only:
            cases.commands = [c for c in cases.commands if chosen.only in " ".join(c[1])]
        if chosen.sample:
            cases.commands = sampled(cases.commands, chosen.sample, np.random.default_rng(SEED))
        found = run(cases, chosen.log or Path(folder) / "log.jsonl")
    by_command: dict[str, Counter] = {}
    for record, (_, arguments) in zip(found, cases.commands):
        by_command.setdefault(arguments[0], Counter())[outcome(record)] += 1
    total = sum(by_command.values(), Counter())
    for command, count in {**by_command, "all": total}.items():
        print(f"{command:14}", ", ".join(f"{n} {word}" for word, n in sorted(count.items())))
    longest = max(found, key=lambda r: r["seconds"])
    print(
        f"{len(found)} inputs; largest resident memory {max(r['peak'] for r in found) / 1e6:.0f} MB"
    )
    print(f"longest {longest['seconds']:.1f} s of processor time: {longest['name']}")
    for record in found:
        if outcome(record) == "unexpected":
            print(json.dumps(record)[:1000])
    sys.exit(1 if total["unexpected"] else 0)


if __name__ == "__main__":
    main()
