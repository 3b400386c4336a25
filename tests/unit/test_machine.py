"""The fold: events to state to outcome."""

from __future__ import annotations

import numpy as np
import pytest

from curriculum.v1 import log_pb2
from sampler_service.curriculum.arrays import from_bytes, to_bytes
from sampler_service.curriculum.checkpoints import adopt_checkpoint
from sampler_service.curriculum.errors import InvalidArgument
from sampler_service.curriculum.machine import CurriculumMachine, create_state
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.strategy import resolve
from tests.curriculum_runs import Run

DONE, SAMPLE_MORE = 1, 2


def leased(preset: str = "uniform-grpo", overrides: dict | None = None, batch: int = 4, budget: int = 32):
    run = Run(preset, overrides)
    run.add(10)
    plan = run.planner.plan(batch, budget)
    run.grant(plan, "L")
    return run, plan


def test_the_posterior_is_the_prior_plus_what_was_reported() -> None:
    run, plan = leased()
    run.report("L", [0, 1], [[1, 0, 1, 1, 0, 0, 0, 1], [0] * 8])
    alphas, betas = run.state.posterior(plan.rows[:3])
    assert alphas.tolist() == [5.0, 1.0, 1.0]
    assert betas.tolist() == [5.0, 9.0, 1.0]


def test_a_success_is_a_reward_strictly_above_the_threshold() -> None:
    run, plan = leased()
    run.report("L", [0], [[0.5, 0.5000001, 1.0, 0.4]])
    assert run.state.table.successes[plan.rows[0]] == 2


def test_fractional_rewards_count_as_parts_of_a_success() -> None:
    run, plan = leased(overrides={"estimator": {"fractional": True}})
    run.report("L", [0], [[0.25, 0.75, 0.5, 0.0]])
    assert run.state.table.successes[plan.rows[0]] == 1.5
    assert run.state.table.failures[plan.rows[0]] == 2.5


def test_a_repeated_request_gives_the_first_outcome_and_changes_nothing() -> None:
    run, _ = leased()
    first = run.report("L", [0], [[1, 0]], request_id="r")
    digest_columns = run.state.table.successes.copy()
    again = run.report("L", [0], [[1, 0]], request_id="r")
    assert again.duplicate
    assert again.rollouts_reported == first.rollouts_reported
    assert again.revision == first.revision
    assert np.array_equal(digest_columns, run.state.table.successes)
    assert run.state.history.counters["duplicates"] == 1


def test_a_request_id_cannot_stand_for_two_requests() -> None:
    run, _ = leased()
    run.advance(1)
    run.send("again", b"one", policy_advanced=log_pb2.PolicyAdvanced(policy_version=2))
    outcome = run.send("again", b"two", policy_advanced=log_pb2.PolicyAdvanced(policy_version=3))
    assert outcome.refusal.reason == "REQUEST_ID_REUSED"
    assert run.state.policy_version == 2


def test_rollouts_beyond_the_grant_are_rejected_under_a_new_request_id_too() -> None:
    run, plan = leased()
    run.report("L", [0], [[1] * 8])
    outcome = run.report("L", [0], [[1] * 8]).rollouts_reported
    assert outcome.accepted == 0
    assert from_bytes(outcome.rejected_rollouts, "i4").tolist() == [8]
    assert run.state.table.successes[plan.rows[0]] == 8


def test_a_partial_group_says_how_many_rollouts_are_still_owed() -> None:
    run, _ = leased()
    outcome = run.report("L", [0], [[1, 0, 1]]).rollouts_reported
    assert from_bytes(outcome.actions, "u1").tolist() == [SAMPLE_MORE]
    assert from_bytes(outcome.rollouts, "i4").tolist() == [5]
    outcome = run.report("L", [0], [[1, 0, 1, 0, 0]]).rollouts_reported
    assert from_bytes(outcome.actions, "u1").tolist() == [DONE]
    assert from_bytes(outcome.baselines, "f4").tolist() == [0.5]


def test_nan_rewards_and_failed_rollouts_are_no_outcomes_but_are_accounted_for() -> None:
    run, plan = leased()
    outcome = run.report(
        "L", [0], [[1, float("nan"), 0, 1, float("inf"), 0, 1, 1]], statuses=[[1, 1, 2, 3, 1, 5, 4, 0]]
    ).rollouts_reported
    assert outcome.accepted == 3
    assert from_bytes(outcome.rejected_reasons, "u1").tolist() == [1, 4]
    assert from_bytes(outcome.rejected_rollouts, "i4").tolist() == [2, 3]
    assert from_bytes(outcome.actions, "u1").tolist() == [DONE]
    assert run.state.table.successes[plan.rows[0]] == 3
    counters = run.state.history.counters
    assert counters["rollouts_error"] == 3
    assert counters["rollouts_stale"] == counters["rollouts_filtered"] == counters["rollouts_truncated"] == 1


def test_a_report_of_a_policy_too_old_is_no_evidence() -> None:
    run, plan = leased(overrides={"max_staleness": 2})
    run.advance(5)
    outcome = run.report("L", [0], [[1] * 8], policy_version=2).rollouts_reported
    assert outcome.accepted == 0
    assert run.state.table.successes[plan.rows[0]] == 0
    assert run.report("L", [1], [[1] * 8], policy_version=3).rollouts_reported.accepted == 8


def test_a_prompt_is_in_at_most_one_live_lease() -> None:
    run, plan = leased()
    outcome = run.grant(plan, "second")
    assert outcome.refusal.reason == "LEASE_CONFLICT"
    assert "second" not in run.state.leases.live
    run.report("L", [0], [[1] * 8])
    assert run.state.table.leases[plan.rows[0]] == -1
    assert (run.state.table.leases[plan.rows[1:]] >= 0).all()


def test_a_void_grant_may_be_drawn_again_under_the_same_request_id() -> None:
    run, plan = leased()
    assert run.grant(plan, "second", request_id="step-1").HasField("refusal")
    fresh = run.planner.plan(2, 8)
    assert not run.grant(fresh, "third", request_id="step-1").HasField("refusal")


def test_a_lease_expires_by_the_logs_time_only() -> None:
    run, plan = leased()
    run.send(leases_expired=log_pb2.LeasesExpired(lease_ids=["L"]))
    assert "L" in run.state.leases.live
    for _ in range(60):
        run.advance(run.state.policy_version)
    run.send(leases_expired=log_pb2.LeasesExpired(lease_ids=["L", "unknown"]))
    assert not run.state.leases.live
    assert run.state.in_flight == 0
    assert (run.state.table.leases[plan.rows] == -1).all()


def test_a_late_report_for_an_expired_lease_counts_once() -> None:
    run, plan = leased()
    run.report("L", [0], [[1, 1, 0]])
    run.send(batch_released=log_pb2.BatchReleased(lease_id="L"))
    assert run.report("L", [0], [[0] * 5]).rollouts_reported.accepted == 5
    assert run.report("L", [0], [[0] * 5]).rollouts_reported.accepted == 0
    assert run.state.table.failures[plan.rows[0]] == 6


def test_releasing_returns_the_unreported_prompts() -> None:
    run, _ = leased()
    run.report("L", [0], [[1] * 8])
    assert run.send(batch_released=log_pb2.BatchReleased(lease_id="L")).batch_released.released == 3
    assert run.send(batch_released=log_pb2.BatchReleased(lease_id="L")).batch_released.released == 0
    outcome = run.send(batch_released=log_pb2.BatchReleased(lease_id="never"))
    assert outcome.refusal.reason == "LEASE_NOT_FOUND"


def test_balanced_asks_for_more_until_both_sides_are_there_and_never_beyond_the_budget() -> None:
    run, _ = leased("uniform-grpo", {"stopping": {"balanced": {"round": 4, "keep": 4, "max": 16}}}, 2, 14)
    outcome = run.report("L", [0, 1], [[1, 1, 0, 0], [0, 0, 0, 0]]).rollouts_reported
    assert from_bytes(outcome.actions, "u1").tolist() == [DONE, SAMPLE_MORE]
    assert from_bytes(outcome.keep_positives, "i4")[0] == from_bytes(outcome.keep_negatives, "i4")[0] == 2
    assert from_bytes(outcome.rollouts, "i4").tolist() == [0, 4]
    outcome = run.report("L", [1], [[0, 0, 0, 0]]).rollouts_reported
    assert from_bytes(outcome.rollouts, "i4").tolist() == [2]
    outcome = run.report("L", [1], [[0, 1]]).rollouts_reported
    assert from_bytes(outcome.actions, "u1").tolist() == [DONE]
    assert from_bytes(outcome.baselines, "f4").tolist() == pytest.approx([0.1])
    assert not run.state.leases.live


def test_evidence_ages_once_per_visit_however_many_reports_bring_it() -> None:
    overrides = {"estimator": {"decay": {"per_visit": {"factor": 0.5}}}}
    run, plan = leased(overrides=overrides)
    row = int(plan.rows[0])
    run.report("", [row], [[1, 1, 1, 1]])
    run.report("L", [0], [[1, 0]])
    run.report("L", [0], [[1, 0]])
    assert run.state.table.successes[row] == 0.5 * 4 + 2
    assert run.state.table.visits[row] == 2


def test_a_new_iteration_resets_estimates_where_the_decay_says_so() -> None:
    run, _ = leased("cures")
    run.report("L", [0], [[1] * 4])
    assert run.state.unseen == 9
    run.advance(1)
    assert run.state.unseen == 9
    run.advance(1, start_iteration=True)
    assert run.state.unseen == 10
    assert run.state.history.fine_histogram.sum() == 0


def test_gradient_norms_shape_the_quota_of_cures() -> None:
    run, plan = leased("cures")
    row = int(plan.rows[0])
    run.report("L", [0], [[1, 0, 0, 0]], norms=[[2, 1, 1.5, 0.5]])
    norms = run.state.view(np.array([row]), gradient_norms=True).gradient_norms
    assert norms.mean_right.tolist() == [2.0]
    assert norms.mean_wrong.tolist() == [1.0]
    assert norms.square_wrong[0] == pytest.approx((1 + 2.25 + 0.25) / 3)


def test_a_policy_cannot_go_back_without_a_checkpoint() -> None:
    run, _ = leased()
    run.advance(7)
    outcome = run.advance(3)
    assert outcome.refusal.reason == "POLICY_WENT_BACK"
    assert run.state.policy_version == 7


def test_a_request_that_names_a_newer_policy_advances_it() -> None:
    run, _ = leased()
    run.report("L", [0], [[1] * 8], policy_version=4)
    assert run.state.policy_version == 4
    assert run.state.policy_step == 1


def test_an_event_that_passed_the_check_is_checked_again_if_another_came_first() -> None:
    run, _ = leased()
    event = log_pb2.Event(policy_advanced=log_pb2.PolicyAdvanced(policy_version=3))
    run.machine.check(event)
    run.advance(7)
    outcome = run.machine.apply(event, "9999-0", 9999)
    assert outcome.refusal.reason == "POLICY_WENT_BACK"
    assert run.state.policy_version == 7


def test_an_update_with_an_old_etag_is_refused() -> None:
    run, _ = leased()
    strategy = resolve("cures", {}).to_json()
    old = run.state.etag
    assert not run.send(
        strategy_updated=log_pb2.StrategyUpdated(strategy_json=strategy, preset="cures", etag=old)
    ).HasField("refusal")
    outcome = run.send(strategy_updated=log_pb2.StrategyUpdated(strategy_json=strategy, etag=old))
    assert outcome.refusal.reason == "ETAG_MISMATCH"
    assert run.state.preset == "cures"


def test_prompts_already_present_or_twice_in_one_event_are_added_once() -> None:
    run = Run()
    run.add(3)
    ids = [b"p1", b"new", b"new", b"p2"]
    outcome = run.send(
        prompts_added=log_pb2.PromptsAdded(
            ids=b"".join(ids), id_lengths=to_bytes(np.array([2, 3, 3, 2]), "u2")
        )
    )
    assert (outcome.prompts_added.added, outcome.prompts_added.already_present) == (1, 3)
    assert run.state.table.ids(np.arange(4)) == ["p0", "p1", "p2", "new"]


@pytest.mark.parametrize("preset", ["uniform-grpo", "cures", "frontier"])
def test_replaying_the_log_gives_the_same_state_to_the_last_bit(preset: str) -> None:
    run = Run(preset)
    run.add(200, clusters=3)
    rates = np.random.default_rng(3).beta(0.4, 0.6, 200)
    for step in range(30):
        assert run.step(rates, 16, 128, step) <= 128
        run.advance(step + 1, kl=0.01, start_iteration=step % 10 == 9)
    assert run.replayed().state.digest() == run.state.digest()
    restored = CurriculumState.restore(run.state.export())
    assert restored.digest() == run.state.digest()
    run.state.recount()
    assert restored.digest() == run.state.digest(), "the incremental histogram equals the recounted one"


@pytest.mark.parametrize("preset", ["uniform-grpo", "cures", "frontier", "frontier-ranked", "dapo"])
def test_what_an_outcome_does_not_wait_for_may_be_folded_later(preset: str) -> None:
    run = Run(preset)
    run.add(100, clusters=3)
    rates = np.random.default_rng(3).beta(0.4, 0.6, 100)
    for step in range(12):
        run.step(rates, 16, 128, step)
        run.advance(step + 1, kl=0.01)
    first = run.log[0]
    at_once = CurriculumMachine(create_state(first, "1-0", 1000))
    later = CurriculumMachine(create_state(first, "1-0", 1000))
    put_off = 0
    for number, event in enumerate(run.log[1:], start=2):
        where = (f"{number}-0", 1000 * number)
        assert later.apply(event, *where, finish=False) == at_once.apply(event, *where)
        put_off += later.unfinished
    assert put_off >= 12, "reports leave what they teach for later"
    later.finish()
    assert not later.unfinished
    assert later.state.digest() == at_once.state.digest() == run.state.digest()


def test_the_fold_never_raises_whatever_an_event_holds() -> None:
    run, _ = leased()
    before = run.state.table.size
    for event in (
        {
            "rollouts_reported": log_pb2.RolloutsReported(
                lease_id="L", slots=b"\xff\xff\xff\x7f", rollout_counts=b"\0\0\0\0"
            )
        },
        {
            "rollouts_reported": log_pb2.RolloutsReported(
                slots=b"\0\0\0\0\0\0\0\0", rollout_counts=b"\0\0\0\0\0\0\0\0"
            )
        },
        {"batch_granted": log_pb2.BatchGranted(rows=b"\0\0\0\0", quotas=b"\x09\0\0\0", budget=1)},
        {"checkpoint_restored": log_pb2.CheckpointRestored(checkpoint_id="none")},
        {"curriculum_created": log_pb2.CurriculumCreated(curriculum_id="c")},
        {},
    ):
        assert run.send(**event).refusal.reason
    assert run.state.table.size == before


def test_a_log_must_begin_with_a_creation() -> None:
    with pytest.raises(InvalidArgument, match="creation"):
        create_state(log_pb2.Event(request_id="x"), "1-0", 1)


def test_going_back_to_a_checkpoint_voids_leases_and_forgets_later_requests() -> None:
    run, _ = leased()
    kept = CurriculumState.restore(run.state.export())
    run.report("L", [0], [[1] * 8], request_id="later")
    state = adopt_checkpoint(kept, run.state)
    assert not state.leases.live
    assert state.in_flight == 0
    assert (state.table.leases[: state.table.size] == -1).all()
    assert state.requests.recall("later", b"f") is None
    assert state.epoch == run.state.epoch + 1
