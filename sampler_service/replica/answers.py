"""Outcomes and state to API responses."""

from __future__ import annotations

from typing import Any

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from sampler_service.curriculum.arrays import from_bytes
from sampler_service.curriculum.leases import Lease
from sampler_service.curriculum.planner import BatchPlan
from sampler_service.curriculum.reports import REJECTION_REASONS
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.table import PromptTable
from sampler_service.replica.requests import strategy_to_message

__all__ = ["batch_columns", "complete_batch", "curriculum_message", "report_response", "timestamp"]


def timestamp(millis: int) -> Timestamp:
    """Milliseconds since 1970 as the API's time."""
    return Timestamp(seconds=millis // 1000, nanos=millis % 1000 * 1_000_000)


def curriculum_message(state: CurriculumState) -> pb.Curriculum:
    """Settings and counters. One that is not in a log has no time of its creation."""
    return pb.Curriculum(
        curriculum_id=state.curriculum_id,
        strategy=strategy_to_message(state.strategy, state.preset),
        etag=state.etag,
        revision=state.revision,
        create_time=timestamp(state.created_millis) if state.created_millis else None,
        prompt_count=state.table.size,
        policy_version=state.policy_version,
        iteration=state.iteration,
        rollout_count=int(state.history.totals["rollouts"]),
        live_lease_count=len(state.leases.live),
    )


def batch_columns(columns: BatchPlan | Lease, prompt_ids: list[str]) -> pb.NextBatchResponse:
    """The part of a granted batch's answer that is known when it is drawn, and most of the work."""
    return pb.NextBatchResponse(
        batch=pb.Batch(
            prompt_ids=prompt_ids,
            quotas=columns.quotas.tolist(),
            pass_rates=columns.pass_rates.tolist(),
            pass_rate_stddevs=columns.pass_rate_stddevs.tolist(),
            baselines=columns.baselines.tolist(),
            probabilities=columns.probabilities.tolist(),
            sources=columns.sources.tolist(),
            notes=columns.notes,
        )
    )


def complete_batch(answer: pb.NextBatchResponse, lease: Lease, outcome: log_pb2.Outcome) -> None:
    """Fills in what only the grant itself brings."""
    answer.duplicate = outcome.duplicate
    answer.batch.lease_id = lease.lease_id
    answer.batch.revision = outcome.revision
    answer.batch.expire_time.CopyFrom(timestamp(lease.expire_millis))


def report_response(
    request: pb.ReportRolloutsRequest,
    outcome: log_pb2.Outcome,
    table: PromptTable,
    named: tuple[NDArray[Any], list[str]],
    unknown: NDArray[np.bool_],
    unknown_reason: str,
) -> pb.ReportRolloutsResponse:
    """What a report came to.

    Args:
        named: rows of the request's lease or prompts and their ids, to spare look-ups.
        unknown: prompts of the request that are not in the lease, or not in the curriculum.
    """
    reported = outcome.rollouts_reported

    def ids(column: bytes) -> list[str]:
        rows = from_bytes(column, "i4")
        # Mostly an answer is about the whole lease, in its order.
        return named[1] if np.array_equal(rows, named[0]) else table.ids(rows)

    def values(column: bytes, dtype: str) -> list[Any]:
        listed: list[Any] = from_bytes(column, dtype).tolist()
        return listed

    response = pb.ReportRolloutsResponse(
        revision=outcome.revision,
        duplicate=outcome.duplicate,
        accepted=reported.accepted,
        request_id=request.request_id,
        directives=pb.Directives(
            prompt_ids=ids(reported.rows),
            actions=values(reported.actions, "u1"),
            rollouts=values(reported.rollouts, "i4"),
            keep_positives=values(reported.keep_positives, "i4"),
            keep_negatives=values(reported.keep_negatives, "i4"),
            baselines=values(reported.baselines, "f4"),
            advantage_weights=values(reported.advantage_weights, "f4"),
        ),
    )
    for id_, rollouts, reason in zip(
        ids(reported.rejected_rows),
        values(reported.rejected_rollouts, "i4"),
        values(reported.rejected_reasons, "u1"),
        strict=True,
    ):
        response.rejected.add(prompt_id=id_, rollouts=rollouts, reason=REJECTION_REASONS[reason])
    for i in np.flatnonzero(unknown).tolist():
        response.rejected.add(
            prompt_id=request.prompt_ids[i], rollouts=request.rollout_counts[i], reason=unknown_reason
        )
    return response
