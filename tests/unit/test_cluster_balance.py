"""How far clusters share a weighted draw evenly."""

from __future__ import annotations

import numpy as np
import pytest

from sampler_service.curriculum.cluster_balance import ClusterBalance
from tests.curriculum_runs import Run

LABELS = np.array([0, 0, 0, 1, 1, -1], dtype=np.int32)
WEIGHTS = np.array([5.0, 3.0, 1.0, 0.5, 0.5, 4.0])


def shares(weights: np.ndarray, labels: np.ndarray = LABELS) -> np.ndarray:
    sums = np.bincount(labels + 1, weights)
    return sums / sums.sum()


@pytest.mark.parametrize("balance", [0.0, 0.25, 0.5, 1.0])
def test_a_cluster_s_share_is_its_weight_to_the_power_of_what_balance_leaves(balance: float) -> None:
    evened = WEIGHTS * ClusterBalance(LABELS, WEIGHTS, balance).factors(LABELS)
    expected = shares(WEIGHTS) ** (1.0 - balance)
    assert shares(evened) == pytest.approx(expected / expected.sum())


def test_within_a_cluster_the_law_stays() -> None:
    evened = WEIGHTS * ClusterBalance(LABELS, WEIGHTS, 0.7).factors(LABELS)
    assert evened[:3] / evened[0] == pytest.approx(WEIGHTS[:3] / WEIGHTS[0])


def test_one_cluster_or_none_changes_nothing() -> None:
    nobody = np.full(6, -1, dtype=np.int32)
    assert ClusterBalance(nobody, WEIGHTS, 0.5).factors(nobody) == pytest.approx(1.0)


def test_a_cluster_without_weight_and_one_that_is_new_keep_theirs() -> None:
    balance = ClusterBalance(LABELS, WEIGHTS * (LABELS != 1), 0.5)
    assert balance.factors(np.array([1, 7])).tolist() == [1.0, 1.0]


def test_weights_hundreds_of_orders_apart_stay_finite() -> None:
    weights = np.where(LABELS == 0, 1e-300, WEIGHTS)
    assert np.isfinite(weights * ClusterBalance(LABELS, weights, 1.0).factors(LABELS)).all()


def test_an_empty_pool_has_nothing_to_even_out() -> None:
    empty = np.zeros(0, dtype=np.int32)
    assert len(ClusterBalance(empty, np.zeros(0), 0.5).factors(empty)) == 0


def drawn_by_cluster(balance: float) -> np.ndarray:
    """Of 200 prompts, the first tenth is one cluster; nothing is known of any."""
    run = Run(
        "uniform-grpo", {"proposal": {"frontier": {"power": 1, "balance": balance}}, "exploration": 0.0}
    )
    run.add(20, clusters=1)
    run.add(180, clusters=2)
    run.state.table.clusters[20:200] = 1
    run.machine.all_changed = True
    counts = np.zeros(2)
    for _ in range(200):
        plan = run.planner.plan(4, 32)
        counts += np.bincount(run.state.table.clusters[plan.rows], minlength=2)
        run.planner.settle(plan)
    return counts / counts.sum()


def test_batches_are_drawn_by_the_evened_shares() -> None:
    # Four draws of twenty prompts without replacement take the smaller cluster a little under its share.
    assert drawn_by_cluster(0.0)[0] == pytest.approx(0.1, abs=0.05)
    assert drawn_by_cluster(0.5)[0] == pytest.approx(0.25, abs=0.06)
    assert drawn_by_cluster(1.0)[0] == pytest.approx(0.5, abs=0.07)


def test_rows_that_change_between_weighings_keep_their_cluster_s_factor() -> None:
    run = Run("uniform-grpo", {"proposal": {"frontier": {"power": 1, "balance": 1.0}}, "exploration": 0.0})
    run.add(30, clusters=3)
    run.state.table.clusters[:20] = 0
    run.state.table.clusters[20:30] = 1
    pool = run.planner.weights.update()
    before = pool.weights_of(np.arange(30))
    assert before[20] == pytest.approx(2 * before[0])
    run.machine.touch(np.arange(30))
    np.testing.assert_allclose(run.planner.weights.update().weights_of(np.arange(30)), before)
