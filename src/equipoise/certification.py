"""What the image of a slice can be trusted for: bounds, measurements, and what each rests on."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.equilibrium.linear_response import LinearResponse
from equipoise.equilibrium.method import Method
from equipoise.equilibrium.mol import MOL
from equipoise.methods.feed_forward import FeedForward
from equipoise.outcome import BadInputError, Outcome, Solution
from equipoise.physics.linop import norm, per_sample
from equipoise.reconstruction import SliceProblem, in_range, slice_features, solve_slice
from equipoise.robustness.certificate import Constants, Statement, statements
from equipoise.robustness.detection import Features
from equipoise.robustness.jacobian import (
    Jacobian,
    largest_singular_value,
    largest_symmetric_eigenvalue,
)
from equipoise.robustness.noise import NoiseMap, noise_map
from equipoise.robustness.spectral_norm import lipschitz_upper
from equipoise.robustness.worst_case import WorstCase, worst_case

LANCZOS_STEPS = 25
"""For ``m_local`` and ``||J||`` at the image, at the first iterate, and half-way between them."""

BACKWARD_RTOL = 0.05
"""Of the gradients that an attack ascends."""


@dataclass(frozen=True)
class Certificate:
    """All that is promised of, and was measured at, the image of one slice.

    Attributes
    ----------
    index, model, outcome, lam
        Which slice and method, how the solve ended, and the data weight.
    distance_bound, perturbation_bound, noise_bound, paper_bound, contraction
        The numbers of ``statements``, None where nothing is promised. ``perturbation_bound`` and
        ``paper_bound`` bound ``||dx|| / ||db||``; the first is the sharp one.
    m, m_evidence
        The monotonicity constant that the bounds use, ``proved``, ``measured`` or ``none``.
    m_local
        ``1 - lambda_max((J + J^T) / 2)`` at the first iterate, half-way, and at the image;
        measured, each at most a few per cent too high.
    lipschitz_lower
        Largest ``||J||`` that Lanczos iterations found at the same three images: measured.
    lipschitz_upper
        Product of the norms of the layers: proved.
    measured_amplification
        Largest ``||dx|| / ||db||`` that an attack found, None if none was asked for.
    random_amplification
        The same for random noise of the same norm.
    in_range
        Whether the features are usual at the stated false-alarm rate; None without calibration.
    features, deviations
        What was compared with the calibration, and how many spreads each is off.
    statements
        Value, formula, evidence and meaning of each bound.
    """

    index: int
    model: str
    outcome: str
    lam: float
    distance_bound: float | None
    perturbation_bound: float | None
    noise_bound: float | None
    paper_bound: float | None
    contraction: float | None
    m: float | None
    m_evidence: str
    m_local: list[float] | None
    lipschitz_lower: float | None
    lipschitz_upper: float | None
    measured_amplification: float | None
    random_amplification: float | None
    in_range: bool | None
    features: Features
    deviations: Features | None
    statements: dict[str, Statement]


@dataclass
class CertifiedSlice:
    """The image with its certificate and, where asked for, its noise map and an attack.

    The attack is in units of ``unit``, the largest k-space magnitude of the slice.
    """

    certificate: Certificate
    image: Tensor
    unit: float
    noise: NoiseMap | None
    attack: WorstCase | None


def certify_slice(
    problem: SliceProblem,
    model: Method,
    *,
    index: int = 0,
    lam: float | None = None,
    options: SolverOptions | None = None,
    noise_probes: int | None = None,
    epsilon: float | None = None,
    attack_steps: int = 10,
    attack_starts: int = 2,
    seed: int = 0,
) -> CertifiedSlice:
    """Reconstruct a slice and say what the image can be trusted for.

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
    noise_probes
        Probes of the noise map (16); none if not given.
    epsilon
        ``||d|| / ||b||`` of a worst-case perturbation (17); none if not given.
    attack_steps, attack_starts
        Ascent of the attack.
    seed
        Of the probes, the starts and the ascents.

    Raises
    ------
    BadInputError
        If a noise map is asked of a method without equilibrium.
    """
    with torch.no_grad():
        solution = solve_slice(problem, model, lam, options)
    equilibrium = isinstance(model, MOL) and solution.outcome[0] is not Outcome.DIVERGED
    m_local, lower, upper = None, None, None
    if isinstance(model, MOL):
        m_local, lower = _local_constants(problem, model, solution, seed)
        upper = lipschitz_upper(model.network.kernels())
    proved_m = None if model.m is None or upper is None else _shift(model) + 1 - upper
    proved = model.m is not None and proved_m is not None and proved_m >= model.m
    constants = Constants(
        m=model.m if equilibrium else None,
        m_proved=proved,
        m_local=min(m_local) if m_local else None,
        lam=float(solution.lam[0]),
        contracts=model.name != "mol-m",
    )
    bounds = statements(
        constants, float(solution.distance_bound[0]), problem.noise_to(solution.value)
    )
    attack = noise_response = None
    if epsilon is not None:
        attack, noise_response = _attack(
            problem, model, solution, options, epsilon, attack_steps, attack_starts, seed
        )
    noise = None
    if noise_probes is not None:
        noise = slice_noise_map(problem, model, solution, probes=noise_probes, seed=seed)
    found = slice_features(problem, solution)
    certificate = Certificate(
        index=index,
        model=model.name,
        outcome=solution.outcome[0].value,
        lam=constants.lam,
        **{name: statement.value for name, statement in bounds.items()},
        m=model.m,
        m_evidence="proved" if proved else "none" if model.m is None else "measured",
        m_local=m_local,
        lipschitz_lower=lower,
        lipschitz_upper=upper,
        measured_amplification=None if attack is None else float(attack.amplification[0]),
        random_amplification=noise_response,
        in_range=in_range(model, problem, solution),
        features=found,
        deviations=None if model.calibration is None else model.calibration.deviation(found),
        statements=bounds,
    )
    return CertifiedSlice(certificate, solution.value * problem.unit, problem.unit, noise, attack)


def slice_noise_map(
    problem: SliceProblem, model: Method, solution: Solution, *, probes: int, seed: int = 0
) -> NoiseMap:
    """The noise map of an equilibrium, in the units of the scan.

    Raises
    ------
    BadInputError
        If the method has no equilibrium.
    """
    if not isinstance(model, MOL):
        raise BadInputError(
            f"{model.name} has no equilibrium to linearise: a noise map needs a MOL model"
        )
    batch = 4
    response = LinearResponse(model, problem.operator, solution, batch=batch)
    sigma = float(problem.noise_level[0])
    found = noise_map(
        response,
        problem.kspace.shape[1],
        problem.operator.mask,
        sigma,
        probes=probes,
        batch=batch,
        seed=seed,
    )
    return NoiseMap(found.std * problem.unit, found.error * problem.unit, found.probes)


def attackable(
    problem: SliceProblem, model: Method, solution: Solution, options: SolverOptions | None = None
) -> Callable[[Tensor], Tensor]:
    """The image as a differentiable function of the data, at the lam and scale of a solution."""
    lam, scale = solution.lam.detach(), solution.scale
    assert scale is not None

    def reconstruct(data: Tensor) -> Tensor:
        if isinstance(model, MOL):
            return model.solve(
                problem.operator,
                data,
                lam=lam,
                scale=scale,
                options=options,
                backward_rtol=BACKWARD_RTOL,
            ).value
        assert isinstance(model, FeedForward)
        return model.solve(problem.operator, data, lam=lam).value

    return reconstruct


def _attack(
    problem: SliceProblem,
    model: Method,
    solution: Solution,
    options: SolverOptions | None,
    epsilon: float,
    steps: int,
    starts: int,
    seed: int,
) -> tuple[WorstCase, float]:
    reconstruct = attackable(problem, model, solution, options)
    measured = problem.operator.mask[:, None]
    found = worst_case(
        reconstruct, problem.kspace, measured, epsilon, steps=steps, starts=starts, seed=seed
    )
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(problem.kspace.shape, dtype=torch.complex64, generator=generator) * measured
    noise *= per_sample(epsilon * norm(problem.kspace) / norm(noise), noise).float()
    with torch.no_grad():
        moved = norm(reconstruct(problem.kspace + noise) - solution.value)
    return found, float((moved / norm(noise))[0])


def _local_constants(
    problem: SliceProblem, model: MOL, solution: Solution, seed: int
) -> tuple[list[float], float]:
    """``m_local`` on the way to the image, and the largest norm of J there."""
    assert solution.scale is not None
    operator = problem.operator
    units = per_sample(solution.scale, solution.value).float()
    image = solution.value / units
    first = model.first_iterate(operator, problem.kspace / units[:, None], solution.lam)
    network = model.network_on(operator.support())
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(image.shape, dtype=image.dtype, generator=generator)
    found, norms = [], []
    for share in (0.0, 0.5, 1.0):
        jacobian = Jacobian(network, torch.lerp(first.to(image.dtype), image, share))
        top = largest_symmetric_eigenvalue(jacobian, start, LANCZOS_STEPS).value
        found.append(1 + model.shift - float(top[0]))
        norms += [float(largest_singular_value(jacobian, start, LANCZOS_STEPS).value[0])]
        norms += [float(top[0])]
    return found, max(norms)


def _shift(model: Method) -> float:
    return model.shift if isinstance(model, MOL) else 0.0
