"""Measured k-space as training data: scans of every format that is reconstructed.

Fully sampled scans are undersampled afresh for every sample, and their target is the image combined
from all samples with the coil maps of the undersampled data, as for ``equipoise recon
--acceleration``. Undersampled scans are split, see
:mod:`equipoise.training.sources.self_supervised`.
"""

import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from equipoise.formats.acquisition import Acquisition
from equipoise.formats.by_slice import by_slice, scan_files
from equipoise.outcome import BadInputError, InputWarning
from equipoise.physics.cartesian import hann_window
from equipoise.physics.coils.espirit import MAX_CALIBRATION
from equipoise.physics.fourier import kspace_to_image
from equipoise.physics.noise_level import noise_level
from equipoise.recon.experiment import apply_mask, is_fully_sampled
from equipoise.recon.problems import ScanProblem, slice_maps, slice_problem, target_of
from equipoise.training.sources.dataset import Dataset, Generators
from equipoise.training.sources.maps_cache import MapsCache, maps_key
from equipoise.training.sources.sampling import Sampling
from equipoise.training.sources.scan import Scan, stacked
from equipoise.training.sources.self_supervised import (
    SplitScan,
    Splitting,
    split_problem,
    stacked_splits,
)
from equipoise.training.sources.source import Measured

log = logging.getLogger(__name__)

FAINTEST = 2.0
"""A slice has signal if the brightest 1 % of its low-resolution image exceed this many noise
levels."""

DAMAGED = (BadInputError, OSError, MemoryError)
"""Exceptions about one file, which must not end a run on thousands of others."""


class ScanSlice(NamedTuple):
    """One slice: its file, its number in the file, and its data as a scan of their own."""

    scan: Path
    number: int
    acquisition: Acquisition


@dataclass(frozen=True)
class ScanSamples:
    """How a slice becomes a training sample.

    Attributes
    ----------
    sampling
        The masks of fully sampled scans.
    splitting
        How undersampled scans are split; without it they are refused.
    cache
        Where coil maps are kept, if they are.
    """

    sampling: Sampling
    splitting: Splitting | None = None
    cache: MapsCache | None = None

    def sample(self, found: ScanSlice, rng: np.random.Generator) -> Scan | SplitScan:
        """A sample of a slice.

        Raises
        ------
        BadInputError
            If it is undersampled and there is no splitting, or the slice cannot be solved.
        """
        if is_fully_sampled(found.acquisition):
            return self.supervised(found, self.mask(found.acquisition, rng))
        if self.splitting is None:
            raise BadInputError(
                f"{found.scan} is undersampled ({found.acquisition.acceleration:.2f}-fold), so it "
                "has no target: set data.self_supervised to train on its own samples"
            )
        problem = self.problem(found, found.acquisition)
        held = self.splitting.split(problem.operator.mask[0], rng, number_of(found))
        return split_problem(problem, held[None])

    def mask(self, acquisition: Acquisition, rng: np.random.Generator) -> Tensor:
        """A new mask (1, y, x) for a slice."""
        n_coils, y, x = acquisition.kspace.shape[1:]
        return self.sampling.draw_mask((y, x), n_coils, rng)

    def supervised(self, found: ScanSlice, mask: Tensor) -> Scan:
        """A fully sampled slice undersampled by a mask; its target is the image of all samples."""
        full = found.acquisition
        problem = self.problem(found, apply_mask(full, mask))
        target = target_of(full, full, problem.operator.csm, 0, problem.unit)
        assert target is not None
        return Scan(problem.operator, problem.data, target, problem.noise_level)

    def problem(self, found: ScanSlice, acquisition: Acquisition) -> ScanProblem:
        """The problem that ``recon`` solves for a slice with these samples."""
        # Maps that the file holds cost nothing.
        if self.cache is None or acquisition.csm is not None:
            return slice_problem(acquisition, 0)
        key = maps_key(found.scan, found.number, acquisition)
        maps = self.cache.find(key)
        if maps is None:
            maps = slice_maps(acquisition, 0)
            self.cache.keep(key, maps)
        return slice_problem(acquisition, 0, maps)


def number_of(found: ScanSlice) -> int:
    """A number that tells slices apart, the same wherever the file lies."""
    return zlib.crc32(f"{found.scan.name}:{found.number}".encode())


def has_signal(acquisition: Acquisition) -> bool:
    """Whether the low-resolution image of a slice rises above its noise."""
    kspace, mask = acquisition.kspace, acquisition.mask
    y, x = kspace.shape[2:]
    window = hann_window(
        kspace.shape[2:], (min(y, MAX_CALIBRATION), min(x, MAX_CALIBRATION)), kspace.device
    )
    image = kspace_to_image(kspace * window).abs().square().sum(1).sqrt()
    return float(torch.quantile(image, 0.99)) > FAINTEST * float(noise_level(kspace, mask)[0])


def slices_with_signal(scan: Path, order: np.random.Generator | None = None) -> Iterator[ScanSlice]:
    """The slices of a file that have signal, each read when the iterator reaches it.

    Raises
    ------
    BadInputError
        If the file cannot be read, or no slice has signal.
    """
    with quiet():
        slices = by_slice(scan)
    indices = np.arange(slices.number) if order is None else order.permutation(slices.number)
    empty = True
    for index in indices.tolist():
        with quiet():
            acquisition = slices.read(index)
        if acquisition is not None and has_signal(acquisition):
            empty = False
            yield ScanSlice(scan, index, acquisition)
    if empty:
        raise BadInputError(f"{scan}: none of {slices.number} slices has signal")


def read_slice(scan: Path, number: int) -> ScanSlice:
    """One slice of a file.

    Raises
    ------
    BadInputError
        If it cannot be read, or holds no sample.
    """
    with quiet():
        found = by_slice(scan).read(number)
    if found is None:
        raise BadInputError(f"{scan}: slice {number} holds no sample any more")
    return ScanSlice(scan, number, found)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of readers, which `equipoise info` gives, for every sample anew."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        yield


@dataclass
class ScanDataset(Dataset):
    """Samples of the slices of scans; every file is equally likely, and so are its slices.

    A file is opened when a sample needs it. A file that cannot be used is skipped from then on, and
    another one is drawn.

    Attributes
    ----------
    scans
        The files.
    samples
        How a slice becomes a sample.
    skipped
        The files that were skipped, and why.
    """

    scans: list[Path]
    samples: ScanSamples
    skipped: dict[Path, str] = field(default_factory=dict)

    def draw(self, generators: Generators, crop: int | None) -> Measured:
        """A batch of whole slices: a crop would not be what was measured.

        Raises
        ------
        BadInputError
            If no file can be used, or the slices cannot be stacked.
        """
        found = [self._draw(rng) for rng in generators]
        return found[0] if len(found) == 1 else batch_of(found)

    def _draw(self, rng: np.random.Generator) -> Scan | SplitScan:
        while len(self.skipped) < len(self.scans):
            scan = self.scans[int(rng.integers(len(self.scans)))]
            # Drawn before the file is opened, so that a resumed run, which does not yet know the
            # files to skip, draws the same samples.
            own = np.random.default_rng(int(rng.integers(2**63)))
            found = self.try_sample(scan, own)
            if found is not None:
                return found
        raise none_usable(self.skipped)

    def try_sample(self, scan: Path, rng: np.random.Generator) -> Scan | SplitScan | None:
        """A sample of a file, or None if it cannot be used; it is skipped from then on."""
        if scan in self.skipped:
            return None
        try:
            return self.samples.sample(next(slices_with_signal(scan, rng)), rng)
        except DAMAGED as error:
            self._skip(scan, error)
        return None

    def _skip(self, scan: Path, error: BaseException) -> None:
        self.skipped[scan] = str(error) or type(error).__name__
        log.warning(
            "skipped %d of %d scans: %s", len(self.skipped), len(self.scans), self.skipped[scan]
        )


def none_usable(skipped: dict[Path, str]) -> BadInputError:
    """The error of scans of which none can be used."""
    first = next(iter(skipped.values()), "there is none")
    return BadInputError(f"none of {len(skipped)} scans can be trained on; the first: {first}")


def batch_of(samples: list[Scan | SplitScan]) -> Measured:
    """Samples of one kind and one matrix as one batch.

    Raises
    ------
    BadInputError
        If they differ.
    """
    matrices = {tuple(s.data.shape[2:]) for s in samples}
    kinds = {type(s) for s in samples}
    if len(matrices) > 1 or len(kinds) > 1:
        several = sorted(matrices) if len(matrices) > 1 else "fully sampled and undersampled ones"
        raise BadInputError(
            f"the scans differ ({several}), so a batch cannot be stacked: train with batch: 1"
        )
    if isinstance(samples[0], SplitScan):
        return stacked_splits(cast("list[SplitScan]", samples))
    return stacked(cast("list[Scan]", samples))


def training_scans(paths: list[Path], held_out: set[str]) -> list[Path]:
    """The scans of files and folders without those that are held out.

    Raises
    ------
    BadInputError
        If a path does not exist, or no scan is left.
    """
    found = []
    for path in paths:
        if not path.exists() and not path.with_name(path.name + ".hdr").exists():
            raise BadInputError(f"data.scans names {path}, which does not exist")
        found += scan_files(path)
    kept = [scan for scan in found if not held_out & names_of(scan)]
    if not kept:
        raise BadInputError(
            f"data.scans has no scan: {', '.join(map(str, paths))} hold {len(found)}, and "
            f"data.held_out leaves none"
        )
    return kept


def names_of(scan: Path) -> set[str]:
    """The names under which a scan can be held out: of its file or folder."""
    return {str(scan), scan.name, scan.name.split(".")[0], scan.parent.name}
