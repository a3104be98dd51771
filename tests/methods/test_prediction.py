"""Weights chosen by prediction improve a wrong rule and keep a right one."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from conftest import small_head
from equipoise.certificate.attack import Attackable
from equipoise.certificate.certify import certify_slice
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods import prediction
from equipoise.methods.prediction import (
    BUDGET,
    MOST_TRIALS,
    checked_lam,
    choose_weights,
    weights_for,
)
from equipoise.methods.predictor import FullScan, Prediction, Predictor, smooth_phase
from equipoise.methods.solving import solve_slice
from equipoise.methods.variational import TV, TVConfig
from equipoise.metrics import psnr
from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.generic import FunctionOp
from equipoise.physics.problem import Problem
from equipoise.physics.sampling.left_out import (
    density_weights,
    leave_out,
    weights_of_full_scan,
)
from equipoise.physics.sampling.masks import make_mask
from equipoise.vectors import norm
from equipoise.zoo.model_file import load_model

NOISE = 0.03


def head_problem(kind="variable-density-2d", acceleration=3.0, noise=NOISE, n_coils=4):
    """A scan of the small head, and the head."""
    image = small_head((64, 60))
    csm = biot_savart_maps(tuple(image.shape[1:]), n_coils, seed=1)
    operator = SenseOp(csm, make_mask(kind, tuple(image.shape[1:]), acceleration, 8, seed=0))
    generator = torch.Generator().manual_seed(0)
    n = noise * torch.randn(csm.shape, dtype=torch.complex64, generator=generator)
    data = operator.forward(image) + operator.mask[:, None] * n
    return Problem(operator, data, noise), image


def quality(problem, model, image, weights):
    solution = model.solve(problem.operator, problem.data, noise_level=NOISE, **weights)
    return float(psnr(solution.value, image))


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def ridge(factor=1.0):
    """The packaged ridge with a rule for lam that is wrong by a factor."""
    model = load_model("mol-ridge-universal")
    model.data_weight.coefficients[0] += math.log(factor)
    return model


@pytest.fixture
def model():
    return ridge()


@pytest.mark.parametrize(
    ("wrong", "kind", "acceleration"),
    [
        (1 / 30, "variable-density-2d", 3.0),
        (30.0, "variable-density-2d", 3.0),
        (1 / 30, "variable-density-1d", 2.0),
    ],
)
def test_a_weight_that_is_far_off_is_corrected(wrong, kind, acceleration):
    problem, image = head_problem(kind, acceleration)
    usual = {k: float(v) for k, v in ridge().rule(problem.operator, noise_of(problem)).items()}
    choice = choose_weights(problem, ridge(wrong))
    assert choice.basis == "prediction"
    assert not choice.follows_rule
    reached = quality(problem, ridge(), image, choice.weights)
    assert reached > quality(problem, ridge(), image, usual) - 1
    assert reached > quality(problem, ridge(wrong), image, {}) + 2


@pytest.mark.parametrize("wrong", [1 / 30, 30.0])
def test_a_fixed_rule_that_is_far_off_is_corrected(wrong):
    problem, image = head_problem()
    rule = TV().config.rule
    tv = TV(TVConfig(rule={**rule.model_dump(), "value": rule.value * wrong}))
    choice = choose_weights(problem, tv)
    assert choice.basis == "prediction"
    assert choice.evaluations == 0
    first, best = (
        quality(problem, tv, image, w) for w in (choice.trials[0].weights, choice.weights)
    )
    assert best > first + 2
    assert weights_for(problem, tv, "auto") == choice


def test_a_rule_that_is_right_is_kept(model):
    problem, _ = head_problem()
    choice = choose_weights(problem, model)
    assert choice.basis == "prediction"
    assert choice.follows_rule
    assert choice.arguments == {}
    assert "kept the weights of the rule" in choice.reason


def test_the_choice_names_its_trials_and_what_they_cost(model):
    problem, _ = head_problem()
    choice = choose_weights(problem, model)
    assert 2 <= len(choice.trials) <= MOST_TRIALS
    assert choice.evaluations == sum(t.evaluations for t in choice.trials) > 0
    rule = {k: float(v) for k, v in model.rule(problem.operator, noise_of(problem)).items()}
    assert choice.trials[0].weights == pytest.approx(rule)
    assert 0.5 < min(t.error for t in choice.trials) < 3


def noise_of(problem):
    return problem.noise_level / problem.operator.intensity_scale(problem.data)


def test_the_same_seed_gives_the_same_choice(model):
    problem, _ = head_problem()
    assert choose_weights(problem, model, seed=3) == choose_weights(problem, model, seed=3)


def test_nothing_to_predict_falls_back_to_the_rule_and_says_so(model):
    problem, _ = head_problem()
    centre = torch.zeros_like(problem.operator.mask)
    centre[:, 29:35, 27:33] = True
    few = Problem(SenseOp(problem.operator.csm, centre), problem.data * centre, NOISE)
    choice = choose_weights(few, model)
    assert choice.basis == "rule"
    assert "too few" in choice.reason
    assert not choice.trials


def test_a_method_without_an_equilibrium_keeps_its_rule():
    problem, _ = head_problem()
    choice = choose_weights(problem, load_model("modl-brain-4x"))
    assert choice.basis == "rule"
    assert "modl" in choice.reason


@pytest.mark.parametrize("noise", [0.0, NOISE])
@pytest.mark.parametrize("case", ["one coil", "fully sampled"])
def test_one_coil_full_sampling_and_no_noise_work(model, case, noise):
    coils = 1 if case == "one coil" else 6
    acceleration = 3.0 if case == "one coil" else 1.0
    problem, image = head_problem(acceleration=acceleration, noise=noise, n_coils=coils)
    choice = choose_weights(problem, model)
    assert choice.basis == "prediction"
    assert all(math.isfinite(t.error) for t in choice.trials)
    assert quality(problem, model, image, choice.weights) > 20


def test_a_mask_without_calibration_with_given_maps_is_predicted(model):
    image = small_head((64, 60))
    csm = biot_savart_maps(tuple(image.shape[1:]), 6, seed=1)
    mask = torch.rand(1, 64, 60, generator=torch.Generator().manual_seed(0)) < 0.4
    mask[:, 32, 30] = False
    operator = SenseOp(csm, mask)
    choice = choose_weights(Problem(operator, operator.forward(image), 0.01), model)
    assert choice.basis == "prediction"


def test_data_without_samples_and_data_that_are_zero_follow_the_rule(model):
    problem, _ = head_problem()
    zero = replace(problem, data=0 * problem.data)
    assert "zero" in choose_weights(zero, model).reason
    own = FunctionOp(lambda x: x, lambda b: b, (1, 8, 8), norm=1.0)
    choice = choose_weights(Problem(own, torch.ones(1, 8, 8, dtype=torch.complex64), 0.1), model)
    assert choice.basis == "rule"
    assert "FunctionOp" in choice.reason


@pytest.mark.parametrize("wrong", [1 / 300, 30.0])
def test_trials_and_solve_cost_at_most_five_solves(wrong):
    problem, _ = head_problem()
    model = ridge(wrong)
    choice = choose_weights(problem, model)
    costs = [trial.evaluations for trial in choice.trials]
    assert len(costs) > 2
    assert sum(costs) <= BUDGET * costs[0]
    by_rule, last = (
        int(solve_slice(problem, model, chosen).network_evaluations[0]) for chosen in (None, choice)
    )
    assert choice.evaluations + last <= 5 * by_rule


def test_a_search_that_its_budget_ends_takes_the_best_so_far(monkeypatch):
    monkeypatch.setattr(prediction, "BUDGET", 2)
    problem, _ = head_problem()
    choice = choose_weights(problem, ridge(1 / 30))
    costs = [trial.evaluations for trial in choice.trials]
    assert len(costs) < 6
    assert sum(costs) <= 2 * costs[0]
    assert choice.weights == min(choice.trials, key=lambda trial: trial.error).weights
    assert not choice.follows_rule


def test_universal_models_choose_by_prediction_unless_asked_otherwise(model):
    assert load_model("mol-guided-sharp").usual_lam == model.usual_lam == "auto"
    assert load_model("mol-guided-universal").usual_lam == "auto"
    assert load_model("mol-ridge-cine").usual_lam == "auto"
    assert load_model("mol-guided-volume").usual_lam == "auto"
    problem, _ = head_problem()
    choices = [weights_for(problem, model, lam) for lam in (None, "rule", 4)]
    assert [choice.setting for choice in choices] == ["auto", "rule", "given"]
    assert choices[0].basis == "prediction"
    assert weights_for(problem, load_model("modl-brain-4x"), None).setting == "rule"


@pytest.mark.parametrize(("lam", "basis"), [("auto", "prediction"), ("rule", "rule"), (4, "given")])
def test_settings_of_lam_are_two_words_and_numbers(model, lam, basis):
    problem, _ = head_problem()
    choice = weights_for(problem, model, lam)
    assert choice.basis == basis
    assert choice.arguments == ({"lam": 4.0} if basis == "given" else {})
    assert choice.follows_rule == (basis != "given")


@pytest.mark.parametrize("lam", ["noise", 0.0, -1, math.inf, math.nan])
def test_other_settings_of_lam_are_refused(lam):
    with pytest.raises(BadInputError, match="auto, rule, or a number"):
        checked_lam(lam)


@pytest.mark.parametrize("lam", [1e-300, 1e-38, 9e-13, 1.1e12, 1e20, 1e300])
def test_lams_whose_image_is_lost_in_rounding_are_refused(lam):
    with pytest.raises(BadInputError, match="it must lie between 1e-12 and"):
        checked_lam(lam)
    assert checked_lam(1e-12) == 1e-12
    assert checked_lam(1e12) == 1e12


TWO_PASSES = ("mol-guided-universal", "mol-guided-sharp")


@pytest.mark.parametrize("name", TWO_PASSES)
def test_a_second_pass_is_tried_itself(name):
    problem, image = head_problem()
    model = load_model(name)
    for rule in (model.data_weight, model.threshold_rule):
        rule.coefficients[0] += math.log(10)
    choice = choose_weights(problem, model)
    by_rule = choice.trials[0].weights
    assert [t.weights["lam"] / t.weights["threshold"] for t in choice.trials[:3]] == pytest.approx(
        [by_rule["lam"] / by_rule["threshold"]] * 3
    )
    assert choice.weights["lam"] < by_rule["lam"] / 3
    chosen, ruled = (quality(problem, model, image, w) for w in (choice.weights, by_rule))
    assert chosen > ruled + 1
    first = choice.trials[0].evaluations
    assert choice.evaluations <= 5 * first


@pytest.mark.parametrize("name", TWO_PASSES)
def test_neighbouring_trials_of_a_second_pass_differ(name):
    problem, _ = head_problem()
    choice = choose_weights(problem, load_model(name))
    errors = [trial.error for trial in choice.trials]
    assert len({*errors}) == len(errors) >= 3


UNITS = torch.linspace(-1e-3, 1e-3, 8, dtype=torch.float64)
"""How the errors of eight units differ in a trial one step away."""


def predictions(errors, full_scans=None, unsure=1.0):
    """A prediction of a scan for each number of steps of lam."""

    def predict(factors, left):
        k = round(math.log2(factors[0]))
        full_scan = None
        if full_scans:
            unmeasured = UNITS * k * unsure
            full_scan = FullScan(full_scans[k] - float(unmeasured.sum()), unmeasured)
        return Prediction(errors[k] / 8 + UNITS * k, full_scan, 1, 1)

    return predict


def best_of(predict, steps=(1,), rule=None, follows_full_scan=True):
    axes = [prediction.Axis(steps, 2.0, follows_full_scan)]
    search = prediction._Search(predict, rule or {"lam": 1.0}, 100, 2.0, axes)
    return search.run(), search.trials


@pytest.mark.parametrize(
    ("full_scans", "found"),
    [
        (None, -2),
        ({0: 3.0, 1: 4.0, -1: 2.9, -2: 2.8}, -2),
        ({0: 3.0, 1: 4.0, -1: 2.9, -2: 2.95}, -1),
        ({0: 3.0, 1: 4.0, -1: 3.1, -2: 2.0}, 0),
    ],
)
def test_a_step_must_not_lead_away_from_a_full_scan(full_scans, found):
    errors = {0: 3.0, 1: 4.0, -1: 2.0, -2: 1.0, -3: 5.0}
    if full_scans:
        full_scans[-3] = 0.0
    best, trials = best_of(predictions(errors, full_scans))
    assert best == (found,)
    assert all(trial.full_scan is None for trial in trials) == (full_scans is None)


@pytest.mark.parametrize(("unsure", "found"), [(1.0, 1), (100.0, 0)])
def test_lam_alone_takes_one_step_to_a_full_scan_where_that_is_significant(unsure, found):
    errors = {0: 1.0, 1: 1.1, 2: 1.2, 3: 1.3, -1: 1.1}
    full_scans = {0: 3.0, 1: 2.9, 2: 2.8, 3: 2.9, -1: 2.0}
    predict = predictions(errors, full_scans, unsure)
    assert best_of(predict)[0] == (found,)
    assert best_of(predict, follows_full_scan=False)[0] == (0,)


def test_no_other_step_follows_a_full_scan_alone():
    errors, full_scans = {k: 1.0 + abs(k) for k in (-1, 0, 1)}, {-1: 1.0, 0: 3.0, 1: 2.0}
    rule = {"lam": 1.0, "threshold": 1.0}
    assert best_of(predictions(errors, full_scans), (1, 1), rule)[0] == (0, 0)


def test_the_error_of_a_full_scan_is_estimated_from_what_was_measured():
    """Errors that follow the density, of which the unmeasured ones are not known."""
    mask = make_mask("variable-density-2d", (96, 96), 4.0, 16, seed=0)
    parts = leave_out(mask[0], 0.1, 0)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 96)] * 2, indexing="ij")
    errors = (0.2 + torch.exp(-4 * (y**2 + x**2))).double()
    weights = weights_of_full_scan(mask, parts.left_out[None])[0]
    share = float(parts.left_out.double().mean())
    assert float(weights.sum()) == pytest.approx(1 - share)
    estimated = float((weights * errors).sum())
    true = float((errors * ~parts.left_out).mean())
    assert estimated == pytest.approx(true, rel=0.1)
    # The samples that were measured lie where the errors are large.
    assert float(errors[mask[0]].mean()) > 1.3 * true


@pytest.mark.parametrize(
    ("n_coils", "acceleration", "follows"), [(1, 4.0, True), (1, 1.5, False), (4, 4.0, False)]
)
def test_one_coil_that_measured_little_follows_the_full_scan(
    n_coils, acceleration, follows, monkeypatch
):
    problem, _ = head_problem(acceleration=acceleration, n_coils=n_coils)
    axes = []

    def run(search):
        axes.extend(search.axes)
        return search.origin

    monkeypatch.setattr(prediction._Search, "run", run)
    monkeypatch.setattr(prediction._Search, "units", 8)
    choose_weights(problem, load_model("mol-guided-universal"))
    assert [axis.follows_full_scan for axis in axes] == [False, follows]


def test_of_a_full_scan_nothing_is_unmeasured():
    measured = torch.ones(1, 16, 16, dtype=torch.bool)
    held = torch.zeros_like(measured)
    held[..., 3] = True
    weights = weights_of_full_scan(measured, held)
    assert torch.equal(weights, (~held).double() / 256)


class OfImages(TV):
    """A method whose image is the next of a list."""

    def __init__(self, images):
        super().__init__()
        self.images = iter(images)

    def rule(self, operator, noise):
        return {"lam": 1.0}

    def after_first(self, solution):
        return self

    def solve(self, operator, data, **given):
        one = torch.ones(1)
        return SimpleNamespace(value=next(self.images), network_evaluations=one, iterations=one)


def errors_of_images(problem, images, in_phase):
    parts = leave_out(problem.operator.mask[0], 0.3, seed=0)
    scale = problem.operator.intensity_scale(problem.data)
    method, options = OfImages(images), SolverOptions()
    predict = Predictor(problem, method, parts, scale, options, in_phase=in_phase)
    return [float(predict((1.0,))[0].sum()) for _ in images]


@pytest.mark.parametrize("in_phase", [True, False])
def test_what_is_in_quadrature_is_not_counted_in_phase(in_phase):
    problem, image = head_problem(noise=0.01)
    noise = 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    noise = noise * (image.abs() > 0.2) * smooth_phase(image)
    images = [image, image + noise, image + 1j * noise]
    right, along, across = errors_of_images(problem, images, in_phase)
    assert along > 1.5 * right
    assert (across < 1.05 * right) == in_phase


def test_errors_in_phase_count_by_one_over_the_density_of_the_sampling():
    problem, image = head_problem(noise=0.01)
    parts = leave_out(problem.operator.mask[0], 0.3, seed=0)
    weights = density_weights(problem.operator.mask, parts.left_out[None])[0]
    power = (problem.data * parts.left_out).abs().square().sum(1)[0]
    expected = float((weights * power).sum()) / (0.01**2 * problem.data.shape[1])
    assert errors_of_images(problem, [0 * image], True)[0] == pytest.approx(expected, rel=1e-3)


def test_the_certificate_says_that_lam_was_read_off_the_data():
    problem, _ = head_problem()
    model = ridge(1 / 30)
    certificate = certify_slice(problem, model, lam="auto").certificate
    choice = choose_weights(problem, model)
    assert (certificate.lam_source, certificate.choice) == ("prediction", choice)
    assert certificate.lam == pytest.approx(choice.weights["lam"])
    assert certificate.threshold == pytest.approx(choice.weights["threshold"])
    words = certificate.statements["perturbation_bound"].meaning
    assert "held fixed" in words
    assert "chosen from these data" in words
    by_rule = certify_slice(problem, model, lam="rule").certificate
    assert "chosen from these data" not in by_rule.statements["perturbation_bound"].meaning
    assert by_rule.lam < certificate.lam


def test_an_attack_holds_the_thresholds_of_the_image(model):
    problem, _ = head_problem()
    weights = {"lam": 10.0, "threshold": 0.1}
    solution = model.solve(problem.operator, problem.data, **weights)
    again = Attackable(problem.operator, model, solution)(problem.data)
    assert float(norm(again - solution.value) / norm(solution.value)) < 2e-3
    other = model.solve(problem.operator, problem.data, lam=10.0)
    assert float(norm(other.value - solution.value) / norm(solution.value)) > 0.02
