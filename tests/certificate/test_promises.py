"""What a certificate may say (24): every hypothesis comes from the A and the weights at hand."""

from dataclasses import replace

import pytest
import torch

from equipoise.certificate.certify import certify_slice
from equipoise.certificate.effort import QUICK
from equipoise.certificate.statements import Constants, statements
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.formats.sample_head import head_slice
from equipoise.methods.data_weight import FixedWeight
from equipoise.methods.mol import MOL
from equipoise.methods.prediction import Choice
from equipoise.methods.solving import compared, noise_bound
from equipoise.methods.usual import Calibration
from equipoise.networks.cnn import CNN
from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.generic import FunctionOp
from equipoise.physics.problem import Problem
from equipoise.physics.sampling.masks import make_mask
from equipoise.physics.superres import BlurDownsampleOp
from equipoise.vectors import norm
from equipoise.zoo.model_file import load_model
from problems import DOUBLE, new_method, random_complex, sense_problem

SHRINKS = 0.9799


def shrinking(m=0.02, lam=20.0):
    """A MOL with ``H = 0.9799 x`` exactly: nothing but the skip."""
    network = CNN(4, 2, 3, gain=0.0, skip=SHRINKS)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    return MOL(network, FixedWeight(lam), m).eval()


def small_problem(shape=(24, 20), seed=0):
    operator = SenseOp(biot_savart_maps(shape, 4, seed), make_mask("uniform", shape, 2.0, 6, seed))
    data = random_complex((1, 4, *shape), seed).to(torch.complex64) * operator.mask[:, None]
    return Problem(operator, data, 0.1)


def small_model(**changes):
    network = {"features": 6, "layers": 3, "kernel_size": 3}
    settings = {"network": network, "lam": 5.0, "m": 0.2, "iterations": 1, "seed": 0} | changes
    return new_method("mol-sn", **settings).for_inference().eval()


# ---- delivered images ---------------------------------------------------------------------------


def test_8_is_about_equilibria_and_delivered_images_differ_by_the_slack_more():
    """A crop of the demo head, rtol set to a bound that the iteration passes."""
    model, shape = load_model("mol-sn-brain-4x"), (32, 32)
    image = head_slice()[0][None, 96:128, 96:128]
    operator = SenseOp(
        biot_savart_maps(shape, 4, 0), make_mask("variable-density-2d", shape, 4.0, 8, 0)
    )
    noise = 0.01 * random_complex((1, 4, *shape)) * operator.mask[:, None]
    data = operator.forward((image / image.abs().max()).to(DOUBLE)) + noise
    problem = Problem(operator, data, 0.01)
    with torch.no_grad():
        first = model.solve(operator, data, noise_level=0.01, options=SolverOptions(rtol=0.1))
        passed = float(first.history[2][1, 0])
    options = SolverOptions(rtol=passed * (1 + 2e-6))
    held = {"lam": first.lam, "scale": first.scale, "options": options}
    certificate = certify_slice(problem, model, options=options, effort=QUICK).certificate
    statement = certificate.statements["perturbation_bound"]
    assert statement.evidence == "proved"
    assert f"{statement.slack:.2e} ||x||" in statement.meaning
    assert "exact equilibrium" in statement.meaning
    with torch.no_grad():
        x = model.solve(operator, data, **held).value
        worst = 0.0
        for seed in range(4):
            d = random_complex(data.shape, seed) * operator.mask[:, None]
            d *= 1e-7 * norm(data) / norm(d)
            moved = norm(model.solve(operator, data + d, **held).value - x)
            worst = max(worst, float(moved / norm(d)))
            factor = statement.value / (1 - options.rtol)
            assert float(moved) <= factor * float(norm(d)) + statement.slack * float(norm(x))
    assert worst > 100 * statement.value


def test_the_slack_is_the_sum_of_both_distance_bounds():
    known = Constants(m=0.1, m_proved=True, m_local=0.2, lam=10.0, rtol=1e-2)
    found = statements(known, 5e-3, 0.05)
    assert found["perturbation_bound"].slack == pytest.approx(0.015 / 0.99)
    assert found["noise_bound"].slack == found["perturbation_bound"].slack
    assert found["paper_bound"].slack == found["perturbation_bound"].slack
    for name in ("perturbation_bound", "noise_bound", "paper_bound"):
        assert "1.52e-02" in found[name].meaning, name
    by_steps = statements(replace(known, rtol=None), 5e-3, 0.05)["perturbation_bound"]
    assert by_steps.slack is None
    assert "add the distance bounds" in by_steps.meaning


# ---- the norm of A ------------------------------------------------------------------------------


def dense_norm_of(operator, shape):
    n = shape[0] * shape[1]
    eye = torch.eye(n, dtype=DOUBLE).reshape(n, *shape)
    columns = [operator.forward(e[None]).flatten() for e in eye]
    return float(torch.linalg.matrix_norm(torch.stack(columns, 1), 2))


@pytest.mark.parametrize("factor", [1.0, 0.6])
def test_the_norm_of_sense_is_that_of_its_maps(factor):
    operator, _ = sense_problem(batch=1)
    operator = SenseOp(factor * operator.csm, torch.ones_like(operator.mask))
    found = operator.norm_bound()
    assert found.proved
    exact = dense_norm_of(operator, (10, 8))
    assert exact <= float(found.value) <= exact * (1 + 1e-9)


@pytest.mark.parametrize("kernel", ["gaussian", "bicubic"])
def test_the_norm_of_a_blur_is_that_of_its_matrices(kernel):
    operator = BlurDownsampleOp((15, 13), 2, kernel, "reflect")
    found = operator.norm_bound()
    exact = dense_norm_of(operator, (15, 13))
    assert found.proved
    assert exact <= float(found.value) <= exact * (1 + 1e-9)


def test_24_the_rounding_of_a_product_is_below_its_bound():
    csm = biot_savart_maps((37, 30), 5, 0)
    operator = SenseOp(csm, make_mask("uniform", (37, 30), 2.0, 6, 0))
    wide = SenseOp(csm.to(DOUBLE), operator.mask)
    x, found = random_complex((1, 37, 30)), operator.norm_bound()
    error = norm(operator.normal(x) - wide.adjoint(wide.forward(x)))  # by two ways of computing it
    assert 0 < float(error) <= 2 * found.rounding * float(found.value) ** 2 * float(norm(x))


def tripling(**claims):
    return FunctionOp(lambda x: 3 * x, lambda b: 3 * b, (1, 10, 8), **claims)


def test_nothing_that_needs_the_norm_is_promised_without_it():
    """A = 3 I: ``lam / m`` is 0.2, and a change of the data moves the image by 0.2139 times it."""
    model, data = shrinking(lam=0.004), random_complex((1, 10, 8), 1)
    truth = 0.004 * 3 / (0.004 * 9 + 1 - SHRINKS)
    gradient = SolverOptions(step="gradient")
    unknown = certify_slice(Problem(tripling(), data, 0.01), model, options=gradient).certificate
    assert unknown.m_evidence == "proved"
    assert unknown.paper_bound is None
    assert unknown.contraction is None
    assert "norm=" in unknown.statements["paper_bound"].meaning
    assert unknown.perturbation_bound == pytest.approx(0.5 * (0.004 / 0.02) ** 0.5)
    assert unknown.statements["perturbation_bound"].evidence == "measured"
    claimed = Problem(tripling(norm=3.0), data, 0.01)
    certificate = certify_slice(claimed, model, options=gradient, epsilon=0.1).certificate
    assert certificate.paper_bound == pytest.approx(0.6)
    assert certificate.statements["paper_bound"].evidence == "measured"
    assert truth == pytest.approx(certificate.measured_amplification, rel=1e-2)
    assert 0.2 < truth <= certificate.perturbation_bound
    assert certificate.contraction == pytest.approx(1 - 0.04 / (2 + 0.036))
    assert certificate.statements["contraction"].evidence == "measured"


def test_6_a_solve_by_gradient_steps_is_certified_with_their_contraction():
    problem, model = small_problem(), small_model()
    found = {
        step: certify_slice(problem, model, lam=5.0, options=SolverOptions(step=step)).certificate
        for step in ("resolvent", "gradient")
    }
    assert found["resolvent"].contraction == pytest.approx(0.8)
    a = found["gradient"].operator_norm
    assert found["gradient"].contraction == pytest.approx(1 - 0.4 / (2 + 5 * a**2))
    assert found["gradient"].statements["contraction"].evidence == "proved"


@pytest.mark.parametrize("norm", [2.0, -1.0, float("nan")])
def test_a_claimed_norm_that_is_contradicted_is_refused(norm):
    with pytest.raises(BadInputError, match="norm is"):
        tripling(norm=norm)


# ---- rounding -----------------------------------------------------------------------------------


def on_an_offset(offset=2.3):
    """``H = 0.9799 x`` carried on an offset through ReLU, in single precision."""
    network = CNN(4, 3, 3, gain=0.0)  # two channels carry the image, two stay zero
    with torch.no_grad():
        for kernel in network.kernels():
            kernel.zero_()
            kernel[[0, 1], [0, 1], 1, 1] = 1
        network.kernels()[-1].mul_(SHRINKS)
        network.convolutions[0].bias.fill_(offset)
        network.convolutions[-1].bias.fill_(-offset * SHRINKS)
    return network


def test_24_what_rounding_adds_is_in_the_bound():
    """A keeps 64 of 4096 pixels; elsewhere rounding alone moves the image away from zero."""
    kept = torch.zeros(1, 64, 64, dtype=torch.bool)
    kept[:, :8, :8] = True
    operator = FunctionOp(lambda x: kept * x, lambda b: kept * b, (1, 64, 64), norm=1.0)
    model = MOL(on_an_offset(), FixedWeight(20.0), 0.02).eval()
    data = kept * (1 + 0j) * torch.ones(1, 64, 64)
    # H = k x + c with the numbers of single precision: c is what is left of the offset.
    first, last = model.network.convolutions[0], model.network.convolutions[-1]
    k = float(last.weight.detach()[0, 0, 1, 1])
    c = (k * float(first.bias.detach()[0]) + float(last.bias.detach()[0])) * (1 + 1j)
    exact = torch.where(kept, (20.0 + c) / (20.0 + 1 - k), c / (1 - k))
    with torch.no_grad():
        for rtol in (1e-3, 1e-5):
            found = model.solve(operator, data, scale=1.0, options=SolverOptions(rtol=rtol))
            distance = norm(found.value - exact) / norm(found.value)
            assert found.converged
            assert 0 < float(found.rounding) < 1e-6
            assert float(distance) <= float(found.distance_bound) <= rtol


def test_24_the_last_evaluation_is_in_double_precision_and_counts():
    problem, model = small_problem(), small_model()
    seen = []
    model.network.register_forward_hook(lambda network, *_: seen.append(network.dtype))
    with torch.no_grad():
        found = model.solve(problem.operator, problem.data)
    assert seen[-1] == torch.float64
    assert seen.count(torch.float64) == 1
    assert len(seen) == int(found.network_evaluations) == int(found.iterations) + 2
    assert len(found.history_of(0)) == int(found.iterations) + 1
    seen.clear()
    with torch.no_grad():
        without = model.solve(problem.operator, problem.data, options=SolverOptions(exact=False))
    assert torch.float64 not in seen
    assert without.rounding is None


def test_24_a_bound_without_rounding_is_not_proved():
    known = Constants(m=0.1, m_proved=True, m_local=0.2, lam=10.0)
    assert statements(known, 1e-3, 0.05)["distance_bound"].evidence == "proved"
    unbounded = statements(replace(known, rounding_bounded=False), 1e-3, 0.05)["distance_bound"]
    assert unbounded.evidence == "measured"
    assert "rounding" in unbounded.meaning


def test_24_double_data_do_not_switch_the_rounding_of_a_single_network_off():
    problem, model = small_problem(), small_model()
    with torch.no_grad():
        found = model.solve(problem.operator, problem.data.to(DOUBLE))
        tight = model.solve(problem.operator, problem.data, options=SolverOptions(rtol=1e-6))
    assert float(found.rounding) > 0
    assert tight.converged
    assert float(tight.distance_bound) <= 1e-6


def test_the_step_rule_reports_a_bound_with_rounding_too():
    problem, model = small_problem(), small_model()
    options = SolverOptions(rule="step", rtol=1e-3)
    with torch.no_grad():
        found = model.solve(problem.operator, problem.data, options=options)
        best = model.solve(problem.operator, problem.data, options=SolverOptions(rtol=1e-6))
    assert found.converged
    assert float(norm(found.value - best.value) / norm(found.value)) <= float(found.distance_bound)
    assert found.rounding is not None


# ---- tiles, range, cards ------------------------------------------------------------------------


def test_a_certificate_in_tiles_evaluates_nothing_larger():
    problem, model = small_problem((40, 36)), small_model()
    sides = []
    model.network.register_forward_pre_hook(lambda _, given: sides.append(given[0].shape[-2:]))
    options = SolverOptions(tile=12)
    in_tiles = certify_slice(problem, model, options=options, noise_probes=4).certificate
    assert max(max(side) for side in sides) <= 12 + 2 * model.network.reach
    whole = certify_slice(problem, model, noise_probes=4).certificate
    assert in_tiles.m_local == pytest.approx(whole.m_local, rel=1e-3)
    assert in_tiles.noise.median == pytest.approx(whole.noise.median, rel=1e-2)


def test_in_range_follows_one_rule():
    problem, model = small_problem(), small_model()
    assert certify_slice(problem, model).certificate.in_range is None
    usual = {"misfit": 0.0, "pull": 0.0, "evaluations": 2.0, "noise": -2.0}
    model.calibration = Calibration(usual, dict.fromkeys(usual, 1.0), 50.0, 0.05, 40)
    with torch.no_grad():
        solution = model.solve(problem.operator, problem.data, noise_level=0.1)
    known = [None, model.options, SolverOptions(tile=12), SolverOptions(recompute=True)]
    for options in known:
        assert compared(model, problem, solution, None, options).in_range is True
    given = Choice({"lam": 5.0}, "given", "a test", setting="given")
    assert compared(model, problem, solution, given, None) == (None, None)
    # A calibration at weights by prediction says nothing about those of the rule, nor about these.
    predicted = replace(given, setting="auto", basis="prediction")
    assert compared(model, problem, solution, predicted, None) == (None, None)
    model.calibration = replace(model.calibration, lam="auto")
    for choice in (None, replace(given, basis="rule", setting="rule"), given):
        assert compared(model, problem, solution, choice, None) == (None, None)
    assert compared(model, problem, solution, predicted, None).in_range is True
    model.calibration = replace(model.calibration, lam="rule")
    other = SolverOptions(rtol=1e-2)
    assert compared(model, problem, solution, None, other) == (None, None)
    tiled = certify_slice(problem, model, options=SolverOptions(tile=12)).certificate
    assert tiled.in_range is True


@pytest.mark.parametrize("allowed", [True, False])
def test_certified_evaluations_run_without_tf32(allowed):
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    problem, model = small_problem(), small_model()
    seen = []
    model.network.register_forward_hook(lambda *_: seen.append([f.allow_tf32 for f in flags]))
    products = model.network.convolutions[0]
    products.register_full_backward_hook(lambda *_: seen.append([f.allow_tf32 for f in flags]))
    try:
        for flag in flags:
            flag.allow_tf32 = allowed
        value = model.solve(problem.operator, problem.data).value
        forward = len(seen)
        value.abs().square().sum().backward()
        after = [flag.allow_tf32 for flag in flags]
    finally:
        for flag, value in zip(flags, before):
            flag.allow_tf32 = value
    assert 0 < forward < len(seen)
    assert not any(any(pair) for pair in seen)
    assert after == [allowed, allowed]


# ---- vacuous ------------------------------------------------------------------------------------


def test_a_bound_above_the_image_is_vacuous_and_no_promise():
    known = Constants(m=0.1, m_proved=True, m_local=0.2, lam=10.0)
    found = statements(known, 1e-3, 0.426)["noise_bound"]
    assert (found.value, found.evidence) == (None, "vacuous")
    assert "213 %" in found.meaning.replace("%", " %")
    far = statements(known, 1.5, 0.05)["distance_bound"]
    assert (far.value, far.evidence) == (None, "vacuous")
    assert noise_bound(5.0, 0.426) is None
    assert noise_bound(5.0, 0.1) == pytest.approx(0.5)


def test_beside_the_bound_stands_the_measured_response_to_the_noise():
    problem, model = small_problem(), small_model()
    problem = replace_noise(problem, 0.05)
    certificate = certify_slice(problem, model).certificate
    response = certificate.noise_response
    with torch.no_grad():
        solution = model.solve(problem.operator, problem.data, noise_level=0.05)
        held = {"lam": solution.lam, "scale": solution.scale}
        moved = []
        for seed in range(8):
            n = 0.05 * random_complex(problem.data.shape, seed) * problem.operator.mask[:, None]
            again = model.solve(problem.operator, problem.data + n.to(torch.complex64), **held)
            moved.append(float(norm(again.value - solution.value) / norm(solution.value)))
    assert response.probes == 4
    assert response.mean == pytest.approx(sum(moved) / len(moved), rel=0.15)
    assert 0 < response.error < 0.1 * response.mean
    if certificate.noise_bound is not None:
        assert response.mean <= certificate.noise_bound


def replace_noise(problem, level):
    return Problem(problem.operator, problem.data, level)
