"""Model files whose network is the user's own and must be passed to load them."""

from pathlib import Path

from torch import nn

from equipoise.methods.method import MethodConfig
from equipoise.networks.network import Shapes
from equipoise.networks.own import OwnNetwork, name_of
from equipoise.outcome import BadInputError


def needs_network(path: Path, own: str) -> BadInputError:
    """The error for a file that holds only the weights of an own network."""
    return BadInputError(
        f"{path} holds the weights of {own}, which is not a network of this package: load it in "
        f"Python with equipoise.load_model(file, network={own.split('(')[0]}(...))"
    )


def own_body(path: Path, own: str | None, network: nn.Module | None) -> OwnNetwork | None:
    """The user's network that receives the weights; None if the file describes the network.

    Raises
    ------
    BadInputError
        If the network is missing, not needed, or of another class.
    """
    if own is None and network is None:
        return None
    if own is None:
        raise BadInputError(f"{path} describes its network itself: leave network out")
    if network is None:
        raise needs_network(path, own)
    # Wrapped again below, because the wrapper holds a factor that the file sets.
    given = network.module if isinstance(network, OwnNetwork) else network
    if name_of(given) != own:
        raise BadInputError(
            f"{path} holds the weights of {own}, but the network is {name_of(given)}: pass a "
            "network of the class that was saved"
        )
    return OwnNetwork(given)


def wanted_shapes(config: MethodConfig, body: OwnNetwork | None) -> Shapes:
    """Names and shapes of all weights that a file must hold."""
    wanted = config.shapes()
    if body is None:
        return wanted
    others = {key: shape for key, shape in wanted.items() if not key.startswith("network.")}
    own = {f"network.{key}": tuple(value.shape) for key, value in body.state_dict().items()}
    return {**others, **own}
