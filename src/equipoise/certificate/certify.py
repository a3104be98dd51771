"""How far the image of a slice can be trusted: bounds, measurements, and their evidence."""

import time
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from equipoise.certificate.attack import WorstCase, attackable, worst_case
from equipoise.certificate.measurements import NoiseResponse, local_constants, noise_response
from equipoise.certificate.noise import NoiseMap
from equipoise.certificate.noise_map import slice_noise_map
from equipoise.certificate.statements import Constants, Statement, statements
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.method import Method
from equipoise.methods.mol import MOL
from equipoise.methods.prediction import Choice, LamSetting, weights_for
from equipoise.methods.solving import in_range, solve_slice
from equipoise.methods.usual import slice_features
from equipoise.networks.network import lipschitz_upper_of
from equipoise.outcome import Outcome, Solution
from equipoise.physics.problem import Problem
from equipoise.threads import suits_the_problem


@dataclass(frozen=True)
class Attack:
    """The settings of an attack (17): ``||d|| = epsilon ||b||``, ascents from random starts."""

    epsilon: float
    steps: int
    starts: int
    seed: int


@dataclass(frozen=True)
class NoiseSummary:
    """The noise map (16) in four numbers.

    Attributes
    ----------
    probes
        Number of noise realisations.
    median, median_error
        Medians over the pixels of the standard deviation and of its Monte-Carlo error, in units of
        the image.
    accuracy
        Largest bound (11) on the relative error of a linear solve, in exact arithmetic; None if m
        was refuted.
    """

    probes: int
    median: float
    median_error: float
    accuracy: float | None


@dataclass(frozen=True, repr=False)
class Certificate:
    """Everything that is promised about the image of one slice, and that was measured at it.

    Attributes
    ----------
    index, model, outcome
        The slice, the method, and how the solve ended.
    lam, threshold, lam_source
        The data weight, the scale of the thresholds if the network has one, and whether they were
        ``given``, follow the noise by the learned ``rule``, or were chosen by ``prediction``.
    choice
        Why these weights were chosen, and the trials.
    noise_level, intensity_scale
        sigma, ``E|n|^2 = sigma^2``, and the scale by which the image was divided, in units of the
        scan.
    distance_bound, perturbation_bound, noise_bound, paper_bound, contraction
        The numbers of ``statements``, None if nothing is promised. ``perturbation_bound`` and
        ``paper_bound`` bound ``||dx*|| / ||db||`` of the exact equilibrium at this lam, this scale
        and these maps; the first is the sharp one. Two delivered images may differ by more, by the
        ``slack`` of the statement.
    rounding
        The part of ``distance_bound`` that accounts for rounding in all computations; None if it is
        not bounded.
    operator_norm
        The bound on ``||A||`` that the statements use; None if nothing is known about it.
    m, m_evidence
        The monotonicity constant that the bounds use, and its evidence: ``proved``; ``measured``,
        not contradicted at this image; ``refuted``, contradicted at this image; or ``none``.
    m_local
        ``1 - lambda_max((J + J^T) / 2)`` at the first iterate, half-way, and at the image. It is
        measured, from above, by Lanczos iterations.
    lipschitz_lower
        The largest ``||J||`` that Lanczos iterations found at the same three images: measured.
    lipschitz_upper
        A Lipschitz constant of H from its weights, as they are now: proved.
    measured_amplification
        The largest ``||dx|| / ||db||`` that an attack found; None without an attack.
    random_amplification
        The same for random noise of the same norm.
    attack, noise
        Settings of the attack, and summary of the noise map.
    noise_response
        How far noise of the estimated level moves the image, measured with a few probes. It
        complements ``noise_bound``, which is None if the bound is above 100 % of the image.
    in_range, false_alarm_rate
        Whether the features are usual at the stated rate; None without a calibration, or with a
        lam or tolerance other than that of the calibration.
    features, deviations
        The features that are compared with the calibration, and their deviations in spreads.
    statements
        Value, formula, evidence and meaning of each bound.
    """

    index: int
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
    rounding: float | None
    operator_norm: float | None
    m: float | None
    m_evidence: Literal["proved", "measured", "refuted", "none"]
    m_local: list[float] | None
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
    statements: dict[str, Statement]

    def __repr__(self) -> str:
        """How the slice ended, and the two bounds with their evidence."""
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
    """The image with its certificate and, if requested, a noise map and an attack.

    Image and noise map are in units of the scan; problem and attack are divided by its ``unit``.
    ``history`` holds the relative residual and the distance bound by iteration. ``seconds`` is the
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
        """The number by which the data were divided."""
        return self.problem.unit


@suits_the_problem
def certify_slice(
    problem: Problem[Any],
    model: Method,
    *,
    index: int = 0,
    lam: LamSetting | None = None,
    options: SolverOptions | None = None,
    noise_probes: int | None = None,
    epsilon: float | None = None,
    attack_steps: int = 10,
    attack_starts: int = 2,
    seed: int = 0,
) -> CertifiedSlice:
    """Reconstruct a slice and certify how far the image can be trusted.

    Parameters
    ----------
    problem
        The slice.
    model
        Any method; one without an equilibrium gets a certificate that says so.
    index
        Number of the slice.
    lam, options
        Data weight and solver options, as for a reconstruction.
    noise_probes
        Number of probes of the noise map (16); no map if not given.
    epsilon
        ``||d|| / ||b||`` of a worst-case perturbation (17); no attack if not given.
    attack_steps, attack_starts
        Number of ascent steps and starts of the attack.
    seed
        Seed of the probes, the starts and the ascents.

    Raises
    ------
    BadInputError
        If a noise map is requested for a method without an equilibrium.

    Warns
    -----
    ConvergenceWarning
        If the slice did not converge.

    Examples
    --------
    >>> import numpy as np
    >>> import equipoise as eq
    >>> A = eq.SenseOp(np.full((4, 16, 16), 0.5), np.arange(16) % 2 == 0)
    >>> model = eq.MOL(eq.CNN(features=4, layers=2, gain=0.5), eq.FixedWeight(20.0), m=0.4)
    >>> problem = eq.Problem(A, A(np.ones((16, 16))), noise_level=0.01)
    >>> eq.certify_slice(problem, model).certificate.outcome
    'converged'
    """
    started = time.perf_counter()
    with torch.no_grad():
        choice = weights_for(problem, model, lam, options)
        solution = solve_slice(problem, model, choice, options)
    seconds = time.perf_counter() - started
    solution.warn_unless_converged(f"slice {index}")
    diverged = solution.outcome[0] is Outcome.DIVERGED
    m_local, lower, upper, response = None, None, None, None
    if isinstance(model, MOL):
        upper = lipschitz_upper_of(model.network)
        # Constants and derivatives at an image that is not finite mean nothing.
        if not diverged:
            m_local, lower = local_constants(problem, model, solution, options, seed)
            response = noise_response(problem, model, solution, options, seed)
    constants = _constants(
        problem, model, solution, options or model.options, (m_local, lower), upper
    )
    constants = replace(constants, predicted=choice.basis == "prediction")
    bounds = statements(
        constants, float(solution.distance_bound[0]), problem.noise_to(solution.value)
    )
    attack = None
    if epsilon is not None and not diverged:
        attack = worst_case(
            attackable(problem.operator, model, solution, options, noise_level=problem.noise_level),
            problem.data,
            problem.measured,
            epsilon,
            steps=attack_steps,
            starts=attack_starts,
            seed=seed,
            real=model.real and problem.real,
        )
    noise = summary = None
    if noise_probes is not None and not diverged:
        noise = slice_noise_map(
            problem, model, solution, probes=noise_probes, seed=seed, options=options
        )
        summary = _noise_summary(noise, solution, constants.evidence == "not available")
    assert solution.scale is not None
    found = slice_features(problem, solution)
    calibration = model.calibration
    certificate = Certificate(
        index=index,
        model=model.name,
        outcome=solution.outcome[0].value,
        lam=constants.lam,
        threshold=None if solution.threshold is None else float(solution.threshold[0]),
        lam_source=choice.basis,
        choice=choice,
        noise_level=float(problem.noise_level[0]) * problem.unit,
        intensity_scale=float(solution.scale[0]) * problem.unit,
        **{name: statement.value for name, statement in bounds.items()},
        rounding=None if solution.rounding is None else float(solution.rounding[0]),
        operator_norm=constants.norm,
        m=model.m,
        m_evidence=_m_evidence(constants),
        m_local=m_local,
        lipschitz_lower=lower,
        lipschitz_upper=upper,
        measured_amplification=None if attack is None else float(attack.amplification[0]),
        random_amplification=None if attack is None else float(attack.random_amplification[0]),
        attack=None
        if attack is None or epsilon is None
        else Attack(epsilon, attack_steps, attack_starts, seed),
        noise=summary,
        noise_response=response,
        in_range=in_range(model, problem, solution, choice, options),
        false_alarm_rate=None if calibration is None else calibration.false_alarm_rate,
        features={**found},
        deviations=None if calibration is None else {**calibration.deviation(found)},
        statements=bounds,
    )
    image, history = solution.value * problem.unit, solution.history_of(0)
    return CertifiedSlice(certificate, image, problem, history, seconds, noise, attack)


def _constants(
    problem: Problem[Any],
    model: Method,
    solution: Solution,
    options: SolverOptions,
    measured: tuple[list[float] | None, float | None],
    upper: float | None,
) -> Constants:
    """The hypotheses of the statements, from the network and from A as they are now."""
    m_local, lower = measured
    found = problem.operator.norm_bound()
    norm = None if found is None else float(found.value.max())
    lam, contraction, lipschitz_proved, m_proved = float(solution.lam[0]), None, False, False
    if isinstance(model, MOL):
        # The contraction needs more than m: I - H can be m-monotone although H is not (1 -
        # m)-Lipschitz.
        m_proved = model.m_evidence == "proved"
        limit = 1 - model.m_network
        lipschitz_proved = upper is not None and upper <= limit
        # A measured constant above the limit refutes the contraction, even if m stands.
        if lipschitz_proved or (lower is not None and lower <= limit):
            contraction = _contraction(model, options, lam, norm)
    return Constants(
        m=model.m,
        m_proved=m_proved,
        m_local=min(m_local) if m_local else None,
        lam=lam,
        contraction=contraction,
        contraction_proved=lipschitz_proved and found is not None and found.proved,
        diverged=solution.outcome[0] is Outcome.DIVERGED,
        frozen=getattr(model, "frozen", False),
        norm=norm,
        operator_proved=found is not None and found.proved,
        rounding_bounded=solution.rounding is not None,
        rtol=options.rtol if options.rule == "certified" else None,
    )


def _contraction(
    model: MOL, options: SolverOptions, lam: float, norm: float | None
) -> float | None:
    """The factor (6) of the step of the solve; None if it needs an unknown norm of A."""
    if options.step == "resolvent":
        return (1 - model.m_network) / (1 + model.shift)
    return None if norm is None else 1 - 2 * model.m / (2 + lam * norm**2 + 2 * model.shift)


def _m_evidence(constants: Constants) -> Literal["proved", "measured", "refuted", "none"]:
    if constants.m is None or (constants.m_local is None and not constants.m_proved):
        return "none"
    # Before the proof is looked at: a counterexample would mean that the proof or the code is
    # wrong.
    if constants.m_local is not None and constants.m_local < constants.m:
        return "refuted"
    return "proved" if constants.m_proved else "measured"


def _noise_summary(noise: NoiseMap, solution: Solution, refuted: bool) -> NoiseSummary:
    # Outside the coil maps the image and its noise are zero, which would pull the medians down.
    inside = solution.value[0] != 0
    return NoiseSummary(
        probes=noise.probes,
        median=float(noise.std[inside].median()),
        median_error=float(noise.error[inside].median()),
        accuracy=None if refuted else noise.accuracy,
    )
