from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest

from pytest_grpo.drift import divisive
from pytest_grpo.drift.divisive import MIN_ORDERS, MIN_SEGMENT, best_split, find_splits


def energy_distance(before: Sequence[float], after: Sequence[float]) -> float:
    """As the paper writes it: mean distances between, less those within, scaled by the sizes."""
    n, m = len(before), len(after)
    between = sum(abs(x - y) for x in before for y in after)
    within = [
        sum(abs(x - y) for x, y in itertools.combinations(part, 2)) / math.comb(len(part), 2)
        for part in (before, after)
    ]
    return n * m / (n + m) * (2 * between / (n * m) - sum(within))


def all_splits(values: Sequence[float]) -> dict[tuple[int, int], float]:
    return {
        (tau, kappa): energy_distance(values[:tau], values[tau:kappa])
        for tau in range(MIN_SEGMENT, len(values) - MIN_SEGMENT + 1)
        for kappa in range(tau + MIN_SEGMENT, len(values) + 1)
    }


def noise(seed: int, num_values: int, spread: float = 0.02) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(0.0, spread) for _ in range(num_values)]


@pytest.mark.parametrize("num_values", [2 * MIN_SEGMENT, 7, 12, 23])
def test_the_best_split_is_that_of_brute_force(num_values: int) -> None:
    for seed in range(10):
        values = noise(seed, num_values)
        expected = all_splits(values)
        distance, index = best_split(np.array(values))
        (tau, _), largest = max(expected.items(), key=lambda item: item[1])
        assert max(0.0, distance) == pytest.approx(max(0.0, largest), rel=1e-9)
        assert largest < 0 or index == tau


def test_the_p_value_is_that_of_all_orders() -> None:
    values = [0.0, 0.3, 0.1, 0.2, 1.0, 1.3, 1.1]
    observed = max(all_splits(values).values())
    orders = [max(all_splits(order).values()) >= observed - 1e-12 for order in itertools.permutations(values)]
    exact = sum(orders) / len(orders)
    (split,) = find_splits(values, alpha=0.2)
    assert split.index == 4
    assert 0.02 < exact < 0.2
    assert split.p_value == pytest.approx(exact, abs=4 * math.sqrt(exact / MIN_ORDERS))


def test_steps_are_found_where_they_are_and_twice_the_same() -> None:
    values = [
        level + error for level, error in zip([0.0] * 15 + [0.1] * 12 + [0.04] * 13, noise(1, 40, 0.01), strict=True)
    ]
    found = find_splits(values, alpha=0.01)
    assert [split.index for split in found] == [15, 27]
    assert all(split.p_value <= 0.01 for split in found)
    assert found == find_splits(values, alpha=0.01)


def test_the_scale_and_the_level_of_a_series_do_not_matter() -> None:
    values = [level + error for level, error in zip([0.0] * 10 + [0.06] * 10, noise(2, 20), strict=True)]
    scaled = [5.0 + 100 * value for value in values]
    assert find_splits(values, alpha=0.05) == find_splits(scaled, alpha=0.05)


@pytest.mark.parametrize(
    "values",
    [[], [1.0], [1.0] * 30, [1.0] * 29 + [1.1], [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]],
    ids=["nothing", "one", "constant", "one slow run at the end", "too few to tell"],
)
def test_no_change_is_found(values: list[float]) -> None:
    assert find_splits(values, alpha=0.01) == []


def test_exchangeable_series_have_a_change_as_seldom_as_alpha_says() -> None:
    num_series, alpha = 400, 0.05
    num_alarms = sum(bool(find_splits(noise(seed, 12), alpha)) for seed in range(num_series))
    assert 4 <= num_alarms <= 36, "20 are expected, with a standard deviation of 4.4"


def test_batches_do_not_change_what_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [level + error for level, error in zip([0.0] * 12 + [0.05] * 12, noise(3, 24), strict=True)]
    whole = find_splits(values, alpha=0.01)
    monkeypatch.setattr(divisive, "_MAX_BATCH_VALUES", 1)
    assert [split.index for split in find_splits(values, alpha=0.01)] == [split.index for split in whole]
