"""Iterations: disjoint subsets of the pool, each begun by a cold start, all of it folded from the log."""

from __future__ import annotations

import numpy as np
import pytest

from curriculum.v1 import log_pb2
from sampler_service.curriculum.errors import InvalidArgument
from sampler_service.curriculum.iterations import active, subsets_of
from sampler_service.curriculum.presets import PRESETS
from sampler_service.curriculum.sources import COLD_START
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.strategy import Strategy, resolve
from tests.curriculum_runs import Run

RATES = np.full(2000, 0.4)


def iterating(preset: str = "uniform-grpo", prompts: int = 300, **iterations: object) -> Run:
    parameters = {"subsets": 5, "steps": 3, "cold_start_rollouts": 4, "least_prompts": 1, **iterations}
    run = Run(preset, {"iterations": parameters, "exploration": 0.1})
    run.add(prompts)
    return run


def window(run: Run) -> np.ndarray:
    inside = active(run.state, slice(0, run.state.table.size))
    return np.arange(run.state.table.size) if inside is None else np.flatnonzero(inside)


def in_cold_start(run: Run) -> bool:
    return run.state.due.count(COLD_START) > 0


def through_the_cold_start(run: Run, batch: int = 20, budget: int = 0) -> list[int]:
    """Rows in the order of their cold start; the policy advances after every batch."""
    served: list[int] = []
    while in_cold_start(run):
        plan = run.planner.plan(batch, budget)
        served += plan.rows[plan.sources == COLD_START].tolist()
        assert (plan.quotas == plan.quotas[0]).all()
        lease = f"L{len(run.log)}"
        run.grant(plan, lease)
        rewards = [[1.0, *[0.0] * (int(n) - 1)] for n in plan.quotas]
        run.report(lease, list(range(len(rewards))), rewards, run.state.policy_version)
        run.advance(run.state.policy_version + 1)
    return served


@pytest.mark.parametrize("prefix", ["p", "gsm8k/train/", ""])
def test_subsets_are_about_equal_whatever_the_ids_look_like(prefix: str) -> None:
    run = Run()
    ids = [f"{prefix}{i}".encode() for i in range(15_000)]
    run.state.table.add(ids)
    sizes = np.bincount(subsets_of(run.state, slice(0, 15_000), 15), minlength=15)
    assert sizes.min() > 850
    assert sizes.max() < 1150


def test_adding_prompts_moves_nobody_to_another_subset() -> None:
    run = iterating(prompts=100)
    before = subsets_of(run.state, np.arange(100), 5)
    run.add(1000)
    np.testing.assert_array_equal(subsets_of(run.state, np.arange(100), 5), before)


@pytest.mark.parametrize("chunk", [1, 10, 299])
def test_prompts_that_come_in_chunks_are_due_as_if_they_had_come_at_once(chunk: int) -> None:
    run = iterating(prompts=1)
    for start in range(1, 300, chunk):
        run.add(min(chunk, 300 - start))
    assert run.state.table.size == 300
    due = run.state.due.free_rows(COLD_START, run.state.table.leases, np.zeros(300, dtype=np.bool_))
    assert due.tolist() == window(run).tolist()
    assert len(due) > 30
    assert sorted(through_the_cold_start(run)) == window(run).tolist()


def test_every_prompt_of_the_subset_is_rolled_out_four_times_first_and_marked_as_such() -> None:
    run = iterating()
    subset = window(run)
    assert 30 < len(subset) < 100
    assert sorted(through_the_cold_start(run)) == subset.tolist()
    assert (run.state.table.rollouts[subset] == 4).sum() >= len(subset) - 20  # A few filled the last batch.
    assert run.state.iteration == 0


def test_the_batch_says_that_it_is_a_cold_start_and_keeps_to_one_round() -> None:
    run = iterating("pilot-commit")
    plan = run.planner.plan(16, 200)
    assert plan.quotas.tolist() == [4] * 16
    assert plan.budget == 64
    assert (plan.sources == COLD_START).all()
    assert "Cold start of iteration 0" in plan.notes[0]


@pytest.mark.parametrize(("budget", "prompts", "each"), [(40, 10, 4), (7, 1, 4), (3, 1, 3), (0, 16, 4)])
def test_a_cold_start_stays_within_a_small_budget(budget: int, prompts: int, each: int) -> None:
    plan = iterating().planner.plan(16, budget)
    assert plan.quotas.tolist() == [each] * prompts


def test_then_draws_stay_within_the_subset_for_so_many_steps_and_the_next_subset_begins_anew() -> None:
    run = iterating("cures", steps=3)
    seen = [window(run)]
    for iteration in range(5):
        through_the_cold_start(run)
        assert run.state.iteration == iteration
        evidence = run.state.table.column("successes") + run.state.table.column("failures")
        assert (evidence[seen[-1]] > 0).all()
        for _ in range(3):
            plan = run.planner.plan(20, 160)
            assert set(plan.rows) <= set(seen[-1].tolist())
            assert plan.quotas.sum() == 160
            assert COLD_START not in plan.sources
            run.planner.settle(plan)
            run.advance(run.state.policy_version + 1)
        assert run.state.iteration == iteration + 1
        # Everybody is back at the prior.
        assert (run.state.table.column("successes") == 0).all()
        seen.append(window(run))
    assert sorted(np.concatenate(seen[:5]).tolist()) == list(range(300))  # Disjoint, and all of them.
    np.testing.assert_array_equal(seen[5], seen[0])
    assert run.state.digest() == run.replayed().state.digest()


def test_estimates_may_outlive_an_iteration() -> None:
    run = iterating(steps=1, reset_estimates=False)
    through_the_cold_start(run)
    run.advance(run.state.policy_version + 1)
    assert run.state.iteration == 1
    assert run.state.table.column("failures").sum() > 0


def test_without_a_cold_start_the_steps_count_from_the_first() -> None:
    run = iterating(cold_start_rollouts=0, steps=2)
    assert not run.state.due
    first = window(run)
    run.advance(1)
    run.advance(2)
    assert run.state.iteration == 1
    assert not set(window(run)) & set(first)


def test_an_item_response_model_forgets_its_prompts_and_keeps_what_it_knows_of_the_pool() -> None:
    run = iterating("frontier", steps=1)
    through_the_cold_start(run)
    ability = run.state.memory["theta"].copy()
    before = run.state.posterior(np.arange(5))
    run.advance(run.state.policy_version + 1)
    assert run.state.iteration == 1
    np.testing.assert_array_equal(run.state.memory["theta"], ability)
    alphas, _ = run.state.posterior(np.arange(300))
    assert np.ptp(alphas) == 0  # No features: nothing tells prompts apart any more.
    assert not np.array_equal(run.state.posterior(np.arange(5)), before)


def test_a_trainer_may_start_the_next_iteration_itself() -> None:
    run = iterating()
    first = window(run)
    run.advance(1, start_iteration=True)
    assert run.state.iteration == 1
    assert in_cold_start(run)
    assert not set(window(run)) & set(first)


def test_a_prompt_whose_lease_was_released_is_due_again() -> None:
    run = iterating()
    left = run.state.due.count(COLD_START)
    plan = run.planner.plan(16)
    run.grant(plan, "L")
    run.report("L", [0], [[1.0, 0.0, 0.0, 0.0]])
    run.send(batch_released=log_pb2.BatchReleased(lease_id="L"))
    assert run.state.due.count(COLD_START) == left - 1


def test_a_prompt_whose_rollouts_all_fail_does_not_hold_the_cold_start_up() -> None:
    run = iterating()
    while in_cold_start(run):
        plan = run.planner.plan(50)
        run.grant(plan, f"L{len(run.log)}")
        slots = list(range(len(plan.rows)))
        run.report(f"L{len(run.log) - 1}", slots, [[0.0] * 4] * len(slots), statuses=[[2] * 4] * len(slots))
    assert run.state.history.totals["rollouts"] == 0


def test_while_all_that_are_due_are_in_flight_batches_are_drawn_as_usual() -> None:
    run = iterating()
    run.grant(run.planner.plan(len(window(run))))
    plan = run.planner.plan(16, 128)
    assert plan.quotas.sum() == 128
    assert COLD_START not in plan.sources


@pytest.mark.parametrize("prompts", [1, 5, 40])
def test_a_small_pool_is_one_subset(prompts: int) -> None:
    run = iterating(prompts=prompts, subsets=15, least_prompts=64)
    assert len(window(run)) == prompts
    through_the_cold_start(run)
    for _ in range(8):
        assert len(run.planner.plan(prompts, 8 * prompts).rows) == prompts
        run.planner.weights.reserve(np.arange(prompts), False)
        run.advance(run.state.policy_version + 1)
    assert run.state.iteration >= 1


def test_small_subsets_are_joined_and_stay_disjoint() -> None:
    run = iterating(prompts=200, subsets=15, least_prompts=64, cold_start_rollouts=0, steps=1)
    seen = []
    for version in range(1, 6):
        seen.append(window(run))
        run.advance(version)
    assert all(len(rows) >= 64 for rows in seen)
    rounds = [set(rows.tolist()) for rows in seen]
    cycle = rounds.index(rounds[0], 1)
    assert sorted(row for rows in rounds[:cycle] for row in rows) == list(range(200))


def test_a_batch_larger_than_its_subset_is_filled_up_and_the_next_subset_is_larger() -> None:
    run = iterating(cold_start_rollouts=0, steps=1)
    subset = window(run)
    plan = run.planner.plan(150, 1200)
    assert len(plan.rows) == 150
    assert set(subset.tolist()) <= set(plan.rows.tolist())
    assert f"{150 - len(subset)} are others" in " ".join(plan.notes)
    run.grant(plan)
    run.advance(1)
    assert len(window(run)) >= 150


def test_prompts_added_during_the_cold_start_join_it() -> None:
    run = iterating()
    run.grant(run.planner.plan(8))
    left = run.state.due.count(COLD_START)
    run.add(100)
    new = window(run)[window(run) >= 300]
    assert len(new)
    assert run.state.due.count(COLD_START) == left + len(new)


def test_prompts_added_later_wait_for_the_exploration_floor() -> None:
    run = iterating()
    through_the_cold_start(run)
    run.add(100)
    assert not in_cold_start(run)
    new = window(run)[window(run) >= 300]
    assert set(run.planner.plan(40, 320).rows) & set(new.tolist())


def test_a_snapshot_in_the_middle_of_a_cold_start_is_complete() -> None:
    run = iterating()
    run.grant(run.planner.plan(16), "L")
    run.report("L", [0, 1], [[1.0, 0.0, 0.0, 0.0]] * 2)
    restored = CurriculumState.restore(run.state.export())
    assert restored.digest() == run.state.digest()
    assert restored.due.count(COLD_START) == run.state.due.count(COLD_START)


def test_a_snapshot_from_before_there_were_iterations_restores() -> None:
    arrays = {
        k: v for k, v in Run().state.export().items() if not k.startswith(("due.", "iteration_memory."))
    }
    assert not CurriculumState.restore(arrays).due


def update(run: Run, strategy: Strategy) -> None:
    run.send(strategy_updated=log_pb2.StrategyUpdated(strategy_json=strategy.to_json()))


def test_iterations_are_switched_on_and_off_with_the_strategy() -> None:
    run = Run()
    run.add(300)
    run.step(RATES, 20, 160)
    learnt = run.state.table.column("rollouts").sum()
    update(run, resolve("cures", {}))
    assert in_cold_start(run)
    update(run, resolve("cures", {"iterations": {}}))
    assert not run.state.due
    assert len(window(run)) == 300
    assert run.state.table.column("rollouts").sum() == learnt
    assert run.state.digest() == run.replayed().state.digest()


def test_a_part_that_is_off_stays_off_when_an_answer_is_sent_back() -> None:
    strategy = resolve("cures", {"iterations": {}})
    assert strategy.iterations is None
    assert resolve("cures", strategy.dump()) == strategy


@pytest.mark.parametrize(
    ("iterations", "field"),
    [
        ({"subsets": 0}, "strategy.iterations.subsets"),
        ({"steps": 0}, "strategy.iterations.steps"),
        ({"cold_start_rollouts": -1}, "strategy.iterations.cold_start_rollouts"),
        ({"epochs": 3}, "strategy.iterations.epochs"),
        ("often", "strategy.iterations"),
    ],
)
def test_a_bad_parameter_names_its_field(iterations: object, field: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        resolve("cures", {"iterations": iterations})
    assert refusal.value.field == field


@pytest.mark.parametrize("preset", list(PRESETS))
def test_iterations_go_with_every_preset(preset: str) -> None:
    run = Run(preset, {"iterations": {"subsets": 4, "steps": 2, "least_prompts": 20}})
    run.add(120, clusters=3, references=np.linspace(0, 1, 120))
    least = int(run.state.strategy.stopping.first_round(np.array([8], dtype=np.int32))[0])
    budget = 8 * max(8, least) * max(1, round(run.state.strategy.stopping.candidate_factor))
    for version in range(40):
        assert 0 < run.step(RATES, 8, budget, version) <= budget
        run.advance(version + 1, kl=0.01)
    assert run.state.iteration >= 2
    assert run.state.in_flight == 0
    assert run.state.digest() == run.replayed().state.digest()
