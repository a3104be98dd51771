"""Bounds that hold for a stated share of new scans."""

import dataclasses
import json
import math

import numpy as np
import pytest

from equipoise.methods.conformal import conformal_quantile, needed_subjects
from equipoise.methods.regression import regress
from equipoise.methods.usual import Calibration, CalibrationScan, calibrate
from equipoise.outcome import BadInputError


def subject_scores(rng, scans):
    """Scores of one subject, which have more in common than those of different subjects."""
    return (rng.normal(0, 2) + rng.standard_exponential(scans)).tolist()


@pytest.mark.parametrize(("subjects", "level"), [(19, 0.95), (40, 0.9), (9, 0.8)])
def test_a_new_subject_is_covered_at_least_as_often_as_promised(subjects, level):
    rng = np.random.default_rng(0)
    repetitions = 1500
    covered = 0
    for _ in range(repetitions):
        sizes = rng.integers(1, 6, subjects + 1)
        *seen, new = [subject_scores(rng, n) for n in sizes]
        covered += rng.choice(new) <= conformal_quantile(seen, level)
    error = math.sqrt(level * (1 - level) / repetitions)
    assert covered / repetitions >= level - 3 * error
    # Not by a bound that is always right: the excess is at most that of one subject.
    assert covered / repetitions <= level + 1 / (subjects + 1) + 3 * error


def test_scans_of_one_subject_are_not_counted_as_subjects():
    rng = np.random.default_rng(1)
    missed, pooled = 0, 0
    for _ in range(600):
        seen = [subject_scores(rng, 10) for _ in range(19)]
        new = subject_scores(rng, 1)[0]
        missed += new > conformal_quantile(seen, 0.95)
        pooled += new > conformal_quantile([[s] for own in seen for s in own], 0.95)
    assert missed / 600 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)
    assert pooled / 600 > 0.06


def test_with_one_scan_of_each_subject_it_is_split_conformal_prediction():
    scores = np.random.default_rng(2).permutation(np.arange(1.0, 40.0))
    # ceil((n + 1) level) = ceil(40 * 0.9) = 36.
    assert conformal_quantile(scores[:, None].tolist(), 0.9) == 36.0
    assert conformal_quantile(scores[:19, None].tolist(), 0.95) == scores[:19].max()


def test_too_few_subjects_give_no_bound_and_the_message_names_the_level_that_exists():
    assert [needed_subjects(level) for level in (0.5, 0.9, 0.95, 0.99)] == [1, 9, 19, 99]
    scores = [[float(i), 0.0] for i in range(18)]
    with pytest.raises(BadInputError, match=r"18 calibration subjects.*0\.95.*19.*--level 0\.947"):
        conformal_quantile(scores, 0.95)
    assert conformal_quantile(scores, 0.947) == 17.0
    with pytest.raises(BadInputError, match="Give images of more subjects"):
        conformal_quantile([[], []], 0.5)
    for level in (0.0, 1.0, math.nan):
        with pytest.raises(BadInputError, match="must lie in"):
            conformal_quantile(scores, level)


def test_a_regression_finds_the_exponents_of_features():
    rng = np.random.default_rng(3)
    scans = [
        {"a": float(rng.lognormal()), "b": float(rng.lognormal()), "c": 2.0} for _ in range(500)
    ]
    values = [3 + 2 * math.log(s["a"]) - math.log(s["b"]) for s in scans]
    found = regress(values, scans, ("a", "b", "c"))
    assert found.slopes == pytest.approx({"a": 2, "b": -1, "c": 0}, abs=0.02)
    assert found.at(scans[0]) == pytest.approx(values[0], abs=0.05)
    assert regress(values, scans, ()).at({}) == pytest.approx(np.mean(values))


# ---- in_range and the bound on the PSNR ----------------------------------------------------------


def drawn(rng, subject, psnr_shift=0.0):
    """A scan whose features and PSNR depend on its noise and acceleration, and on its subject."""
    noise, acceleration = float(rng.lognormal(-4, 0.8)), float(rng.uniform(2, 10))
    own = float(np.random.default_rng([*subject.encode()]).normal(0, 0.1))
    features = {
        "misfit": float(noise**0.3 * rng.lognormal(own, 0.1)),
        "pull": float(acceleration**0.5 * rng.lognormal(-3, 0.2)),
        "evaluations": float(rng.integers(8, 20)),
        "noise": noise,
        "acceleration": acceleration,
        "filled": float(rng.lognormal(-2, 0.3)),
        "peak": float(rng.lognormal(1, 0.2)),
    }
    psnr = 20 - 3 * math.log(noise) - 4 * math.log(acceleration) + rng.normal(10 * own, 1.5)
    return CalibrationScan(subject, features, float(psnr + psnr_shift))


def calibration_of(rng, subjects=80, scans=1, **shares):
    names = [str(int(rng.integers(10**9))) for _ in range(subjects)]
    return calibrate([drawn(rng, n) for _ in range(scans) for n in names], **shares)


def test_false_alarms_and_bounds_that_do_not_hold_are_as_rare_as_promised():
    rng = np.random.default_rng(4)
    alarms, wrong, given = [], [], []
    for _ in range(15):
        calibration = calibration_of(rng, false_alarm_rate=0.1, level=0.9)
        new = [drawn(rng, str(int(rng.integers(10**9)))) for _ in range(40)]
        alarms += [not calibration.in_range(scan.features) for scan in new]
        bounds = [calibration.psnr_bound(scan.features) for scan in new]
        given += [bound is not None for bound in bounds]
        wrong += [b is not None and scan.psnr < b.value for b, scan in zip(bounds, new)]
    assert 0.05 < np.mean(alarms) < 0.13
    assert 0.04 < np.mean(wrong) < 0.13
    assert np.mean(given) == pytest.approx(1 - np.mean(alarms))


def test_a_scan_unlike_the_others_is_flagged_at_its_own_noise_and_gets_no_bound():
    rng = np.random.default_rng(5)
    calibration = calibration_of(rng)
    usual = drawn(rng, "new").features
    assert calibration.psnr_bound(usual).subjects == 40
    # This misfit is usual at another noise level, and not at this one.
    far = {**usual, "noise": math.exp(-5.5), "misfit": math.exp(-0.9)}
    assert not calibration.in_range(far)
    assert max(calibration.deviation(far), key=calibration.deviation(far).get) == "misfit"
    assert calibration.psnr_bound(far) is None
    assert not calibration.in_range({**usual, "noise": 2.0})
    assert calibration.deviation({**usual, "noise": 1e-5})["noise"] == 0
    assert not calibration.in_range({**usual, "acceleration": 40.0})
    assert calibration.deviation({**usual, "evaluations": 2.0})["evaluations"] == 0
    assert not calibration.in_range({**usual, "evaluations": 90.0})


def test_the_margin_is_that_of_subjects_that_no_regression_was_fitted_to():
    scans = [drawn(np.random.default_rng(i), str(i)) for i in range(80)]
    worse = [s._replace(psnr=s.psnr - 3.0) if i % 2 else s for i, s in enumerate(scans)]
    first, second = calibrate(scans), calibrate(worse)
    assert second.psnr.expected == first.psnr.expected
    assert second.psnr.margin == pytest.approx(first.psnr.margin + 3.0)
    assert (first.centre, first.spread) == (second.centre, second.spread)


def test_a_calibration_from_too_few_subjects_is_refused():
    rng = np.random.default_rng(6)
    with pytest.raises(BadInputError, match=r"18 calibration subjects.*19"):
        calibration_of(rng, subjects=36, scans=5, false_alarm_rate=0.2)
    with pytest.raises(BadInputError, match=r"false-alarm rate of 0\.05: it takes 19.*0\.053"):
        calibration_of(rng, subjects=36, scans=5, level=0.9)
    for share in ({"level": 1.0}, {"false_alarm_rate": 0.0}):
        with pytest.raises(BadInputError, match="must lie in"):
            calibration_of(rng, **share)


def test_a_calibration_is_stored_as_it_is_and_older_ones_are_read():
    calibration = calibration_of(np.random.default_rng(7))
    text = json.dumps(dataclasses.asdict(calibration))
    assert Calibration.from_json(json.loads(text)) == calibration
    older = {"centre": {"misfit": 0.0}, "spread": {"misfit": 1.0}, "threshold": 2.0}
    found = Calibration.from_json({**older, "false_alarm_rate": 0.05, "count": 40})
    assert found.in_range({"misfit": 7.0})
    assert not found.in_range({"misfit": 8.0})
    assert found.psnr_bound({"misfit": 1.0}) is None
