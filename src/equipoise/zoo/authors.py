"""The checkpoint that the authors of MOL released."""

from pathlib import Path

import torch

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.formats.inputs import check_regular
from equipoise.methods.data_weight import FixedWeight
from equipoise.methods.mol import MOL
from equipoise.networks.cnn import CNN
from equipoise.outcome import BadInputError

AUTHORS_SHIFT = 0.1
"""The authors' code solves with 1.001 I at alpha = 0.01, which is a term 0.1 x in F."""


AUTHORS_M = 0.02
"""``1 - T`` of the authors' released configuration, ``lip_thresh: 0.98``."""


def import_authors_checkpoint(path: Path, shift: float = AUTHORS_SHIFT) -> MOL:
    """The checkpoint that the authors of MOL released, as a model of this package.

    Parameters
    ----------
    path
        A zipped torch file whose ``state_dict`` holds ``f.dw.net.{i}.conv.{weight,bias}`` and
        ``f.lam``. No code in it is executed.
    shift
        0.1 for the model that the authors trained (their solver adds 0.1 x to F), 0 for the
        equation of the paper.

    Raises
    ------
    BadInputError
        If the file is not such a checkpoint.
    """
    check_regular(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = content["state_dict"]
        prefix, layers = "f.dw.net.", 0
        # Their file has no configuration, so the shapes of the weights tell it.
        while f"{prefix}{layers}.conv.weight" in state:
            layers += 1
        first = state[f"{prefix}0.conv.weight"]
        network = CNN(features=first.shape[0], layers=layers, kernel_size=first.shape[-1])
        network.load_state_dict(
            {
                f"convolutions.{i}.{part}": state[f"{prefix}{i}.conv.{part}"]
                for i in range(layers)
                for part in ("weight", "bias")
            }
        )
        lam = float(state["f.lam"])
    # torch.load raises exceptions of many types for a foreign file.
    except Exception as error:
        raise BadInputError(
            f"{path} is not a checkpoint of the released MOL code (a torch zip file with "
            f"state_dict, f.dw.net.*.conv.* and f.lam): {error}"
        ) from error
    options = SolverOptions(max_iter=200)
    return MOL(network, FixedWeight(lam), AUTHORS_M, shift=shift, options=options).eval()
