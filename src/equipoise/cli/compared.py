"""The methods that an experiment compares, by name or file."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

    from equipoise.methods.method import Method

ORDER = (
    *("sense", "wavelet", "tv", "unet", "de-grad", "mol-sn", "mol-lr", "mol-m"),
    *("mol-ridge", "mol-guided", "mol-guided-sharp", "admm-net", "modl"),
)
"""Rows of Table I, in order."""

SCANS_ORDER = (
    *("sense", "wavelet", "tv", "mol-lr", "mol-ridge", "mol-guided", "mol-guided-sharp", "modl"),
)

WITHOUT_WEIGHTS = ("sense", "wavelet", "tv")


SUPERRES_ORDER = ("bicubic", "tikhonov", "mol-lr", "modl")
"""Rows of the table of super-resolution, in order."""


class Chosen(NamedTuple):
    """Methods by name, None for untrained ones, and the provenance of the trained ones."""

    loaded: dict[str, "Method | None"]
    origins: dict[str, dict[str, Any]]

    def to(self, device: "torch.device") -> "Chosen":
        """The methods on a device."""
        moved = {n: None if one is None else one.to(device) for n, one in self.loaded.items()}
        return Chosen(moved, self.origins)

    def seen(self, data: list[Path] | None) -> list[str]:
        """Sentences about data that the models have seen."""
        from equipoise.experiments.subjects import seen_before

        return seen_before(self.origins, data or [])


def chosen_methods(names: str | None, order: tuple[str, ...] = ORDER) -> Chosen:
    """The methods of a list for scans; all of the package if not given."""
    return _load(names, order, WITHOUT_WEIGHTS, ("-brain-4x", "-universal"))


def chosen_superres(names: str | None) -> Chosen:
    """The methods of a list for photographs; all of the package if not given."""
    return _load(names, SUPERRES_ORDER, ("bicubic", "tikhonov"), ("-superres-3x",))


def _load(
    names: str | None, order: tuple[str, ...], untrained: tuple[str, ...], suffixes: tuple[str, ...]
) -> Chosen:
    """The methods of a list."""
    from equipoise.methods.variational import UNTRAINED
    from equipoise.outcome import BadInputError
    from equipoise.zoo.find import available_models
    from equipoise.zoo.model_file import load_model, provenance

    available = available_models()
    packaged = {
        name: name + suffix
        for name in order
        for suffix in reversed(suffixes)
        if name + suffix in available
    }
    if names is None:
        names = ",".join(name for name in order if name in (*untrained, *packaged, *available))
    found = Chosen({}, {})
    for entry in names.split(","):
        name, _, file = entry.strip().partition("=")
        # Rows are told apart by the names of their methods.
        if name in found.loaded or not name:
            raise BadInputError(f"--methods is {names!r}: each method needs a different name")
        if name in untrained and not file:
            found.loaded[name] = load_model(name) if name in UNTRAINED else None
            continue
        whole = name if name in available else f"{name}{suffixes[0]}"
        model = file or packaged.get(name, whole)
        found.loaded[name], found.origins[name] = load_model(model), provenance(model)
    return found
