"""H in tiles, exactly: memory that depends on the tile and not on the image."""

import itertools

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from equipoise.equilibrium.network import CNN
from equipoise.shapes import Image


class Tiled(nn.Module):
    """``H(x)``, one tile after the other, each with a halo of the receptive field of H.

    An output pixel depends on the input within ``network.reach`` pixels along each axis. A tile
    that is cut with that halo, or up to the border of the image where H itself pads by zeros, gives
    the same output in its interior as the whole image does: nothing is blended, and every bound
    holds as it is. With ``recompute`` the graph of a tile is built again where its gradient is
    asked for, so that a gradient holds the activations of one tile.

    Parameters
    ----------
    network
        H.
    tile
        Side of a tile in pixels, without the halo; None for one tile.
    recompute
        Keep no activations for backward; a product with the transposed Jacobian then costs one more
        evaluation of H.
    """

    def __init__(self, network: CNN, tile: int | None, recompute: bool = False):
        super().__init__()
        self.network, self.tile, self.recompute = network, tile, recompute

    def forward(self, image: Image) -> Image:
        """``H(x)``."""
        if self.tile is None:
            return self._evaluate(image)
        y_cuts, x_cuts = (_cuts(n, self.tile) for n in image.shape[-2:])
        rows = [torch.cat([self._piece(image, y, x) for x in x_cuts], -1) for y in y_cuts]
        return torch.cat(rows, -2)

    def _piece(self, image: Tensor, y: slice, x: slice) -> Tensor:
        """The output inside one tile."""
        (y_outer, y_inner), (x_outer, x_inner) = (
            _with_halo(cut, self.network.reach, n) for cut, n in zip((y, x), image.shape[-2:])
        )
        return self._evaluate(image[..., y_outer, x_outer])[..., y_inner, x_inner]

    def _evaluate(self, image: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self.network, image, use_reentrant=False)
        return self.network(image)


def _cuts(n: int, tile: int) -> list[slice]:
    """``0 .. n`` in pieces of nearly equal length, none longer than a tile."""
    count = -(-n // tile)
    edges = [n * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def _with_halo(cut: slice, halo: int, n: int) -> tuple[slice, slice]:
    """The cut with its halo, clipped to the image, and where the cut lies in it."""
    start = max(cut.start - halo, 0)
    outer = slice(start, min(cut.stop + halo, n))
    return outer, slice(cut.start - start, cut.stop - start)
