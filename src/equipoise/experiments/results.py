"""Result files of an experiment: Markdown, CSV and JSON with the same numbers."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equipoise.formats.replacing import replacing

Row = dict[str, Any]


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        # Names of files need not be UTF-8.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Any) -> None:
    """Write JSON without NaN or infinity."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows with the same keys."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def markdown_table(rows: Sequence[Row]) -> str:
    """A Markdown table of rows with the same keys."""
    headings = list(rows[0])
    lines = [" | ".join(headings), " | ".join(["---"] * len(headings))]
    lines += [" | ".join(str(row[key]) for key in headings) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)
