"""Folding a granted batch: the log's order decides who gets a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from curriculum.v1 import log_pb2
from sampler_service.curriculum import iterations
from sampler_service.curriculum.arrays import are_distinct, from_bytes
from sampler_service.curriculum.errors import Aborted, InvalidArgument
from sampler_service.curriculum.leases import Lease
from sampler_service.curriculum.state import CurriculumState

if TYPE_CHECKING:
    from sampler_service.curriculum.machine import CurriculumMachine

__all__ = ["apply", "check"]


def check(state: CurriculumState, event: log_pb2.BatchGranted) -> None:
    """Refuses a draw that another grant has overtaken.

    Raises:
        Aborted: a prompt is in flight by now, or rows mean something else since a restore.
        InvalidArgument: the columns do not fit together.
    """
    rows = from_bytes(event.rows, "i4")
    quotas = from_bytes(event.quotas, "i4")
    if len(rows) == 0 or len(quotas) != len(rows) or int(quotas.sum()) > event.budget:
        raise InvalidArgument("INVALID_GRANT", "The columns of a grant do not fit together.")
    if event.epoch != state.epoch or (rows.min() < 0 or rows.max() >= state.table.size):
        raise Aborted("EPOCH_CHANGED", "The curriculum was restored while the batch was drawn; draw again.")
    if (state.table.leases[rows] >= 0).any() or not are_distinct(rows):
        raise Aborted("LEASE_CONFLICT", "Another trainer was granted one of these prompts first; draw again.")


def apply(machine: CurriculumMachine, event: log_pb2.BatchGranted) -> log_pb2.Outcome:
    """Leases the batch."""
    state = machine.state
    machine.note_policy_version(event.policy_version)
    lease = Lease(
        key=state.leases.next_key,
        lease_id=event.lease_id,
        trainer_id=event.trainer_id,
        policy_version=event.policy_version,
        grant_millis=state.millis,
        expire_millis=state.millis + event.lease_millis,
        budget=event.budget,
        policy_step=state.policy_step,
        estimator=state.estimator_name,
        notes=list(event.notes),
        rows=from_bytes(event.rows, "i4"),
        quotas=from_bytes(event.quotas, "i4"),
        pass_rates=from_bytes(event.pass_rates, "f4"),
        pass_rate_stddevs=from_bytes(event.pass_rate_stddevs, "f4"),
        baselines=from_bytes(event.baselines, "f4"),
        probabilities=from_bytes(event.probabilities, "f4"),
        sources=from_bytes(event.sources, "u1"),
    ).begin()
    iterations.batch_granted(state, len(lease.rows))
    state.leases.add(lease)
    state.table.leases[lease.rows] = lease.key
    state.in_flight += len(lease.rows)
    state.history.bump("leases_granted")
    granted = lease.quotas > 0
    state.history.profile_quotas(lease.pass_rates[granted], lease.quotas[granted])
    machine.touch(lease.rows)
    return log_pb2.Outcome(
        batch_granted=log_pb2.BatchGrantedOutcome(lease_id=lease.lease_id, expire_millis=lease.expire_millis)
    )
