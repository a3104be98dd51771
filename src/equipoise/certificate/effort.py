"""How much a certificate measures, and what it cost in evaluations of the network."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """Numbers of steps and probes; each accuracy that follows is part of the certificate.

    Attributes
    ----------
    lanczos
        Lanczos steps for ``m_local`` and ``||J||`` at the image.
    warm
        The same at the first iterate and half-way, each from the direction that was
        found before; 0 leaves both images out.
    refine
        Lanczos steps on ``J^T J`` for ``||J||`` at the image, where J is not symmetric.
    probes
        Noise realisations of a noise map.
    response_probes
        Noise realisations of the response alone: over an image of n pixels ``||K n||`` varies by
        about ``n^(-1/2)``, so that few tell it to a per cent.
    krylov
        Lanczos steps on ``K^T K`` that an attack begins with.
    steps
        Ascents of the attack after that.
    last_step
        Relative length of the last step of a linear response. About as much of it is missing,
        which is measured and reported.
    attacked
        Certified accuracy of attacked images, relative to the image, or the movement itself if that
        is smaller than ``rtol`` and larger than this. The true distance is a few per cent of a
        bound, and what both bounds leave open is reported beside the amplification.
    """

    lanczos: int = 8
    warm: int = 4
    refine: int = 3
    probes: int = 16
    response_probes: int = 4
    krylov: int = 4
    steps: int = 2
    last_step: float = 0.02
    attacked: float = 1e-3


QUICK = Effort(
    lanczos=4,
    warm=0,
    refine=0,
    probes=2,
    response_probes=2,
    krylov=2,
    steps=0,
    last_step=0.05,
    attacked=3e-3,
)
"""For a first look, at about a fifth of the time."""


@dataclass(frozen=True)
class Stage:
    """What a stage of a certificate cost.

    Attributes
    ----------
    evaluations
        Evaluations of the network at one image: of H, and of products with its Jacobian and the
        transpose, each counted as one.
    seconds
        Wall time.
    """

    evaluations: int
    seconds: float


class Stages:
    """The stages that are complete, by name."""

    def __init__(self) -> None:
        self.complete: dict[str, Stage] = {}
        self._started = time.perf_counter()

    def end(self, name: str, evaluations: int) -> None:
        """The stage that began when the last one ended."""
        now = time.perf_counter()
        self.complete[name] = Stage(evaluations, now - self._started)
        self._started = now


Progress = Callable[[str, int, int], None]
"""Called with a stage, how many of its parts are done, and how many there are."""


def silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""
