"""What a format offers whose files can be read slice by slice."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from equipoise.formats.acquisition import Acquisition


class SliceReader(NamedTuple):
    """How many slices can be read one by one, or None; and one of them, None if it is empty."""

    number: Callable[[Path], int | None]
    read: Callable[[Path, int], Acquisition | None]
