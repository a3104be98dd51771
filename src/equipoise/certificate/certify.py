"""How far the image of a slice can be trusted: bounds, measurements, and their evidence."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from math import isfinite
from typing import Any, Literal

import torch

from equipoise.certificate.attack import Attackable, WorstCase, krylov_start, worst_case
from equipoise.certificate.effort import Effort, Progress, Stages, silent
from equipoise.certificate.linear_response import LAST_STEP, LinearResponse
from equipoise.certificate.local import LocalConstants, local_constants
from equipoise.certificate.noise import NoiseMap
from equipoise.certificate.noise_map import check_linear
from equipoise.certificate.noise_response import MeasuredNoise, measured_noise
from equipoise.certificate.record import Attack, Certificate, CertifiedSlice, NoiseSummary
from equipoise.certificate.statements import Constants, statements
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.method import Method
from equipoise.methods.mol import MOL
from equipoise.methods.prediction import LamSetting, weights_for
from equipoise.methods.regression import Features
from equipoise.methods.scan_features import slice_features
from equipoise.methods.solving import amplification_bound, compared, solve_slice
from equipoise.networks.network import lipschitz_upper_of
from equipoise.outcome import Outcome, Solution
from equipoise.physics.problem import Problem
from equipoise.threads import suits_the_problem
from equipoise.vectors import norm


@suits_the_problem
def certify_slice(
    problem: Problem[Any],
    model: Method,
    *,
    index: int = 0,
    lam: LamSetting | None = None,
    options: SolverOptions | None = None,
    noise_map: bool = False,
    noise_probes: int | None = None,
    epsilon: float | None = None,
    attack_steps: int | None = None,
    attack_starts: int = 1,
    seed: int = 0,
    effort: Effort | None = None,
    on_stage: Callable[[CertifiedSlice], None] = lambda found: None,
    tell: Progress = silent,
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
        As for a reconstruction.
    noise_map
        Whether a noise map (16) is made.
    noise_probes
        Probes of the noise map instead of those of the effort; it is made if they are given.
    epsilon
        ``||d|| / ||b||`` of a worst-case perturbation (17); none if not given.
    attack_steps
        Ascents of the attack instead of those of the effort.
    attack_starts
        Starts of the attack; the first one is the direction that the linearised image follows most
        where there is an equilibrium, and random where there is none.
    seed
        Of the probes, the starts and the ascents.
    effort
        How much is measured; :data:`~equipoise.certificate.effort.QUICK` for a first look.
    on_stage
        Called after each stage but the last one with what is complete.
    tell
        Called as the stages go on.

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
    if noise_map or noise_probes is not None:
        check_linear(model)
    run = _Run(problem, model, lam, options, seed, effort or Effort(), tell, index)
    run.solve()
    run.solution.warn_unless_converged(f"slice {index}")
    if run.found is Outcome.DIVERGED:
        return run.certified()
    if isinstance(model, MOL):
        on_stage(run.certified())
        run.measure_constants(model)
        on_stage(run.certified())
        run.measure_noise(model, noise_probes, noise_map)
    if epsilon is not None:
        on_stage(run.certified())
        run.attack_it(epsilon, attack_steps, attack_starts)
    return run.certified()


class _Run:
    """The stages of one certificate; each fills in what it measures."""

    def __init__(
        self,
        problem: Problem[Any],
        model: Method,
        lam: LamSetting | None,
        options: SolverOptions | None,
        seed: int,
        effort: Effort,
        tell: Progress,
        index: int,
    ):
        self.problem, self.model, self.lam, self.options = problem, model, lam, options
        self.seed, self.effort, self.tell, self.index = seed, effort, tell, index
        self.stages = Stages()
        self.local: LocalConstants | None = None
        self.noise: MeasuredNoise | None = None
        self.map: NoiseMap | None = None
        self.attack: WorstCase | None = None
        self.attacked: Attack | None = None
        self.until = replace(LAST_STEP, rtol=self.effort.last_step)
        self.upper = lipschitz_upper_of(model.network) if isinstance(model, MOL) else None

    @property
    def found(self) -> Outcome:
        """How the solve ended."""
        return self.solution.outcome[0]

    @cached_property
    def features(self) -> Features:
        """Those of the image; each stage writes them, and a linear solve is part of them."""
        return slice_features(self.problem, self.solution)

    def solve(self) -> None:
        """The image, as a reconstruction makes it."""
        self.tell("image", 0, 1)
        with torch.no_grad():
            self.choice = weights_for(self.problem, self.model, self.lam, self.options)
            self.solution = solve_slice(self.problem, self.model, self.choice, self.options)
        spent = int(self.solution.network_evaluations.sum()) + self.choice.evaluations
        self.stages.end("image", spent)

    def measure_constants(self, model: MOL) -> None:
        """m and the Lipschitz constant at the image."""
        self.local = local_constants(
            self.problem,
            model,
            self.solution,
            self.effort,
            options=self.options,
            seed=self.seed,
            tell=self.tell,
        )
        self.stages.end("constants", self.local.evaluations)

    def measure_noise(self, model: MOL, probes: int | None, mapped: bool) -> None:
        """The response to noise and, where it is asked for, its map."""
        mapped = mapped or probes is not None
        usual = self.effort.probes if mapped else self.effort.response_probes
        self.noise = measured_noise(
            self.problem,
            model,
            self.solution,
            probes=usual if probes is None else probes,
            seed=self.seed,
            options=self.options,
            until=self.until,
            tell=self.tell,
        )
        self.map = self.noise.map if mapped else None
        self.stages.end("noise", self.noise.evaluations)

    def attack_it(self, epsilon: float, steps: int | None, starts: int) -> None:
        """The worst perturbation that is found."""
        problem, model, solution = self.problem, self.model, self.solution
        steps = self.effort.steps if steps is None else steps
        real = model.real and problem.real
        begin, spent, krylov = None, 0, 0
        options = self.options or model.options
        if isinstance(model, MOL):
            response = LinearResponse(
                model, problem.operator, solution, options=self.options, until=self.until
            )
            krylov = self.effort.krylov
            begin = krylov_start(
                response,
                problem.data,
                problem.measured,
                steps=krylov,
                seed=self.seed,
                real=real,
                known=None if self.noise is None else self.noise.first,
                tell=self.tell,
            )
            spent = response.evaluations
            moved = begin.gain * epsilon * float(norm(problem.data) / norm(solution.value))
            options = replace(options, rtol=max(min(options.rtol, moved), self.effort.attacked))
        reconstruct = Attackable(
            problem.operator, model, solution, options, noise_level=problem.noise_level
        )
        if begin is not None:
            length = epsilon * float(norm(problem.data))
            reconstruct.start_from(solution.value + length * begin.response)
        self.attack = worst_case(
            reconstruct,
            problem.data,
            problem.measured,
            epsilon,
            steps=steps,
            starts=starts,
            seed=self.seed,
            real=real,
            clean=solution.value,
            begin=begin,
            tell=self.tell,
        )
        bounds = float(solution.distance_bound[0]) + float(reconstruct.bound[0])
        length = epsilon * float(norm(problem.data))
        error = bounds * float(norm(solution.value)) / length if isfinite(bounds) else None
        self.attacked = Attack(epsilon, krylov, steps, starts, self.seed, error)
        self.stages.end("attack", spent + reconstruct.evaluations)

    def certified(self) -> CertifiedSlice:
        """What is complete."""
        problem, solution = self.problem, self.solution
        image, history = solution.value * problem.unit, solution.history_of(0)
        seconds = self.stages.complete["image"].seconds
        return CertifiedSlice(
            self._certificate(), image, problem, history, seconds, self.map, self.attack
        )

    def _certificate(self) -> Certificate:
        problem, model, solution, local = self.problem, self.model, self.solution, self.local
        measured = (None, None) if local is None else (local.m_local, local.lipschitz_lower)
        options = self.options or model.options
        constants = _constants(problem, model, solution, options, measured, self.upper)
        constants = replace(constants, predicted=self.choice.basis == "prediction")
        bounds = statements(
            constants, float(solution.distance_bound[0]), problem.noise_to(solution.value)
        )
        assert solution.scale is not None
        features = self.features
        calibration, attack = model.calibration, self.attack
        refuted = constants.evidence == "not available"
        usual = compared(model, problem, solution, self.choice, self.options, features)
        return Certificate(
            index=self.index,
            axes=[*problem.operator.image_axes],
            model=model.name,
            outcome=solution.outcome[0].value,
            lam=constants.lam,
            threshold=None if solution.threshold is None else float(solution.threshold[0]),
            lam_source=self.choice.basis,
            choice=self.choice,
            noise_level=float(problem.noise_level[0]) * problem.unit,
            intensity_scale=float(solution.scale[0]) * problem.unit,
            **{name: statement.value for name, statement in bounds.items()},
            second_pass_bound=constants.first_held if constants.frozen else None,
            rounding=None if solution.rounding is None else float(solution.rounding[0]),
            operator_norm=constants.norm,
            m=model.m,
            m_evidence=_m_evidence(constants),
            m_local=measured[0],
            m_local_accuracy=None if local is None else local.accuracy,
            lipschitz_lower=measured[1],
            lipschitz_upper=self.upper,
            measured_amplification=None if attack is None else float(attack.amplification[0]),
            random_amplification=None if attack is None else float(attack.random_amplification[0]),
            attack=self.attacked,
            noise=None
            if self.map is None
            else _noise_summary(self.map, self.noise, solution, refuted),
            noise_response=None if self.noise is None else self.noise.response,
            in_range=usual.in_range,
            false_alarm_rate=None if calibration is None else calibration.false_alarm_rate,
            features={**features},
            deviations=None if calibration is None else {**calibration.deviation(features)},
            psnr_bound=usual.psnr_bound,
            statements=bounds,
            stages=dict(self.stages.complete),
        )


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
    bound = amplification_bound(model, solution)
    return Constants(
        m=model.m,
        m_proved=m_proved,
        m_local=min(m_local) if m_local else None,
        lam=lam,
        contraction=contraction,
        contraction_proved=lipschitz_proved and found is not None and found.proved,
        diverged=solution.outcome[0] is Outcome.DIVERGED,
        amplification=None if bound is None else bound.end_to_end,
        first_held=None if bound is None else bound.first_held,
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


def _noise_summary(
    noise: NoiseMap, measured: MeasuredNoise | None, solution: Solution, refuted: bool
) -> NoiseSummary:
    assert measured is not None
    inside = solution.value[0] != 0
    return NoiseSummary(
        probes=noise.probes,
        median=float(noise.std[inside].median()),
        median_error=float(noise.error[inside].median()),
        missing=measured.response.missing,
        accuracy=None if refuted else noise.accuracy,
    )
