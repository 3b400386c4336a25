"""Which prompts, and how many rollouts: the planner's promises."""

from __future__ import annotations

import numpy as np
import pytest

from curriculum.v1 import log_pb2
from sampler_service.curriculum.errors import Exhausted, FailedPrecondition, InvalidArgument
from sampler_service.curriculum.sources import EXPLORATION
from sampler_service.curriculum.strategy import resolve
from tests.curriculum_runs import Run

# Frontier's parts without its pilot round: a quota that spends the whole budget at once.
KNAPSACK = {
    "estimator": {"decay": "policy_kl", "shared_evidence": "cluster"},
    "quota": {"frontier": {"min": 2, "max": 32}},
    "stopping": "one_shot",
}


def pool(preset: str = "frontier", size: int = 100, **overrides: object) -> Run:
    whole_pool = {"iterations": {}}
    run = Run(preset, {**(KNAPSACK if preset == "frontier" else whole_pool), **overrides})
    run.add(size)
    return run


@pytest.mark.parametrize("preset", ["uniform-grpo", "cures", "frontier"])
@pytest.mark.parametrize(("batch", "budget"), [(8, 64), (8, 100), (1, 8), (100, 800), (7, 224)])
def test_quotas_spend_the_budget_exactly(preset: str, batch: int, budget: int) -> None:
    plan = pool(preset).planner.plan(batch, budget)
    assert plan.quotas.sum() == budget == plan.budget
    assert len(np.unique(plan.rows)) == batch


def test_without_a_budget_the_strategy_s_default_is_spent() -> None:
    assert pool(rollouts_per_prompt=5).planner.plan(10).quotas.sum() == 50


def test_a_batch_larger_than_the_pool_is_granted_short_with_a_note() -> None:
    plan = pool(size=5).planner.plan(8)
    assert len(plan.rows) == 5
    assert "exceeds the 5 prompts" in plan.notes[0]


def test_a_budget_below_the_minimum_drops_prompts_with_a_note() -> None:
    plan = pool().planner.plan(8, 10)
    assert len(plan.rows) == 5
    assert plan.quotas.tolist() == [2] * 5
    assert "dropped" in plan.notes[0]


def test_a_budget_too_small_for_one_prompt_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="rollout_budget = 1 is below the 2") as error:
        pool().planner.plan(8, 1)
    assert error.value.field == "rollout_budget"


def test_a_budget_beyond_the_maximum_is_spent_as_far_as_it_goes_with_a_note() -> None:
    plan = pool().planner.plan(2, 1000)
    assert plan.quotas.tolist() == [32, 32]
    assert "64 are granted" in plan.notes[0]


@pytest.mark.parametrize(("batch", "budget"), [(0, 8), (-1, 8), (1, -1)])
def test_sizes_below_one_are_refused(batch: int, budget: int) -> None:
    with pytest.raises(InvalidArgument):
        pool().planner.plan(batch, budget)


def test_an_empty_pool_is_refused_with_the_remedy() -> None:
    with pytest.raises(FailedPrecondition, match="AddPrompts"):
        Run().planner.plan(1)


def test_when_all_prompts_are_in_flight_the_caller_is_told_to_wait() -> None:
    run = pool(size=4)
    run.grant(run.planner.plan(4))
    with pytest.raises(Exhausted, match="in flight") as error:
        run.planner.plan(1)
    assert error.value.retry_after_seconds is not None


def test_equal_quotas_are_equal_and_say_what_is_left() -> None:
    plan = pool().planner.plan(8, 70, equal_quotas=True)
    assert plan.quotas.tolist() == [8] * 8
    assert "6 of the budget unspent" in plan.notes[0]


def test_concurrent_plans_draw_different_prompts_until_they_are_settled() -> None:
    run = pool(size=20)
    first, second = run.planner.plan(10), run.planner.plan(10)
    assert not set(first.rows) & set(second.rows)
    with pytest.raises(Exhausted):
        run.planner.plan(1)
    run.planner.settle(first)
    assert set(run.planner.plan(10).rows) == set(first.rows)


def test_the_exploration_floor_looks_at_unseen_prompts_first_then_at_the_longest_unvisited() -> None:
    run = pool("cures", 40, exploration=0.5)
    rates = np.full(40, 0.5)
    for _ in range(12):
        run.step(rates, 8, 32)
    assert run.state.unseen == 0, "a floor of 4 prompts a batch has seen all 40 within 12 batches"
    plan = run.planner.plan(8, 32)
    explored = plan.rows[plan.sources == EXPLORATION]
    visits = run.state.table.last_visits[:40]
    chosen_last = sorted(visits[explored])
    others = np.setdiff1d(np.arange(40), plan.rows)
    assert chosen_last[0] <= visits[others].min()


def test_the_floor_s_share_is_met_on_average_for_small_batches_too() -> None:
    run = pool("cures", 500, exploration=0.1)
    explored = 0
    for _ in range(200):
        plan = run.planner.plan(4, 32)
        explored += int((plan.sources == EXPLORATION).sum())
        run.planner.settle(plan)
    assert 50 <= explored <= 110  # 80 expected


def test_frontier_prefers_a_confirmed_frontier_prompt_to_unknown_and_decided_ones() -> None:
    run = pool("frontier-ranked", 60, exploration=0.0, **KNAPSACK)
    for row in range(20):
        run.report("", [row], [[1, 0] * 4])
    for row in range(20, 40):
        run.report("", [row], [[0] * 8])
    plan = run.planner.plan(20, 160)
    assert set(plan.rows) == set(range(20))


def test_probabilities_are_those_of_a_single_draw() -> None:
    run = pool("uniform-grpo", 50)
    plan = run.planner.plan(5)
    assert plan.probabilities == pytest.approx([0.02] * 5)


def test_a_refresh_in_a_thread_misses_no_change_made_meanwhile() -> None:
    run = pool("frontier", 30, exploration=0.0)
    run.planner.weights.update()
    run.planner.weights.begin_refresh()
    weighing = run.planner.weights.weigh_pool()
    run.grant(run.planner.plan(10), "L")
    run.planner.weights.adopt(weighing)
    leased = np.flatnonzero(run.state.table.leases[:30] >= 0)
    assert run.planner.weights.update().weights_of(leased).tolist() == [0.0] * 10
    assert not set(run.planner.plan(20).rows) & set(leased)


def test_what_was_granted_before_a_refresh_began_is_not_drawn_while_it_runs() -> None:
    run = pool("frontier", 30, exploration=0.0)
    run.planner.weights.refreshes_elsewhere = True
    run.planner.weights.update()
    plan = run.planner.plan(10)
    run.grant(plan, "L")
    run.advance(1)
    run.planner.weights.begin_refresh()
    assert not set(run.planner.plan(20).rows) & set(plan.rows)


def test_clusters_share_the_batch_as_their_arm_says() -> None:
    run = Run("uniform-grpo", {"clusters": {"minimax": {"floor": 0.3}}})
    run.add(90, clusters=3)
    plan = run.planner.plan(30)
    labels = run.state.table.clusters[plan.rows]
    assert np.bincount(labels).tolist() == [10, 10, 10]
    assert len(set(plan.rows)) == 30


def test_a_cluster_without_free_prompts_leaves_its_share_to_the_others() -> None:
    run = Run("uniform-grpo", {"clusters": {"minimax": {}}})
    run.add(12, clusters=3)
    assert len(run.planner.plan(10).rows) == 10
    assert len(run.planner.plan(10).rows) == 2


@pytest.mark.parametrize(("candidates", "ahead"), [(0, False), (4, True)])
def test_scored_batches_are_drawn_ahead_when_few_prompts_are_scored(candidates: int, ahead: bool) -> None:
    run = Run("uniform-grpo", {"proposal": {"thompson": {"candidates_per_prompt": candidates}}})
    run.add(100)
    run.planner.settle(run.planner.plan(4))
    run.planner.plan_ahead()
    assert (run.planner.planned_ahead is not None) is ahead


def test_a_batch_drawn_ahead_is_granted_when_nothing_has_changed() -> None:
    run = pool("cures", 200)
    run.planner.settle(run.planner.plan(10, 80))
    run.planner.plan_ahead()
    plan = run.planner.plan(10, 80)
    assert plan.quotas.sum() == 80
    assert not run.grant(plan, "L").HasField("refusal")
    second = run.planner.plan(10, 80)
    assert not set(plan.rows) & set(second.rows)


@pytest.mark.parametrize("change", ["report", "grant", "reservation", "arguments", "strategy"])
def test_a_batch_drawn_ahead_is_drawn_again_when_anything_has_changed(change: str) -> None:
    run = pool("cures", 40, exploration=0.5)
    run.planner.settle(run.planner.plan(10, 80))
    run.planner.plan_ahead()
    ahead = run.planner._ahead
    assert ahead is not None
    arguments = (10, 80)
    if change == "report":
        run.report("", [int(ahead.plan.rows[0])], [[1, 0]])
    elif change == "grant":
        run.grant(ahead.plan, "other")
    elif change == "reservation":
        run.planner.weights.reserve(ahead.plan.rows, True)
    elif change == "arguments":
        arguments = (11, 88)
    else:
        run.send(
            strategy_updated=log_pb2.StrategyUpdated(strategy_json=resolve("uniform-grpo", {}).to_json())
        )
    plan = run.planner.plan(*arguments)
    assert plan is not ahead.plan
    if change in ("grant", "reservation"):
        assert not set(plan.rows) & set(ahead.plan.rows)


def test_drawing_ahead_again_and_again_does_not_use_up_the_exploration_queue() -> None:
    run = pool("cures", 30, exploration=1.0)
    run.planner.settle(run.planner.plan(10, 80))
    for step in range(5):
        run.planner.plan_ahead()
        run.advance(step + 1)
    assert len(run.planner.plan(30, 240).notes) == 0
