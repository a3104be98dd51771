"""The memory of a reconstruction: estimated before it, and measured after it."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from equipoise.formats.acquisition import STACK, Acquisition
from equipoise.formats.encoding import CartesianEncoding
from equipoise.formats.limits import available_memory, size_text
from equipoise.formats.slices import stack_shape
from equipoise.methods.method import PLANE, SERIES, VOLUME, Method
from equipoise.methods.mol import MOL
from equipoise.methods.prediction import PLANES, LamSetting
from equipoise.methods.variational import Variational
from equipoise.networks.ridge import Ridge
from equipoise.networks.ridge_planes import PlanarRidge, planes_at_once
from equipoise.networks.ridge_volume import RidgeVolume
from equipoise.outcome import BadInputError
from equipoise.physics.coils.readout import lines_are_whole
from equipoise.recon.series import series_of
from equipoise.recon.volumes import checked

COMPLEX = 8
"""Bytes of a complex64 number."""

ESPIRIT_COPIES = 6
"""Number of arrays (coil, y, x) in memory while coil maps are estimated."""

SOLVER_IMAGES = 40
"""Number of images in memory during a solve: Anderson's history, conjugate gradients, iterates."""

VARIATIONAL_COPIES, VARIATIONAL_BANDS = 14, 20
"""Number of copies of coefficients in memory during a minimisation, two for each in double
precision, and of their bands at most."""

BUFFERS, ON_HEAP = 4.5, 9.5
"""Number of layers in memory during an evaluation: of any network, and of a ridge whose layers lie
on the heap. 4.4 were measured for a CNN of 128 pixels, 3.7 for a ridge of 384 pixels whose layers
do not lie there, and 8.8 to 10 where they do, because the gaps are too small for the next layer."""

HEAP, LEFT = 2**25, 0.4
"""Up to this size glibc puts arrays on its heap, once it has seen one of that size freed; the share
of the heap that larger layers find still held and cannot use, measured at 256 x 256."""

PARTS = 2
"""A ridge has its features for the real and for the imaginary part."""

SINGLE, DOUBLE = 4, 8
"""Bytes of a real number."""

TILE = 256
"""Side of the tiles in which H is evaluated if a whole image does not fit."""


SMALL_TILES = (128, 64, 32)
"""The same for images of three axes, of which a tile has all frames or slices along z."""

COEFFICIENTS, BESIDE, OF_A_COIL, COMBINING, LOADED = 6, 310, 16, 40, 30_000_000
"""Of an image of three axes: copies of the coefficients of one filter in an evaluation; bytes of a
pixel beside it and beside Anderson's history, a third of them gaps on the heap; bytes of a pixel
and coil all the time, and while coils are combined; bytes of the parts of libraries that are read
when they are first used."""

BESIDE_PLANES, GAPS = 360, 110
"""Bytes of a pixel beside history and factors where some planes are evaluated at a time, and of
gaps on the heap as long as an image lies there."""

LINEARISED, ATTACKED = (900, 7500), (2300, 9200)
"""Bytes of a pixel of a slice that its certificate adds to its solve, and that an attack adds to
these, of one pass and of two."""

SLAB, HELD, ATTACKED_VOXEL = 9700, 0.6, 1500
"""Bytes of a voxel of the slab whose graph is in memory while two passes for a volume are
differentiated; the share of the solve that is held then; and what an attack adds for each pixel of
an image of three axes."""

BLOCK_OF_SLAB, BLOCK_OF_VOLUME = 84, 13
"""Bytes of a feature of a block of a refinement: of a voxel of the slab, and of the volume, while
the response of the data is taken through it. An attack takes the transposed, which needs less."""

TRIALS = 250
"""Bytes of a pixel of a series, or of the planes of a volume, that trials of lam add: a copy of the
samples, and gaps between one solve and the next."""


Certified = Literal["plain", "attack"] | None
"""Whether an image is certified, and attacked."""


@dataclass(frozen=True)
class Plan:
    """How a scan fits into memory: whether all maps are kept for the output, and the tile of H.

    ``needed`` is the estimate of :func:`estimate` in bytes.
    """

    needed: int
    keep_maps: bool = True
    tile: int | None = None

    @property
    def note(self) -> str | None:
        """What is done differently to save memory; None if nothing."""
        done = [] if self.keep_maps else ["the coil maps are not written with the image"]
        if self.tile is not None:
            done.append(f"H is evaluated in tiles of {self.tile}")
        return f"memory is short: {' and '.join(done)}" if done else None


def estimate(
    acquisition: Acquisition,
    model: Method,
    *,
    keep_maps: bool = True,
    tile: int | None = None,
    lam: LamSetting | None = None,
    certificate: Certified = None,
) -> int:
    """Estimated bytes by which the process grows, at its peak, while a scan is reconstructed.

    Python, the libraries, the model and the scan are in memory before and do not count; nor do a
    target, a report and the writing of images. The images of all slices, and with ``keep_maps``
    their maps, are kept until they are written; a series has one set for its frames. One slice,
    series or volume at a time is calibrated and solved, with :func:`evaluation_of` for the pixels
    of the tile. A volume that is cut is first transformed along its readout into a stack of slices,
    of the size of its samples. A solve that ends before Anderson has a full history of iterates
    takes less. A ``certificate`` without or with an attack takes more.
    """
    slices, coils, y, x = shape_of(acquisition, model.axes)
    pixels = y * x
    maps = coils * _kept_sets(acquisition, model.axes, slices) if keep_maps else 0
    kept = COMPLEX * pixels * (3 * slices + maps)
    # Either of the two is in memory at a time, so the larger one counts below.
    calibration = 0 if acquisition.csm is not None else ESPIRIT_COPIES * COMPLEX * coils * pixels
    if model.axes != PLANE:
        solve = solve_of_three_axes(acquisition, model, tile, lam)
        solve += _certificate_of_three_axes(acquisition, model, solve, certificate)
        return kept + max(calibration, solve)
    at_once = pixels if tile is None else min(pixels, tile**2)
    solve = pixels * COMPLEX * (SOLVER_IMAGES + 6 * coils) + evaluation_of(model, at_once)
    passes = int(getattr(model, "guide", None) is not None)
    solve += LINEARISED[passes] * pixels if certificate else 0
    solve += ATTACKED[passes] * pixels if certificate == "attack" else 0
    transformed = acquisition.samples.nbytes if acquisition.samples.ndim > len(STACK) else 0
    return kept + transformed + max(calibration, solve)


def _kept_sets(acquisition: Acquisition, axes: tuple[str, ...], slices: int) -> int:
    """Maps of images that are kept, without those that a solve of three axes holds anyway."""
    if axes == SERIES:
        return len(series_of(acquisition.labels)) - 1
    return slices - (acquisition.samples.shape[2] if axes == VOLUME else 0)


def solve_of_three_axes(
    acquisition: Acquisition, model: Method, tile: int | None, lam: LamSetting | None
) -> int:
    """Bytes of the solve of a series or a volume; its last evaluation is in double precision."""
    _, coils, y, x = shape_of(acquisition, model.axes)
    depth, network = _depth(acquisition, model), model.network
    pixels = depth * y * x
    beside = BESIDE
    if isinstance(network, RidgeVolume):
        size = DOUBLE if isinstance(model, MOL) and model.options.exact else SINGLE
        plane = _with_halo(y, tile, network.reach) * _with_halo(x, tile, network.reach)
        # Kernels of what does not move see one image for all frames.
        within = network.features * (1 if network.still else depth)
        evaluation = COEFFICIENTS * PARTS * size * plane * max(within, network.across * depth)
    elif isinstance(network, PlanarRidge):
        beside, evaluation = BESIDE_PLANES, _of_some_planes(network, depth, y, x)
        beside += GAPS if PARTS * DOUBLE * pixels < HEAP else 0
    else:
        evaluation = evaluation_of(model, pixels)
    # Anderson keeps two images for each iterate.
    history = 2 * COMPLEX * model.options.window if isinstance(model, MOL) else 0
    step = (beside + history) * pixels + evaluation
    if (model.usual_lam if lam is None else lam) == "auto":
        # Of a volume lam is tried on some planes.
        step += TRIALS * (pixels if model.axes == SERIES else depth * y * min(x, PLANES))
    return LOADED + max(OF_A_COIL * coils * pixels + step, COMBINING * coils * pixels)


def _certificate_of_three_axes(
    acquisition: Acquisition, model: Method, solve: int, certificate: Certified
) -> int:
    """What the certificate of a series or volume adds to its solve."""
    _, _, y, x = shape_of(acquisition, model.axes)
    plane = _depth(acquisition, model) * y
    added = blocks = 0
    if certificate and isinstance(model.network, PlanarRidge):
        # Of one pass no plane depends on another.
        beside = 2 * getattr(model, "neighbours", 0)
        some = planes_at_once(plane) + beside
        slab = plane * (x if _is_one_slab(acquisition, model) else min(some, x))
        added = max(0, SLAB * slab - round((1 - HELD) * solve))
        features = getattr(model, "refining_features", 0)
        blocks = features * (BLOCK_OF_SLAB * slab + BLOCK_OF_VOLUME * plane * x)
    attack = ATTACKED_VOXEL * plane * x if certificate == "attack" else 0
    return added + max(blocks, attack)


def _is_one_slab(acquisition: Acquisition, model: Method) -> bool:
    """Whether what the data are handed through cannot be cut, because A mixes planes along x."""
    encoding = acquisition.encoding
    return (
        getattr(model, "consistent", False)
        and isinstance(encoding, CartesianEncoding)
        and not lines_are_whole(encoding.mask)
    )


def _depth(acquisition: Acquisition, model: Method) -> int:
    """The frames of the longest series, or the slices along z of a volume."""
    if model.axes == VOLUME:
        return acquisition.samples.shape[2]
    return max(len(images) for images in series_of(acquisition.labels))


def _of_some_planes(network: PlanarRidge, z: int, y: int, x: int) -> int:
    """Bytes of an evaluation of some planes, and of the factors of all thresholds."""
    some = z * y * min(planes_at_once(z * y), x)
    layer = PARTS * network.features * DOUBLE * some
    return round(ON_HEAP * layer) + SINGLE * network.features * z * y * x


def _with_halo(side: int, tile: int | None, reach: int) -> int:
    """The side of the largest tile with its halo, which ends at the border of the image."""
    count = 1 if tile is None else -(-side // tile)
    return min(side, -(-side // count) + min(count - 1, 2) * reach)


def shape_of(acquisition: Acquisition, axes: tuple[str, ...]) -> tuple[int, int, int, int]:
    """The shape (images, coils, y, x) of the stack of images that a model of some axes returns."""
    if axes != VOLUME or not isinstance(acquisition.encoding, CartesianEncoding):
        return stack_shape(acquisition)
    frames, coils, z, y, x = checked(acquisition).samples.shape
    return frames * z, coils, y, x


def evaluation_of(model: Method, pixels: int) -> int:
    """Bytes that one evaluation of the network needs for some pixels.

    If rounding is bounded, the last evaluation is in double precision, whatever the precision of
    the network. The heaps of both passes of a method of two passes count.
    """
    if isinstance(model, Variational):
        return COMPLEX * VARIATIONAL_COPIES * VARIATIONAL_BANDS * pixels
    width = max((p.shape[0] for p in model.parameters() if p.ndim == 4), default=1)
    last = isinstance(model, MOL) and model.options.exact
    if not isinstance(getattr(model, "network", None), Ridge):
        return round(BUFFERS * width * (DOUBLE if last else SINGLE) * pixels)
    layers = [size * PARTS * width * pixels for size in (SINGLE, DOUBLE)[: 1 + last]]
    on_heap = max(
        (len(model.passes) * ON_HEAP * layer for layer in layers if layer < HEAP), default=0
    )
    alone = max((BUFFERS * layer for layer in layers if layer >= HEAP), default=0)
    return round(max(on_heap, alone + LEFT * on_heap))


def fit_memory(
    acquisition: Acquisition,
    model: Method,
    lam: LamSetting | None = None,
    certificate: Certified = None,
) -> Plan:
    """The first plan that fits: everything at once, without keeping maps, or in tiles.

    ``lam`` is the setting of the reconstruction; that of the model if not given. ``certificate``
    says whether the images are certified too, without or with an attack.

    In tiles the maps are kept if they fit, as those of a single series or volume do, which the
    solve needs anyway.

    Raises
    ------
    BadInputError
        If no plan fits, or the scan holds data that cannot be solved.
    """
    slices, coils, y, x = shape_of(acquisition, model.axes)
    free = available_memory()
    tiles = (TILE,) if model.axes == PLANE else SMALL_TILES
    cut = ((keep, tile) for tile in tiles for keep in (True, False))
    for keep_maps, tile in ((True, None), (False, None), *cut):
        needed = estimate(
            acquisition, model, keep_maps=keep_maps, tile=tile, lam=lam, certificate=certificate
        )
        # Where the free memory is unknown, the scan is tried.
        if free is None or needed <= free:
            return Plan(needed, keep_maps, tile)
    bare = estimate(
        acquisition, model, keep_maps=False, tile=tiles[-1], lam=lam, certificate="plain"
    )
    attacked = certificate == "attack" and bare <= (free or 0)
    without = "leave out --worst-case, " if attacked else ""
    if model.axes != PLANE:
        raise BadInputError(
            f"{acquisition.source}: {slices} images of {y} x {x} with {coils} coils, solved as "
            f"({', '.join(model.axes)}), need about {size_text(needed)} of memory in tiles of "
            f"{tiles[-1]} pixels, and {size_text(free or 0)} are free: {without}choose a model of "
            "(y, x), which takes one image at a time, compress the coils (`equipoise maps "
            "--coils`), or use a machine with more memory"
        )
    raise BadInputError(
        f"{acquisition.source}: {slices} slices of {y} x {x} with {coils} coils need about "
        f"{size_text(needed)} of memory, and {size_text(free or 0)} are free: {without}split "
        "the file by slices, compress its coils (`equipoise maps --coils`), or use a machine with "
        "more memory"
    )


def memory_text(needed: int) -> str:
    """An estimate in words, with what the process holds already."""
    held = resident_memory()
    in_all = f", {size_text(held + needed)} in all" if held else ""
    return f"about {size_text(needed)} of memory beside the scan{in_all}"


def resident_memory() -> int:
    """Memory that this process holds now, in bytes; 0 if the system does not report it."""
    try:
        text = STATM.read_text()
    except OSError:
        return 0
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")


STATM = Path("/proc/self/statm")


def peak_memory() -> int:
    """Peak resident memory of this process in bytes; 0 if the system does not report it."""
    # Windows does not have this module.
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS reports bytes, Linux kilobytes.
    return peak if sys.platform == "darwin" else peak * 1024
