"""`frontier` in one round, and with a pilot where the trainer's steps are diluted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampler_service.curriculum.arrays import from_bytes
from sampler_service.curriculum.strategy import resolve
from tests.curriculum_runs import Run

DONE, SAMPLE_MORE = 1, 2
POOL = 200


def run_of(*, diluted: bool, prompts: int = POOL, **overrides: Any) -> Run:
    """A curriculum that has seen enough to know how the trainer steps."""
    run = Run("frontier", overrides)
    run.add(prompts)
    run.state.proposal_memory["dilution_held"] = np.array([diluted], dtype=np.uint8)
    return run


def directives(outcome: Any) -> tuple[list[int], list[int]]:
    reported = outcome.rollouts_reported
    return from_bytes(reported.actions, "u1").tolist(), from_bytes(reported.rollouts, "i4").tolist()


def test_where_steps_are_not_diluted_it_takes_one_round() -> None:
    run = run_of(diluted=False)
    plan = run.planner.plan(32, 256)
    assert plan.quotas.tolist() == [8] * 32
    assert plan.budget == 256
    assert plan.notes == []
    run.grant(plan, "L")
    # No waiting for the others, as `one_shot` does not.
    assert directives(run.report("L", [0], [[1.0] * 8])) == ([DONE], [0])


def test_where_they_are_diluted_fewer_prompts_get_a_pilot_and_the_best_of_them_the_rest() -> None:
    run = run_of(diluted=True)
    plan = run.planner.plan(32, 256)
    assert plan.quotas.tolist() == [4] * 12
    assert plan.budget == 256
    assert "12 prompts" in plan.notes[0]
    run.grant(plan, "L")
    rewards = [[1.0, 1.0, 0.0, 0.0] if i < 3 else [0.0] * 4 for i in range(12)]
    actions, rollouts = directives(run.report("L", list(range(12)), rewards))
    assert actions[:3] == [SAMPLE_MORE] * 3
    assert rollouts[:3] == [32] * 3
    # 256 − 12 · 4 = 208: six of 32, one of what is left, none for the others.
    assert sorted(rollouts, reverse=True) == [32] * 6 + [16] + [0] * 5
    assert [action == SAMPLE_MORE for action in actions] == [more > 0 for more in rollouts]
    more = [slot for slot, count in enumerate(rollouts) if count]
    actions, rollouts = directives(run.report("L", more, [[1.0] * rollouts[slot] for slot in more]))
    assert actions == [DONE] * 7
    assert run.state.leases.get("L").unspent == 0
    assert run.state.leases.get("L").state == "closed"


def test_a_budget_beyond_the_commitments_is_spent_in_larger_ones() -> None:
    run = run_of(diluted=True)
    plan = run.planner.plan(8, 400)
    assert plan.quotas.tolist() == [4] * 3
    run.grant(plan, "L")
    _, rollouts = directives(run.report("L", [0, 1, 2], [[1.0, 0.0, 0.0, 0.0]] * 3))
    assert sum(rollouts) == 400 - 12
    assert max(rollouts) - min(rollouts) <= 2


def test_without_a_named_budget_a_batch_costs_the_same_either_way() -> None:
    plain, pilot = (run_of(diluted=diluted).planner.plan(32) for diluted in (False, True))
    assert plain.budget == pilot.budget == 256


def test_a_trainer_of_equal_quotas_notices_nothing() -> None:
    plain, diluted = (
        run_of(diluted=diluted).planner.plan(32, 256, equal_quotas=True) for diluted in (False, True)
    )
    assert len(plain.rows) == len(diluted.rows) == 32
    assert plain.quotas.tolist() == diluted.quotas.tolist() == [8] * 32
    assert plain.notes == diluted.notes == []


def test_the_preset_may_be_used_with_equal_quotas_in_the_strategy() -> None:
    assert resolve("frontier", {"equal_quotas": True}).equal_quotas
    run = run_of(diluted=True, equal_quotas=True)
    assert run.planner.plan(32, 256).quotas.tolist() == [8] * 32


def test_a_batch_is_answered_as_it_was_granted() -> None:
    run = run_of(diluted=False)
    run.grant(run.planner.plan(8, 64), "plain")
    run.state.proposal_memory["dilution_held"][:] = 1
    run.grant(run.planner.plan(8, 64), "pilot")
    assert directives(run.report("plain", [0], [[1.0] * 4 + [0.0] * 4])) == ([DONE], [0])
    run.state.proposal_memory["dilution_held"][:] = 0
    actions, rollouts = directives(run.report("pilot", [0, 1, 2], [[1.0, 1.0, 0.0, 0.0]] * 3))
    assert actions[:2] == [SAMPLE_MORE, SAMPLE_MORE]
    assert sum(rollouts) == 64 - 12


def test_a_budget_that_one_round_cannot_hold_is_not_taken_for_that_of_a_pilot() -> None:
    run = run_of(diluted=False, quota={"frontier": {"min": 2, "max": 32}})
    plan = run.planner.plan(4, 1000)
    assert plan.quotas.tolist() == [32] * 4
    assert plan.budget == 128
    run.grant(plan, "L")
    assert directives(run.report("L", [0], [[1.0] * 16 + [0.0] * 16])) == ([DONE], [0])


@given(
    batch=st.integers(1, 40),
    each=st.integers(4, 40),
    failed=st.integers(0, 3),
    seed=st.integers(0, 2**16),
)
def test_no_budget_is_exceeded_and_all_of_it_is_spent(batch: int, each: int, failed: int, seed: int) -> None:
    run = run_of(diluted=True, prompts=60)
    budget = batch * each
    plan = run.planner.plan(batch, budget)
    run.grant(plan, "L")
    rng = np.random.default_rng(seed)
    slots, counts, rounds = list(range(len(plan.rows))), plan.quotas.tolist(), 0
    while slots and rounds < 5:
        rewards = [(rng.random(count) < 0.5).astype(float).tolist() for count in counts]
        statuses = [[2] * min(failed, n) + [1] * (n - min(failed, n)) for n in counts]
        _, rollouts = directives(run.report("L", slots, rewards, statuses=statuses))
        slots, counts = [s for s, n in zip(slots, rollouts, strict=True) if n], [n for n in rollouts if n]
        rounds += 1
    lease = run.state.leases.get("L")
    assert rounds <= 2
    assert int(lease.granted.sum()) == budget
    assert lease.state == "closed"


def test_it_goes_over_by_itself_once_the_reports_show_that_steps_are_diluted() -> None:
    run = Run("frontier")
    run.add(POOL)
    rng = np.random.default_rng(1)
    begun: list[int] = []
    for step in range(30):
        plan = run.planner.plan(16, 128)
        begun.append(len(plan.rows))
        run.grant(plan, f"lease-{step}", policy_version=step)
        mixed = int(rng.integers(1, len(plan.rows)))
        quotas = plan.quotas.tolist()
        rewards = [[float(slot < mixed)] + [0.0] * (n - 1) for slot, n in enumerate(quotas)]
        _, rollouts = directives(run.report(f"lease-{step}", list(range(len(quotas))), rewards, step))
        more = [slot for slot, count in enumerate(rollouts) if count]
        if more:
            run.report(f"lease-{step}", more, [[0.0] * rollouts[slot] for slot in more], step)
        run.advance(step + 1, kl=1e-3 * (mixed / len(quotas)) ** 2.5)
    assert begun[:7] == [16] * 7
    assert begun[-10:] == [6] * 10


@pytest.mark.parametrize("override", [{"proposal": {"frontier": {"power": 4}}}, {"stopping": "one_shot"}])
def test_either_part_replaced_it_stays_in_one_round(override: dict[str, Any]) -> None:
    run = run_of(diluted=True, **override)
    assert len(run.planner.plan(32, 256).rows) == 32
