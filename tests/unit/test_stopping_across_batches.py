"""Stopping beyond one round: refills within a lease, prompts that come again, banks and filters that let go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from curriculum.v1 import log_pb2
from sampler_service.curriculum.arrays import from_bytes
from sampler_service.curriculum.sources import CONTINUATION, REPLAY
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.strategy import resolve
from tests.curriculum_runs import Run

DONE, SAMPLE_MORE, DROP = 1, 2, 3
MIXED, RIGHT, WRONG = [1.0] * 4 + [0.0] * 4, [1.0] * 8, [0.0] * 8


def leased(preset: str, batch: int, budget: int, prompts: int = 200, **overrides: Any) -> tuple[Run, Any]:
    run = Run(preset, overrides)
    run.add(prompts)
    plan = run.planner.plan(batch, budget)
    assert not run.grant(plan, "L").HasField("refusal")
    return run, plan


def answers(run: Run, slots: list[int], rewards: list[list[float]]) -> dict[int, tuple[int, int]]:
    """Slot → action and rollouts."""
    outcome = run.report("L", slots, rewards).rollouts_reported
    lease = run.state.leases.get("L")
    slot_of = {int(row): slot for slot, row in enumerate(lease.rows)}
    actions, more = from_bytes(outcome.actions, "u1").tolist(), from_bytes(outcome.rollouts, "i4").tolist()
    rows = from_bytes(outcome.rows, "i4").tolist()
    return {slot_of[row]: (a, n) for row, a, n in zip(rows, actions, more, strict=True)}


# -- dapo ----------------------------------------------------------------------------


def test_what_a_budget_has_above_one_round_is_held_back_for_the_refill() -> None:
    run, plan = leased("dapo", 4, 4 * 8 + 5 * 8)
    assert plan.quotas.tolist() == [8] * 4 + [0] * 5
    assert plan.budget == 72
    assert "5 prompts are held back" in " ".join(plan.notes)
    assert run.state.in_flight == 9


def test_dropped_groups_are_replaced_until_as_many_are_mixed_as_were_asked_for() -> None:
    run, _ = leased("dapo", 4, 100 * 8)
    first = answers(run, [0, 1, 2, 3], [MIXED, RIGHT, WRONG, MIXED])
    assert [first[i][0] for i in range(4)] == [DONE, DROP, DROP, DONE]
    assert {slot: more for slot, (_, more) in first.items() if more} == {4: 8, 5: 8}
    second = answers(run, [4], [WRONG])  # In parts, as they come.
    assert second == {4: (DROP, 0), 6: (SAMPLE_MORE, 8)}
    last = answers(run, [5, 6], [MIXED, MIXED])
    assert last == {5: (DONE, 0), 6: (DONE, 0)}
    assert run.state.in_flight == 0
    assert run.state.leases.get("L").state == "closed"
    assert run.state.history.totals["rollouts"] == 7 * 8


def test_an_exhausted_refill_is_no_error_and_never_over_budget() -> None:
    run, plan = leased("dapo", 4, 6 * 8)
    assert len(plan.rows) == 6
    more = answers(run, [0, 1, 2, 3], [WRONG, WRONG, WRONG, MIXED])
    assert sorted(slot for slot, (_, n) in more.items() if n) == [4, 5]
    assert answers(run, [4, 5], [WRONG, WRONG]) == {4: (DROP, 0), 5: (DROP, 0)}
    assert run.state.history.totals["rollouts"] == 48 == plan.budget
    assert run.state.in_flight == 0


def test_the_refill_ends_with_its_rounds() -> None:
    stopping = {"zero_variance": {"max_gen_rounds": 2}}
    run, plan = leased("dapo", 4, 10_000, stopping=stopping)
    assert plan.quotas.tolist() == [8] * 4 + [0] * 4
    answers(run, [0, 1, 2, 3], [WRONG] * 4)
    answers(run, [4, 5, 6, 7], [WRONG] * 4)
    assert run.state.in_flight == 0


def test_a_trainer_that_reports_held_prompts_with_nothing_is_told_to_leave_them() -> None:
    run, plan = leased("dapo", 2, 5 * 8)
    actions = answers(run, [0, 1, 2, 3, 4], [MIXED, WRONG, [], [], []])
    assert actions == {0: (DONE, 0), 1: (DROP, 0), 2: (SAMPLE_MORE, 8), 3: (DROP, 0), 4: (DROP, 0)}
    assert answers(run, [2], [MIXED])[2] == (DONE, 0)
    assert run.state.in_flight == 0
    assert len(plan.rows) == 5


def test_over_sampled_groups_are_all_trained_on_and_nothing_is_woken_for_them() -> None:
    stopping = {"zero_variance": {"oversample": 1.5}}
    run, plan = leased("dapo", 4, 100 * 8, stopping=stopping)
    assert np.count_nonzero(plan.quotas) == 6
    actions = answers(run, list(range(6)), [MIXED] * 5 + [WRONG])
    assert [actions[slot][0] for slot in range(6)] == [DONE] * 5 + [DROP]
    assert run.state.in_flight == 0


def test_prompts_that_were_never_woken_are_no_groups_and_go_back_to_the_pool() -> None:
    run, _ = leased("dapo", 4, 100 * 8)
    answers(run, [0, 1, 2, 3], [MIXED] * 4)
    assert run.state.history.totals["groups"] == 4
    assert (run.state.table.column("leases") == -1).all()
    assert run.state.table.column("visits").sum() == 4


def test_a_budget_for_one_round_and_equal_quotas_hold_nothing_back() -> None:
    run = Run("dapo")
    run.add(100)
    assert len(run.planner.plan(8, 64).rows) == 8
    assert len(run.planner.plan(8, 800, equal_quotas=True).rows) == 8
    run = Run("dapo")
    run.add(100)
    assert len(run.planner.plan(8).rows) == 8 + 46  # No budget named: up to ten rounds, half of what is free.


def test_held_prompts_are_let_go_of_when_the_rule_is_exchanged() -> None:
    run, _ = leased("dapo", 2, 10 * 8)
    run.send(strategy_updated=log_pb2.StrategyUpdated(strategy_json=resolve("uniform-grpo", {}).to_json()))
    answers(run, [0, 1], [WRONG, WRONG])
    assert run.state.in_flight == 0


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.5, 1.0])
def test_refills_stay_within_budget_whatever_comes_back(rate: float) -> None:
    run = Run("dapo", {"stopping": {"zero_variance": {"max_gen_rounds": 4}}})
    run.add(120)
    for version in range(30):
        assert run.step(np.full(120, rate), 8, 300, version) <= 300
        run.advance(version + 1)
    assert run.state.in_flight == 0
    assert run.state.digest() == run.replayed().state.digest()
    assert CurriculumState.restore(run.state.export()).digest() == run.state.digest()


# -- requeue --------------------------------------------------------------------------

NGU = {"stopping": {"requeue": {"probability": 0.999999, "max_rounds": 1}}, "exploration": 0.1}


def test_an_unsolved_prompt_comes_again_in_a_later_batch_as_a_continuation() -> None:
    run, plan = leased("uniform-grpo", 4, 32, **NGU)
    actions = answers(run, [0, 1, 2, 3], [WRONG, MIXED, RIGHT, WRONG])
    assert [actions[slot][0] for slot in range(4)] == [DROP, DONE, DROP, DROP]
    following = run.planner.plan(8, 64)
    continued = following.rows[following.sources == CONTINUATION]
    assert sorted(continued.tolist()) == sorted(plan.rows[[0, 3]].tolist())
    assert following.quotas.sum() == 64
    assert len(set(following.rows.tolist())) == 8


def test_continuations_take_half_of_a_batch_at_most() -> None:
    run, plan = leased("uniform-grpo", 40, 320, **NGU)
    answers(run, list(range(40)), [WRONG] * 40)
    following = run.planner.plan(8, 64)
    assert (following.sources == CONTINUATION).sum() == 4
    assert len(plan.rows) == 40


def test_a_continuation_that_is_solved_does_not_come_again() -> None:
    run, plan = leased("uniform-grpo", 2, 16, **NGU)
    answers(run, [0, 1], [WRONG, MIXED])
    assert run.state.due.count(CONTINUATION) == 1
    run.report("", [int(plan.rows[0])], [MIXED])
    assert not run.state.due


def test_within_a_lease_the_budget_is_used_up_first() -> None:
    stopping = {"requeue": {"probability": 0.999999, "max_rounds": 3}}
    run, _ = leased("uniform-grpo", 1, 8, stopping=stopping)
    assert answers(run, [0], [WRONG]) == {0: (DROP, 0)}
    assert run.state.due.count(CONTINUATION) == 1


def test_nothing_is_continued_under_another_rule() -> None:
    run, _ = leased("uniform-grpo", 2, 16, **NGU)
    answers(run, [0, 1], [WRONG, WRONG])
    run.send(strategy_updated=log_pb2.StrategyUpdated(strategy_json=resolve("uniform-grpo", {}).to_json()))
    assert not run.state.due


def test_a_pool_nobody_can_solve_is_requeued_without_end_or_error() -> None:
    run = Run("uniform-grpo", {"stopping": {"requeue": {"probability": 0.9}}, "exploration": 0.1})
    run.add(30)
    for version in range(40):
        assert 0 < run.step(np.zeros(30), 8, 64, version) <= 64
        run.advance(version + 1)
    assert run.state.in_flight == 0
    assert run.state.table.column("visits").min() > 0  # Nor does it crowd the others out.
    assert run.state.digest() == run.replayed().state.digest()


# -- banks and filters -------------------------------------------------------------------


def test_vcrl_marks_what_it_replays_and_replays_no_more_than_was_freed() -> None:
    run = Run("vcrl", {"exploration": 0.0})
    run.add(400)
    rates = np.where(np.arange(400) % 2 == 0, 0.5, 0.0)
    replayed = 0
    for version in range(40):
        plan = run.planner.plan(20, 160)
        marked = plan.sources == REPLAY
        freed = int(run.state.proposal_memory.get("freed", [0])[0])
        assert marked.sum() <= freed
        replayed += int(marked.sum())
        run.planner.settle(plan)
        assert run.step(rates, 20, 160, version) == 160
        run.advance(version + 1)
    assert replayed > 50
    # No row is replayed for ever: its limit takes it out of the bank.
    assert run.state.proposal_memory["replays"].max() < 2


@pytest.mark.parametrize(
    ("preset", "proposal"),
    [
        ("depo", {"depo": {"warmup_steps": 3, "recheck_steps": 6}}),
        ("speed", {"speed": {"recheck_steps": 6}}),
    ],
)
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_no_prompt_is_filtered_for_ever(preset: str, proposal: dict[str, Any], rate: float) -> None:
    """All prompts fail the filter, and nothing is explored: each is still looked at again and again."""
    run = Run(preset, {"proposal": proposal, "exploration": 0.0, "stopping": "one_shot"})
    run.add(30, references=np.full(30, rate))
    visits = []
    for version in range(60):
        run.step(np.full(30, rate), 6, 48, version)
        run.advance(version + 1)
        visits.append(run.state.table.column("visits").copy())
    for start in range(0, 45, 15):
        assert (visits[start + 14] > (visits[start - 1] if start else 0)).all()


def test_a_prompt_that_passes_again_is_back_in_the_draw_after_one_recheck() -> None:
    run = Run(
        "depo",
        {
            "proposal": {"depo": {"warmup_steps": 0, "recheck_steps": 5}},
            "exploration": 0.0,
            "estimator": {"shared_evidence": "none"},
        },
    )
    run.add(20)
    run.report("", [0], [[0.0] * 8])
    run.advance(1)
    assert 0 not in run.planner.plan(19, 152).rows
    run.planner.weights.reserve(np.arange(20), False)
    run.advance(6)
    for version in range(2, 8):
        run.advance(5 + version)
    run.report("", [0], [[1.0] * 6 + [0.0] * 2])
    assert 0 in run.planner.plan(20, 160).rows
