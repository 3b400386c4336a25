"""Checkpoints: kept states by name, and going back to one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from curriculum.v1 import log_pb2
from sampler_service.curriculum.errors import AlreadyExists, InvalidArgument, NotFound
from sampler_service.curriculum.state import CurriculumState

if TYPE_CHECKING:
    from sampler_service.curriculum.machine import CurriculumMachine

__all__ = [
    "adopt_checkpoint",
    "check_creation",
    "check_known",
    "create",
    "delete",
    "require_checkpoint",
    "restored",
]


def check_creation(state: CurriculumState, event: log_pb2.CheckpointCreated) -> None:
    """Refuses an id that is empty or taken.

    Raises:
        InvalidArgument: empty.
        AlreadyExists: taken.
    """
    if not event.checkpoint_id:
        raise InvalidArgument("MISSING_FIELD", "checkpoint_id must not be empty.", "checkpoint_id")
    if event.checkpoint_id in state.checkpoints:
        raise AlreadyExists(
            "CHECKPOINT_EXISTS",
            f"checkpoint_id = {event.checkpoint_id!r} exists. Delete it first or choose another id.",
            "checkpoint_id",
        )


def create(machine: CurriculumMachine, event: log_pb2.CheckpointCreated) -> log_pb2.Outcome:
    """Names a snapshot that is kept."""
    state = machine.state
    state.checkpoints[event.checkpoint_id] = {
        "revision": event.revision,
        "millis": state.millis,
        "policy_version": state.policy_version,
    }
    return log_pb2.Outcome()


def require_checkpoint(state: CurriculumState, checkpoint_id: str) -> dict[str, Any]:
    """What is kept of a checkpoint: revision, millis, policy_version.

    Raises:
        NotFound: no such checkpoint.
    """
    if checkpoint_id not in state.checkpoints:
        known = ", ".join(state.checkpoints) or "none"
        raise NotFound(
            "CHECKPOINT_NOT_FOUND",
            f"checkpoint_id = {checkpoint_id!r} is not kept. Kept: {known}.",
            "checkpoint_id",
        )
    return state.checkpoints[checkpoint_id]


def check_known(
    state: CurriculumState, event: log_pb2.CheckpointRestored | log_pb2.CheckpointDeleted
) -> None:
    """Refuses one that is not kept: raises `NotFound`."""
    require_checkpoint(state, event.checkpoint_id)


def delete(machine: CurriculumMachine, event: log_pb2.CheckpointDeleted) -> log_pb2.Outcome:
    """Forgets one."""
    del machine.state.checkpoints[event.checkpoint_id]
    return log_pb2.Outcome()


def restored(machine: CurriculumMachine, _: log_pb2.CheckpointRestored) -> log_pb2.Outcome:
    """Says that the kept state is in place: the caller has put it there (see `adopt_checkpoint`)."""
    machine.state.history.bump("checkpoints_restored")
    return log_pb2.Outcome()


def adopt_checkpoint(kept: CurriculumState, present: CurriculumState) -> CurriculumState:
    """The state a restore goes back to: `kept`, with what must outlive it taken from `present`.

    Leases of either time are void, so that no prompt stays in flight and no old report counts twice;
    request ids are those of the kept state, so that a resumed trainer's step 401 is drawn anew.
    """
    for lease in list(kept.leases.live.values()):
        kept.leases.close(lease, "released")
    kept.leases.closed.clear()
    kept.leases.next_key = max(kept.leases.next_key, present.leases.next_key)
    kept.table.column("leases")[:] = -1
    kept.in_flight = 0
    kept.checkpoints = present.checkpoints
    kept.epoch = present.epoch + 1
    kept.created_millis = present.created_millis
    kept.fold_version = present.fold_version
    return kept
