"""Statements (8), (16) and (17): noise, attacks, and what a certificate says of them."""

import pytest
import torch

from equipoise.certificate.attack import worst_case
from equipoise.certificate.linear_response import LinearResponse
from equipoise.certificate.noise import agreement, noise_map
from equipoise.certificate.noise_response import batch_of
from equipoise.certificate.statements import Constants, statements
from equipoise.equilibrium.bounds import perturbation_bound
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.least_squares import tikhonov
from equipoise.physics.problem import Problem
from problems import (
    DOUBLE,
    TIGHT,
    dense_normal,
    model_of,
    random_complex,
    sense_problem,
    solve,
)


def test_16_the_linear_response_is_the_derivative_and_its_transpose():
    operator, data = sense_problem(batch=1)
    model = model_of(0.8)
    solution = solve(model, operator, data, options=TIGHT)
    response = LinearResponse(model, operator, solution, rtol=1e-9)
    noise = random_complex(data.shape, 4) * operator.mask[:, None]
    h = 1e-6
    plus, minus = (solve(model, operator, data + s * noise, options=TIGHT).value for s in (h, -h))
    difference = (plus - minus) / (2 * h)
    assert float((response(noise) - difference).abs().max()) < 1e-6
    image = random_complex(solution.value.shape, 8)
    left = float((image.conj() * response(noise)).real.sum())
    right = float((response.transposed(image).conj() * noise).real.sum())
    assert left == pytest.approx(right, rel=1e-7)


def coils_of(operator):
    """The mask of the measurements, in the shape of the data."""
    return operator.mask[:, None].expand(-1, operator.csm.shape[1], -1, -1)


def test_16_the_noise_map_of_sense_is_the_analytic_one():
    operator, _ = sense_problem(batch=1)
    shape, lam, sigma = (10, 8), 4.0, 0.3
    normal = dense_normal(operator, shape)
    inverse = torch.linalg.inv(torch.eye(len(normal), dtype=DOUBLE) + lam * normal)
    covariance = sigma**2 * lam**2 * inverse @ normal @ inverse
    exact = covariance.diagonal().real.sqrt().reshape(shape)

    def respond(noise):
        weights = torch.full((len(noise),), lam, dtype=torch.float64)
        return tikhonov(operator, noise.to(DOUBLE), weights, rtol=1e-10)

    found = noise_map(respond, coils_of(operator), sigma, probes=2000, batch=100)
    deviation = (found.std - exact) / found.error
    assert float(deviation.abs().mean()) == pytest.approx((2 / torch.pi) ** 0.5, rel=0.3)
    assert agreement(found.std, exact, exact > 0).ratio == pytest.approx(1, abs=0.01)
    with pytest.raises(BadInputError, match="at least 2"):
        noise_map(respond, coils_of(operator), sigma, probes=1)


def test_16_the_noise_map_of_an_equilibrium_agrees_with_pseudo_replicas():
    operator, data = sense_problem(batch=1)
    model, sigma = model_of(0.8), 0.05
    solution = solve(model, operator, data, options=TIGHT)
    response = LinearResponse(model, operator, solution, batch=50)
    linear = noise_map(response, coils_of(operator), sigma, probes=400, batch=50)
    many, ones = SenseOp(operator.csm, operator.mask.expand(50, -1, -1)), torch.ones(50).double()

    def replica(noise):
        options = SolverOptions(rtol=1e-6, max_iter=200)
        with torch.no_grad():
            moved = model.solve(many, data + noise, scale=ones, options=options, cg_rtol=1e-3)
        return moved.value - solution.value

    replicas = noise_map(replica, coils_of(operator), sigma, probes=400, batch=50, seed=1)
    found = agreement(linear.std, replicas.std, linear.std > 0)
    assert found.ratio == pytest.approx(1, abs=0.05)
    assert found.correlation > 0.9


def test_16_shrinkage_makes_a_smooth_map_more_exact_and_says_by_how_much():
    y, x = torch.meshgrid(torch.linspace(0, 3, 48), torch.linspace(0, 3, 48), indexing="ij")
    std = 2 + torch.sin(2 * x) * torch.cos(y)
    std[:, :5] = 0
    measured = torch.ones((1, 48, 48))
    deviation, error = {}, {}
    for shrink in (True, False):
        found = noise_map(lambda n: std * n, measured, 0.1, probes=64, shrink=shrink)
        inside = std > 0
        assert not found.std[~inside].any()
        deviation[shrink] = (found.std / (0.1 * std) - 1)[inside]
        error[shrink] = (found.error / (0.1 * std))[inside]
        z = deviation[shrink] / error[shrink]
        assert float(z.square().mean().sqrt()) == pytest.approx(1, abs=0.1)
        assert abs(float(deviation[shrink].mean())) < 0.01
    assert float(deviation[True].std()) < 0.6 * float(deviation[False].std())


def test_16_the_map_of_a_volume_is_that_of_all_its_probes_plane_by_plane():
    """In the memory of one response, whatever the number of probes."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand((3, 24, 20), generator=generator) + 0.5
    responses = []

    def respond(noise):
        responses.append(weights * noise)
        return responses[-1]

    measured = torch.ones((1, 3, 24, 20))
    bare = noise_map(respond, measured, 0.1, probes=9, batch=1, shrink=False)
    power = torch.cat(responses).abs().double().square()
    assert torch.allclose(bare.std, power.mean(0).sqrt(), rtol=1e-12)
    assert torch.allclose(bare.error, (power.var(0) / 9).sqrt() / (2 * bare.std), rtol=1e-12)
    whole = noise_map(lambda n: weights * n, measured, 0.1, probes=9, batch=1)
    for z in range(3):
        of_plane = iter([r[:, z] for r in responses])
        plane = noise_map(lambda _, r=of_plane: next(r), measured[:, z], 1, probes=9, batch=1)
        assert torch.allclose(whole.std[z], plane.std, rtol=1e-12)
        assert torch.allclose(whole.error[z], plane.error, rtol=1e-12)


@pytest.mark.parametrize(("device", "expected"), [("cpu", [1, 1, 1]), ("meta", [4, 1, 1])])
def test_only_an_accelerator_solves_several_small_probes_at_once(device, expected):
    batches = []
    for n in (64, 1024, 2048):
        problem = object.__new__(Problem)
        data = torch.zeros(1, dtype=torch.complex64, device=device).expand(1, 8, n, n)
        object.__setattr__(problem, "data", data)
        batches.append(batch_of(problem, 16))
        assert batch_of(problem, 1) == 1
    assert batches == expected


def test_16_the_noise_map_of_unregularised_sense_is_the_g_factor():
    """Pruessmann et al. 1999: regular 2-fold undersampling, ``std = sigma sqrt(R) g``."""
    shape, sigma = (12, 10), 0.4
    csm = biot_savart_maps(shape, 6, 0).to(DOUBLE)
    mask = torch.zeros(1, *shape, dtype=torch.bool)
    mask[:, ::2] = True
    operator = SenseOp(csm, mask)
    g = torch.empty(shape, dtype=torch.float64)
    for y in range(shape[0]):
        for x in range(shape[1]):
            folded = csm[0][:, [y, (y + shape[0] // 2) % shape[0]], x]
            gram = folded.mH @ folded
            g[y, x] = (torch.linalg.inv(gram)[0, 0].real * gram[0, 0].real).sqrt()

    def respond(noise):
        weights = torch.full((len(noise),), 1e6, dtype=torch.float64)
        return tikhonov(operator, noise.to(DOUBLE), weights, rtol=1e-12, max_iter=500)

    found = noise_map(respond, mask.expand(6, *shape)[None], sigma, probes=2000, batch=200)
    deviation = (found.std - sigma * 2**0.5 * g) / found.error
    assert float(g.max()) > 1.05
    assert float(deviation.square().mean().sqrt()) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("lipschitz", [0.5, 0.8, 0.95])
def test_8_no_perturbation_exceeds_the_bound_on_random_problems(lipschitz):
    """12 problems here, hundreds in the benchmark; the largest share of the bound is not tiny."""
    shares, ones = [], torch.ones(6, dtype=torch.float64)
    for seed, lam in enumerate((1.0, 30.0)):
        operator, data = sense_problem(seed=seed, batch=6)
        model = model_of(lipschitz, lam, seed, gain=0.9)

        def reconstruct(b, model=model, operator=operator):
            options = SolverOptions(rtol=1e-7, max_iter=500, exact=False)
            return model.solve(operator, b, scale=ones, options=options, cg_rtol=1e-3).value

        attack = worst_case(reconstruct, data, operator.mask[:, None], 0.1, steps=6, starts=1)
        bound = perturbation_bound(ones * lam, 1 - lipschitz, ones)
        shares.append(float((attack.amplification / bound).max()))
    assert max(shares) <= 1
    assert max(shares) > 0.2


def test_the_statements_say_what_they_rest_on():
    def found(distance=1e-3, **changes):
        known = {"m": 0.1, "m_proved": True, "m_local": 0.2, "lam": 10.0, "contraction": 0.9}
        known |= {"contraction_proved": True}
        return statements(Constants(**{**known, **changes}), distance, 0.05)

    proved = found()
    evidence = {name: statement.evidence for name, statement in proved.items()}
    assert evidence.pop("noise_bound") == "measured"
    assert set(evidence.values()) == {"proved"}
    assert proved["perturbation_bound"].value == pytest.approx(5.0)
    assert proved["paper_bound"].value == pytest.approx(100.0)
    assert proved["noise_bound"].value == pytest.approx(0.25)
    assert proved["contraction"].value == pytest.approx(0.9)
    unproved = found(m_proved=False, contraction_proved=False)
    assert {s.evidence for s in unproved.values()} == {"measured"}
    assert found(contraction=None)["contraction"].evidence == "not available"
    assert "Lipschitz" in found(contraction=None)["contraction"].meaning
    for changes, word in (
        ({"m_local": 0.05}, "0.05"),
        ({"m_proved": False, "m_local": None}, "was not measured"),
        ({"m": None}, "no equilibrium"),
        ({"diverged": True}, "diverged"),
    ):
        nothing = found(**changes)
        assert {s.value for s in nothing.values()} == {None}
        assert {s.evidence for s in nothing.values()} == {"not available"}
        assert word in nothing["distance_bound"].meaning
