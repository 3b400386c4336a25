"""Replicas of two releases on one log: what only the newer one understands stops the older one, and it alone."""

from __future__ import annotations

import pytest

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from sampler_service.curriculum.errors import Unavailable
from sampler_service.curriculum.fold_version import FOLD_VERSION
from sampler_service.curriculum.strategy import resolve
from sampler_service.log import LogClient
from sampler_service.replica import ReplicaHost, ReplicaSettings
from sampler_service.replica.snapshotting import take_snapshot

QUIET = ReplicaSettings(tick_seconds=3600)
STRATEGY = resolve("uniform-grpo", {}).to_json()


async def create(host: ReplicaHost, curriculum_id: str) -> None:
    await host.create_curriculum(pb.CreateCurriculumRequest(request_id="create", curriculum_id=curriculum_id))

    async def chunks():  # type: ignore[no-untyped-def]
        yield pb.AddPromptsRequest(curriculum_id=curriculum_id, request_id="add", prompt_ids=["a", "b"])

    await host.add_prompts(chunks())


def report(curriculum_id: str, request_id: str) -> pb.ReportRolloutsRequest:
    return pb.ReportRolloutsRequest(
        curriculum_id=curriculum_id,
        request_id=request_id,
        prompt_ids=["a"],
        rollout_counts=[1],
        rewards=[1.0],
    )


async def written_by_a_newer_release(client: LogClient, curriculum_id: str) -> str:
    event = log_pb2.Event(
        request_id="newer",
        strategy_updated=log_pb2.StrategyUpdated(strategy_json=STRATEGY, fold_version=FOLD_VERSION + 1),
    )
    log = client.log(curriculum_id)
    return (await log.append([event.SerializeToString()], "0-0")).own[0]


async def test_an_older_replica_stops_where_a_newer_one_raised_the_fold_version(
    log_client: LogClient,
) -> None:
    host = ReplicaHost(log_client, QUIET, seed=1)
    await create(host, "math")
    await create(host, "code")
    replica = await host.replica("math")
    before = replica.state.revision, replica.state.digest()
    await written_by_a_newer_release(log_client, "math")
    for _ in range(2):
        with pytest.raises(Unavailable, match="upgrade this one"):
            await host.get_curriculum(pb.GetCurriculumRequest(curriculum_id="math"))
        with pytest.raises(Unavailable, match="upgrade this one"):
            await host.report_rollouts(report("math", "r"))
    # Not a state of its own, and no snapshot of one.
    assert (replica.state.revision, replica.state.digest()) == before
    with pytest.raises(Unavailable):
        await take_snapshot(replica)
    assert await replica.store.head() is None
    assert (await host.report_rollouts(report("code", "r"))).accepted == 1
    await host.close()
    assert await replica.store.head() is None


async def test_a_replica_that_loads_such_a_log_refuses_it_too(log_client: LogClient) -> None:
    writer, reader = (ReplicaHost(log_client, QUIET, seed=seed) for seed in (1, 2))
    await create(writer, "math")
    await written_by_a_newer_release(log_client, "math")
    with pytest.raises(Unavailable) as raised:
        await reader.next_batch(
            pb.NextBatchRequest(curriculum_id="math", request_id="n", batch_size=1, rollout_budget=2)
        )
    assert raised.value.retry_after_seconds


async def test_what_this_release_writes_names_its_fold_version(log_client: LogClient) -> None:
    host = ReplicaHost(log_client, QUIET, seed=1)
    await create(host, "math")
    update = pb.UpdateCurriculumRequest(
        curriculum_id="math", request_id="u", strategy=pb.Strategy(preset="cures")
    )
    await host.update_curriculum(update)
    entries = await log_client.log("math").read("0-0")
    events = [log_pb2.Event.FromString(entry.payload) for entry in entries]
    assert events[0].curriculum_created.fold_version == FOLD_VERSION
    assert events[-1].strategy_updated.fold_version == FOLD_VERSION
    assert (await host.replica("math")).state.fold_version == FOLD_VERSION
