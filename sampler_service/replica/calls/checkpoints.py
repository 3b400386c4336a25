"""Calls about checkpoints: states that are kept under a name, and gone back to."""

from __future__ import annotations

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from sampler_service.replica.answers import timestamp
from sampler_service.replica.calls.base import CurriculumCalls
from sampler_service.replica.requests import fingerprint, require_id, require_request_id
from sampler_service.replica.snapshotting import create_checkpoint

__all__ = ["CheckpointCalls"]


class CheckpointCalls(CurriculumCalls):
    """CreateCheckpoint, RestoreCheckpoint, DeleteCheckpoint, ListCheckpoints."""

    async def create_checkpoint(self, request: pb.CreateCheckpointRequest) -> pb.CreateCheckpointResponse:
        """CreateCheckpoint."""
        require_request_id(request.request_id)
        require_id(request.checkpoint_id, "checkpoint_id")
        event = log_pb2.Event(
            request_id=request.request_id,
            fingerprint=fingerprint(request),
            checkpoint_created=log_pb2.CheckpointCreated(checkpoint_id=request.checkpoint_id),
        )
        with self._curricula.in_use(request.curriculum_id):
            replica = await self._reading(request.curriculum_id)
            outcome = replica.machine.recall(event)
            if outcome is None:
                replica.machine.check(event)
                outcome = await create_checkpoint(replica, event)
        return pb.CreateCheckpointResponse(revision=outcome.revision, duplicate=outcome.duplicate)

    async def restore_checkpoint(self, request: pb.RestoreCheckpointRequest) -> pb.RestoreCheckpointResponse:
        """RestoreCheckpoint."""
        require_request_id(request.request_id)
        event = log_pb2.Event(
            request_id=request.request_id,
            fingerprint=fingerprint(request),
            checkpoint_restored=log_pb2.CheckpointRestored(checkpoint_id=request.checkpoint_id),
        )
        _, outcome = await self._mutate(request.curriculum_id, event)
        return pb.RestoreCheckpointResponse(revision=outcome.revision, duplicate=outcome.duplicate)

    async def delete_checkpoint(self, request: pb.DeleteCheckpointRequest) -> pb.DeleteCheckpointResponse:
        """DeleteCheckpoint."""
        require_request_id(request.request_id)
        event = log_pb2.Event(
            request_id=request.request_id,
            fingerprint=fingerprint(request),
            checkpoint_deleted=log_pb2.CheckpointDeleted(checkpoint_id=request.checkpoint_id),
        )
        _, outcome = await self._mutate(request.curriculum_id, event)
        return pb.DeleteCheckpointResponse(revision=outcome.revision, duplicate=outcome.duplicate)

    async def list_checkpoints(self, request: pb.ListCheckpointsRequest) -> pb.ListCheckpointsResponse:
        """ListCheckpoints."""
        replica = await self._reading(request.curriculum_id)
        response = pb.ListCheckpointsResponse(revision=replica.state.revision)
        for id_, kept in replica.state.checkpoints.items():
            response.checkpoints.add(
                checkpoint_id=id_,
                revision=kept["revision"],
                create_time=timestamp(kept["millis"]),
                policy_version=kept["policy_version"],
            )
        return response
