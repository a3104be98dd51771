"""The log of a training run, ``log.jsonl``: one JSON object for each step and each validation.

A step has one line, also after a resume or a return to an earlier state: the lines of steps that
are taken again are removed first. A line with ``returned_from`` tells of such a return, and one
with ``left_out`` of a step whose samples changed nothing.
"""

import json
from pathlib import Path
from typing import Any

from equipoise.formats.replacing import replacing

LOG = "log.jsonl"


def append(path: Path, entry: dict[str, Any]) -> None:
    """Add a line."""
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def entries(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a line that a killed process left incomplete is not one."""
    # Only the last line can be incomplete, and then it has no end.
    whole = path.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def drop_after(path: Path, step: int) -> None:
    """Remove the lines of later steps, which will be taken again."""
    if not path.exists():
        return
    kept = [entry for entry in entries(path) if entry["step"] <= step]
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
