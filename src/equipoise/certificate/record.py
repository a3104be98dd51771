"""What a certificate holds: numbers with what they rest on, and what they cost."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from equipoise.certificate.attack import WorstCase
from equipoise.certificate.effort import Stage
from equipoise.certificate.noise import NoiseMap
from equipoise.certificate.noise_response import NoiseResponse
from equipoise.certificate.statements import Statement
from equipoise.methods.prediction import Choice
from equipoise.methods.usual import PsnrBound
from equipoise.physics.problem import Problem


@dataclass(frozen=True)
class Attack:
    """What was tried (17) with ``||d|| = epsilon ||b||``.

    Attributes
    ----------
    epsilon, seed
        Size of d, and of its random numbers.
    krylov
        Lanczos steps on the linearised image that the first start is from; 0 if it is random.
    steps, starts
        Ascents from each start.
    error
        How far the amplification may be off because images are not exact equilibria:
        ``(e + e') / ||d||``, e and e' their distance bounds; None where nothing bounds them.
    """

    epsilon: float
    krylov: int
    steps: int
    starts: int
    seed: int
    error: float | None


@dataclass(frozen=True)
class NoiseSummary:
    """The noise map (16) in four numbers.

    Attributes
    ----------
    probes
        Noise realisations.
    median, median_error
        Of the standard deviation over the pixels of the image, and of its Monte-Carlo error, in
        units of the image.
    missing
        Relative error of a response from its linear solve: estimated.
    accuracy
        Largest bound (11) of it, in exact arithmetic; None where m was refuted.
    """

    probes: int
    median: float
    median_error: float
    missing: float
    accuracy: float | None


@dataclass(frozen=True, repr=False)
class Certificate:
    """All that is promised of, and was measured at, the image of one slice.

    Attributes
    ----------
    index, model, outcome
        Which slice, series or volume, which method, and how the solve ended.
    axes
        The names of the axes of the image, in their order; empty where your own A names none.
    lam, threshold, lam_source
        The data weight, the scale of the thresholds if the network has one, and whether they were
        ``given``, follow the noise by the learned ``rule``, or were chosen by ``prediction``.
    choice
        Why these weights were chosen, and the trials.
    noise_level, intensity_scale
        sigma, ``E|n|^2 = sigma^2``, and the scale that the image was divided by, in units of the
        scan.
    distance_bound, perturbation_bound, noise_bound, paper_bound, contraction
        The numbers of ``statements``, None where nothing is promised. ``perturbation_bound`` and
        ``paper_bound`` bound ``||dx*|| / ||db||`` of the exact equilibrium at this lam, scale and
        these maps; the first is the sharp one. Two delivered images differ by more, by the
        ``slack`` of the statement.
    second_pass_bound
        Of a method of two passes: ``perturbation_bound`` if the first image were held fixed. It
        promises nothing of a change of the data, which moves both; None where there is one pass.
    rounding
        The part of ``distance_bound`` that stands for the rounding of all that was computed; None
        where it is not bounded.
    operator_norm
        Bound of ``||A||`` that the statements use; None where nothing is known of it.
    m, m_evidence
        The monotonicity constant that the bounds use; ``proved``, ``measured``: not contradicted
        at this image, ``refuted``: contradicted, or ``none``.
    m_local
        ``1 - lambda_max((J + J^T) / 2)`` at the first iterate, half-way, and at the image, or at
        the image alone: measured by Lanczos steps, which read it from above.
    m_local_accuracy
        How far from each an eigenvalue lies at most.
    lipschitz_lower
        Largest ``||J||`` that the same steps found: measured.
    lipschitz_upper
        Lipschitz constant of H from its weights, as they are now: proved.
    measured_amplification
        Largest ``||dx|| / ||db||`` that an attack found, None if none was asked for.
    random_amplification
        The same for random noise of the same norm.
    attack, noise
        Settings of the attack, and summary of the noise map.
    noise_response
        How far noise of the estimated level moves the image, from a few probes: measured. It is
        beside ``noise_bound``, which is None where the bound is above 100 % of the image.
    in_range, false_alarm_rate
        Whether the features are usual at the stated rate; None without calibration, or with
        another lam or tolerance than the calibration had.
    features, deviations
        What was compared with the calibration, and how many spreads each is off.
    psnr_bound
        The PSNR that a stated share of scans like those of the calibration reach: measured. None
        without a calibration of it, or where the scan is unlike them.
    statements
        Value, formula, evidence and meaning of each bound.
    stages
        What is complete (``image``, ``constants``, ``noise``, ``attack``), and what each cost.
    """

    index: int
    axes: list[str]
    model: str
    outcome: str
    lam: float
    threshold: float | None
    lam_source: Literal["prediction", "rule", "given"]
    choice: Choice
    noise_level: float
    intensity_scale: float
    distance_bound: float | None
    perturbation_bound: float | None
    noise_bound: float | None
    paper_bound: float | None
    contraction: float | None
    second_pass_bound: float | None
    rounding: float | None
    operator_norm: float | None
    m: float | None
    m_evidence: Literal["proved", "measured", "refuted", "none"]
    m_local: list[float] | None
    m_local_accuracy: list[float] | None
    lipschitz_lower: float | None
    lipschitz_upper: float | None
    measured_amplification: float | None
    random_amplification: float | None
    attack: Attack | None
    noise: NoiseSummary | None
    noise_response: NoiseResponse | None
    in_range: bool | None
    false_alarm_rate: float | None
    features: dict[str, float | None]
    deviations: dict[str, float | None] | None
    psnr_bound: PsnrBound | None
    statements: dict[str, Statement]
    stages: dict[str, Stage]

    @property
    def evaluations(self) -> int:
        """Evaluations of the network at one image, of all stages."""
        return sum(stage.evaluations for stage in self.stages.values())

    def __repr__(self) -> str:
        """How the slice ended, and the two bounds with what they rest on."""
        m = "no equilibrium" if self.m is None else f"m {self.m:.3g} ({self.m_evidence})"
        promised = [
            f"{name} {value:.3g}"
            for name in ("distance_bound", "perturbation_bound")
            if (value := self.statements[name].value) is not None
        ]
        return (
            f"Certificate of slice {self.index} ({self.model}): {self.outcome}, "
            f"lam {self.lam:.3g} ({self.lam_source})\n"
            f"  {m}: {', '.join(promised) or 'nothing is promised'}"
        )


@dataclass(repr=False)
class CertifiedSlice:
    """The image with its certificate and, where asked for, its noise map and an attack.

    Image and noise map are in units of the scan, problem and attack divided by its ``unit``.
    ``history`` holds the relative residual and the distance bound by iteration, ``seconds`` is the
    time of the reconstruction alone.
    """

    certificate: Certificate
    image: Tensor
    problem: Problem[Any]
    history: Tensor
    seconds: float
    noise: NoiseMap | None
    attack: WorstCase | None

    def __repr__(self) -> str:
        """The certificate."""
        return repr(self.certificate)

    @property
    def unit(self) -> float:
        """What the data were divided by."""
        return self.problem.unit
