"""Exact evaluation of H in tiles: the memory depends on the tile and not on the image."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from equipoise.networks.jacobian import linearised
from equipoise.networks.network import rounding_of
from equipoise.outcome import BadInputError
from equipoise.shapes import Image, PerSample


class Tiled(nn.Module):
    """``H(x)``, one tile after the other, each with a halo of the receptive field of H.

    An output pixel depends on the input within ``network.reach`` pixels along each axis. A tile
    that is cut with that halo, or up to the border of the image, where H itself pads with zeros,
    gives the same output in its interior as the whole image. Nothing is blended, and every bound
    holds unchanged. With ``recompute`` the graph of a tile is built again when its gradient is
    needed, so a gradient holds the activations of one tile.

    Parameters
    ----------
    network
        H, with a finite ``reach``, with ``part(y, x)`` if it depends on the position, and with
        ``grid`` if only shifts by multiples of that leave it the same.
    tile
        Side of a tile in pixels, without the halo; None for one tile.
    recompute
        Keep no activations for backward; a product with the transposed Jacobian then costs one more
        evaluation of H.

    Raises
    ------
    BadInputError
        If a tile is given and the network has no ``reach``.
    """

    def __init__(self, network: Any, tile: int | None, recompute: bool = False):
        super().__init__()
        if tile is not None and getattr(network, "reach", None) is None:
            raise BadInputError(
                f"tile is {tile}, and the network does not say how far its receptive field "
                "reaches: leave tile out, or give the network an integer `reach`, in pixels"
            )
        self.network, self.tile, self.recompute = network, tile, recompute

    def forward(self, image: Image) -> Image:
        """``H(x)``."""
        return self._assembled(self._evaluate, image)

    @property
    def symmetric(self) -> bool:
        """As H."""
        return bool(getattr(self.network, "symmetric", False))

    def linearised(self, image: Image) -> Callable[[Image], Image]:
        """The Jacobian at an image as ``d -> J d``; each tile is evaluated again for a product."""

        def of_a_piece(network: Any, image: Tensor, direction: Tensor) -> Tensor:
            return linearised(network, image)(direction)

        return lambda direction: self._assembled(of_a_piece, image, direction)

    def rounding(self, image: Image) -> PerSample | None:
        """``sqrt(sum_t rho(x_t)^2)`` over the tiles x_t with their halos, each an evaluation."""
        if self.tile is None:
            return rounding_of(self.network, image)
        y_cuts, x_cuts = self._cuts_of(image)
        found = [
            rounding_of(self.network, image[..., y.outer, x.outer]) for y in y_cuts for x in x_cuts
        ]
        known = [rho for rho in found if rho is not None]
        # One tile without a bound leaves the whole image without one.
        return torch.stack(known).square().sum(0).sqrt() if len(known) == len(found) else None

    def _assembled(self, of_a_piece: Callable[..., Tensor], *images: Tensor) -> Tensor:
        """A function of images, tile by tile, each with its halo."""
        if self.tile is None:
            return of_a_piece(self.network, *images)
        y_cuts, x_cuts = self._cuts_of(images[0])

        def piece(y: Cut, x: Cut) -> Tensor:
            network = _part(self.network, y.outer, x.outer)
            cut = of_a_piece(network, *(image[..., y.outer, x.outer] for image in images))
            return cut[..., y.inner, x.inner]

        return torch.cat([torch.cat([piece(y, x) for x in x_cuts], -1) for y in y_cuts], -2)

    def _cuts_of(self, image: Tensor) -> list[list["Cut"]]:
        assert self.tile is not None
        grid = getattr(self.network, "grid", 1)
        return [cuts(n, self.tile, self.network.reach, grid) for n in image.shape[-2:]]

    def _evaluate(self, network: Any, image: Tensor) -> Tensor:
        # Without a gradient nothing is kept, and the checkpoint would only cost time.
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(network, image, use_reentrant=False)
        return network(image)


def _part(network: Any, y: slice, x: slice) -> Any:
    """H for a piece of the image, if H depends on the position."""
    own: Callable[[slice, slice], Any] | None = getattr(network, "part", None)
    return network if own is None else own(y, x)


class Cut(NamedTuple):
    """A tile with its halo along one axis, and the position of the tile within it."""

    outer: slice
    inner: slice


def cuts(n: int, tile: int, halo: int, grid: int = 1) -> list[Cut]:
    """``0 .. n`` in pieces of nearly equal length, none longer than a tile, with clipped halos.

    Pieces with their halos begin at multiples of ``grid``.
    """
    count = -(-n // tile)
    cuts = []
    for i in range(count):
        start, stop = n * i // count, n * (i + 1) // count
        # A network that works on blocks gives another result if a tile begins inside a block.
        first = max(start - halo, 0) // grid * grid
        outer = slice(first, min(stop + halo, n))
        cuts.append(Cut(outer, slice(start - outer.start, stop - outer.start)))
    return cuts
