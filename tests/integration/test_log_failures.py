"""The server dies, comes back, freezes, loses its memory: what the log says then, and what survives."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TypeVar

import pytest
from redis.exceptions import ResponseError

from sampler_service.log import (
    START,
    LogAccessError,
    LogClient,
    LogFullError,
    LogLostError,
    LogUnavailableError,
    RedisSettings,
    is_after,
    parse_revision,
    revision_millis,
)
from tests.ports import free_port
from tests.redis_servers import SERVERS, RedisServer, binary_of, redis_binary, running_server, valkey_binary

T = TypeVar("T")

LEAST_ACKNOWLEDGED = 101
"""Fewer before the kill, and the run has shown nothing."""


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of this test's own, to be mistreated."""
    with running_server(binary_of(request.param)) as server:
        yield server


def client_of(server: RedisServer, **settings: float) -> LogClient:
    return LogClient(RedisSettings(url=server.url, **settings))


async def eventually(call: Callable[[], Awaitable[T]]) -> T:
    """As a caller does: wait as long as the error says, and repeat."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return await call()
        except LogUnavailableError as error:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(error.retry_after_seconds)


async def eventually_append(client: LogClient, payload: bytes, after: str) -> str:
    log = client.log("math")
    return (await eventually(lambda: log.append([payload], after=after))).own[0]


async def killed_under_load(server: RedisServer) -> tuple[list[tuple[str, bytes]], dict[str, bytes]]:
    """What the server acknowledged before kill -9, and what it has after it was started again."""
    acknowledged: list[tuple[str, bytes]] = []

    async def write(client: LogClient, name: int, position: str) -> None:
        log = client.log("math")
        for number in range(1_000_000):
            payload = f"{name}/{number}".encode() * 50
            try:
                result = await log.append([payload], after=position)
            except LogUnavailableError:
                return
            position = result.own[0]
            acknowledged.append((position, payload))

    async with client_of(server) as client:
        start = await client.log("math").create(b"created")
        writers = [asyncio.create_task(write(client, name, start)) for name in range(8)]
        began = time.monotonic()
        while time.monotonic() < began + 1.0 or len(acknowledged) < LEAST_ACKNOWLEDGED:
            assert time.monotonic() < began + 120, "too few appends were acknowledged to show anything"
            await asyncio.sleep(0.01)
        server.kill()
        await asyncio.gather(*writers)
        server.start()
        survived: dict[str, bytes] = {}
        log, position = client.log("math"), START
        while page := await eventually(partial(log.read, position)):
            survived |= {entry.id: entry.payload for entry in page}
            position = page[-1].id
    return acknowledged, survived


@pytest.mark.parametrize("kind", SERVERS)
async def test_with_fsync_always_kill_9_under_load_loses_nothing_that_was_acknowledged(kind: str):
    with running_server(binary_of(kind), options={"appendfsync": "always"}) as server:
        acknowledged, survived = await killed_under_load(server)
    for revision, payload in acknowledged:
        assert survived[revision] == payload


async def test_with_fsync_everysec_kill_9_under_load_can_only_cut_off_the_last_two_seconds(
    server: RedisServer,
):
    # While a slow fsync is under way the server acknowledges what it has not yet given to the kernel.
    acknowledged, survived = await killed_under_load(server)
    newest = max(survived, key=parse_revision)
    last = max((revision for revision, _ in acknowledged), key=parse_revision)
    for revision, payload in acknowledged:
        assert survived.get(revision) == payload or is_after(revision, newest)
    assert revision_millis(last) - revision_millis(newest) <= 2000


async def test_after_a_restart_of_the_server_the_same_log_goes_on(server: RedisServer):
    async with client_of(server) as client:
        log = client.log("math")
        start = await log.create(b"created")
        server.stop()
        with pytest.raises(LogUnavailableError) as away:
            await log.append([b"x"], after=start)
        assert server.url in str(away.value)
        assert not client.available
        server.start()
        own = await eventually_append(client, b"y", start)
        assert client.available
        assert [entry.id for entry in await log.read(start)][-1] == own


async def test_a_restart_between_two_calls_costs_at_most_one_of_them_whatever_the_connections(
    server: RedisServer,
):
    async with client_of(server) as client:
        log = client.log("math")
        start = await log.create(b"created")
        await asyncio.gather(*(log.append([b"x"], after=start) for _ in range(20)))
        server.stop()
        server.start()
        failures = 0
        for _ in range(30):
            try:
                await log.append([b"y"], after=start)
            except LogUnavailableError as error:
                failures += 1
                await asyncio.sleep(error.retry_after_seconds)
        assert failures <= 1


async def test_a_wiped_server_is_recognised_by_every_call(server: RedisServer):
    async with client_of(server) as client:
        log = client.log("math")
        start = await log.create(b"created")
        server.kill()
        server.wipe()
        server.start()
        for call in [lambda: log.append([b"x"], after=start), lambda: log.read(start), log.last_id]:
            with pytest.raises(LogLostError, match="math"):
                await eventually(call)
        assert await client.list_curricula() == []


async def test_a_server_that_lost_only_the_last_entries_is_recognised(server: RedisServer):
    async with client_of(server) as client:
        log, others = client.log("math"), client.log("math")
        start = await log.create(b"created")
        kept = (await log.append([b"kept"], after=start)).own[0]
        lost = (await log.append([b"lost"], after=kept)).own[0]
        with server.connection() as raw:
            raw.xdel(client.keys("math").log, lost)
        server.stop()
        server.start()
        with pytest.raises(LogLostError, match=lost):
            await eventually(lambda: log.append([b"x"], after=lost))
        # Another replica wrote on meanwhile: its newer entry must not hide the hole.
        await others.append([b"newer"], after=kept)
        with pytest.raises(LogLostError, match=lost):
            await log.read(lost)
        log.forget()
        payloads = [entry.payload for entry in await log.read(START)]
        assert payloads[:2] == [b"created", b"kept"]
        assert b"lost" not in payloads


async def test_flushed_while_connected_is_loss_too(server: RedisServer):
    async with client_of(server) as client:
        log = client.log("math")
        start = await log.create(b"created")
        with server.connection() as raw:
            raw.flushall()
        with pytest.raises(LogLostError, match="wiped"):
            await log.append([b"x"], after=start)


async def test_callers_do_not_stack_up_behind_a_frozen_server(server: RedisServer):
    async with client_of(server) as patient:
        start = await patient.log("math").create(b"created")
    async with client_of(server, timeout_seconds=0.3, connect_timeout_seconds=0.3) as client:
        log = client.log("math")
        await eventually(lambda: log.append([], after=start))
        server.freeze()
        outcomes = await asyncio.gather(
            *(log.append([b"x"], after=start) for _ in range(200)), return_exceptions=True
        )
        assert all(isinstance(outcome, LogUnavailableError) for outcome in outcomes)
        with pytest.raises(LogUnavailableError):
            await asyncio.wait_for(log.append([b"x"], after=start), 60)
        server.thaw()
        await eventually_append(client, b"y", start)


async def test_a_full_server_says_so_and_goes_on_when_it_has_room(server: RedisServer):
    async with client_of(server) as client:
        log = client.log("math")
        start = await log.create(b"created")
        with server.connection() as raw:
            raw.config_set("maxmemory", 1)
            with pytest.raises(LogFullError, match="maxmemory"):
                await log.append([b"x"], after=start)
            raw.config_set("maxmemory", 0)
        await log.append([b"x"], after=start)
        assert await log.length() == 2


async def test_wrong_passwords_and_missing_rights_are_no_outage():
    with running_server(valkey_binary()) as server:
        with server.connection() as raw:
            raw.execute_command("ACL", "SETUSER", "anna", "on", ">pw", "~*", "+@all", "-xadd")
            raw.config_set("requirepass", "right")
        async with LogClient(RedisSettings(url=server.url, password="wrong")) as client:
            with pytest.raises(LogAccessError):
                await client.ping()
            assert client.available
        async with LogClient(RedisSettings(url=server.url, password="right")) as client:
            await client.log("math").create(b"created")
        async with LogClient(RedisSettings(url=server.url, username="anna", password="pw")) as client:
            with pytest.raises(LogAccessError, match="permission"):
                await client.log("math").append([b"x"], after=START)


@pytest.mark.redis_server
async def test_a_user_limited_to_the_prefix_can_do_everything(key_prefix: str):
    with running_server(redis_binary()) as server:
        with server.connection() as raw:
            raw.execute_command(
                "ACL", "SETUSER", "svc", "on", ">pw", f"~{key_prefix}*", "+@all", "-@dangerous", "+info"
            )
        settings = RedisSettings(url=server.url, username="svc", password="pw", key_prefix=key_prefix)
        async with LogClient(settings) as client:
            start = await client.log("math").create(b"created")
            store = client.snapshots("math")
            assert await store.lock.acquire("me", 300)
            await store.save(start, {})
            await store.trim(start)
            await store.collect_garbage(set())
            warnings = await client.check_server()
            assert any("forbids CONFIG" in warning for warning in warnings)
            await client.log("math").delete()


async def test_a_server_that_is_not_there_is_an_outage_with_its_address():
    port = free_port()
    async with LogClient(RedisSettings(url=f"redis://127.0.0.1:{port}")) as client:
        with pytest.raises(LogUnavailableError, match=f"127.0.0.1:{port}") as away:
            await client.log("math").create(b"created")
        assert away.value.retry_after_seconds > 0
        assert isinstance(away.value, ConnectionError)


async def test_what_keeps_redis_6_from_writing_within_a_script_is_an_outage(log_client: LogClient):
    # As it says so itself: newer servers give the bare error.
    wrapped = "Error running script (call to f_5092): @user_script:6: @user_script: 6: -{} Not now."
    for code in ("MISCONF", "NOREPLICAS"):

        async def write(_: object, code: str = code) -> None:
            raise ResponseError(wrapped.format(code))

        with pytest.raises(LogUnavailableError, match=f"-{code} Not now"):
            await log_client.call(write)
        await eventually(log_client.ping)


@pytest.mark.redis_server
async def test_unsafe_settings_of_the_server_are_pointed_out_in_words(valkey: RedisServer):
    async with LogClient(RedisSettings(url=valkey.url)) as client:
        assert await client.check_server() == []
    with running_server(
        redis_binary(), options={"appendonly": "no", "maxmemory-policy": "allkeys-lru"}
    ) as server:
        async with client_of(server) as client:
            warnings = await client.check_server()
            assert len(warnings) == 2
            assert "appendonly is off" in warnings[0]
            assert "'allkeys-lru'" in warnings[1]
    with running_server(redis_binary(), options={"appendfsync": "no"}) as server:
        async with client_of(server) as client:
            (warning,) = await client.check_server()
            assert "appendfsync is 'no'" in warning
