"""The sum tree, and draws without replacement: edges. The law itself is in tests/property."""

from __future__ import annotations

import numpy as np
import pytest

from sampler_service.curriculum.weighted_draw import SumTree, draw_without_replacement


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 255, 256, 257, 5000])
def test_the_total_is_the_sum_of_the_weights(size: int) -> None:
    weights = rng().random(size)
    assert SumTree(weights).total == pytest.approx(weights.sum())


def test_an_empty_pool_draws_nothing() -> None:
    tree = SumTree(np.zeros(0))
    assert tree.total == 0
    assert len(draw_without_replacement(tree, 5, rng()).rows_B) == 0


def test_a_row_without_weight_is_never_drawn() -> None:
    weights = np.zeros(300)
    weights[[7, 130, 299]] = 1, 2, 3
    drawn = SumTree(weights).draw(rng().random(3000))
    assert set(drawn.tolist()) == {7, 130, 299}


def test_the_ends_of_the_unit_interval_hit_rows_with_weight() -> None:
    tree = SumTree(np.array([0.0, 0.1, 0.2, 0.0] + [0.0] * 40))
    assert tree.draw(np.array([0.0, np.nextafter(1.0, 0.0)])).tolist() == [1, 2]


def test_many_updates_do_not_drift() -> None:
    generator = rng(1)
    tree = SumTree(generator.random(3000))
    for _ in range(2000):
        tree.update(generator.integers(0, 3000, 3), 10.0 ** generator.uniform(-12, 6, 3))
    assert tree.total == pytest.approx(SumTree(tree.weights).total, rel=1e-14)
    tree.update(np.arange(3000), 0.0)
    assert tree.total == 0.0


def test_a_draw_leaves_the_tree_as_it_was() -> None:
    weights = 10.0 ** rng().uniform(-8, 0, 500)
    tree = SumTree(weights)
    total = tree.total
    draw_without_replacement(tree, 200, rng(), excluded=np.arange(0, 500, 3))
    np.testing.assert_array_equal(tree.weights, weights)
    assert tree.total == total


def test_rows_are_distinct_none_is_excluded_and_probabilities_are_of_a_single_draw() -> None:
    weights = rng().random(400)
    excluded = np.arange(0, 400, 2)
    draw = draw_without_replacement(SumTree(weights), 100, rng(), excluded)
    assert len(set(draw.rows_B.tolist())) == 100
    assert (draw.rows_B % 2 == 1).all()
    np.testing.assert_allclose(draw.probabilities_B, weights[draw.rows_B] / weights.sum())


def test_asking_for_more_than_there_is_gives_all_there_is() -> None:
    weights = np.array([1.0, 0.0, 3.0, 0.0, 2.0])
    draw = draw_without_replacement(SumTree(weights), 10, rng(), excluded=np.array([2]))
    assert sorted(draw.rows_B.tolist()) == [0, 4]


def test_weights_hundreds_of_orders_of_magnitude_apart_still_fill_the_batch() -> None:
    weights = 10.0 ** np.linspace(-300, 0, 1000)
    draw = draw_without_replacement(SumTree(weights), 900, rng())
    assert len(set(draw.rows_B.tolist())) == 900
    # Each step of the ladder is a factor of two: nearly always the heavy end comes first.
    assert draw.rows_B[:20].mean() > draw.rows_B[-20:].mean()


def test_the_same_generator_gives_the_same_batch() -> None:
    tree = SumTree(rng().random(1000))
    first = draw_without_replacement(tree, 64, rng(5)).rows_B
    assert first.tolist() == draw_without_replacement(tree, 64, rng(5)).rows_B.tolist()
