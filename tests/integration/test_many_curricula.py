"""More curricula than memory: loaded on demand, let go when idle or when others need the room."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from collections import Counter
from collections.abc import Iterator

import pytest

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.log import LogClient, RedisSettings
from sampler_service.replica import ReplicaHost, ReplicaSettings
from sampler_service.replica.loaded_curricula import LoadedCurricula
from tests.redis_servers import RedisServer, running_server, valkey_binary

PROMPTS = [f"p{i}" for i in range(20)]
SMALL = 2**20
"""The least bound there is: some forty curricula of twenty prompts."""


def bounded(**changes: object) -> ReplicaSettings:
    return ReplicaSettings.model_validate(
        {"tick_seconds": 3600, "max_memory_bytes": SMALL, "idle_seconds": 3600} | changes
    )


async def create(host: ReplicaHost, curriculum_id: str, prompts: list[str] = PROMPTS) -> None:
    await host.create_curriculum(
        pb.CreateCurriculumRequest(
            request_id="create", curriculum_id=curriculum_id, strategy=pb.Strategy(preset="uniform-grpo")
        )
    )

    async def chunks():
        yield pb.AddPromptsRequest(curriculum_id=curriculum_id, request_id="add", prompt_ids=prompts)

    await host.add_prompts(chunks())


async def create_all(host: ReplicaHost, names: list[str]) -> None:
    for start in range(0, len(names), 20):
        await asyncio.gather(*(create(host, name) for name in names[start : start + 20]))


async def step(host: ReplicaHost, curriculum_id: str, number: int) -> int:
    """One batch and its report; the rollouts that were accepted."""
    batch = (
        await host.next_batch(
            pb.NextBatchRequest(curriculum_id=curriculum_id, request_id=f"n{number}", batch_size=2)
        )
    ).batch
    answer = await host.report_rollouts(
        pb.ReportRolloutsRequest(
            curriculum_id=curriculum_id,
            request_id=f"r{number}",
            lease_id=batch.lease_id,
            prompt_ids=batch.prompt_ids,
            rollout_counts=batch.quotas,
            rewards=[1.0] * sum(batch.quotas),
        )
    )
    return answer.accepted


async def spent(host: ReplicaHost, curriculum_id: str) -> int:
    answer = await host.get_summary(pb.GetSummaryRequest(curriculum_id=curriculum_id))
    return answer.summary.rollouts_spent


def loaded(host: ReplicaHost) -> set[str]:
    return {figures.curriculum_id for figures in host.statistics()}


async def test_three_hundred_curricula_are_served_within_a_bound_for_forty(log_client: LogClient) -> None:
    host = ReplicaHost(log_client, bounded(), seed=1)
    names = [f"c{i:03d}" for i in range(300)]
    await create_all(host, names)
    chance = random.Random(0)
    counted: Counter[str] = Counter()

    async def trainer(number: int) -> None:
        for round_ in range(40):
            name = chance.choice(names)
            accepted = await step(host, name, 1000 * number + round_)
            counted[name] += accepted
            # In use are eight at most; what is loading for them comes on top.
            assert host.residency().memory_bytes <= SMALL + 16 * 100_000

    await asyncio.gather(*(trainer(number) for number in range(8)))
    figures = host.residency()
    assert figures.memory_bytes <= SMALL
    assert 0 < figures.loaded < 60
    assert figures.evicted_for_memory == figures.loads - figures.loaded
    for name in chance.sample(names, 50):
        assert await spent(host, name) == counted[name]
    await host.close()


async def test_those_used_the_longest_ago_go_first(log_client: LogClient) -> None:
    host = ReplicaHost(log_client, bounded(), seed=1)
    names = [f"c{i:03d}" for i in range(100)]
    await create(host, "kept")
    for name in names:
        await create(host, name)
        await spent(host, "kept")
    left = loaded(host)
    assert "kept" in left
    assert left - {"kept"} == set(names[-(len(left) - 1) :])


async def test_what_is_in_use_is_never_let_go(log_client: LogClient) -> None:
    host = ReplicaHost(log_client, bounded(), seed=1)
    names = [f"c{i:03d}" for i in range(100)]
    await create_all(host, names)
    curricula = LoadedCurricula(log_client, bounded(), seed=1)
    first = await curricula.get(names[0])
    with curricula.in_use(names[0]):
        for name in names[1:]:
            await curricula.get(name)
        assert curricula.find(names[0]) is first
        assert curricula.residency().evicted_for_memory > 40
    async with first.lock:  # A fold or a snapshot that is under way.
        for name in names[1:]:
            await curricula.get(name)
        assert curricula.find(names[0]) is first
    for name in names[1:]:
        await curricula.get(name)
    assert curricula.find(names[0]) is None


async def test_one_curriculum_larger_than_the_bound_is_served_all_the_same(log_client: LogClient) -> None:
    host = ReplicaHost(log_client, bounded(), seed=1)
    await create(host, "large", [f"prompt-{i}" for i in range(30_000)])
    for number in range(5):
        assert await step(host, "large", number) == 16
    assert host.residency().loads == 1
    assert host.residency().memory_bytes > SMALL
    await create(host, "small")
    assert loaded(host) == {"small"}
    assert await spent(host, "large") == 80


async def test_a_curriculum_that_nobody_uses_is_let_go_unless_a_batch_is_out(log_client: LogClient) -> None:
    settings = bounded(tick_seconds=0.05, idle_seconds=0.3, max_memory_bytes=2**30)
    host = ReplicaHost(log_client, settings, seed=1)
    await create_all(host, ["idle", "training"])
    await host.next_batch(pb.NextBatchRequest(curriculum_id="training", request_id="n", batch_size=2))
    await host.start()
    try:
        async with asyncio.timeout(120):
            while loaded(host) != {"training"}:
                await asyncio.sleep(0.05)
        assert host.residency().evicted_idle >= 1
    finally:
        await host.close()


async def test_listing_all_of_them_does_not_push_out_those_in_use(log_client: LogClient) -> None:
    host = ReplicaHost(log_client, bounded(), seed=1)
    names = [f"c{i:03d}" for i in range(150)]
    await create_all(host, names)
    for name in names[:4]:
        await spent(host, name)
    page = await host.list_curricula(pb.ListCurriculaRequest(page_size=1000))
    assert [curriculum.curriculum_id for curriculum in page.curricula] == names
    assert all(curriculum.prompt_count == len(PROMPTS) for curriculum in page.curricula)
    assert set(names[:4]) <= loaded(host)


async def test_a_long_tail_is_snapshotted_before_its_curriculum_goes(log_client: LogClient) -> None:
    host = ReplicaHost(log_client, bounded(), seed=1)
    await create(host, "busy")
    for number in range(40):
        await step(host, "busy", number)
    names = [f"c{i:03d}" for i in range(100)]
    await create_all(host, names)
    assert "busy" not in loaded(host)
    replica = await host.replica("busy")
    assert replica.events_folded == 0
    assert replica.state.history.totals["rollouts"] == 40 * 16


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    with running_server(valkey_binary()) as server:
        yield server


async def test_while_the_log_is_away_nothing_is_let_go(own_server: RedisServer) -> None:
    settings = bounded(tick_seconds=0.05, idle_seconds=0.2)
    async with LogClient(RedisSettings(url=own_server.url)) as client:
        host = ReplicaHost(client, settings, seed=1)
        await create(host, "math")
        own_server.kill()
        assert (await host.get_summary(pb.GetSummaryRequest(curriculum_id="math"))).summary.stale
        await host.start()
        await asyncio.sleep(0.6)
        answer = await host.get_summary(pb.GetSummaryRequest(curriculum_id="math"))
        assert answer.summary.stale
        assert answer.summary.prompts == len(PROMPTS)
        await host.close()


async def test_a_curriculum_that_is_dropped_leaves_memory_before_the_garbage_collector_comes(
    log_client: LogClient,
) -> None:
    host = ReplicaHost(log_client, bounded(), seed=1)
    await create(host, "math")
    for number in range(3):
        await step(host, "math", number)
    replica = await host.replica("math")
    await replica.close()
    columns = weakref.ref(replica.state)
    del replica
    gc.collect()
    gc.disable()
    try:
        await host.delete_curriculum(pb.DeleteCurriculumRequest(curriculum_id="math", request_id="delete"))
        async with asyncio.timeout(120):
            while columns() is not None:
                await asyncio.sleep(0.01)  # Until the last timer has let go of it.
    finally:
        gc.enable()
    await host.close()
