"""The models of a server, by names that may come from a client."""

import threading

import torch

from equipoise.methods.method import Method
from equipoise.methods.variational import UNTRAINED
from equipoise.outcome import BadInputError
from equipoise.recon.settings import model_checksum
from equipoise.zoo.find import available_models
from equipoise.zoo.model_file import load_model, model_config

MOST = 4
"""Models in memory."""


def served_models() -> list[str]:
    """The names of installed models for complex images (y, x), which a server can solve with."""
    networks = {name: model_config(name).network for name in available_models()}
    return [
        name
        for name, network in networks.items()
        if getattr(network, "axis", None) is None and getattr(network, "channels", 2) == 2
    ]


class Models:
    """Loads a model once; a client may name models that are installed, but no file.

    Parameters
    ----------
    usual
        The model of the server, a name or a file.
    device
        Where it is solved.
    """

    def __init__(self, usual: str, device: torch.device) -> None:
        self.usual, self.device = usual, device
        self._loaded: dict[str, tuple[Method, str]] = {}
        self._loading = threading.Lock()

    def get(self, name: str) -> Method:
        """A model.

        Raises
        ------
        BadInputError
            If there is no such model, or it is not for slices of scans.
        """
        return self._found(name)[0]

    def checksum(self, name: str) -> str:
        """SHA-256 of everything that the model computes with."""
        return self._found(name)[1]

    def _found(self, name: str) -> tuple[Method, str]:
        with self._loading:
            if name not in self._loaded:
                if name != self.usual and name not in {*available_models(), *UNTRAINED}:
                    raise BadInputError(
                        f"there is no model {name[:80]!r} on this server: it has "
                        f"{', '.join([*served_models(), *UNTRAINED])}"
                    )
                model = load_model(name)
                _check(name, model)
                others = [other for other in self._loaded if other != self.usual]
                if len(self._loaded) >= MOST and others:
                    del self._loaded[others[0]]
                self._loaded[name] = model, model_checksum(model)
            return self._loaded[name]


def _check(name: str, model: Method) -> None:
    if model.real:
        raise BadInputError(f"the model {name} is for photographs, not for scans")
    if len(model.axes) > 2:
        raise BadInputError(
            f"the model {name} is for images ({', '.join(model.axes)}), and a server solves each "
            "slice of a frame when its last readout arrives: choose a model of (y, x), or save the "
            "scan with --save-dir and use `equipoise recon`"
        )
