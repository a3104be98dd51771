"""Where the samples of a training run come from: images, scans, or a mixture of both."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
from torch import Tensor

from equipoise.training.sources.source import Measured, Source

Generators = Sequence[np.random.Generator]


class Dataset(ABC):
    """A distribution of batches; all random numbers come from the given generators.

    Attributes
    ----------
    skipped
        The files that could not be used so far, and why.
    """

    skipped: Mapping[Path, str] = MappingProxyType({})

    @abstractmethod
    def draw(self, generators: Generators, crop: int | None) -> Measured:
        """A batch with one sample for each generator."""


@dataclass(frozen=True)
class ImageDataset(Dataset):
    """Samples that a source makes of images (y, x), which are equally likely."""

    source: Source
    images: list[Tensor]
    skipped: Mapping[Path, str] = field(default_factory=dict)

    def draw(self, generators: Generators, crop: int | None) -> Measured:
        """A batch of crops of images."""
        samples = []
        for rng in generators:
            image = self.images[int(rng.integers(len(self.images)))]
            samples.append(self.source.sample(image, rng, crop))
        return self.source.batch(samples)


@dataclass(frozen=True)
class Mixture(Dataset):
    """Several datasets; a batch comes from one of them, with a chance proportional to its weight.

    Attributes
    ----------
    datasets
        At least one.
    weights
        Positive, one for each.
    """

    datasets: tuple[Dataset, ...]
    weights: tuple[float, ...]

    @property
    def skipped(self) -> dict[Path, str]:  # type: ignore[override]
        """The files of all of them that could not be used."""
        return {path: why for one in self.datasets for path, why in one.skipped.items()}

    def draw(self, generators: Generators, crop: int | None) -> Measured:
        """A batch from one of the datasets, because a batch has one kind of sample."""
        return self.choose(generators[0]).draw(generators, crop)

    def choose(self, rng: np.random.Generator) -> Dataset:
        """One of the datasets."""
        chances = np.array(self.weights) / np.sum(self.weights)
        return self.datasets[int(rng.choice(len(chances), p=chances))]
