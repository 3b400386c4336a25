"""Folding rewards: what counts, what does not, and what the trainer should do next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from curriculum.v1 import log_pb2
from sampler_service.curriculum import iterations
from sampler_service.curriculum.arrays import are_distinct, distinct, from_bytes, to_bytes
from sampler_service.curriculum.closing import close_slots, enter_groups
from sampler_service.curriculum.decays import VisitTimes
from sampler_service.curriculum.errors import Aborted, InvalidArgument, NotFound
from sampler_service.curriculum.leases import LIVE, Lease
from sampler_service.curriculum.posterior import GroupCounts, count_groups, update_evidence
from sampler_service.curriculum.refill import held_back, woken
from sampler_service.curriculum.sources import CONTINUATION
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.stopping import DONE, DROP, SAMPLE_MORE, Decision, SlotTallies, Stopping

if TYPE_CHECKING:
    from sampler_service.curriculum.machine import CurriculumMachine

__all__ = ["REJECTION_REASONS", "apply", "check", "lease_not_found"]

# The values of the API's RolloutStatus.
_OK: Final = 1
_ERROR: Final = 2
_TRUNCATED: Final = 3
_STALE: Final = 4
_FILTERED: Final = 5

REJECTION_REASONS: Final = ("", "NON_FINITE_REWARD", "SLOT_FULL", "STALE_POLICY", "STATUS")
_NON_FINITE, _SLOT_FULL, _STALE_POLICY, _STATUS = range(1, 5)
_COUNTERS: Final = {_ERROR: "rollouts_error", _STALE: "rollouts_stale", _FILTERED: "rollouts_filtered"}


def lease_not_found(lease_id: str) -> NotFound:
    """A lease that is neither live nor remembered."""
    return NotFound(
        "LEASE_NOT_FOUND",
        f"lease_id = {lease_id!r} is not known: it never was, or it ended long ago. "
        "Report its rollouts without a lease, or ask for a new batch.",
        "lease_id",
    )


def check(state: CurriculumState, event: log_pb2.RolloutsReported) -> None:
    """Refuses a report whose columns do not fit together or that names what is not there.

    Raises:
        InvalidArgument: lengths differ, or a prompt comes twice.
        NotFound: no such lease.
        Aborted: rows mean something else since a restore.
    """
    slots, counts = from_bytes(event.slots, "i4"), from_bytes(event.rollout_counts, "i4")
    rewards = len(event.rewards) // 4
    optional = (len(event.statuses), len(event.lengths) // 4, len(event.gradient_norms) // 4)
    if (
        len(slots) != len(counts)
        or (counts < 0).any()
        or int(counts.sum(dtype=np.int64)) != rewards
        or any(length not in (0, rewards) for length in optional)
        or not are_distinct(slots)
    ):
        raise InvalidArgument("INVALID_REPORT", "The columns of a report do not fit together.")
    if event.epoch != state.epoch:
        raise Aborted(
            "EPOCH_CHANGED", "The curriculum was restored while this report was under way; send it again."
        )
    limit = state.table.size
    if event.lease_id:
        lease = state.leases.get(event.lease_id)
        if lease is None:
            raise lease_not_found(event.lease_id)
        limit = len(lease.rows)
    if len(slots) and (slots.min() < 0 or slots.max() >= limit):
        raise InvalidArgument("INVALID_REPORT", "A slot of the report is out of range.")


@dataclass(frozen=True, slots=True)
class _Rollouts:
    """The flat rollouts of a report, sorted out."""

    groups: NDArray[np.int64]
    """Entry of the report each rollout belongs to."""
    rewards: NDArray[np.float64]
    reasons: NDArray[np.uint8]
    """Why it is no outcome; 0 where it is one."""
    truncated: int


def _sort_out(
    state: CurriculumState, event: log_pb2.RolloutsReported, counts: NDArray[Any], room: NDArray[Any] | None
) -> _Rollouts:
    groups = np.repeat(np.arange(len(counts)), counts)
    rewards = from_bytes(event.rewards, "f4").astype(np.float64)
    stale = event.policy_version + state.strategy.max_staleness < state.policy_version
    fits = room is None or bool((counts <= room).all())
    if not event.statuses and not stale and fits and bool(np.isfinite(rewards).all()):
        # As nearly all reports are: every rollout is an outcome.
        return _Rollouts(groups, rewards, np.zeros(len(rewards), dtype=np.uint8), 0)
    statuses = (
        np.maximum(from_bytes(event.statuses, "u1"), _OK)
        if event.statuses
        else np.full(len(rewards), _OK, dtype=np.uint8)
    )
    reasons = np.zeros(len(rewards), dtype=np.uint8)
    reasons[~np.isfinite(rewards)] = _NON_FINITE
    # A failed rollout has no reward worth a complaint: its status says why it is no outcome.
    reasons[(statuses != _OK) & (statuses != _TRUNCATED)] = _STATUS
    if stale:
        reasons[reasons == 0] = _STALE_POLICY
    if room is not None:
        starts = np.cumsum(counts) - counts
        excess = np.arange(len(rewards)) - starts[groups] >= room[groups]
        reasons[excess] = _SLOT_FULL
    for status, counter in _COUNTERS.items():
        if number := int(((statuses == status) & (reasons == _STATUS)).sum()):
            state.history.bump(counter, number)
    if number := int((reasons == _STALE_POLICY).sum()):
        state.history.bump("rollouts_stale", number)
    if number := int((reasons == _NON_FINITE).sum()):
        state.history.bump("rollouts_error", number)
    truncated = int(((statuses == _TRUNCATED) & (reasons == 0)).sum())
    return _Rollouts(groups, rewards, reasons, truncated)


def _places(slots: NDArray[Any], count: int) -> NDArray[Any] | slice:
    """What to index a lease's `count` slots with: mostly it is all of them in order, which needs no gathering."""
    return slice(None) if len(slots) == count and np.array_equal(slots, np.arange(count)) else slots


def apply(machine: CurriculumMachine, event: log_pb2.RolloutsReported) -> log_pb2.Outcome:
    """Counts the outcomes, and says what to do with each prompt."""
    state = machine.state
    machine.note_policy_version(event.policy_version)
    counts = from_bytes(event.rollout_counts, "i4").astype(np.int64)
    slots = from_bytes(event.slots, "i4")
    lease = state.leases.get(event.lease_id) if event.lease_id else None
    if lease is None:
        rows, room, first = slots, None, np.ones(len(slots), dtype=np.bool_)
    else:
        at = _places(slots, len(lease.rows))
        rows = lease.rows[at]
        room = (lease.granted - lease.returned)[at]
        first = lease.outcomes[at] == 0
    rollouts = _sort_out(state, event, counts, room)
    good = rollouts.reasons == 0
    outcomes = slice(None) if good.all() else good
    groups = count_groups(
        rollouts.groups[outcomes],
        rollouts.rewards[outcomes],
        len(counts),
        state.strategy.estimator.success_threshold,
        state.strategy.estimator.fractional,
    )
    if rollouts.truncated:
        state.history.bump("rollouts_truncated", rollouts.truncated)
    if event.lengths:
        lengths = from_bytes(event.lengths, "i4")[rollouts.reasons != _SLOT_FULL]
        state.history.bump("completion_tokens", int(lengths.sum(dtype=np.int64)))
    machine.afterwards(lambda: _learn(machine, event, rows, groups, first, rollouts, good))
    if lease is None:
        directives = _close_groups_outside(machine, rows, groups)
    else:
        if _rule(state, lease).compares_prompts:
            machine.finish()  # What to do next depends on what was learnt.
        taken = np.bincount(rollouts.groups[rollouts.reasons != _SLOT_FULL], minlength=len(counts))
        _book(lease, at, groups, taken)
        directives = _decide(machine, lease, slots, event.seed)
    return _outcome(rows, groups, rollouts, directives)


def _learn(
    machine: CurriculumMachine,
    event: log_pb2.RolloutsReported,
    rows: NDArray[Any],
    groups: GroupCounts,
    first: NDArray[np.bool_],
    rollouts: _Rollouts,
    good: NDArray[np.bool_],
) -> None:
    """Updates the posterior of every prompt that has an outcome."""
    state, table = machine.state, machine.state.table
    some = groups.rollouts > 0
    if not some.any():
        return
    counts = _select(groups, some)
    if counts is not groups:
        rows, first = rows[some], first[some]
    before = state.fine_bins(rows)
    estimator, moment = state.strategy.estimator, state.moment()
    # Shared evidence sees the state from before these outcomes: what it predicted from.
    estimator.shared_evidence.observe(table, rows, counts, state.memory, moment)
    factors = estimator.decay.at_visit(VisitTimes(table.last_steps[rows], moment))
    # A visit ages evidence once, however many reports its rollouts come in.
    factors = np.where(first, factors, 1.0)
    update_evidence(table, rows, counts, factors, estimator.decay.outcome_weights(counts.rollouts))
    if event.gradient_norms:
        norms = from_bytes(event.gradient_norms, "f4").astype(np.float64)
        usable = good & np.isfinite(norms)
        right = rollouts.rewards > estimator.success_threshold
        for side, mask in (("right", usable & right), ("wrong", usable & ~right)):
            _add_norms(table, side, rows, some, rollouts.groups[mask], norms[mask], factors)
    table.rollouts[rows] += counts.rollouts.astype(np.uint32)
    table.visits[rows] += first.astype(np.uint32)
    table.last_steps[rows] = state.policy_step
    table.last_policy_versions[rows] = np.maximum(table.last_policy_versions[rows], event.policy_version)
    newly = np.flatnonzero(first)
    table.last_visits[rows[newly]] = state.visits + 1 + np.arange(len(newly))
    state.visits += len(newly)
    machine.recount_bins(rows, before)
    machine.touch(rows)
    state.history.count(rollouts=float(counts.rollouts.sum()), reward_sum=float(counts.reward_sums.sum()))
    clusters = table.clusters[rows]
    inside = clusters >= 0
    if inside.any():
        state.cluster_sums[3] += np.bincount(
            clusters[inside], weights=counts.rollouts[inside], minlength=state.cluster_sums.shape[1]
        )


def _select(groups: GroupCounts, some: NDArray[np.bool_]) -> GroupCounts:
    if some.all():
        return groups
    return GroupCounts(*(getattr(groups, name)[some] for name in GroupCounts.__dataclass_fields__))


def _add_norms(
    table: Any,
    side: str,
    rows: NDArray[Any],
    some: NDArray[np.bool_],
    groups: NDArray[Any],
    norms: NDArray[np.float64],
    factors: NDArray[np.float64],
) -> None:
    for kind, weights in (("counts", np.ones_like(norms)), ("sums", norms), ("squares", norms * norms)):
        sums = np.bincount(groups, weights=weights, minlength=len(some))[some]
        column = table.writable(f"norm_{kind}_{side}")
        column[rows] = factors * column[rows] + sums


def _book(lease: Lease, slots: NDArray[Any] | slice, groups: GroupCounts, taken: NDArray[Any]) -> None:
    """Enters what came back into the lease's slots."""
    lease.returned[slots] += taken.astype(np.int32)
    lease.positives[slots] += groups.positives.astype(np.int32)
    lease.negatives[slots] += (groups.rollouts - groups.positives).astype(np.int32)
    lease.reward_sums[slots] += groups.reward_sums
    squares = groups.reward_variances + groups.reward_means * groups.reward_means
    lease.reward_squares[slots] += squares * groups.rollouts
    lease.reward_minima[slots] = np.minimum(lease.reward_minima[slots], groups.reward_minima)
    lease.reward_maxima[slots] = np.maximum(lease.reward_maxima[slots], groups.reward_maxima)


@dataclass(slots=True)
class _Directives:
    rows: NDArray[Any]
    actions: NDArray[Any]
    rollouts: NDArray[Any]
    keep_positives: NDArray[Any]
    keep_negatives: NDArray[Any]
    baselines: NDArray[Any]


def _is_single_round(lease: Lease) -> bool:
    """The whole budget was granted at once."""
    return lease.budget <= int(lease.quotas.sum())


def _rule(state: CurriculumState, lease: Lease) -> Stopping:
    """The stopping rule as it holds for a lease."""
    return state.strategy.stopping.for_batch(several_rounds=not _is_single_round(lease))


def _decide(machine: CurriculumMachine, lease: Lease, reported: NDArray[Any], seed: int) -> _Directives:
    """What to do with the reported slots, and with those that waited for them."""
    stopping = _rule(machine.state, lease)
    answered = reported
    actions = np.full(len(lease.rows), SAMPLE_MORE, dtype=np.uint8)
    wanted = (lease.granted - lease.returned).astype(np.int32)
    keep_right, keep_wrong = lease.positives.copy(), lease.negatives.copy()
    closed = ~lease.open
    actions[closed] = DONE
    wanted[closed] = 0
    if lease.state == LIVE:
        # Slots held back have been granted nothing: they are neither complete nor waited for.
        begun = lease.open & (lease.granted > 0)
        complete = begun & (lease.returned >= lease.granted)
        if stopping.waits_for_batch and (begun & ~complete).any():
            complete[:] = False
        ready = np.flatnonzero(complete)
        if len(ready):
            at = _places(ready, len(lease.rows))
            decision = stopping.decide(_tallies(machine, lease, at, len(ready), seed))
            decided, more = _fund(lease, decision)
            actions[at], wanted[at] = decided, more
            keep_right[at], keep_wrong[at] = decision.keep_positives, decision.keep_negatives
            asked = decided == SAMPLE_MORE
            lease.granted[at] += more
            lease.rounds[ready[asked]] += 1
            close_slots(machine, lease, ready[~asked] if asked.any() else at)
            if decision.later is not None:
                machine.state.due.add(lease.rows[ready[decision.later & ~asked]], CONTINUATION)
            held = held_back(lease)
            if len(held):
                actions[held], wanted[held] = DROP, 0
                more_slots, size, finished = woken(lease, held, stopping)
                lease.granted[more_slots], lease.rounds[more_slots] = size, 1
                actions[more_slots], wanted[more_slots] = SAMPLE_MORE, size
                close_slots(machine, lease, finished)
                ready = np.concatenate([ready, more_slots])
            if not np.array_equal(reported, ready):
                answered = distinct(np.concatenate([reported, ready]))
            if not lease.open.any():
                machine.state.leases.close(lease, "closed")
    at = _places(answered, len(lease.rows))
    return _Directives(
        lease.rows[at],
        actions[at],
        wanted[at],
        keep_right[at],
        keep_wrong[at],
        lease.reward_sums[at] / np.maximum(lease.outcomes[at], 1),
    )


def _tallies(
    machine: CurriculumMachine, lease: Lease, ready: NDArray[Any] | slice, count: int, seed: int
) -> SlotTallies:
    expected = np.zeros(count)
    if _rule(machine.state, lease).compares_prompts:
        alphas, betas = machine.state.posterior(lease.rows[ready])
        total = alphas + betas
        expected = alphas * betas / (total * (total + 1))
    return SlotTallies(
        granted=lease.granted[ready].astype(np.int64),
        positives=lease.positives[ready].astype(np.int64),
        negatives=lease.negatives[ready].astype(np.int64),
        all_equal=lease.reward_minima[ready] >= lease.reward_maxima[ready],
        rounds=lease.rounds[ready].astype(np.int64),
        expected_variances=expected,
        uniforms=np.random.Generator(np.random.Philox(seed)).random(count)
        if machine.state.strategy.stopping.takes_chances
        else np.zeros(count),
        policy_step=machine.state.policy_step,
        steps_since_grant=machine.state.policy_step - lease.policy_step,
        single_round=_is_single_round(lease),
        unspent=lease.unspent,
    )


def _fund(lease: Lease, decision: Decision) -> tuple[NDArray[Any], NDArray[Any]]:
    """Grants what the budget allows, best first; the rest becomes what the rule says."""
    actions, more = decision.actions.copy(), decision.rollouts.astype(np.int32)
    asking = np.flatnonzero(actions == SAMPLE_MORE)
    if len(asking):
        if decision.priorities is not None:
            asking = asking[np.argsort(-decision.priorities[asking], kind="stable")]
        wanted = more[asking].astype(np.int64)
        # What the ones before have taken, all of it or none: who comes when the rest is short takes the rest.
        left = lease.unspent - (np.cumsum(wanted) - wanted)
        granted = np.minimum(wanted, np.maximum(left, 0))
        more[asking] = granted
        actions[asking[granted <= 0]] = decision.unfunded
    more[actions != SAMPLE_MORE] = 0
    return actions, more


def _close_groups_outside(machine: CurriculumMachine, rows: NDArray[Any], groups: GroupCounts) -> _Directives:
    """Prompts rolled out outside any lease: every report is a whole group."""
    some = groups.rollouts > 0
    if machine.state.due:
        iterations.rolled_out(machine.state, rows[some])
    counts = _select(groups, some)
    machine.afterwards(
        lambda: enter_groups(machine, rows[some], counts, counts.reward_minima < counts.reward_maxima)
    )
    return _Directives(
        rows,
        np.full(len(rows), DONE, dtype=np.uint8),
        np.zeros(len(rows), dtype=np.int32),
        groups.positives,
        groups.rollouts - groups.positives,
        groups.reward_means,
    )


def _outcome(
    rows: NDArray[Any], groups: GroupCounts, rollouts: _Rollouts, directives: _Directives
) -> log_pb2.Outcome:
    bad = rollouts.reasons > 0
    pairs = rollouts.groups[bad] * 8 + rollouts.reasons[bad].astype(np.int64)
    numbers = np.ones(0, dtype=np.int64)
    if len(pairs):
        pairs, numbers = np.unique(pairs, return_counts=True)
    return log_pb2.Outcome(
        rollouts_reported=log_pb2.RolloutsReportedOutcome(
            accepted=int(groups.rollouts.sum()),
            rejected_rows=to_bytes(rows[pairs // 8], "i4"),
            rejected_rollouts=to_bytes(numbers, "i4"),
            rejected_reasons=to_bytes(pairs % 8, "u1"),
            rows=to_bytes(directives.rows, "i4"),
            actions=to_bytes(directives.actions, "u1"),
            rollouts=to_bytes(directives.rollouts, "i4"),
            keep_positives=to_bytes(directives.keep_positives, "i4"),
            keep_negatives=to_bytes(directives.keep_negatives, "i4"),
            baselines=to_bytes(directives.baselines, "f4"),
            advantage_weights=to_bytes(np.ones(len(directives.rows)), "f4"),
        )
    )
