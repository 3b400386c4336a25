"""Draws follow the stated law: χ² against exact probabilities, and invariants on random trees."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from sampler_service.curriculum.weighted_draw import SumTree, draw_without_replacement

# A false alarm once in a million runs; seeds are fixed, so in fact never.
ALPHA = 1e-6


def weights_of(size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).gamma(0.5, size=size)


@pytest.mark.parametrize("size", [3, 16, 40, 700])
def test_draws_with_replacement_are_in_proportion_to_weight(size: int) -> None:
    weights = weights_of(size, size) + 0.01
    draws = SumTree(weights).draw(np.random.default_rng(1).random(200_000))
    seen = np.bincount(draws, minlength=size)
    assert chisquare(seen, weights / weights.sum() * len(draws)).pvalue > ALPHA


def plackett_luce(weights: np.ndarray, order: tuple[int, ...]) -> float:
    left, probability = weights.sum(), 1.0
    for row in order:
        probability *= weights[row] / left
        left -= weights[row]
    return float(probability)


@pytest.mark.parametrize("excluded", [(), (1,)])
@pytest.mark.parametrize(
    "weights",
    [
        [1.0, 2.0, 3.0, 4.0],
        # Nearly all weight on one row: the exponential keys have to finish the batch.
        [1.0, 1e-9, 2e-9, 3e-9],
    ],
)
def test_ordered_draws_without_replacement_are_plackett_luce(
    weights: list[float], excluded: tuple[int, ...]
) -> None:
    law = np.array(weights)
    allowed = np.array([0.0 if i in excluded else w for i, w in enumerate(weights)])
    orders = [o for o in permutations(range(4), 3) if not set(o) & set(excluded)]
    expected = np.array([plackett_luce(allowed, o) for o in orders])
    generator = np.random.default_rng(7)
    tree = SumTree(law)
    trials = 20_000
    seen = dict.fromkeys(orders, 0)
    for _ in range(trials):
        drawn = draw_without_replacement(tree, 3, generator, np.array(excluded, dtype=int)).rows_B
        seen[tuple(drawn.tolist())] += 1
    common = expected * trials >= 5
    observed = np.array(list(seen.values()), dtype=float)
    # Orders too rare to test one by one are tested as one.
    if not common.all():
        observed = np.append(observed[common], observed[~common].sum())
        expected = np.append(expected[common], expected[~common].sum())
        if expected[-1] * trials < 5:
            assert observed[-1] < 30
            observed, expected = observed[:-1], expected[:-1]
    expected = expected / expected.sum() * observed.sum()
    if len(observed) > 1:
        assert chisquare(observed, expected).pvalue > ALPHA


def test_inclusion_in_a_large_batch_follows_the_exponential_key_law() -> None:
    weights = weights_of(60, 3) + 0.05
    generator = np.random.default_rng(2)
    tree, trials, count = SumTree(weights), 6000, 20
    ours, keys = np.zeros(60), np.zeros(60)
    for _ in range(trials):
        ours[draw_without_replacement(tree, count, generator).rows_B] += 1
        keys[np.argsort(generator.standard_exponential(60) / weights)[:count]] += 1
    p = (ours + keys) / (2 * trials)
    z = (ours - keys) / np.sqrt(2 * trials * p * (1 - p) + 1e-9)
    assert np.abs(z).max() < 5


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=400),
    st.integers(0, 50),
    st.integers(0, 2**32 - 1),
    st.data(),
)
@settings(max_examples=200, deadline=None)
def test_a_batch_is_distinct_allowed_weighted_and_as_large_as_it_can_be(
    weights: list[float], count: int, seed: int, data: st.DataObject
) -> None:
    excluded = np.array(
        data.draw(st.lists(st.integers(0, len(weights) - 1), max_size=20, unique=True)), dtype=int
    )
    array = np.array(weights)
    draw = draw_without_replacement(SumTree(array), count, np.random.default_rng(seed), excluded)
    rows = draw.rows_B.tolist()
    assert len(set(rows)) == len(rows)
    assert not set(rows) & set(excluded.tolist())
    assert (array[rows] > 0).all()
    available = set(np.flatnonzero(array > 0).tolist()) - set(excluded.tolist())
    assert len(rows) == min(count, len(available))
    assert ((draw.probabilities_B >= 0) & (draw.probabilities_B <= 1 + 1e-12)).all()


@given(st.integers(1, 600), st.integers(0, 2**32 - 1), st.lists(st.integers(0, 599), max_size=200))
@settings(max_examples=100, deadline=None)
def test_an_updated_tree_equals_one_built_anew(size: int, seed: int, touched: list[int]) -> None:
    generator = np.random.default_rng(seed)
    weights = generator.random(size)
    tree = SumTree(weights)
    rows = np.unique([row % size for row in touched]).astype(int)
    weights[rows] = generator.random(len(rows))
    tree.update(rows, weights[rows])
    fresh = SumTree(weights)
    assert tree.total == fresh.total
    uniforms = generator.random(50)
    assert tree.draw(uniforms).tolist() == fresh.draw(uniforms).tolist()
