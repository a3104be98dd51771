"""Short texts for numbers and arrays in a ``repr``."""

from collections.abc import Sequence

from torch import Tensor


def size(array: Tensor) -> str:
    """Shape and type of an array, such as ``(1, 256, 256) complex64``."""
    return f"{tuple(array.shape)} {str(array.dtype).removeprefix('torch.')}"


def matrix(shape: Sequence[int]) -> str:
    """A matrix, such as ``256 x 240``."""
    return " x ".join(str(int(n)) for n in shape)


def span(values: Tensor | Sequence[float], form: str = ".3g") -> str:
    """One number, or the range of several, such as ``18.2 to 22``."""
    numbers = [float(v) for v in values]
    ends = list(dict.fromkeys(format(v, form) for v in (min(numbers), max(numbers))))
    return " to ".join(ends)


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``."""
    minutes, hours = round(seconds / 60), seconds / 3600
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{hours:.1f} h"


def counted(n: int, noun: str) -> str:
    """``1 slice``, ``3 slices``, ``3 series``."""
    return f"{n} {noun}" if n == 1 or noun.endswith("s") else f"{n} {noun}s"
