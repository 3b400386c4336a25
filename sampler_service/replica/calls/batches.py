"""Calls of the training loop: batches, reports of their rollouts, and the policy's progress."""

from __future__ import annotations

import asyncio
import random
import uuid
from typing import Final

import numpy as np

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from sampler_service.curriculum.arrays import from_bytes
from sampler_service.curriculum.errors import Aborted, CurriculumError, FailedPrecondition
from sampler_service.curriculum.leases import Lease
from sampler_service.curriculum.planner import BatchPlan, BatchPlanner
from sampler_service.curriculum.reports import lease_not_found
from sampler_service.replica.answers import complete_batch, report_response
from sampler_service.replica.calls.base import CurriculumCalls
from sampler_service.replica.curriculum_replica import CurriculumReplica
from sampler_service.replica.housekeeping import expire_leases
from sampler_service.replica.requests import (
    fingerprint,
    grant_event,
    report_columns,
    report_seed,
    require_policy_version,
    require_request_id,
    require_trainer_id,
    slots_in_lease,
)

__all__ = ["BatchCalls"]

_NO_ROWS: Final = np.zeros(0, dtype=np.int32)
_REDRAW: Final = ("LEASE_CONFLICT", "EPOCH_CHANGED")
# Between two draws of a batch that others were faster to take.
_MOST_WAIT_SECONDS: Final = 0.05


class BatchCalls(CurriculumCalls):
    """NextBatch, ReportRollouts, ReleaseBatch, AdvancePolicy."""

    async def next_batch(self, request: pb.NextBatchRequest) -> pb.NextBatchResponse:
        """NextBatch."""
        return await self._unless_replaced(request.curriculum_id, lambda: self._next_batch(request))

    async def _next_batch(self, request: pb.NextBatchRequest) -> pb.NextBatchResponse:
        require_request_id(request.request_id)
        require_policy_version(request.policy_version)
        require_trainer_id(request.trainer_id)
        replica = await self.replica(request.curriculum_id, request.min_revision)
        event = log_pb2.Event(
            request_id=request.request_id,
            fingerprint=fingerprint(request, "min_revision", "trainer_id"),
        )
        outcome = replica.machine.recall(event)
        plan: BatchPlan | None = None
        lease_id = ""
        attempt = 0
        while outcome is None:
            attempt += 1
            # A reload during the commit brings another planner.
            plan, planner = await self._plan(replica, request)
            lease_id = uuid.uuid4().hex
            event.batch_granted.CopyFrom(
                grant_event(request, plan, lease_id, replica.state.strategy.lease_seconds)
            )
            try:
                outcome = await replica.commit(event)
            except Aborted as error:
                if error.reason not in _REDRAW or attempt >= self._settings.max_grant_attempts:
                    raise
                # Replicas that rank alike draw alike: in step, one could lose again and again.
                await asyncio.sleep(random.uniform(0.0, min(0.001 * 2**attempt, _MOST_WAIT_SECONDS)))
            finally:
                replica.settle(plan, planner)
        lease = replica.state.leases.get(outcome.batch_granted.lease_id)
        if lease is None:
            raise FailedPrecondition(
                "BATCH_FORGOTTEN",
                f"request_id = {request.request_id!r} was answered long ago and its batch is forgotten."
                " Use a new request_id for a new batch.",
                "request_id",
            )
        # Another rank may have asked for the same batch and been first: then it is not what we drew.
        answer = replica.batch_answer(lease, plan if lease.lease_id == lease_id else None)
        complete_batch(answer, lease, outcome)
        return answer

    async def _plan(
        self, replica: CurriculumReplica, request: pb.NextBatchRequest
    ) -> tuple[BatchPlan, BatchPlanner]:
        arguments = (request.batch_size, request.rollout_budget)
        seed = request.seed if request.HasField("seed") else None
        try:
            return await replica.plan(*arguments, equal_quotas=request.equal_quotas, seed=seed)
        except CurriculumError:
            # Perhaps this replica is only behind: prompts were added, another strategy set, or something freed
            # by another replica, or by time.
            await replica.catch_up()
            await expire_leases(replica)
            return await replica.plan(*arguments, equal_quotas=request.equal_quotas, seed=seed)

    async def report_rollouts(self, request: pb.ReportRolloutsRequest) -> pb.ReportRolloutsResponse:
        """ReportRollouts."""
        return await self._unless_replaced(request.curriculum_id, lambda: self._report_rollouts(request))

    async def _report_rollouts(self, request: pb.ReportRolloutsRequest) -> pb.ReportRolloutsResponse:
        require_request_id(request.request_id)
        require_policy_version(request.policy_version)
        columns = report_columns(request)
        replica = await self.replica(request.curriculum_id)
        print_ = fingerprint(request)
        for _ in range(self._settings.max_grant_attempts):
            lease: Lease | None = None
            if request.lease_id:
                lease = replica.state.leases.get(request.lease_id)
                if lease is None:
                    await replica.catch_up()
                    lease = replica.state.leases.get(request.lease_id)
                named = (lease.rows, replica.ids_of(lease)) if lease else (_NO_ROWS, [])
                slots = slots_in_lease(lease, named[1], columns.prompt_ids)
            else:
                await replica.index_ids()
                slots = replica.state.table.find(columns.prompt_ids)
                if (slots < 0).any():
                    # Perhaps another replica has added them.
                    await replica.catch_up()
                    slots = replica.state.table.find(columns.prompt_ids)
                named = (slots, columns.prompt_ids)
            unknown = slots < 0
            reported = columns.event(slots, ~unknown)
            reported.lease_id = request.lease_id
            reported.policy_version = request.policy_version
            reported.epoch = replica.state.epoch
            reported.seed = report_seed(reported, replica.state.visits)
            event = log_pb2.Event(
                request_id=request.request_id, fingerprint=print_, rollouts_reported=reported
            )
            try:
                if request.lease_id and lease is None and replica.machine.recall(event) is None:
                    raise lease_not_found(request.lease_id)
                # Not `_mutate`: the event's rows are this replica's, not those of one made in its place.
                outcome = await self._carry_out(replica, event)
            except Aborted as error:
                if error.reason not in _REDRAW:
                    raise
                continue
            if outcome.duplicate:
                # Rejected is what was unknown then; by now the lease may be forgotten, or the prompt added.
                answered = from_bytes(outcome.rollouts_reported.rows, "i4")
                unknown = ~np.isin(replica.state.table.find(columns.prompt_ids), answered)
            reason = "PROMPT_NOT_IN_LEASE" if request.lease_id else "PROMPT_NOT_FOUND"
            return report_response(request, outcome, replica.table, named, unknown, reason)
        raise Aborted(
            "EPOCH_CHANGED", "The curriculum is being restored again and again; send the report later."
        )

    async def release_batch(self, request: pb.ReleaseBatchRequest) -> pb.ReleaseBatchResponse:
        """ReleaseBatch."""
        require_request_id(request.request_id)
        event = log_pb2.Event(
            request_id=request.request_id,
            fingerprint=fingerprint(request),
            batch_released=log_pb2.BatchReleased(lease_id=request.lease_id),
        )
        _, outcome = await self._mutate(request.curriculum_id, event)
        return pb.ReleaseBatchResponse(
            released=outcome.batch_released.released, revision=outcome.revision, duplicate=outcome.duplicate
        )

    async def advance_policy(self, request: pb.AdvancePolicyRequest) -> pb.AdvancePolicyResponse:
        """AdvancePolicy."""
        require_request_id(request.request_id)
        advanced = log_pb2.PolicyAdvanced(
            policy_version=request.policy_version, start_iteration=request.start_iteration
        )
        if request.HasField("kl"):
            advanced.kl = request.kl
        event = log_pb2.Event(
            request_id=request.request_id, fingerprint=fingerprint(request), policy_advanced=advanced
        )
        _, outcome = await self._mutate(request.curriculum_id, event)
        return pb.AdvancePolicyResponse(revision=outcome.revision, duplicate=outcome.duplicate)
