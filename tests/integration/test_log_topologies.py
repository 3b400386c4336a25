"""The log on a Cluster and behind Sentinels: real processes on loopback, a failover included."""

import asyncio
import contextlib
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
import redis

from sampler_service.log import (
    START,
    LogClient,
    LogExistsError,
    LogGapError,
    LogMissingError,
    LogUnavailableError,
    RedisSettings,
    SnapshotterLostError,
)
from tests.ports import free_port, free_ports_apart
from tests.redis_servers import SERVERS, RedisServer, binary_of

pytestmark = pytest.mark.slow


async def until(answer: bool, check, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while bool(check()) is not answer:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.fixture(params=SERVERS)
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[list[RedisServer]]:
    """Three primaries."""
    binary = binary_of(request.param)
    with tempfile.TemporaryDirectory(prefix="log-") as directory, contextlib.ExitStack() as stack:
        nodes = []
        for number in range(3):
            options = {
                "cluster-enabled": "yes",
                "cluster-node-timeout": "2000",
                "cluster-config-file": "nodes.conf",
            }
            node = RedisServer(binary, Path(directory) / str(number), free_ports_apart(10_000), options)
            stack.callback(node.stop)
            nodes.append(node.start())
        bounds = [0, 5461, 10923, 16384]
        for node, low, high in zip(nodes, bounds, bounds[1:], strict=False):
            with node.connection() as raw:
                raw.execute_command("CLUSTER", "ADDSLOTS", *range(low, high))
                for other in nodes:
                    raw.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port)

        def whole() -> bool:
            for node in nodes:
                with node.connection() as raw:
                    info = raw.execute_command("CLUSTER", "INFO")
                    if b"cluster_state:ok" not in info or b"cluster_known_nodes:3" not in info:
                        return False
            return True

        await until(True, whole)
        yield nodes


async def test_everything_works_on_a_cluster(cluster: list[RedisServer]):
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in cluster)
    async with LogClient(RedisSettings(url=f"redis+cluster://{hosts}")) as client:
        assert await client.check_server() == []
        names = [f"curriculum {number}" for number in range(12)]
        for name in names:
            log, other = client.log(name), client.log(name)
            start = await log.create(b"created")
            with pytest.raises(LogExistsError):
                await other.create(b"again")
            theirs = (await other.append([b"a"], after=start)).own
            result = await log.append([b"b", b"c"], after=start)
            assert [entry.id for entry in result.foreign] == theirs
            assert [entry.payload for entry in await other.read(START)] == [b"created", b"a", b"b", b"c"]
            store, rival = client.snapshots(name), client.snapshots(name)
            assert await store.lock.acquire("me", 30)
            assert not await rival.lock.acquire("rival", 30)
            columns = {"alphas": np.random.default_rng(0).random(100_000)}
            await store.save(theirs[0], columns)
            _, loaded = await rival.load()
            assert np.array_equal(loaded["alphas"], columns["alphas"])
            assert await store.trim(theirs[0]) == 2
            with pytest.raises(LogGapError):
                await client.log(name).read(START)
            assert await store.collect_garbage(set()) == 0
            await store.lock.release()
            assert await rival.lock.acquire("rival", 30)
            with pytest.raises(SnapshotterLostError):
                await store.save(result.own[0], columns)
            await log.keep_outline(theirs[0], b"of the second entry")
        assert await client.list_curricula() == sorted(names)
        outlines = await client.outlines.read([*names, "nobody's"])
        assert outlines.pop() is None
        # Each says that its log has gone on.
        assert all(one and one.payload and one.behind_since_millis for one in outlines)
        await client.log(names[0]).delete()
        with pytest.raises(LogMissingError):
            await client.log(names[0]).read(START)
    spread = []
    for node in cluster:
        with node.connection() as raw:
            spread.append(raw.dbsize())
    assert min(spread) > 0


async def test_a_curriculum_follows_its_slot_to_another_node(cluster: list[RedisServer]):
    hosts = f"127.0.0.1:{cluster[0].port}"
    async with LogClient(RedisSettings(url=f"redis+cluster://{hosts}")) as client:
        log = client.log("math")
        start = await log.create(b"created")
        with cluster[0].connection() as raw:
            slot = raw.execute_command("CLUSTER", "KEYSLOT", client.keys("math").log)
        connections = [node.connection() for node in cluster]
        ids = [raw.execute_command("CLUSTER", "MYID") for raw in connections]
        here = next(
            i for i, raw in enumerate(connections) if raw.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot)
        )
        there = (here + 1) % 3
        connections[there].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[here])
        connections[here].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[there])
        keys = connections[here].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
        connections[here].execute_command(
            "MIGRATE", "127.0.0.1", cluster[there].port, "", 0, 60_000, "KEYS", *keys
        )
        for raw in connections:
            raw.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[there])
            raw.close()
        deadline = time.monotonic() + 120
        while True:
            try:
                await log.append([b"x"], after=start)
                break
            except LogUnavailableError as error:
                assert time.monotonic() < deadline, error  # noqa: PT017
                await asyncio.sleep(error.retry_after_seconds)
        assert [entry.payload for entry in await log.read(START)][:1] == [b"created"]


@pytest.fixture(params=SERVERS)
async def sentinels(request: pytest.FixtureRequest) -> AsyncIterator[tuple[list[RedisServer], list[int]]]:
    """A primary, a replica, and three Sentinels that watch them, all of one kind; their ports."""
    binary = binary_of(request.param)
    with tempfile.TemporaryDirectory(prefix="log-") as directory, contextlib.ExitStack() as stack:
        root = Path(directory)
        primary = RedisServer(binary, root / "primary", free_port())
        stack.callback(primary.stop)
        primary.start()
        replica = RedisServer(
            binary,
            root / "replica",
            free_port(),
            # Words of their own: Redis 6.2 takes two in one for one.
            arguments=["--replicaof", "127.0.0.1", str(primary.port)],
        )
        stack.callback(replica.stop)
        replica.start()
        ports = [free_port() for _ in range(3)]
        for port in ports:
            stack.enter_context(running_sentinel(binary, root, port, primary.port))

        def agreed() -> bool:
            for port in ports:
                with redis.Redis(port=port) as raw:
                    state = raw.sentinel_master("main")
                    if state["num-slaves"] != 1 or state["num-other-sentinels"] != 2:
                        return False
            return True

        await until(True, agreed)
        yield [primary, replica], ports


@contextlib.contextmanager
def running_sentinel(binary: Path, root: Path, port: int, primary_port: int) -> Iterator[None]:
    configuration = root / f"sentinel-{port}.conf"
    configuration.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {root}\n"
        f"sentinel monitor main 127.0.0.1 {primary_port} 2\n"
        "sentinel down-after-milliseconds main 500\n"
        "sentinel failover-timeout main 3000\n"
    )
    process = subprocess.Popen([binary, configuration, "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(redis.RedisError), redis.Redis(port=port) as raw:
                raw.ping()
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


async def test_the_log_follows_a_failover_that_lost_nothing(
    sentinels: tuple[list[RedisServer], list[int]],
):
    (primary, replica), ports = sentinels
    url = f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in ports)}/main"
    async with LogClient(RedisSettings(url=url)) as client:
        log = client.log("math")
        start = await log.create(b"created")
        kept = (await log.append([b"kept"], after=start)).own[0]

        def replicated() -> bool:
            with replica.connection() as raw:
                return bool(raw.xrange(client.keys("math").log, kept, kept))

        await until(True, replicated)
        primary.kill()
        result = None
        deadline = time.monotonic() + 120
        while result is None:
            try:
                result = await log.append([b"after the failover"], after=kept)
            except LogUnavailableError as error:
                assert time.monotonic() < deadline, error  # noqa: PT017
                await asyncio.sleep(error.retry_after_seconds)
        payloads = [entry.payload for entry in await log.read(START)]
        assert payloads[:2] == [b"created", b"kept"]
        assert payloads[-1] == b"after the failover"
