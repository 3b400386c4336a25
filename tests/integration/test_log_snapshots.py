"""Snapshots on a real server: complete or invisible, checked, fenced, shared block by block."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from curriculum.v1.log_pb2 import SnapshotManifest
from sampler_service.log import (
    CurriculumLog,
    LogClient,
    LogLostError,
    RedisSettings,
    SnapshotCorruptError,
    SnapshotFormatError,
    SnapshotMissingError,
    SnapshotStore,
    SnapshotterLostError,
)
from sampler_service.log.blocks import BLOCK_BYTES
from sampler_service.log.manifest import seal
from tests.redis_servers import SERVERS, RedisServer

ROWS = 50_000


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> RedisServer:
    server: RedisServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
async def client(server: RedisServer, key_prefix: str) -> AsyncIterator[LogClient]:
    async with LogClient(RedisSettings(url=server.url, key_prefix=key_prefix)) as client:
        yield client


@pytest.fixture
async def log(client: LogClient) -> CurriculumLog:
    log = client.log("math")
    await log.create(b"created")
    return log


@pytest.fixture
async def store(client: LogClient, log: CurriculumLog) -> SnapshotStore:
    store = client.snapshots("math")
    assert await store.lock.acquire("me", 300)
    return store


@pytest.fixture
def columns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "alphas": rng.random(ROWS, dtype=np.float32),
        "visits": rng.integers(0, 5, ROWS, dtype=np.int32),
        "ids": rng.integers(0, 256, ROWS * 16, dtype=np.uint8),
        "anchors": rng.random((ROWS, 2)),
        "names": np.array(["easy", "härter"]),
        "nothing": np.zeros((0, 3), np.float16),
    }


async def later(log: CurriculumLog) -> str:
    return (await log.append([b"event"], after=await log.last_id())).own[0]


def assert_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name], strict=True)


async def test_a_state_comes_back_as_it_was(client, log, store, columns):
    revision = await later(log)
    saved = await store.save(revision, columns)
    manifest, loaded = await client.snapshots("math").load()
    assert manifest == saved
    assert manifest.revision == revision
    assert_equal(loaded, columns)
    loaded["alphas"][0] = 1.0  # Whoever loads a state may go on with it.


async def test_without_a_snapshot_there_is_nothing_to_load(store):
    assert await store.head() is None
    with pytest.raises(SnapshotMissingError, match="no snapshot"):
        await store.load()
    with pytest.raises(SnapshotMissingError, match="no snapshot 5-5"):
        await store.load("5-5")


async def test_only_blocks_that_changed_are_sent(server, client, log, store, columns):
    await store.save(await later(log), columns)
    with server.connection() as raw:
        before = raw.hlen(client.keys("math").blocks)
        columns["alphas"][BLOCK_BYTES // 4 + 1] += 1.0
        columns["visits"][0] += 1
        await store.save(await later(log), columns)
        assert raw.hlen(client.keys("math").blocks) == before + 2
    assert_equal((await store.load())[1], columns)


async def test_the_head_only_moves_forward_but_older_states_can_be_kept_too(log, store, columns):
    older, newer = await later(log), await later(log)
    await store.save(newer, columns)
    await store.save(older, {"alphas": columns["alphas"]})
    assert await store.head() == newer
    assert await store.revisions() == [older, newer]
    assert list((await store.load(older))[1]) == ["alphas"]


async def test_checkpoints_survive_trimming_and_garbage_collection_and_the_rest_goes(
    server, client, log, store, columns
):
    kept = {}
    for _ in range(4):
        columns["alphas"] = columns["alphas"] + 1
        revision = await later(log)
        await store.save(revision, columns)
        kept[revision] = {name: column.copy() for name, column in columns.items()}
    revisions = list(kept)
    await store.trim(revisions[-1])
    per_column = -(-ROWS * 4 // BLOCK_BYTES)
    assert await store.collect_garbage({revisions[1]}) == 2 * per_column
    assert await store.revisions() == [revisions[1], revisions[-1]]
    for revision in await store.revisions():
        assert_equal((await store.load(revision))[1], kept[revision])
    with pytest.raises(SnapshotMissingError):
        await store.load(revisions[0])
    assert await store.collect_garbage(set()) == per_column
    with server.connection() as raw:
        named = {block for column in (await store.manifest(revisions[-1])).columns for block in column.blocks}
        assert set(raw.hkeys(client.keys("math").blocks)) == named


async def test_trimming_never_passes_the_newest_snapshot(log, store, columns):
    with pytest.raises(ValueError, match="newest snapshot is at none"):
        await store.trim(await later(log))
    saved, beyond = await later(log), await later(log)
    await store.save(saved, columns)
    with pytest.raises(ValueError, match=f"newest snapshot is at {saved}"):
        await store.trim(beyond)
    assert await store.trim(saved) > 0
    assert await store.trim(saved) == 0


async def test_a_flipped_bit_on_the_server_is_noticed_and_its_place_named(
    server, client, log, store, columns
):
    manifest = await store.save(await later(log), columns)
    address = next(column for column in manifest.columns if column.name == "ids").blocks[3]
    with server.connection() as raw:
        key = client.keys("math").blocks
        torn = bytearray(raw.hget(key, address))
        torn[100] ^= 1
        raw.hset(key, address, bytes(torn))
        with pytest.raises(SnapshotCorruptError, match="block 3 of column 'ids'"):
            await store.load()
        raw.hset(key, address, bytes(torn[:1000]))
        with pytest.raises(SnapshotCorruptError, match="block 3 of column 'ids' has 999 bytes"):
            await store.load()
        raw.hdel(key, address)
        with pytest.raises(SnapshotCorruptError, match="block 3 of column 'ids' is missing") as error:
            await store.load()
        assert (error.value.column, error.value.block) == ("ids", 3)
    # Saving the same state again heals what is missing.
    await store.save(await later(log), columns)
    assert_equal((await store.load())[1], columns)


async def test_foreign_and_newer_formats_are_refused_in_words(server, client, log, store, columns):
    revision = await later(log)
    manifest = await store.save(revision, columns)
    key = client.keys("math").manifests
    with server.connection() as raw:
        raw.hset(key, revision, b"\xff\xff not ours")
        with pytest.raises(SnapshotFormatError, match="is not one of ours"):
            await store.load()
        newer = SnapshotManifest()
        newer.CopyFrom(manifest)
        newer.format_version = 7
        raw.hset(key, revision, newer.SerializeToString())
        with pytest.raises(SnapshotFormatError, match="has format 7; this release knows formats 1 to 2"):
            await store.load()
        tampered = SnapshotManifest()
        tampered.CopyFrom(manifest)
        tampered.columns[0].shape[0] -= 1
        raw.hset(key, revision, tampered.SerializeToString())
        with pytest.raises(SnapshotCorruptError, match="checksum"):
            await store.load()
        raw.hset(key, "9-9", manifest.SerializeToString())
        with pytest.raises(SnapshotCorruptError, match="kept for snapshot 9-9"):
            await store.load("9-9")
        tampered.columns[0].shape[0] -= ROWS // 2
        raw.hset(key, revision, seal(tampered).SerializeToString())
        with pytest.raises(SnapshotFormatError, match="blocks instead of"):
            await store.load()


async def test_nobody_collects_garbage_by_a_manifest_he_cannot_read(server, client, log, store, columns):
    await store.save(await later(log), columns)
    with server.connection() as raw:
        raw.hset(client.keys("math").manifests, "1-1", b"\xff from the future")
        before = raw.hlen(client.keys("math").blocks)
        with pytest.raises(SnapshotFormatError):
            await store.collect_garbage({"1-1"})
        assert raw.hlen(client.keys("math").blocks) == before


async def test_one_snapshotter_at_a_time(client, store):
    other = client.snapshots("math")
    assert not await other.lock.acquire("other", 300)
    assert await store.lock.acquire("me", 300)
    assert await store.lock.renew(300)
    await store.lock.release()
    assert await other.lock.acquire("other", 300)
    assert not await store.lock.acquire("me", 300)
    await store.lock.release()
    assert await other.lock.renew(300)


async def test_writing_without_the_lock_is_refused(client, log, columns):
    store = client.snapshots("math")
    for write in [store.save("1-1", columns), store.trim("1-1"), store.collect_garbage(set())]:
        with pytest.raises(SnapshotterLostError, match="acquire it first"):
            await write


async def test_a_snapshotter_that_slept_through_its_lease_changes_nothing(client, log, store, columns):
    first = await later(log)
    await store.save(first, columns)
    assert await store.lock.acquire("me", 0.02)
    await asyncio.sleep(0.05)
    other = client.snapshots("math")
    assert await other.lock.acquire("other", 300)
    second = await later(log)
    await other.save(second, columns)

    third = await later(log)
    with pytest.raises(SnapshotterLostError):
        await store.save(third, {"alphas": columns["alphas"] + 1})
    with pytest.raises(SnapshotterLostError):
        await store.trim(first)
    with pytest.raises(SnapshotterLostError):
        await store.collect_garbage(set())
    assert not await store.lock.renew(300)
    assert await other.head() == second
    assert await other.revisions() == [first, second]
    assert_equal((await other.load())[1], columns)


async def test_losing_the_lock_in_the_middle_of_saving_leaves_no_visible_trace(
    server, client, log, store, columns
):
    await store.save(await later(log), columns)
    head = await store.head()
    saving = asyncio.create_task(
        store.save(await later(log), {"big": np.random.default_rng(1).random(2**20)})
    )
    with server.connection() as raw:
        blocks = raw.hlen(client.keys("math").blocks)
        while raw.hlen(client.keys("math").blocks) == blocks:
            await asyncio.sleep(0.001)
        raw.set(client.keys("math").snapshotter, b"another")
    with pytest.raises(SnapshotterLostError):
        await saving
    assert await store.head() == head
    assert await store.revisions() == [head]


async def test_a_curriculum_deleted_while_being_saved_leaves_nothing_behind(server, client, log, store):
    saving = asyncio.create_task(
        store.save(await later(log), {"big": np.random.default_rng(1).random(2**20)})
    )
    with server.connection() as raw:
        while not raw.exists(client.keys("math").blocks):
            await asyncio.sleep(0.001)
        await client.log("math").delete()
        with pytest.raises(SnapshotterLostError):
            await saving
        for key in client.keys("math").data():
            assert not raw.exists(key)


async def test_the_newest_is_loaded_even_if_it_is_superseded_meanwhile(client, log, store, columns):
    await store.save(await later(log), columns)
    reader = client.snapshots("math")
    done = False

    async def keep_saving() -> None:
        while not done:
            columns["alphas"] = columns["alphas"] + 1
            await store.save(await later(log), dict(columns))
            await store.collect_garbage(set())
            await asyncio.sleep(0.02)

    saver = asyncio.create_task(keep_saving())
    try:
        for _ in range(10):
            _, loaded = await reader.load()
            assert loaded.keys() == columns.keys()
    finally:
        done = True
        await saver


async def test_others_are_served_while_a_state_is_saved_and_loaded(client, log, store):
    big = {"noise": np.random.default_rng(0).random(8_000_000)}
    revision = await later(log)
    pings = {"save": 0, "load": 0}

    async def ping(during: str) -> None:
        while True:
            await client.ping()
            pings[during] += 1

    for during, work in [("save", store.save(revision, big)), ("load", store.load())]:
        pinging = asyncio.create_task(ping(during))
        await work
        pinging.cancel()
        await asyncio.wait([pinging])
    # 64 MB in slices of 2: between any two slices somebody else has a turn.
    assert min(pings.values()) > 10


async def test_a_state_whose_log_the_server_has_lost_is_not_kept(
    server: RedisServer, client: LogClient, log: CurriculumLog, store: SnapshotStore
):
    kept, lost = (await log.append([b"kept", b"lost"], after=log.seen)).own
    await store.save(kept, {"visits": np.zeros(3)})
    with server.connection() as raw:
        raw.xdel(client.keys("math").log, lost)
    with pytest.raises(LogLostError, match=lost):
        await store.save(lost, {"visits": np.ones(3)})
    assert await store.head() == kept
    assert await store.revisions() == [kept]
