"""Replicas on a real log server: equal, durable, and harmless to retry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.curriculum.errors import (
    Aborted,
    AlreadyExists,
    Exhausted,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from sampler_service.log import LogClient, LogUnavailableError, RedisSettings, revision_millis
from sampler_service.replica import ReplicaHost, ReplicaSettings, batch_source, folded_log
from tests.redis_servers import RedisServer, running_server, valkey_binary
from tests.replica_calls import QUIET, create, digest, next_batch, report_of, until_answered


@pytest.fixture
async def host(log_client: LogClient) -> ReplicaHost:
    return ReplicaHost(log_client, QUIET, seed=1)


async def test_two_replicas_are_bit_equal_at_equal_revisions(log_client: LogClient) -> None:
    hosts = [ReplicaHost(log_client, QUIET, seed=seed) for seed in (1, 2)]
    await create(hosts[0], "frontier", 200, stopping={"one_shot": {}})
    rng = np.random.default_rng(0)

    async def train(host: ReplicaHost, name: str) -> None:
        for step in range(15):
            batch = await next_batch(host, f"{name}-{step}", policy_version=step // 3)
            request = report_of(batch, f"{name}-r{step}")
            request.rewards[:] = rng.integers(0, 2, len(request.rewards)).tolist()
            assert (await host.report_rollouts(request)).accepted == sum(batch.quotas)

    await asyncio.gather(*(train(hosts[i % 2], f"t{i}") for i in range(6)))
    assert await digest(hosts[0]) == await digest(hosts[1])
    state = (await hosts[0].replica("math")).state
    assert state.history.totals["groups"] == 6 * 15 * 8
    assert state.in_flight == 0


async def test_a_report_is_answered_before_its_prompts_are_learnt_from_and_nobody_can_tell(
    host: ReplicaHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folded_log, "_ANSWERS_FIRST_SECONDS", 3600)
    monkeypatch.setattr(batch_source, "_TIDY_SECONDS", 3600)
    await create(host, "cures", 50)
    replica = await host.replica("math")
    table = replica.table
    batch = await next_batch(host, "b")
    answer = await host.report_rollouts(report_of(batch, "r"))
    assert list(answer.directives.prompt_ids) == list(batch.prompt_ids)
    rows = table.find(list(batch.prompt_ids))
    assert (table.rollouts[rows] == 0).all(), "the answer did not wait for it"
    assert replica.state.visits == 8, "who reads the state has it whole"
    assert (table.rollouts[rows] == list(batch.quotas)).all()


async def test_what_a_report_taught_is_folded_without_anybody_asking(host: ReplicaHost) -> None:
    await create(host, "cures", 50)
    table = (await host.replica("math")).table
    batch = await next_batch(host, "b")
    await host.report_rollouts(report_of(batch, "r"))
    async with asyncio.timeout(30):
        while int(table.rollouts[:].sum()) == 0:
            await asyncio.sleep(0.001)
    assert int(table.rollouts[:].sum()) == sum(batch.quotas)


async def test_replicas_that_draw_the_same_prompts_settle_it_by_the_log(log_client: LogClient) -> None:
    hosts = [ReplicaHost(log_client, QUIET, seed=5) for _ in range(3)]
    await create(hosts[0], prompts=24)
    for host in hosts:
        await host.replica("math")
    batches = await asyncio.gather(*(next_batch(host, f"r{i}") for i, host in enumerate(hosts)))
    drawn = [id_ for batch in batches for id_ in batch.prompt_ids]
    assert len(drawn) == len(set(drawn)) == 24
    with pytest.raises(Exhausted):
        await next_batch(hosts[0], "one-more")


def chunk_of(number: int, **fields: object) -> pb.AddPromptsRequest:
    ids = [f"n{i}" for i in range(10 * number, 10 * number + 10)]
    return pb.AddPromptsRequest(prompt_ids=ids, **fields)


async def chunks_of(*chunks: pb.AddPromptsRequest) -> AsyncIterator[pb.AddPromptsRequest]:
    for chunk in chunks:
        yield chunk


NAMED = {"curriculum_id": "math", "request_id": "many"}


async def test_a_stream_of_prompts_that_broke_off_goes_on_on_another_replica(log_client: LogClient) -> None:
    first, other = (ReplicaHost(log_client, QUIET, seed=seed) for seed in (1, 2))
    await create(first, prompts=0)

    async def breaks() -> AsyncIterator[pb.AddPromptsRequest]:
        for number in range(1, 4):
            yield chunk_of(number, **NAMED)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await first.add_prompts(breaks())
    asked = await other.add_prompts(chunks_of(pb.AddPromptsRequest(**NAMED)))
    # The third is there, but from outside nobody can tell that it is there as a whole.
    assert (asked.chunks, asked.added, asked.total) == (2, 0, 30)
    rest = chunks_of(chunk_of(3, **NAMED, first_chunk=3), chunk_of(4), chunk_of(5))
    answer = await other.add_prompts(rest)
    # As if it had never broken.
    assert (answer.added, answer.already_present, answer.total, answer.chunks) == (50, 0, 50, 5)
    assert not answer.duplicate
    assert await digest(first) == await digest(other)


async def test_a_stream_of_prompts_cannot_go_on_over_a_gap(host: ReplicaHost) -> None:
    await create(host, prompts=0)
    await host.add_prompts(chunks_of(chunk_of(1, **NAMED), chunk_of(2)))
    with pytest.raises(FailedPrecondition, match="only 1 chunks") as raised:
        await host.add_prompts(chunks_of(chunk_of(4, **NAMED, first_chunk=4)))
    assert raised.value.reason == "CHUNKS_MISSING"
    with pytest.raises(InvalidArgument, match="first_chunk = -1"):
        await host.add_prompts(chunks_of(chunk_of(4, **NAMED, first_chunk=-1)))
    # Another content under the same number is what it always was: a mistake.
    with pytest.raises(InvalidArgument) as raised:
        await host.add_prompts(chunks_of(chunk_of(7, **NAMED, first_chunk=2)))
    assert raised.value.reason == "REQUEST_ID_REUSED"
    # Requests whose names begin alike are others.
    other = {**NAMED, "request_id": "many#2"}
    assert (await host.add_prompts(chunks_of(pb.AddPromptsRequest(**other)))).chunks == 0


async def test_the_same_request_id_returns_the_same_batch_on_any_replica(log_client: LogClient) -> None:
    hosts = [ReplicaHost(log_client, QUIET, seed=seed) for seed in (1, 2)]
    await create(hosts[0])
    first, second = await asyncio.gather(*(next_batch(host, "run/step-1") for host in hosts))
    assert first == second
    await hosts[0].report_rollouts(report_of(first, "r"))
    assert list((await next_batch(hosts[1], "run/step-1")).prompt_ids) == list(first.prompt_ids)
    assert (await hosts[0].replica("math")).state.history.counters["leases_granted"] == 1


async def test_a_repeated_report_is_counted_once_on_any_replica(log_client: LogClient) -> None:
    hosts = [ReplicaHost(log_client, QUIET, seed=seed) for seed in (1, 2)]
    await create(hosts[0])
    batch = await next_batch(hosts[0], "n")
    answers = await asyncio.gather(*(host.report_rollouts(report_of(batch, "r")) for host in hosts * 3))
    assert sorted(answer.duplicate for answer in answers) == [False] + [True] * 5
    assert len({answer.revision for answer in answers}) == 1
    assert len({answer.directives.SerializeToString() for answer in answers}) == 1
    state = (await hosts[0].replica("math")).state
    assert state.history.totals["rollouts"] == sum(batch.quotas)


async def test_a_replica_reads_its_writes_elsewhere_by_revision(log_client: LogClient) -> None:
    hosts = [ReplicaHost(log_client, QUIET, seed=seed) for seed in (1, 2)]
    await create(hosts[0])
    await hosts[1].replica("math")
    batch = await next_batch(hosts[0], "n")
    answer = await hosts[0].report_rollouts(report_of(batch, "r"))
    states = await hosts[1].list_prompt_states(
        pb.ListPromptStatesRequest(
            curriculum_id="math",
            filter=pb.PromptFilter(prompt_ids=batch.prompt_ids),
            min_revision=answer.revision,
        )
    )
    assert list(states.alphas) == [1.0 + quota for quota in batch.quotas]
    with pytest.raises(InvalidArgument, match="min_revision"):
        await next_batch(hosts[1], "x", min_revision="yesterday")
    with pytest.raises(Aborted, match="ahead of the log"):
        await next_batch(hosts[1], "x", min_revision="99999999999999-0")


async def test_recovery_is_the_snapshot_and_the_rest_of_the_log(log_client: LogClient) -> None:
    settings = ReplicaSettings(tick_seconds=0.05, snapshot_events=20)
    host = ReplicaHost(log_client, settings, seed=1)
    await host.start()
    await create(host, "cures", 100)
    log, step = log_client.log("math"), 0
    async with asyncio.timeout(120):
        while step < 40 or await log.length() >= 80:  # Until it is trimmed behind the snapshots.
            batch = await next_batch(host, f"n{step}", policy_version=step)
            await host.report_rollouts(report_of(batch, f"r{step}", float(step % 2)))
            step += 1
            await asyncio.sleep(0.005)
    other = ReplicaHost(log_client, QUIET)
    assert await digest(other) == await digest(host)
    assert (await other.replica("math")).events_folded < 80
    await host.close()
    last = ReplicaHost(log_client, QUIET)
    assert await digest(last) == await digest(other)
    assert (await last.replica("math")).events_folded == 0, "closing leaves a snapshot of everything"


async def test_a_replica_behind_the_trimmed_log_reloads_the_snapshot(log_client: LogClient) -> None:
    host, behind = ReplicaHost(log_client, QUIET, seed=1), ReplicaHost(log_client, QUIET, seed=2)
    await create(host)
    await behind.replica("math")
    for round_ in range(2):
        batch = await next_batch(host, f"n{round_}")
        await host.report_rollouts(report_of(batch, f"r{round_}"))
        await host.close()
    batch = await next_batch(behind, "after-the-gap")
    assert len(batch.prompt_ids) == 8
    assert await digest(host) == await digest(behind)


async def test_a_replica_that_is_behind_looks_again_before_it_refuses_a_batch(log_client: LogClient) -> None:
    host, behind = ReplicaHost(log_client, QUIET, seed=1), ReplicaHost(log_client, QUIET, seed=2)
    await create(host, prompts=0)
    await behind.replica("math")

    async def prompts() -> AsyncIterator[pb.AddPromptsRequest]:
        yield pb.AddPromptsRequest(curriculum_id="math", request_id="add", prompt_ids=["first"])

    await host.add_prompts(prompts())
    assert list((await next_batch(behind, "n")).prompt_ids) == ["first"]


async def test_a_repeat_at_a_replica_behind_the_trimmed_log_is_a_duplicate(log_client: LogClient) -> None:
    host, behind = ReplicaHost(log_client, QUIET, seed=1), ReplicaHost(log_client, QUIET, seed=2)
    await create(host)
    await behind.replica("math")
    request = pb.AdvancePolicyRequest(curriculum_id="math", request_id="a", policy_version=1)
    first = await host.advance_policy(request)
    for round_ in range(2):
        await next_batch(host, f"n{round_}")
        await host.close()
    again = await behind.advance_policy(request)
    assert (again.revision, again.duplicate) == (first.revision, True)


async def test_a_repeated_report_is_answered_as_at_first_whatever_has_changed_since(
    log_client: LogClient,
) -> None:
    host = ReplicaHost(log_client, QUIET, seed=1)
    await create(host)
    leased = report_of(await next_batch(host, "n"), "leased")
    unknown = pb.ReportRolloutsRequest(
        curriculum_id="math",
        request_id="unknown",
        prompt_ids=["p0", "new"],
        rollout_counts=[1, 1],
        rewards=[1, 0],
    )
    first = [await host.report_rollouts(request) for request in (leased, unknown)]
    assert [rejected.prompt_id for rejected in first[1].rejected] == ["new"]

    async def more() -> AsyncIterator[pb.AddPromptsRequest]:
        yield pb.AddPromptsRequest(curriculum_id="math", request_id="more", prompt_ids=["new"])

    await host.add_prompts(more())
    await host.create_checkpoint(
        pb.CreateCheckpointRequest(curriculum_id="math", request_id="k", checkpoint_id="k")
    )
    await host.restore_checkpoint(
        pb.RestoreCheckpointRequest(curriculum_id="math", request_id="back", checkpoint_id="k")
    )
    for request, answer in zip((leased, unknown), first, strict=True):
        again = await host.report_rollouts(request)
        assert again.duplicate
        again.duplicate = False
        assert again == answer


async def test_leases_of_a_trainer_that_died_expire(log_client: LogClient) -> None:
    host = ReplicaHost(log_client, ReplicaSettings(tick_seconds=0.05), seed=1)
    await host.start()
    await create(host, lease_seconds=0.3, prompts=8)
    batch = await next_batch(host, "n")
    async with asyncio.timeout(120):
        while True:
            try:
                again = await next_batch(host, "again")
                break
            except Exhausted:
                await asyncio.sleep(0.02)
    assert len(again.prompt_ids) == 8
    assert revision_millis(again.revision) >= batch.expire_time.ToMilliseconds(), "granted while it was held"
    late = await host.report_rollouts(report_of(batch, "late"))
    assert late.accepted == sum(batch.quotas)
    await host.close()


async def test_deleting_and_creating_anew_starts_from_nothing_on_every_replica(log_client: LogClient) -> None:
    host, other = ReplicaHost(log_client, QUIET, seed=1), ReplicaHost(log_client, QUIET, seed=2)
    await create(host)
    batch = await next_batch(other, "n")
    await host.delete_curriculum(pb.DeleteCurriculumRequest(curriculum_id="math", request_id="d"))
    for host_ in (host, other):
        with pytest.raises(NotFound):
            await host_.report_rollouts(report_of(batch, "r"))
    await create(host, prompts=3)
    curriculum = (await other.get_curriculum(pb.GetCurriculumRequest(curriculum_id="math"))).curriculum
    assert curriculum.prompt_count == 3
    with pytest.raises(NotFound, match="lease_id"):
        await other.report_rollouts(report_of(batch, "r"))


async def test_creating_twice_is_a_duplicate_or_a_conflict(host: ReplicaHost) -> None:
    await create(host, prompts=0)
    request = pb.CreateCurriculumRequest(
        request_id="create", curriculum_id="math", strategy=pb.Strategy(preset="uniform-grpo")
    )
    assert (await host.create_curriculum(request)).duplicate
    request.request_id = "another"
    with pytest.raises(AlreadyExists):
        await host.create_curriculum(request)


async def test_adding_prompts_again_resumes_where_it_stopped(host: ReplicaHost) -> None:
    await create(host, prompts=0)

    async def chunks(count: int) -> AsyncIterator[pb.AddPromptsRequest]:
        for i in range(count):
            yield pb.AddPromptsRequest(
                curriculum_id="math", request_id="add", prompt_ids=[f"{i}-{j}" for j in range(10)]
            )

    assert (await host.add_prompts(chunks(2))).added == 20
    answer = await host.add_prompts(chunks(4))
    assert (answer.added, answer.total, answer.duplicate) == (40, 40, False)
    assert (await host.add_prompts(chunks(4))).duplicate


async def test_prompts_outside_the_lease_are_rejected_one_by_one(host: ReplicaHost) -> None:
    await create(host)
    batch = await next_batch(host, "n", 2)
    other = next(f"p{i}" for i in range(50) if f"p{i}" not in batch.prompt_ids)
    answer = await host.report_rollouts(
        pb.ReportRolloutsRequest(
            curriculum_id="math",
            request_id="r",
            lease_id=batch.lease_id,
            prompt_ids=[other, batch.prompt_ids[1]],
            rollout_counts=[2, 8],
            rewards=[1.0] * 10,
        )
    )
    assert answer.accepted == 8
    assert [(r.prompt_id, r.rollouts, r.reason) for r in answer.rejected] == [
        (other, 2, "PROMPT_NOT_IN_LEASE")
    ]


async def test_prompts_added_through_another_replica_count_in_reports_outside_any_lease(
    log_client: LogClient,
) -> None:
    hosts = [ReplicaHost(log_client, QUIET, seed=seed) for seed in (1, 2)]
    await create(hosts[0])
    await hosts[1].replica("math")

    async def more() -> AsyncIterator[pb.AddPromptsRequest]:
        yield pb.AddPromptsRequest(curriculum_id="math", request_id="more", prompt_ids=["new"])

    await hosts[0].add_prompts(more())
    answer = await hosts[1].report_rollouts(
        pb.ReportRolloutsRequest(
            curriculum_id="math", request_id="r", prompt_ids=["new"], rollout_counts=[2], rewards=[0, 1]
        )
    )
    assert (answer.accepted, list(answer.rejected)) == (2, [])


async def test_one_round_of_appends_serves_many_concurrent_writers(log_client: LogClient) -> None:
    host = ReplicaHost(log_client, QUIET, seed=1)
    await create(host, prompts=512)
    batches = await asyncio.gather(*(next_batch(host, f"n{i}", 4) for i in range(64)))
    drawn = [id_ for batch in batches for id_ in batch.prompt_ids]
    assert len(set(drawn)) == len(drawn) == 256
    answers = await asyncio.gather(
        *(host.report_rollouts(report_of(batch, f"r{i}")) for i, batch in enumerate(batches))
    )
    assert sum(answer.accepted for answer in answers) == 256 * 8


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    # What it acknowledged must be there after a kill, however busy the disk is.
    with running_server(valkey_binary(), options={"appendfsync": "always"}) as server:
        yield server


async def test_while_the_log_is_away_reads_are_marked_stale_and_writes_are_refused(
    own_server: RedisServer,
) -> None:
    async with LogClient(RedisSettings(url=own_server.url)) as client:
        host = ReplicaHost(client, QUIET, seed=1)
        await create(host)
        batch = await next_batch(host, "n")
        own_server.kill()
        summary = (await host.get_summary(pb.GetSummaryRequest(curriculum_id="math"))).summary
        assert summary.stale
        assert summary.prompts == 50
        with pytest.raises(LogUnavailableError):
            await host.report_rollouts(report_of(batch, "r"))
        own_server.start()
        answers = []

        async def report_again() -> None:
            answers.append(await host.report_rollouts(report_of(batch, "r")))

        await until_answered(report_again)
        assert [answer.accepted for answer in answers] == [sum(batch.quotas)]
        summary = (await host.get_summary(pb.GetSummaryRequest(curriculum_id="math"))).summary
        assert not summary.stale
        assert summary.rollouts_spent == sum(batch.quotas)
