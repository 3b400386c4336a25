"""Draws from head and tail follow the Plackett–Luce law, wherever the split falls."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from sampler_service.curriculum.weighted_pool import WeightedPool


def plackett_luce(weights: np.ndarray, count: int) -> dict[tuple[int, ...], float]:
    law = {}
    for order in permutations(range(len(weights)), count):
        probability, left = 1.0, weights.sum()
        for i in order:
            probability *= weights[i] / left
            left -= weights[i]
        law[order] = probability
    return {order: p for order, p in law.items() if p > 0}


@pytest.mark.parametrize("head_rows", [1, 2, 3, 6])
@pytest.mark.parametrize(
    ("weights", "excluded"),
    [([1, 2, 3, 4, 5, 0.5], []), ([1, 1, 1, 1, 1000, 0.001], []), ([5, 1, 2, 3, 4, 2], [0, 1])],
)
def test_draws_follow_the_law(weights: list[float], excluded: list[int], head_rows: int) -> None:
    rng = np.random.default_rng(7)
    given_weights = np.array(weights, dtype=float)
    pool = WeightedPool(given_weights, head_rows)
    left = given_weights.copy()
    left[excluded] = 0.0
    law = plackett_luce(left, 3)
    counts = dict.fromkeys(law, 0)
    draws = 8000
    for _ in range(draws):
        counts[tuple(pool.draw(3, rng, np.array(excluded, dtype=int)).rows_B.tolist())] += 1
    common = [order for order in law if law[order] * draws >= 5]
    observed = [counts[order] for order in common]
    expected = [law[order] * draws for order in common]
    observed.append(draws - sum(observed))
    expected.append(max(draws - sum(expected), 1e-9))
    if expected[-1] < 5:
        observed, expected = observed[:-1], expected[:-1]
    scale = sum(observed) / sum(expected)
    assert chisquare(observed, [e * scale for e in expected]).pvalue > 1e-4


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_after_any_updates_the_pool_holds_what_was_set(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 200))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    truth = rng.random(size) ** 8
    pool = WeightedPool(truth.copy(), data.draw(st.integers(1, 20)))
    for _ in range(data.draw(st.integers(0, 30))):
        rows = rng.choice(size, rng.integers(1, size + 1), replace=False)
        truth[rows] = np.where(rng.random(len(rows)) < 0.3, 0.0, rng.random(len(rows)) * 10)
        pool.update(rows, truth[rows])
    assert np.array_equal(pool.weights_of(np.arange(size)), truth)
    assert pool.total == pytest.approx(truth.sum())
    assert np.array_equal(pool.positive_rows(), np.flatnonzero(truth))
    drawn = pool.draw(size, rng).rows_B
    assert sorted(drawn.tolist()) == np.flatnonzero(truth).tolist()


def test_weights_hundreds_of_orders_apart_are_drawn_in_their_order() -> None:
    weights = np.exp(-np.arange(20) * 30.0)
    drawn = WeightedPool(weights, 5).draw(20, np.random.default_rng(0)).rows_B
    assert drawn.tolist() == list(range(20))


@pytest.mark.parametrize("order", ["rising", "falling", "random", "few values"])
def test_the_head_of_a_large_pool_holds_its_heaviest_rows(order: str) -> None:
    rng, size, head_rows = np.random.default_rng(4), 200_001, 50
    weights = {
        "rising": np.linspace(0.0, 1.0, size) ** 50,
        "falling": np.linspace(1.0, 0.0, size) ** 50,
        "random": rng.random(size) ** 50,
        "few values": rng.integers(0, 3, size).astype(np.float64),
    }[order]
    weights[rng.permutation(size)[:head_rows]] += 1e6
    pool = WeightedPool(weights, head_rows)
    assert sorted(pool._weights) == sorted(weights)[-head_rows:]
    assert np.array_equal(pool.weights_of(np.arange(size)), weights)
    assert pool.total == pytest.approx(weights.sum())
    assert not pool._tail.weights[pool._rows].any()


@pytest.mark.parametrize("count", [20, 60, 200])
@pytest.mark.parametrize("free", [100, 30, 5])
def test_candidates_are_distinct_free_and_equally_likely(count: int, free: int) -> None:
    rng = np.random.default_rng(3)
    weights = np.zeros(100)
    weights[rng.permutation(100)[:free]] = 1.0
    pool, excluded = WeightedPool(weights), np.flatnonzero(weights)[:2]
    allowed = np.setdiff1d(np.flatnonzero(weights), excluded)
    times = np.zeros(100)
    for _ in range(2000):
        rows = pool.candidates(count, rng, excluded)
        assert len(np.unique(rows)) == len(rows) >= min(count / 2, len(allowed))
        times[rows] += 1
    assert times[np.setdiff1d(np.arange(100), allowed)].sum() == 0
    assert chisquare(times[allowed]).pvalue > 1e-4
