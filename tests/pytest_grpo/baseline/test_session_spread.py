from __future__ import annotations

import math

import pytest
from scipy.stats import t

from pytest_grpo.baseline.session_spread import ASSUMED_SPREAD, MIN_SESSIONS, predict, t_quantile, t_tail


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 30])
def test_students_t_is_that_of_the_textbook(degrees: int) -> None:
    for value in (-2.0, 0.0, 0.5, 3.0, 20.0):
        assert t_tail(value, degrees) == pytest.approx(t.sf(value, degrees), rel=1e-6, abs=1e-13)
    for alpha in (0.3, 0.01, 0.001, 1e-5):
        assert t_quantile(alpha, degrees) == pytest.approx(t.isf(alpha, degrees), rel=1e-6)


def test_stored_sessions_measure_the_spread() -> None:
    sessions = [[center] * 8 for center in (-0.02, -0.01, 0.0, 0.01, 0.02)]
    found = predict([0.0] * 8, sessions)
    assert found.is_measured
    assert found.center == pytest.approx(0)
    assert found.spread == pytest.approx(0.0158, abs=1e-4)
    assert found.margin(0.01) == pytest.approx(t.isf(0.01, 4) * found.spread * math.sqrt(1.2))
    assert found.p_value(found.margin(0.01)) == pytest.approx(0.01)


def test_few_sessions_leave_it_assumed_unless_they_spread_further() -> None:
    near, far = [[0.0] * 8] * (MIN_SESSIONS - 1), [[-0.3] * 8, [0.3] * 8]
    for sessions, spread in ((near, ASSUMED_SPREAD), (near[:1], ASSUMED_SPREAD), (far, 0.6 / math.sqrt(2))):
        found = predict([0.0] * 8, sessions)
        assert not found.is_measured
        assert found.spread == pytest.approx(spread)


def test_few_noisy_pairs_widen_the_prediction_and_endless_ones_would_not() -> None:
    noisy = [0.05 * (-1) ** place for place in range(8)]
    found = predict(noisy, [[0.001 * number] * 8 for number in range(10)])
    assert found.margin(0.01) > 2 * found.margin(0.01, of_pairs=False)


def test_sessions_without_any_scatter_leave_nothing_to_chance() -> None:
    found = predict([0.0] * 8, [[0.0] * 8] * 10)
    assert (found.p_value(0.01), found.p_value(-0.01)) == (0.0, 1.0)
