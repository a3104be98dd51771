"""Images of frames that are complete: the scan of their readouts, solved slice by slice."""

import json
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from equipoise.certificate.certify import certify_slice
from equipoise.certificate.effort import QUICK
from equipoise.formats.acquisition import Acquisition
from equipoise.formats.calibration import holds_centre
from equipoise.formats.header import cut
from equipoise.formats.readers.mrd_scan import Records, scan_of
from equipoise.formats.readers.registry import UNREADABLE
from equipoise.formats.slices import as_slices, join_slices
from equipoise.methods.method import Method
from equipoise.outcome import BadInputError, EquipoiseError, Outcome
from equipoise.physics.least_squares import tikhonov
from equipoise.recon.experiment import undersample
from equipoise.recon.memory import fit_memory
from equipoise.recon.problems import problems
from equipoise.recon.reconstruct import reconstruct
from equipoise.report.certificate_file import certificate_json
from equipoise.scanner.arrivals import Key
from equipoise.scanner.budget import Share
from equipoise.scanner.configuration import Configuration
from equipoise.scanner.models import Models
from equipoise.scanner.wire import ConnectionFailed

SENSE_LAM = 100.0
"""lam of ``sense`` if none is given: ``||x||^2`` counts a hundredth of ``||A x - b||^2``."""

SENSE_RTOL = 1e-6
"""Relative residual at which the linear equations of ``sense`` are solved."""

SOLVING = threading.Lock()
"""One slice is solved at a time: it uses all processors, and slices of sessions take turns."""


@dataclass(frozen=True)
class SolvedSlice:
    """One 2D image (y, x) in units of the scan, and what is promised of it.

    ``distance_bound`` is None where nothing is promised, ``in_range`` where it is not known.
    """

    image: np.ndarray
    outcome: str
    distance_bound: float | None = None
    in_range: bool | None = None
    lam: float | None = None
    noise: np.ndarray | None = None
    certificate: str | None = None


@dataclass(frozen=True)
class Frame:
    """The image of a frame, (z, y, x) complex, cut to the reconstructed matrix.

    ``spacing`` is the size of its pixels (z, y, x) in mm, None if the header has no field of view;
    ``noise`` the standard deviation of each pixel, if it was asked for.
    """

    key: Key
    image: np.ndarray
    noise: np.ndarray | None
    spacing: tuple[float, ...] | None
    slices: list[SolvedSlice]


def assemble(records: Records, header: bytes) -> tuple[Acquisition, dict[Key, int]]:
    """The scan of readouts and of an XML header, and the number of each of its frames.

    Raises
    ------
    BadInputError
        If they are no scan that can be read.
    """
    keys: list[Key] = []
    try:
        scan = scan_of(records, header, "the scan", [], [], keys)
    except UNREADABLE as error:
        if isinstance(error, EquipoiseError):
            raise
        raise BadInputError(f"the scan cannot be read: {type(error).__name__}: {error}") from error
    return scan, {key: index for index, key in enumerate(keys)}


def can_be_calibrated(scan: Acquisition, index: int | None, *, awaited: bool) -> bool:
    """Whether coil maps of a frame can be estimated from what has arrived.

    Parameters
    ----------
    scan, index
        The scan and the number of the frame; None if the reader has left the frame out.
    awaited
        Whether the header promises a calibration scan of which nothing has arrived.
    """
    mask = getattr(scan.encoding, "mask", None)
    # A trajectory is refused later, with a better message.
    if index is None or mask is None:
        return True
    # A frame with all samples holds better calibration lines than any scan beside it.
    if awaited and not bool(mask[index % len(mask)].all()):
        return False
    if scan.calibration is not None and scan.calibration.of_frame[index] is not None:
        return True
    return bool(holds_centre(mask)[index % len(mask)])


def solve_frame(
    scan: Acquisition,
    key: Key,
    config: Configuration,
    models: Models,
    share: Share,
    refused: threading.Event | None = None,
) -> Frame:
    """The image of a scan of one frame.

    Raises
    ------
    BadInputError
        If it cannot be solved, or its solution does not fit into the share of memory.
    ConnectionFailed
        If ``refused`` is set before all its slices are solved.
    """
    slices = as_slices(scan)
    if config.acceleration is not None:
        slices = undersample(slices, config.acceleration, seed=0)
    solved = []
    for i in range(len(slices.kspace)):
        if refused is not None and refused.is_set():
            raise ConnectionFailed("the session was ended")
        solved.append(_solve(slices.of([i]), config, models, share))
    noise = None
    if all(one.noise is not None for one in solved):
        noise = _joined(np.stack([one.noise for one in solved if one.noise is not None]), scan)
    geometry = scan.header.geometry
    spacing = None if geometry is None else geometry.spacing
    return Frame(key, _joined(np.stack([s.image for s in solved]), scan), noise, spacing, solved)


def _joined(images: np.ndarray, scan: Acquisition) -> np.ndarray:
    """Slices (slice, y, x) as the image (z, y, x), cut to the reconstructed matrix."""
    crop = scan.header.crop
    if scan.samples.ndim == 4:
        return cut(images, crop)
    volume = join_slices(torch.from_numpy(images)[:, None], scan)[0, 0].numpy()
    if crop is None:
        return volume
    start = max(volume.shape[0] // 2 - crop[0] // 2, 0)
    return cut(volume[start : start + crop[0]], crop[1:])


def _solve(one: Acquisition, config: Configuration, models: Models, share: Share) -> SolvedSlice:
    model = models.get(config.model)
    plan = fit_memory(one, model)
    share.take(plan.needed)
    try:
        with SOLVING:
            if config.method == "sense":
                return _sense(one, config)
            options = replace(model.options, tile=plan.tile)
            if config.certificate or config.noisemap:
                return _certified(one, config, model, options)
            return _reconstructed(one, config, model, options, models.device)
    finally:
        share.give_back(plan.needed)


def _reconstructed(
    one: Acquisition, config: Configuration, model: Method, options: Any, device: torch.device
) -> SolvedSlice:
    found = reconstruct(one, model, lam=config.lam, options=options, device=device, keep_maps=False)
    (result,) = found.slices
    return SolvedSlice(
        found.image[0].numpy(),
        result.outcome,
        _promised(result.distance_bound),
        result.in_range,
        result.lam,
    )


def _certified(one: Acquisition, config: Configuration, model: Method, options: Any) -> SolvedSlice:
    (problem,) = problems(one)
    found = certify_slice(
        problem,
        model.to("cpu"),
        lam=config.lam,
        options=options,
        noise_map=config.noisemap,
        effort=QUICK,
    )
    certificate = found.certificate
    text = certificate_json([certificate], one.source, config.model)
    return SolvedSlice(
        found.image[0].numpy(),
        certificate.outcome,
        certificate.distance_bound,
        certificate.in_range,
        certificate.lam,
        None if found.noise is None else found.noise.std.float().numpy(),
        json.dumps(json.loads(text), separators=(",", ":")) if config.certificate else None,
    )


def _sense(one: Acquisition, config: Configuration) -> SolvedSlice:
    lam = config.lam if isinstance(config.lam, float) else SENSE_LAM
    (problem,) = problems(one)
    weight = torch.tensor([lam], dtype=torch.float64, device=problem.data.device)
    with torch.no_grad():
        image = tikhonov(problem.operator, problem.data, weight, rtol=SENSE_RTOL)
    return SolvedSlice((image[0] * problem.unit).cpu().numpy(), NO_BOUND, lam=lam)


NO_BOUND = "linear"
"""Outcome of a method whose image is a linear function of the data, without a bound."""


def _promised(bound: float) -> float | None:
    return bound if np.isfinite(bound) else None


def remark_of(slices: list[SolvedSlice]) -> str:
    """What the operator must know of an image; empty if all is as it should be."""
    ended = {one.outcome for one in slices}
    found = []
    if ended - {Outcome.CONVERGED.value, Outcome.FEED_FORWARD.value, NO_BOUND}:
        found.append(f"NOT CONVERGED ({', '.join(sorted(ended - {Outcome.CONVERGED.value}))})")
    if any(one.in_range is False for one in slices):
        found.append("OUT OF RANGE (unlike the scans of the validation)")
    return ", ".join(found)


class Heard(threading.local):
    """The warnings of the thread that solves."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def taken(self) -> list[str]:
        """The texts since the last call."""
        texts, self.texts = self.texts, []
        return texts


HEARD = Heard()


@contextmanager
def listening() -> Iterator[None]:
    """A context in which the warnings of a thread go to its ``HEARD``."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *place, **more: HEARD.texts.append(str(message))
        yield
