"""Going back to a checkpoint, on every replica."""

from __future__ import annotations

import numpy as np
import pytest

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.curriculum.errors import (
    NotFound,
)
from sampler_service.log import LogClient
from sampler_service.replica import ReplicaHost
from tests.replica_calls import QUIET, create, digest, next_batch, report_of


async def test_going_back_to_a_checkpoint(log_client: LogClient) -> None:
    host, other = ReplicaHost(log_client, QUIET, seed=1), ReplicaHost(log_client, QUIET, seed=2)
    await create(host)
    await host.report_rollouts(report_of(await next_batch(host, "step-1", policy_version=1), "r1"))
    await host.create_checkpoint(
        pb.CreateCheckpointRequest(curriculum_id="math", request_id="k", checkpoint_id="step-1")
    )
    kept = (await host.replica("math")).state.table.column("successes").copy()
    before = await next_batch(host, "step-2", policy_version=2)
    await host.report_rollouts(report_of(before, "r2"))
    await other.replica("math")
    for host_ in (host, other):
        await host_.close()
    restore = pb.RestoreCheckpointRequest(curriculum_id="math", request_id="back", checkpoint_id="step-1")
    assert not (await host.restore_checkpoint(restore)).duplicate
    assert (await other.restore_checkpoint(restore)).duplicate
    state = (await host.replica("math")).state
    assert state.policy_version == 1
    assert np.array_equal(state.table.column("successes"), kept)
    answer = await host.next_batch(
        pb.NextBatchRequest(curriculum_id="math", request_id="step-2", batch_size=8, policy_version=2)
    )
    assert not answer.duplicate, "the resumed trainer's step 2 is drawn anew"
    with pytest.raises(NotFound, match="lease_id"):
        await host.report_rollouts(report_of(before, "late"))
    assert await digest(host) == await digest(other)
    fresh = ReplicaHost(log_client, QUIET)
    assert await digest(fresh) == await digest(host)
    kept_ids = (await host.list_checkpoints(pb.ListCheckpointsRequest(curriculum_id="math"))).checkpoints
    assert [checkpoint.checkpoint_id for checkpoint in kept_ids] == ["step-1"]


async def test_the_snapshot_of_a_replica_that_is_behind_leaves_checkpoints_alone(
    log_client: LogClient,
) -> None:
    host, behind = ReplicaHost(log_client, QUIET, seed=1), ReplicaHost(log_client, QUIET, seed=2)
    await create(host)
    await next_batch(behind, "n")
    await next_batch(host, "before")
    await host.create_checkpoint(
        pb.CreateCheckpointRequest(curriculum_id="math", request_id="k", checkpoint_id="step-1")
    )
    await next_batch(host, "later")
    await host.close()
    await behind.close()
    fresh = ReplicaHost(log_client, QUIET)
    await fresh.restore_checkpoint(
        pb.RestoreCheckpointRequest(curriculum_id="math", request_id="back", checkpoint_id="step-1")
    )
    assert await digest(fresh) == await digest(host)
