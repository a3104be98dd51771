"""Enlarging a photograph: the equilibrium of the luminance, in blocks if the image is large."""

import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.formats.limits import available_memory, size_text
from equipoise.formats.photograph import Photograph
from equipoise.methods.method import Method
from equipoise.methods.solving import amplification_bound
from equipoise.outcome import BadInputError, Outcome, Solution
from equipoise.physics.linop import percentile
from equipoise.physics.superres import Blur, resize_bicubic
from equipoise.zoo.model_file import provenance

log = logging.getLogger(__name__)

DEFAULT_MODEL = "mol-lr-superres-3x"

BLOCK = 256
"""Side of the blocks in which a large image is solved, in pixels of the small image."""

OVERLAP = 24
"""Pixels of the small image that neighbouring blocks share; the seam lies in their middle."""


@dataclass
class BlockResult:
    """The equilibrium of one block; the names are those of the JSON output.

    ``top`` and ``left`` are in pixels of the small image. ``distance_bound`` bounds
    ``||x - x*|| / ||x||`` over the block. ``perturbation_bound`` bounds ``||dx|| / ||db||`` for any
    change of its data (8). Both rest on m with the evidence ``m_evidence``.
    """

    top: int
    left: int
    outcome: str
    iterations: int
    network_evaluations: int
    lam: float
    distance_bound: float | None
    perturbation_bound: float | None
    m: float | None
    m_evidence: str


@dataclass
class Enlargement:
    """The larger photograph, and how each block was reached."""

    photograph: Photograph
    factor: int
    noise: float
    blocks: list[BlockResult]
    seconds: float

    @property
    def outcome(self) -> Outcome:
        """Converged if every block converged, else the outcome of the first that did not."""
        bad = [b.outcome for b in self.blocks if b.outcome != Outcome.CONVERGED.value]
        return Outcome(bad[0]) if bad else Outcome.CONVERGED

    @property
    def distance_bound(self) -> float | None:
        """The largest bound of the blocks; None if a block has none."""
        bounds = [b.distance_bound for b in self.blocks]
        return None if None in bounds else max(b for b in bounds if b is not None)

    def as_json(self, image: str, model: str) -> dict[str, Any]:
        """The object that ``equipoise superres --json`` prints."""
        return {
            "image": image,
            "model": model,
            "outcome": self.outcome.value,
            "factor": self.factor,
            "noise": self.noise,
            "distance_bound": self.distance_bound,
            "seconds": self.seconds,
            "blocks": [asdict(block) for block in self.blocks],
        }


def blur_of(model: str | Path) -> Blur:
    """The blur that a model was trained for.

    Raises
    ------
    BadInputError
        If it was not trained for super-resolution.
    """
    settings = provenance(model).get("config", {}).get("super_resolution")
    if settings is None:
        raise BadInputError(
            f"{model} is not a model for super-resolution: use {DEFAULT_MODEL}, or train one with "
            "super_resolution in the configuration"
        )
    return Blur(**{key: settings[key] for key in ("factor", "kernel", "border")})


OUTPUT_BYTES = 80
"""Bytes for each pixel of the larger image until it is written: solution, colours, and copies."""


def check_fits(photograph: Photograph, factor: int) -> None:
    """Check that the larger image will fit into memory.

    Raises
    ------
    BadInputError
        If it does not.
    """
    y, x = (factor * n for n in photograph.luminance.shape)
    needed, free = OUTPUT_BYTES * y * x, available_memory()
    if free is not None and needed > free:
        raise BadInputError(
            f"{y} x {x} pixels need about {size_text(needed)} of memory, {size_text(free)} are "
            "free: cut the image into parts, or use a machine with more memory"
        )


@torch.no_grad()
def enlarge(
    photograph: Photograph,
    model: Method,
    blur: Blur,
    *,
    noise: float = 0.01,
    lam: float | None = None,
    options: SolverOptions | None = None,
    block: int = BLOCK,
    device: torch.device | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Enlargement:
    """A photograph with ``factor`` times as many pixels along each axis.

    The luminance is the equilibrium of the model. Colour and transparency are interpolated.

    Parameters
    ----------
    photograph
        The small image.
    model
        A model with one channel, for real images.
    blur
        A: factor, kernel and border.
    noise
        Standard deviation of the noise of the small image relative to white; it sets lam.
    lam
        Data weight, instead of the one that follows the noise.
    options
        Solver options.
    block
        Side of the blocks in pixels of the small image. A smaller image is solved as a whole.
    device
        Of the solve [CPU].
    tell
        Called with how many blocks are done, and of how many.

    Raises
    ------
    BadInputError
        If the image is smaller than the kernel, the larger image does not fit into memory, or it
        is not finite.

    Warns
    -----
    ConvergenceWarning
        For each block that did not converge.
    """
    started = time.perf_counter()
    check_fits(photograph, blur.factor)
    # The solver is for complex images; the imaginary part stays zero.
    device = torch.device("cpu") if device is None else device
    small = torch.from_numpy(photograph.luminance)[None].to(device, torch.complex64)
    solved = _luminance(small, model.to(device), blur, noise, lam, options, block, tell)
    image, blocks = solved[0].cpu(), solved[1]
    if not bool(torch.isfinite(torch.view_as_real(image)).all()):
        raise BadInputError("the larger image holds NaN or Inf: lower --lam, or leave it out")
    shape = (image.shape[1], image.shape[2])
    larger = Photograph(
        image[0].real.numpy(),
        _interpolated(photograph.chroma, shape),
        _interpolated(photograph.alpha, shape),
        photograph.bits,
        photograph.profile,
        photograph.notes,
        photograph.white,
    )
    return Enlargement(larger, blur.factor, noise, blocks, time.perf_counter() - started)


def _luminance(
    small: Tensor,
    model: Method,
    blur: Blur,
    noise: float,
    lam: float | None,
    options: SolverOptions | None,
    block: int,
    tell: Callable[[int, int], None],
) -> tuple[Tensor, list[BlockResult]]:
    factor = blur.factor
    rows, columns = (_cuts(n, block) for n in small.shape[1:])
    image = small.new_zeros((1, *(n * factor for n in small.shape[1:])))
    # One scale for all blocks: with scales of their own, seams would show in flat regions.
    scale = percentile(small.abs(), 0.99).double()
    results: list[BlockResult] = []
    for y in rows:
        for x in columns:
            tell(len(results), len(rows) * len(columns))
            data = small[:, y.outer, x.outer]
            shape = (1, *(n * factor for n in data.shape[1:]))
            solution = model.solve(
                blur.operator(small.new_empty(shape)),
                data,
                noise_level=scale.new_tensor([noise]),
                lam=None if lam is None else scale.new_tensor([lam]),
                scale=scale,
                options=options,
            )
            # Cut, not blended: the bound of a block holds for the pixels of one solve.
            inner = solution.value[:, y.inside(factor), x.inside(factor)]
            image[:, y.target(factor), x.target(factor)] = inner
            results.append(_block_result(y.outer.start, x.outer.start, solution, model))
            place = f"the block at {x.outer.start}, {y.outer.start}"
            solution.warn_unless_converged(place, stacklevel=4)
            log.info("%s: %s, %d iterations", place, results[-1].outcome, results[-1].iterations)
    return image, results


def _block_result(top: int, left: int, solution: Solution, model: Method) -> BlockResult:
    bound = float(solution.distance_bound)
    amplification = amplification_bound(model, solution)
    return BlockResult(
        top=top,
        left=left,
        outcome=solution.outcome[0].value,
        iterations=int(solution.iterations),
        network_evaluations=int(solution.network_evaluations),
        lam=float(solution.lam),
        distance_bound=bound if np.isfinite(bound) else None,
        perturbation_bound=None if amplification is None else amplification.end_to_end,
        m=model.m,
        m_evidence=model.m_evidence,
    )


@dataclass(frozen=True)
class _Cut:
    """What a block reads along one axis, and the part of it that is kept, in small pixels."""

    outer: slice
    kept: slice

    def inside(self, factor: int) -> slice:
        start = self.outer.start
        return slice((self.kept.start - start) * factor, (self.kept.stop - start) * factor)

    def target(self, factor: int) -> slice:
        return slice(self.kept.start * factor, self.kept.stop * factor)


def _cuts(n: int, block: int) -> list[_Cut]:
    """``0 .. n`` in blocks of at most ``block`` that share ``OVERLAP`` pixels."""
    # A single block has no seams.
    if n <= block:
        return [_Cut(slice(0, n), slice(0, n))]
    # Equal blocks instead of full ones and a rest, because a narrow rest would be all border.
    count = -(-n // (block - OVERLAP))
    edges = [n * i // count for i in range(count + 1)]
    half = OVERLAP // 2
    return [
        _Cut(slice(max(a - half, 0), min(b + half, n)), slice(a, b))
        for a, b in itertools.pairwise(edges)
    ]


def _interpolated(channels: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray | None:
    if channels is None:
        return None
    stack = torch.from_numpy(np.ascontiguousarray(channels)).reshape(-1, *channels.shape[-2:])
    return resize_bicubic(stack, shape).reshape(*channels.shape[:-2], *shape).numpy()
