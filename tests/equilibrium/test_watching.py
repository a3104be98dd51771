"""How a solve goes is told to whoever watches, with the time that remains."""

import math

import numpy as np
import pytest

import equipoise as eq
from equipoise.cli.progress import SolveText
from equipoise.equilibrium.watching import Seen, observer_of_solves, watched
from equipoise.readable import duration


def test_every_evaluation_is_told_with_its_bound_and_only_inside_the_block():
    operator = eq.SenseOp(np.full((4, 16, 16), 0.5), np.arange(16) % 2 == 0)
    model = eq.MOL(eq.CNN(features=4, layers=2, gain=0.5), eq.FixedWeight(20.0), m=0.4)
    seen = []
    data = operator(np.ones((16, 16)))
    with watched(seen.append):
        solution = model.solve(operator, data, noise_level=0.01)
    assert observer_of_solves() is None
    assert len(seen) == int(solution.network_evaluations)
    assert next(s.bound for s in seen if s.evaluations == 1) > seen[-1].bound > 0
    assert seen[-1].bound <= seen[-1].rtol
    count = len(seen)
    model.solve(operator, data, noise_level=0.01)
    assert len(seen) == count


def test_the_time_that_remains_follows_the_slope_of_the_bound():
    now = [0.0]
    text = SolveText(lambda: now[0])
    assert text.after(Seen(1, math.inf, 1e-3)) == "evaluation 1"
    assert text.after(Seen(2, 1.0, 1e-3)) == "evaluation 2, bound 1.0e+00"
    now[0] = 30.0
    # A decade in 30 s, and two to go.
    assert text.after(Seen(3, 0.1, 1e-3)) == "evaluation 3, bound 1.0e-01, about 60 s left"
    assert text.after(Seen(4, 2.0, 1e-3)) == "evaluation 4, bound 2.0e+00"
    # Another solve knows nothing of this one.
    assert text.after(Seen(1, 0.5, 1e-3)) == "evaluation 1, bound 5.0e-01"


@pytest.mark.parametrize(("seconds", "words"), [(41, "41 s"), (720, "12 min"), (12600, "3.5 h")])
def test_durations_are_read_at_a_glance(seconds, words):
    assert duration(seconds) == words
