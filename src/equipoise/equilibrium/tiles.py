"""H in tiles, exactly: memory that depends on the tile and not on the image."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from equipoise.equilibrium.network import CNN
from equipoise.robustness.jacobian import linearised
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
        return self._assembled(self._evaluate, image)

    def linearised(self, image: Image) -> Callable[[Image], Image]:
        """The Jacobian at an image as ``d -> J d``; each tile is evaluated again for a product."""

        def of_a_piece(image: Tensor, direction: Tensor) -> Tensor:
            return linearised(self.network, image)(direction)

        return lambda direction: self._assembled(of_a_piece, image, direction)

    def _assembled(self, of_a_piece: Callable[..., Tensor], *images: Tensor) -> Tensor:
        """A function of images, tile by tile, each with its halo."""
        if self.tile is None:
            return of_a_piece(*images)
        y_cuts, x_cuts = (_cuts(n, self.tile) for n in images[0].shape[-2:])
        rows = []
        for y in y_cuts:
            pieces = []
            for x in x_cuts:
                (y_outer, y_inner), (x_outer, x_inner) = (
                    _with_halo(cut, self.network.reach, n)
                    for cut, n in zip((y, x), images[0].shape[-2:])
                )
                piece = of_a_piece(*(image[..., y_outer, x_outer] for image in images))
                pieces.append(piece[..., y_inner, x_inner])
            rows.append(torch.cat(pieces, -1))
        return torch.cat(rows, -2)

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
