"""Order, atomicity and errors of one curriculum's log, on every kind of server."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from sampler_service.log import (
    START,
    CurriculumLog,
    LogClient,
    LogExistsError,
    LogGapError,
    LogMissingError,
    LogReplacedError,
    RedisSettings,
    is_after,
)
from sampler_service.log.curriculum_log import PAGE_ENTRIES
from tests.redis_servers import SERVERS


@pytest.fixture(params=SERVERS)
async def client(request: pytest.FixtureRequest, key_prefix: str) -> AsyncIterator[LogClient]:
    url = request.getfixturevalue(request.param).url
    async with LogClient(RedisSettings(url=url, key_prefix=key_prefix)) as client:
        yield client


async def read_all(log: CurriculumLog, after: str = START, count: int = PAGE_ENTRIES) -> list[bytes]:
    payloads = []
    while page := await log.read(after, count):
        assert len(page) <= count
        payloads += [entry.payload for entry in page]
        after = page[-1].id
    return payloads


async def test_what_is_appended_is_read_in_order(client: LogClient):
    log = client.log("math")
    first = await log.create(b"created")
    result = await log.append([b"a", b"", bytes(range(256)) * 100], after=first)
    assert result.foreign == []
    assert len(result.own) == 3
    assert await read_all(log) == [b"created", b"a", b"", bytes(range(256)) * 100]
    assert await log.last_id() == result.own[-1] == log.seen
    assert await log.length() == 4


async def test_an_append_shows_what_others_appended_before_it_and_nothing_else(client: LogClient):
    ours, theirs = client.log("math"), client.log("math")
    start = await ours.create(b"created")
    foreign = await theirs.append([b"x", b"y"], after=start)
    result = await ours.append([b"z"], after=start)
    assert [(entry.id, entry.payload) for entry in result.foreign] == list(
        zip(foreign.own, [b"x", b"y"], strict=True)
    )
    again = await theirs.append([], after=foreign.own[-1])
    assert [entry.payload for entry in again.foreign] == [b"z"]
    assert again.own == []


async def test_entries_carry_the_servers_time(client: LogClient):
    log = client.log("math")
    await log.create(b"created")
    (entry,) = await log.read(START)
    assert entry.id.startswith(f"{entry.millis}-")
    assert entry.millis > 1_600_000_000_000


async def test_appends_at_once_from_many_replicas_give_everyone_the_same_history(client: LogClient):
    start = await client.log("math").create(b"created")

    async def replica(name: int) -> list[tuple[str, bytes]]:
        log, position, history = client.log("math"), start, []
        for number in range(20):
            payloads = [f"{name}/{number}/{part}".encode() for part in range(1 + number % 3)]
            result = await log.append(payloads, after=position)
            history += [(entry.id, entry.payload) for entry in result.foreign]
            history += zip(result.own, payloads, strict=True)
            position = history[-1][0]
        return history

    histories = await asyncio.gather(*(replica(name) for name in range(8)))
    everything = [(entry.id, entry.payload) for entry in await client.log("math").read(start, 10_000)]
    for history in histories:
        assert history == everything[: len(history)]
    assert len(everything) == 8 * sum(1 + number % 3 for number in range(20))


async def test_a_caller_far_behind_gets_everything_before_its_own_entries(client: LogClient):
    theirs, ours = client.log("math"), client.log("math")
    position = start = await theirs.create(b"created")
    many = 3 * PAGE_ENTRIES + 5
    for number in range(0, many, 100):
        batch = [str(index).encode() for index in range(number, min(number + 100, many))]
        position = (await theirs.append(batch, after=position)).own[-1]
    result = await ours.append([b"mine"], after=start)
    assert [entry.payload for entry in result.foreign] == [str(index).encode() for index in range(many)]
    assert is_after(result.own[0], result.foreign[-1].id)
    assert await read_all(client.log("math"), start, count=50) == [
        *(entry.payload for entry in result.foreign),
        b"mine",
    ]


async def test_a_curriculum_is_created_once_even_if_many_try_together(client: LogClient):
    attempts = await asyncio.gather(
        *(client.log("math").create(str(name).encode()) for name in range(10)), return_exceptions=True
    )
    assert sum(isinstance(attempt, str) for attempt in attempts) == 1
    assert sum(isinstance(attempt, LogExistsError) for attempt in attempts) == 9
    assert await client.log("math").length() == 1


async def test_a_log_that_was_never_created_is_missing(client: LogClient):
    with pytest.raises(LogMissingError, match="'nowhere'"):
        await client.log("nowhere").append([b"x"], after=START)
    with pytest.raises(LogMissingError):
        await client.log("nowhere").read(START)
    assert not await client.log("nowhere").exists()
    with pytest.raises(ValueError, match="empty"):
        client.log("")


async def test_nothing_can_be_appended_to_a_deleted_log(client: LogClient):
    ours, theirs = client.log("math"), client.log("math")
    start = await ours.create(b"created")
    await theirs.read(START)
    assert await ours.delete()
    assert not await ours.delete()
    with pytest.raises(LogMissingError, match="was deleted"):
        await theirs.append([b"x"], after=start)
    with pytest.raises(LogMissingError):
        await theirs.read(start)
    assert not await theirs.exists()


async def test_a_write_meant_for_a_deleted_log_is_void_in_its_successor(client: LogClient):
    stale, fresh = client.log("math"), client.log("math")
    start = await stale.create(b"old")
    await fresh.delete()
    await fresh.create(b"new")
    with pytest.raises(LogReplacedError, match="created anew"):
        await stale.append([b"meant for the old one"], after=start)
    position = (await fresh.append([b"second"], after=await fresh.last_id())).own[-1]
    assert await read_all(fresh) == [b"new", b"second"]
    assert await fresh.read(position) == []
    stale.forget()
    assert await read_all(stale, count=1) == [b"new", b"second"]


async def test_the_list_of_curricula_holds_those_that_exist(client: LogClient):
    for curriculum_id in ["b", "a", "ü {odd} id"]:
        await client.log(curriculum_id).create(b"created")
    await client.log("b").delete()
    assert await client.list_curricula() == ["a", "ü {odd} id"]


async def test_after_trimming_a_reader_behind_the_horizon_learns_of_the_gap(client: LogClient):
    log, behind = client.log("math"), client.log("math")
    start = await log.create(b"created")
    revisions = (await log.append([b"1", b"2", b"3"], after=start)).own
    snapshots = client.snapshots("math")
    assert await snapshots.lock.acquire("me", 300)
    await snapshots.save(revisions[1], {})
    assert await snapshots.trim(revisions[1]) == 3

    with pytest.raises(LogGapError, match="load the snapshot") as gap:
        await behind.append([b"4"], after=start)
    assert gap.value.horizon == revisions[1]
    with pytest.raises(LogGapError):
        await client.log("math").read(START)

    # What the refused caller appended is in the log all the same, and named by the error.
    at_horizon = await client.log("math").read(revisions[1])
    assert [entry.payload for entry in at_horizon] == [b"3", b"4"]
    assert [at_horizon[-1].id] == gap.value.own
    assert (await log.append([b"5"], after=gap.value.own[0])).horizon == revisions[1]


async def test_a_log_trimmed_to_nothing_still_goes_on(client: LogClient):
    log = client.log("math")
    start = await log.create(b"created")
    snapshots = client.snapshots("math")
    assert await snapshots.lock.acquire("me", 300)
    await snapshots.save(start, {})
    await snapshots.trim(start)
    assert await log.length() == 0
    assert await log.last_id() == start
    assert await log.read(start) == []
    assert await client.log("math").read(start) == []
    result = await log.append([b"next"], after=start)
    assert is_after(result.own[0], start)


async def test_a_revision_that_is_none_is_refused_before_anything_is_sent(client: LogClient):
    log = client.log("math")
    start = await log.create(b"created")
    for bad in ["", "latest", "$", f"({start}"]:
        with pytest.raises(ValueError, match="revision"):
            await log.append([b"x"], after=bad)
        with pytest.raises(ValueError, match="revision"):
            await log.read(bad)
    assert await log.length() == 1


async def test_a_cancelled_caller_stops_whenever_the_cancellation_comes(client: LogClient):
    log = client.log("math")
    start = await log.create(b"created")

    async def append_for_ever() -> None:
        while True:
            await log.append([], after=start)

    for turns in range(60):
        caller = asyncio.create_task(append_for_ever())
        await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        caller.cancel()
        done, _ = await asyncio.wait([caller], timeout=60)
        assert done
        assert caller.cancelled()
    result = await log.append([b"next"], after=start)
    assert [entry.payload for entry in await log.read(start)] == [b"next"]
    assert result.foreign == []
