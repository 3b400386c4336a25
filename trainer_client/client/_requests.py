"""Builds request messages from what a trainer has. Shared by the sync and the asyncio client."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from curriculum.v1 import curriculum_pb2 as pb
from trainer_client.client._building import request_of
from trainer_client.client._columns import Batch
from trainer_client.client._request_ids import batch_request_id, new_request_id
from trainer_client.client._rollouts import (
    GroupedOrFlat,
    Statuses,
    flat_rewards,
    flat_side_column,
    flat_statuses,
)
from trainer_client.client._status import invalid

__all__ = ["Report"]


@dataclass(frozen=True, eq=False)
class Report:
    """Rewards of some rollouts, as `report` and `stream_reports` take them.

    `prompt_ids` defaults to all of the batch; `rewards` is one sequence per prompt (or an array
    of shape (P, G)), or flat with `rollout_counts` (P,). `statuses`, `lengths` (tokens) and
    `gradient_norms` come in either shape.
    """

    batch_or_lease: Batch | str | None
    """The batch; or a lease id, or None for rollouts outside any lease (then name `curriculum_id`)."""
    prompt_ids: Iterable[str] | None = None
    rewards: GroupedOrFlat = ()
    rollout_counts: Iterable[int] | None = None
    statuses: Statuses | None = None
    lengths: GroupedOrFlat | None = None
    gradient_norms: GroupedOrFlat | None = None
    policy_version: int | None = None
    """Version that sampled the rollouts; defaults to that of the batch."""
    curriculum_id: str | None = None
    """Needed when no batch is given."""
    request_id: str | None = None
    """Made when not given; the same id is counted once."""

    def message(self) -> pb.ReportRolloutsRequest:
        """Builds the request. Raises `InvalidArgumentError` naming the column that does not fit."""
        source = self.batch_or_lease
        batch = source if isinstance(source, Batch) else None
        if batch is not None and self.curriculum_id not in (None, batch.curriculum_id):
            raise invalid("curriculum_id", f"is {self.curriculum_id!r}, the batch's {batch.curriculum_id!r}")
        curriculum_id = batch.curriculum_id if batch else self.curriculum_id
        if not curriculum_id:
            raise invalid("curriculum_id", "is missing; a lease id alone does not say it")
        if self.prompt_ids is None and batch is None:
            raise invalid("prompt_ids", "is missing; only a batch implies its prompts")
        if self.policy_version is None and batch is None:
            raise invalid("policy_version", "is missing; only a batch implies its version")
        if isinstance(self.prompt_ids, str | bytes):
            raise invalid("prompt_ids", "is a single string; give a list of ids")
        prompt_ids = (
            list(self.prompt_ids) if self.prompt_ids is not None else list(batch.prompt_ids if batch else ())
        )
        rewards, counts = flat_rewards(len(prompt_ids), self.rewards, self.rollout_counts)
        lengths = flat_side_column("lengths", self.lengths, counts)
        policy_version = self.policy_version
        if policy_version is None:
            policy_version = batch.policy_version if batch else 0
        return request_of(
            pb.ReportRolloutsRequest,
            curriculum_id=curriculum_id,
            request_id=self.request_id or new_request_id(),
            lease_id=batch.lease_id if batch else (source if isinstance(source, str) else ""),
            prompt_ids=prompt_ids,
            rollout_counts=counts,
            rewards=rewards,
            statuses=[pb.RolloutStatus.ValueType(status) for status in flat_statuses(self.statuses, counts)],
            lengths=[int(length) for length in lengths],
            gradient_norms=flat_side_column("gradient_norms", self.gradient_norms, counts),
            policy_version=policy_version,
        )


def next_batch_request(
    curriculum_id: str,
    *,
    batch_size: int,
    rollout_budget: int,
    policy_version: int,
    equal_quotas: bool,
    trainer_id: str | None,
    run_id: str | None,
    step: int | None,
    request_id: str | None,
    min_revision: str,
    seed: int | None,
) -> pb.NextBatchRequest:
    """Builds a `NextBatch` request; run and step fix its id."""
    return request_of(
        pb.NextBatchRequest,
        curriculum_id=curriculum_id,
        request_id=request_id or batch_request_id(curriculum_id, run_id, step),
        # Ranks of one run must send equal requests, so the host's name is no default there.
        trainer_id=trainer_id or run_id or f"{socket.gethostname()}:{os.getpid()}",
        batch_size=batch_size,
        rollout_budget=rollout_budget,
        policy_version=policy_version,
        equal_quotas=equal_quotas,
        min_revision=min_revision,
        seed=seed,
    )


def prompt_states_request(
    curriculum_id: str,
    *,
    prompt_ids: Iterable[str] | None,
    clusters: Iterable[str] | None,
    min_pass_rate: float | None,
    max_pass_rate: float | None,
    id_contains: str,
    order_by: str,
    page_size: int,
    min_revision: str,
) -> pb.ListPromptStatesRequest:
    """Builds the first page's request."""
    for name, value in (("prompt_ids", prompt_ids), ("clusters", clusters)):
        if isinstance(value, str | bytes):
            raise invalid(name, "is a single string; give a list")
    return request_of(
        pb.ListPromptStatesRequest,
        curriculum_id=curriculum_id,
        filter=request_of(
            pb.PromptFilter,
            min_pass_rate=min_pass_rate,
            max_pass_rate=max_pass_rate,
            clusters=clusters or (),
            prompt_ids=prompt_ids or (),
            id_contains=id_contains,
        ),
        page_size=page_size,
        min_revision=min_revision,
        order_by=order_by,
    )


def release_request(
    batch_or_lease: Batch | str, curriculum_id: str | None, request_id: str | None
) -> pb.ReleaseBatchRequest:
    """Builds a `ReleaseBatch` request from a batch, or from a lease id with its curriculum."""
    batch = batch_or_lease if isinstance(batch_or_lease, Batch) else None
    owner = batch.curriculum_id if batch else curriculum_id
    if not owner:
        raise invalid("curriculum_id", "is missing; a lease id alone does not say it")
    return request_of(
        pb.ReleaseBatchRequest,
        curriculum_id=owner,
        request_id=request_id or new_request_id(),
        lease_id=batch_or_lease.lease_id if isinstance(batch_or_lease, Batch) else batch_or_lease,
    )


def check_message_size(request: pb.ReportRolloutsRequest, max_message_bytes: int) -> None:
    """Refuses a report that could never be sent, before it would block the outbox."""
    size = request.ByteSize()
    if size > max_message_bytes:
        raise invalid(
            "rewards",
            f"make a message of {size} bytes, above max_message_bytes={max_message_bytes}; "
            "report fewer prompts at once",
        )
