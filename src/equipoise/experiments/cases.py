"""The acquisitions of an experiment: from scans, from images, or from the package's sample head."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equipoise.formats import as_slices, read
from equipoise.formats.acquisition import Acquisition
from equipoise.formats.encoding import CartesianEncoding
from equipoise.formats.sample_head import head_slice
from equipoise.outcome import BadInputError, InputWarning
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.coils.espirit import estimate_csm, normalize_csm
from equipoise.physics.fourier import kspace_to_image
from equipoise.physics.noise_level import complex_noise, noise_level
from equipoise.physics.sampling.masks import make_mask
from equipoise.recon.experiment import CALIBRATION, undersample
from equipoise.training.sources.images import LabelledImage, load_labelled

N_COILS, IMAGE_STACK_AXES = 8, 3
MASK = "variable-density-2d"
NOISE = (0.005, 0.08)
"""Range of the simulated noise relative to the 99th percentile of an image, drawn log-uniformly."""


@dataclass
class Case:
    """One slice with one mask: A, b, the target, and the noise level that a method may use.

    ``subject`` says whose slice it is, because slices of one subject are not independent.
    """

    name: str
    subject: str
    seed: int
    operator: SenseOp
    kspace: Tensor
    target: Tensor
    noise_level: Tensor

    def with_kspace(self, kspace: Tensor) -> "Case":
        """The same acquisition with other data, whose noise level is estimated again."""
        level = noise_level(kspace, self.operator.mask)
        return replace(self, kspace=kspace, noise_level=level)


def cases(
    data: list[Path],
    acceleration: float,
    seeds: int,
    noise: tuple[float, float] = NOISE,
    mask: str = MASK,
) -> Iterator[Case]:
    """Every slice of every file with every mask seed.

    A fully sampled scan is undersampled retrospectively, and its target is the image combined from
    all samples. A slice of a file of images becomes an 8-coil scan with Biot-Savart maps and noise,
    and its target is the image. Without files, the head that comes with the plotting library is
    used. Coil maps and noise level are always estimated from the undersampled data.

    Raises
    ------
    BadInputError
        If a file is neither a fully sampled scan nor a stack of images, or a folder is empty.
    """
    if not data:
        for seed in range(seeds):
            found = LabelledImage(head_slice()[0], "head")
            yield _simulated("head", found, 0, seed, acceleration, noise, mask)
    for path in expanded(data):
        scan = as_scan(path)
        # Read once for all seeds.
        images = load_labelled([path]) if scan is None else []
        for seed in range(seeds):
            if scan is not None:
                yield from _undersampled(scan, path, seed, acceleration, mask)
            for index, image in enumerate(images):
                name = f"{path.stem}:{index}"
                yield _simulated(name, image, index, seed, acceleration, noise, mask)


def number_of_cases(data: list[Path], seeds: int) -> int:
    """How many :func:`cases` there are: each file is read, and nothing is simulated."""
    if not data:
        return seeds
    found = ((as_scan(path), path) for path in expanded(data))
    slices = (len(load_labelled([p])) if scan is None else len(scan.kspace) for scan, p in found)
    return seeds * sum(slices)


def expanded(data: list[Path]) -> list[Path]:
    """The files, and those of the folders."""
    files: list[Path] = []
    for path in data:
        files += sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    if data and not files:
        raise BadInputError(f"{', '.join(map(str, data))}: found no file")
    return list(dict.fromkeys(files))


def usable_files(data: list[Path], check: Callable[[Path], object]) -> list[Path]:
    """The files of :func:`expanded` that ``check`` reads, before anything is computed.

    Raises
    ------
    BadInputError
        That of a file that was named, or if no file of the folders can be used.

    Warns
    -----
    InputWarning
        Of every file of a folder that cannot be used.
    """
    why = {path: _why_not(path, check, named=path in data) for path in expanded(data)}
    said = [text for text in why.values() if text is not None]
    for text in said:
        warnings.warn(f"left out: {text}", InputWarning, stacklevel=2)
    if len(said) == len(why):
        raise BadInputError(f"{', '.join(map(str, data))}: no file can be used: {said[0]}")
    return [path for path, text in why.items() if text is None]


def contents(
    data: list[Path], content: Callable[[Path], tuple[list[Tensor], bool]]
) -> Iterator[tuple[Path, int, Tensor, bool]]:
    """What all files of :func:`usable_files` hold: file, number in it, array, whether measured.

    ``content`` reads a file: its arrays, and whether they are measured k-space. A file is read
    again in its turn, because all of them may not fit into memory.
    """
    for path in usable_files(data, content):
        found, measured = content(path)
        for number, array in enumerate(found):
            yield path, number, array, measured


def _why_not(path: Path, check: Callable[[Path], object], *, named: bool) -> str | None:
    """Why a file of a folder cannot be used; None if it can. One that was named is an error."""
    try:
        check(path)
    except BadInputError as error:
        if named:
            raise
        return str(error)
    return None


def as_scan(path: Path) -> Acquisition | None:
    """The scan as a stack of slices, or None if the file may hold images, see :func:`raw_scan`."""
    try:
        found = raw_scan(path)
        return None if found is None else as_slices(found)
    # What cannot be cut into slices is tried as images too.
    except (BadInputError, ValueError):
        return None


def raw_scan(path: Path) -> Acquisition | None:
    """The scan, or None if the file may hold images, such as an npy stack with three axes."""
    try:
        # With three axes it may be k-space (coils, y, x) or images; experiments expect images.
        if path.suffix == ".npy" and np.load(path, mmap_mode="r").ndim == IMAGE_STACK_AXES:
            return None
        return read(path)
    # What is not a scan is tried as images next, whose reader reports what is wrong.
    except (BadInputError, OSError, ValueError):
        return None


def fully_sampled(scan: Acquisition) -> Tensor:
    """The k-space of a Cartesian scan of which every sample was measured.

    Raises
    ------
    BadInputError
        If it is a trajectory, or undersampled: then there is no truth to compare with.
    """
    encoding = scan.encoding
    if not isinstance(encoding, CartesianEncoding):
        raise BadInputError(f"{scan.source}: the k-space is not Cartesian: grid it first")
    if not bool(encoding.mask.all()):
        raise BadInputError(
            f"{scan.source}: it is {scan.acceleration:.2f}-fold undersampled, and a comparison "
            "needs a fully sampled scan, from which it draws masks itself"
        )
    return scan.samples


def _simulated(
    name: str,
    found: LabelledImage,
    index: int,
    seed: int,
    acceleration: float,
    noise: tuple[float, float],
    kind: str,
) -> Case:
    image = found.image
    rng = np.random.default_rng([index, seed])
    shape = (image.shape[0], image.shape[1])
    csm = biot_savart_maps(shape, N_COILS, int(rng.integers(2**31)))
    mask = make_mask(kind, shape, acceleration, CALIBRATION, seed)
    sigma = float(np.exp(rng.uniform(*np.log(noise)))) * float(image.abs().quantile(0.99))
    clean = SenseOp(csm, mask).forward(image[None])
    kspace = clean + mask[:, None] * complex_noise(csm.shape, rng) * sigma
    # Estimated, as for a scan: true maps would flatter every method.
    maps = estimate_csm(kspace, mask)
    # The estimated maps have another phase than the true ones; the target takes it over.
    target = (maps.conj() * csm).sum(1) * image
    operator, level = SenseOp(maps, mask), noise_level(kspace, mask)
    return Case(name, found.subject, seed, operator, kspace, target, level)


def _undersampled(
    scan: Acquisition, path: Path, seed: int, acceleration: float, kind: str
) -> Iterator[Case]:
    reduced = undersample(scan, acceleration, seed, kind)
    for index in range(len(scan.kspace)):
        yield scan_case(scan, reduced, path, index, seed)


def scan_case(scan: Acquisition, reduced: Acquisition, path: Path, index: int, seed: int) -> Case:
    """One slice of a fully sampled scan and of what a mask left of it."""
    unit = float(scan.kspace.abs().max())
    kspace = reduced.kspace[index : index + 1] / unit
    mask = reduced.mask[index % len(reduced.mask)][None]
    maps = (
        estimate_csm(kspace, mask)
        if scan.csm is None
        else normalize_csm(scan.csm[index % len(scan.csm)][None])
    )
    coil_images = kspace_to_image(scan.kspace[index : index + 1] / unit)
    target = (maps.conj() * coil_images).sum(1)
    level = noise_level(kspace, torch.as_tensor(mask))
    name = f"{path.stem}:{index}"
    return Case(name, str(path), seed, SenseOp(maps, mask), kspace, target, level)
