"""Scans of a site in two parts: what a model is trained on, and what it is judged by.

Several files are split by files. A single file is split by slices, and a single slice by samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from equipoise.outcome import BadInputError
from equipoise.physics.sampling.left_out import leave_out
from equipoise.recon.experiment import apply_mask, is_fully_sampled
from equipoise.training.sources.dataset import Dataset, Generators
from equipoise.training.sources.scans import (
    ScanDataset,
    ScanSamples,
    ScanSlice,
    batch_of,
    none_usable,
    read_slice,
    slices_with_signal,
)
from equipoise.training.sources.self_supervised import SplitScan, Splitting, split_problem
from equipoise.training.sources.source import Measured

SHARE = 0.2
"""Share of the files, slices or samples that is held out, at least one."""

LEAST_JUDGED, MOST_JUDGED = 4, 8
"""Fewest and most samples by which a model is judged; few slices are used with several masks."""

STREAM = 4
"""Separates the random numbers of the held-out part from those of training."""


class HeldOut(NamedTuple):
    """The two parts of scans.

    Attributes
    ----------
    dataset
        What is trained on.
    judged
        The samples by which the model is judged.
    split
        How the scans were split, in words.
    files
        The files of the held-out part.
    skipped
        The held-out files that cannot be used, and why.
    """

    dataset: Dataset
    judged: list[Measured]
    split: str
    files: list[Path]
    skipped: dict[Path, str]


def hold_out(scans: Sequence[Path], samples: ScanSamples, seed: int) -> HeldOut:
    """Hold out a fifth of the files; of the slices of a single file; of the samples of one slice.

    Raises
    ------
    BadInputError
        If no scan can be used, in either part.
    """
    if len(scans) > 1:
        return _by_file(scans, samples, seed)
    (scan,) = scans
    numbers = [found.number for found in slices_with_signal(scan)]
    if len(numbers) > 1:
        return _by_slice(scan, numbers, samples, seed)
    return _by_sample(read_slice(scan, numbers[0]), samples, seed)


def _by_file(scans: Sequence[Path], samples: ScanSamples, seed: int) -> HeldOut:
    rng = np.random.default_rng([seed, STREAM])
    count = max(round(SHARE * len(scans)), 1)
    chosen = [scans[i] for i in sorted(rng.choice(len(scans), count, replace=False))]
    dataset = ScanDataset([scan for scan in scans if scan not in chosen], samples)
    held = ScanDataset(chosen, samples)
    found = [held.try_sample(chosen[i % count], rng) for i in range(_number_judged(count))]
    judged = [sample for sample in found if sample is not None]
    if not judged:
        raise none_usable(held.skipped)
    words = f"{count} of {len(scans)} files are held out"
    return HeldOut(dataset, [*judged], words, chosen, held.skipped)


def _by_slice(scan: Path, numbers: list[int], samples: ScanSamples, seed: int) -> HeldOut:
    rng = np.random.default_rng([seed, STREAM])
    count = max(round(SHARE * len(numbers)), 1)
    first = (len(numbers) - count) // 2
    # Neighbours in the middle: single slices between trained ones would be almost known.
    held = numbers[first : first + count]
    kept = [number for number in numbers if number not in held]
    chosen = [held[i] for i in np.linspace(0, count - 1, min(count, MOST_JUDGED)).astype(int)]
    slices = [read_slice(scan, number) for number in chosen]
    n_judged = _number_judged(len(slices))
    judged = [samples.sample(slices[i % len(slices)], rng) for i in range(n_judged)]
    words = f"one file: {count} of {len(numbers)} slices with signal are held out"
    return HeldOut(SliceDataset(scan, kept, samples), [*judged], words, [scan], {})


def _number_judged(available: int) -> int:
    return min(max(available, LEAST_JUDGED), MOST_JUDGED)


def _by_sample(found: ScanSlice, samples: ScanSamples, seed: int) -> HeldOut:
    rng = np.random.default_rng([seed, STREAM])
    mask = found.acquisition.mask[0]
    parts = leave_out(mask, SHARE, int(rng.integers(2**31)))
    if parts is None:
        raise BadInputError(
            f"{found.scan} has one slice with signal and only {int(mask.sum())} samples, too few "
            "to hold some out: give more scans"
        )
    dataset = OneSlice(found, samples, parts.left_out[None])
    # An undersampled slice has one mask, so another sample would be the same.
    count = LEAST_JUDGED if is_fully_sampled(found.acquisition) else 1
    judged: list[Measured] = [dataset.judged(rng) for _ in range(count)]
    share = float(parts.left_out.sum() / mask.sum())
    words = f"one file with one slice: {share:.0%} of its samples are held out"
    return HeldOut(dataset, judged, words, [found.scan], {})


@dataclass(frozen=True)
class SliceDataset(Dataset):
    """Samples of some slices of one file, which are equally likely."""

    scan: Path
    numbers: list[int]
    samples: ScanSamples

    def draw(self, generators: Generators, crop: int | None) -> Measured:
        """A batch of whole slices."""
        found = [self.samples.sample(self._slice(rng), rng) for rng in generators]
        return found[0] if len(found) == 1 else batch_of(found)

    def _slice(self, rng: np.random.Generator) -> ScanSlice:
        number = self.numbers[int(rng.integers(len(self.numbers)))]
        return read_slice(self.scan, number)


@dataclass(frozen=True)
class OneSlice(Dataset):
    """Samples of one slice without those that are held out, (1, y, x).

    All are split: a loss on the image would see the samples that are held out. Of a fully sampled
    slice the solve sees those of a new mask, and the loss is on the others.
    """

    found: ScanSlice
    samples: ScanSamples
    held_out: Tensor

    def draw(self, generators: Generators, crop: int | None) -> Measured:
        """A batch of splits."""
        found = [self._split(rng) for rng in generators]
        return found[0] if len(found) == 1 else batch_of([*found])

    def _split(self, rng: np.random.Generator) -> SplitScan:
        acquisition = self.found.acquisition
        allowed = acquisition.mask & ~self.held_out
        if is_fully_sampled(acquisition):
            mask = self.samples.mask(acquisition, rng)
            return self._of(mask, mask & allowed, allowed & ~mask)
        splitting = self.samples.splitting or Splitting()
        held = splitting.split(allowed[0], rng)[None]
        return self._of(None, allowed & ~held, held)

    def judged(self, rng: np.random.Generator) -> SplitScan:
        """A split with a loss on the samples that are held out."""
        acquisition = self.found.acquisition
        mask = self.samples.mask(acquisition, rng) if is_fully_sampled(acquisition) else None
        seen = acquisition.mask if mask is None else mask & acquisition.mask
        return self._of(mask, seen & ~self.held_out, self.held_out)

    def _of(self, mask: Tensor | None, seen: Tensor, held: Tensor) -> SplitScan:
        full = self.found.acquisition
        solved = full if mask is None else apply_mask(full, mask)
        problem = self.samples.problem(self.found, solved)
        return split_problem(problem, held, seen, full.kspace / problem.unit)
