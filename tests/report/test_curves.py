"""Curves of a page: what was tried is drawn, and the choice stands out."""

from equipoise.methods.prediction import Choice, Trial
from equipoise.report.curves import choice_curve

TRIALS = (
    Trial({"lam": 10.0, "threshold": 0.1}, 1.5, 9),
    Trial({"lam": 30.0, "threshold": 0.1}, 1.2, 6),
    Trial({"lam": 30.0, "threshold": 0.3}, 2.0, 5),
)


def test_every_trial_is_a_dot_and_every_threshold_a_line():
    text = choice_curve(Choice(TRIALS[1].weights, "prediction", "a test", TRIALS))
    assert text.count("<circle") == 3
    assert text.count("<polyline") == 2
    assert text.count('class="bound-dot"') == 2
    assert text.count('r="6"') == 1
    for label in ("10", "30", "1.2", "2"):
        assert f">{label}</text>" in text


def test_a_rule_has_no_curve():
    assert choice_curve(None) == ""
    assert choice_curve(Choice({}, "rule", "a test")) == ""


def test_trials_on_a_line_share_the_ratio_of_thresholds_to_lam_where_they_moved_alike():
    weights = [(1, 0.1), (3, 0.3), (9, 0.9), (3, 0.1)]
    trials = tuple(Trial({"lam": a, "threshold": b}, a + b, 5) for a, b in weights)
    text = choice_curve(Choice(trials[0].weights, "prediction", "a test", trials))
    assert text.count("<polyline") == 2
    assert text.count("<circle") == 4
    assert "at the chosen ratio of thresholds to lam" in text
