"""Replicas of two releases on one log: what only the newer one understands stops the older one, and it alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from curriculum.v1.curriculum_pb2_grpc import CurriculumServiceStub
from sampler_service.curriculum.errors import Unavailable
from sampler_service.curriculum.fold_version import FOLD_VERSION
from sampler_service.curriculum.strategy import resolve
from sampler_service.log import LogClient, RedisSettings
from sampler_service.replica import ReplicaHost, ReplicaSettings
from sampler_service.replica.snapshotting import take_snapshot
from tests.rpc_calls import new_id, refusal_of
from tests.service_process import ROOT, service_process

QUIET = ReplicaSettings(tick_seconds=3600)
STRATEGY = resolve("uniform-grpo", {}).to_json()
NEXT_RELEASE = """
import sampler_service.curriculum.fold_version as fold_version
fold_version.FOLD_VERSION += 1
"""
"""Run before anything else of the service: all that makes a release newer here."""


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


class Release:
    """A service process of this release, or of the one after it."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub = CurriculumServiceStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)

    def rollouts(self, curriculum_id: str, request_id: str = "") -> int:
        """One more is reported, unless it was before; how many there are then, read here."""
        self.stub.ReportRollouts(report(curriculum_id, request_id or new_id()), timeout=120)
        where = pb.PromptFilter(prompt_ids=["a"])
        request = pb.ListPromptStatesRequest(curriculum_id=curriculum_id, filter=where, page_size=10)
        return self.stub.ListPromptStates(request, timeout=120).rollouts[0]

    def serves(self) -> bool:
        answer = self._health.Check(health_pb2.HealthCheckRequest(), timeout=120)
        return answer.status == health_pb2.HealthCheckResponse.SERVING


@contextmanager
def release(settings: RedisSettings, directory: Path, *, newer: bool) -> Iterator[Release]:
    environment = {"SAMPLER_REDIS__KEY_PREFIX": settings.key_prefix}
    if newer:
        (directory / "sitecustomize.py").write_text(NEXT_RELEASE)
        environment["PYTHONPATH"] = os.pathsep.join(map(str, (directory, ROOT, ROOT / "proto")))
    with (
        service_process(
            "--redis-url", settings.url, log=directory / "log", environment=environment
        ) as process,
        grpc.insecure_channel(process.target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel,
    ):
        yield Release(channel)


def test_services_are_upgraded_one_by_one_and_the_last_old_one_stands_aside(
    redis_settings: RedisSettings, tmp_path: Path
) -> None:
    with release(redis_settings, tmp_path, newer=True) as upgraded, ExitStack() as until_upgraded:
        old = until_upgraded.enter_context(release(redis_settings, tmp_path, newer=False))
        for curriculum_id in ("math", "code"):
            create = pb.CreateCurriculumRequest(
                request_id=new_id(), curriculum_id=curriculum_id, strategy=pb.Strategy(preset="uniform-grpo")
            )
            add = pb.AddPromptsRequest(
                curriculum_id=curriculum_id, request_id=new_id(), prompt_ids=["a", "b"]
            )
            # By the old one: the log is of its fold version, and both can go on.
            old.stub.CreateCurriculum(create, timeout=120)
            old.stub.AddPrompts(iter([add]), timeout=120)
            assert old.rollouts(curriculum_id) == 1
            assert upgraded.rollouts(curriculum_id) == 2
            assert old.rollouts(curriculum_id) == 3
        update = pb.UpdateCurriculumRequest(
            curriculum_id="math", request_id=new_id(), strategy=pb.Strategy(preset="cures")
        )
        upgraded.stub.UpdateCurriculum(update, timeout=120)
        with pytest.raises(grpc.RpcError) as raised:
            old.rollouts("math", "sent twice")
        refusal = refusal_of(raised.value)
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "NEEDS_NEWER_RELEASE")
        assert f"is folded with version {FOLD_VERSION + 1}" in refusal.message
        assert "upgrade this one" in refusal.message
        # As a client does that knows several replicas. The old one may have written it before it stopped.
        assert upgraded.rollouts("math", "sent twice") == 4
        # Of the old one, that curriculum alone is out of service.
        assert old.serves()
        assert old.rollouts("code") == 4
        until_upgraded.close()
        with release(redis_settings, tmp_path, newer=True) as replaced:
            assert replaced.rollouts("math") == 5
            assert upgraded.rollouts("code") == 5
