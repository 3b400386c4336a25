"""What a curriculum must know after a history of answered requests: plain Python, written without the service.

The order of requests is that of the revisions they were answered with; their rewards are counted one by one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from curriculum.v1 import curriculum_pb2 as pb

MAX_STALENESS = 8
_OUTCOMES = (pb.ROLLOUT_STATUS_UNSPECIFIED, pb.ROLLOUT_STATUS_OK, pb.ROLLOUT_STATUS_TRUNCATED)


@dataclass
class Slot:
    """One prompt of a lease."""

    granted: int
    returned: int = 0
    outcomes: int = 0


@dataclass
class Tally:
    """What is known of one prompt."""

    positives: int = 0
    negatives: int = 0
    visits: int = 0

    @property
    def rollouts(self) -> int:
        return self.positives + self.negatives


@dataclass
class Answered:
    """A request and its answer."""

    request: Any
    answer: Any
    revision: tuple[int, int]
    kept_revision: tuple[int, int] | None = None
    """For CreateCheckpoint: the state that is kept."""


@dataclass
class Expected:
    """What the curriculum must hold."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    leases: dict[str, dict[str, Slot]] = field(default_factory=dict)
    policy_version: int = 0
    checkpoints: dict[str, tuple[int, int]] = field(default_factory=dict)
    remembered: set[str] = field(default_factory=set)
    """Ids of the requests carried out in this history."""


def expected_after(history: Iterable[Answered]) -> Expected:
    """What must be known after `history`, in any order given."""
    ordered = sorted(history, key=lambda answered: answered.revision)
    revisions = [answered.revision for answered in ordered]
    assert len(set(revisions)) == len(revisions), "two requests share a revision"
    wanted = {answered.kept_revision for answered in ordered if answered.kept_revision}
    state, kept = Expected(), {}
    for answered in ordered:
        for revision in sorted(wanted):
            if revision < answered.revision:
                kept[revision] = copy.deepcopy(state)
                wanted.remove(revision)
        state = _after(state, answered, kept)
        state.remembered.add(answered.request.request_id)
    return state


def _after(state: Expected, answered: Answered, kept: dict[tuple[int, int], Expected]) -> Expected:
    request = answered.request
    if isinstance(request, pb.AddPromptsRequest):
        for prompt in request.prompt_ids:
            state.tallies.setdefault(prompt, Tally())
    elif isinstance(request, pb.NextBatchRequest):
        batch = answered.answer.batch
        state.leases[batch.lease_id] = {
            prompt: Slot(quota) for prompt, quota in zip(batch.prompt_ids, batch.quotas, strict=True)
        }
        state.policy_version = max(state.policy_version, request.policy_version)
    elif isinstance(request, pb.ReportRolloutsRequest):
        _report(state, request, answered.answer)
    elif isinstance(request, pb.AdvancePolicyRequest):
        state.policy_version = max(state.policy_version, request.policy_version)
    elif isinstance(request, pb.CreateCheckpointRequest):
        assert answered.kept_revision is not None
        state.checkpoints[request.checkpoint_id] = answered.kept_revision
    elif isinstance(request, pb.DeleteCheckpointRequest):
        del state.checkpoints[request.checkpoint_id]
    elif isinstance(request, pb.RestoreCheckpointRequest):
        checkpoints = state.checkpoints
        state = copy.deepcopy(kept[checkpoints[request.checkpoint_id]])
        state.checkpoints, state.leases = checkpoints, {}
    return state


def _report(state: Expected, request: pb.ReportRolloutsRequest, answer: pb.ReportRolloutsResponse) -> None:
    state.policy_version = max(state.policy_version, request.policy_version)
    stale = request.policy_version + MAX_STALENESS < state.policy_version
    lease = state.leases[request.lease_id] if request.lease_id else None
    rewards, statuses = iter(request.rewards), iter(request.statuses)
    accepted = 0
    for prompt, count in zip(request.prompt_ids, request.rollout_counts, strict=True):
        rolled = [(next(rewards), next(statuses, pb.ROLLOUT_STATUS_OK)) for _ in range(count)]
        if prompt not in state.tallies:
            continue  # It was added in a time that was turned back.
        slot = lease[prompt] if lease is not None else Slot(granted=count)
        tally, room, first, counted = (
            state.tallies[prompt],
            slot.granted - slot.returned,
            slot.outcomes == 0,
            0,
        )
        for number, (reward, status) in enumerate(rolled):
            if number >= room:
                continue
            slot.returned += 1
            if stale or not math.isfinite(reward) or status not in _OUTCOMES:
                continue
            counted += 1
            if reward > 0.5:
                tally.positives += 1
            else:
                tally.negatives += 1
        slot.outcomes += counted
        tally.visits += first and counted > 0
        accepted += counted
    assert answer.accepted == accepted, f"{request.request_id}: {answer.accepted} accepted, not {accepted}"
    if lease is not None:
        directives = answer.directives
        for prompt, action, more in zip(
            directives.prompt_ids, directives.actions, directives.rollouts, strict=True
        ):
            if action == pb.ACTION_SAMPLE_MORE:
                lease[prompt].granted = lease[prompt].returned + more
