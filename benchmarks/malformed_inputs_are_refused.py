"""Malformed inputs through every command: right, refused, or a fault of the program.

    OMP_NUM_THREADS=1 python benchmarks/malformed_inputs_are_refused.py [--log log.jsonl]

The scans are those of tests/cli/test_fuzz.py, from its fixed seed. Each is converted and then given
to one of the other commands that read scans, in turn. Damaged photographs, models, checkpoints,
configurations, training images, masks and maps are tried too. The output is counts by command, the
largest resident memory of the process that runs them one after the other, and the longest processor
time. The exit code is 1 if anything ends in a traceback, in "unexpected", or with an undocumented
exit code.
"""

import argparse
import json
import os
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

from test_fuzz import Cases  # noqa: E402

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

EXIT_CODES = (0, 1, 2, 3, 4)
TRAINING = {
    "name": "tiny",
    "simulation": {"acceleration": 2, "calibration": 8, "coils": [2, 2]},
    "model": {"network": {"features": 2, "layers": 2}, "m": 0.01},
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
    worker = [sys.executable, "-W", "error", str(CLI / "fuzz_worker.py"), str(listing), str(log)]
    process = subprocess.run(worker, env=os.environ | homes, cwd=cases.folder, check=False)
    found = [json.loads(line) for line in log.read_text().splitlines()]
    if process.returncode or len(found) != len(cases.commands):
        sys.exit(f"died after {found[-1]['name'] if found else 'none'}: {process.returncode}")
    return found


def outcome(record: dict) -> str:
    """How a command ended, as a word."""
    foreseen = record["code"] in EXIT_CODES and record["exception"] is None
    if not foreseen or "unexpected" in record["stderr"]:
        return "unexpected"
    return "refused" if record["code"] else "right"


def main() -> None:
    """Run all, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", type=Path, help="where the record of each input goes")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = Cases(Path(folder))
        cases.all()
        for more in (scans, photographs, models, trainings, beside):
            more(cases)
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
