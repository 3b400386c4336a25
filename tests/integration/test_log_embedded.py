"""The embedded server: starts, keeps, is owned once, dies with its service."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from sampler_service.log import (
    START,
    DataDirLockedError,
    EmbeddedServer,
    EmbeddedServerError,
    LogClient,
    RedisSettings,
)
from sampler_service.log.server_binary import find_server_binary
from tests.redis_servers import SERVERS, binary_of, lives, redis_binary, valkey_binary

SERVICE = """
import asyncio, sys
from sampler_service.log import EmbeddedServer, LogClient, RedisSettings

async def main():
    server = EmbeddedServer(sys.argv[1])
    await server.start()
    async with LogClient(RedisSettings(url=server.url)) as client:
        await client.log("math").create(b"created")
    print(server.pid, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="log-") as directory:
        yield Path(directory) / "data"


@pytest.fixture
def service(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another service on the data directory, and the process id of its server."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE, str(data_dir)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def client_of(server: EmbeddedServer) -> LogClient:
    return LogClient(RedisSettings(url=server.url))


@pytest.mark.parametrize("kind", SERVERS)
async def test_what_was_written_is_there_after_stop_and_start(data_dir: Path, kind: str):
    binary = binary_of(kind)
    async with EmbeddedServer(data_dir, binary=binary) as server, client_of(server) as client:
        assert await client.check_server() == []
        await client.log("math").create(b"created")
    assert not server.running
    async with EmbeddedServer(data_dir, binary=binary) as server, client_of(server) as client:
        assert [entry.payload for entry in await client.log("math").read(START)] == [b"created"]


async def test_nobody_else_can_look_into_the_directory_or_the_socket(data_dir: Path):
    async with EmbeddedServer(data_dir) as server:
        assert server.data_dir.stat().st_mode & 0o777 == 0o700
        assert (data_dir / "server.sock").stat().st_mode & 0o077 == 0


async def test_the_packaged_valkey_is_preferred():
    assert find_server_binary() == valkey_binary()


async def test_without_any_server_program_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch, data_dir: Path
):
    monkeypatch.setattr("sampler_service.log.server_binary.packaged_server_binary", lambda: None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(EmbeddedServerError, match=r"curriculum-sampler\[embedded\]"):
        await EmbeddedServer(data_dir).start()


async def test_a_data_directory_has_one_owner_who_is_named(
    data_dir: Path, service: tuple[subprocess.Popen[str], int]
):
    with pytest.raises(DataDirLockedError, match=f"process {service[0].pid}") as locked:
        await EmbeddedServer(data_dir).start()
    assert locked.value.owner_pid == service[0].pid
    assert lives(service[1])


async def test_a_killed_service_leaves_no_server_and_nothing_is_lost(
    data_dir: Path, service: tuple[subprocess.Popen[str], int]
):
    process, server_pid = service
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 120
    while lives(server_pid):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    async with EmbeddedServer(data_dir) as server, client_of(server) as client:
        assert await client.list_curricula() == ["math"]


async def test_a_server_left_over_is_stopped_before_ours_starts(data_dir: Path):
    async with EmbeddedServer(data_dir) as server, client_of(server) as client:
        await client.log("math").create(b"created")
        options = server._arguments()
    orphan = subprocess.Popen([valkey_binary(), *options], stdout=subprocess.DEVNULL)
    # Not merely the socket's file: that is there before anybody listens.
    with redis.Redis(unix_socket_path=str(data_dir / "server.sock")) as knocking:
        deadline = time.monotonic() + 120
        while True:
            try:
                knocking.ping()
                break
            except redis.ConnectionError:
                assert time.monotonic() < deadline, "it does not answer"
                await asyncio.sleep(0.01)
    # A zombie counts as alive for the one who waits, so somebody must reap it.
    reaping = asyncio.create_task(asyncio.to_thread(orphan.wait))
    async with EmbeddedServer(data_dir) as server, client_of(server) as client:
        await reaping
        assert server.pid != orphan.pid
        assert await client.list_curricula() == ["math"]


async def test_a_server_that_dies_can_be_started_again_with_its_data(data_dir: Path):
    async with EmbeddedServer(data_dir) as server, client_of(server) as client:
        log = client.log("math")
        start = await log.create(b"created")
        assert not await server.restart_if_dead()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        assert await server.wait() == -signal.SIGKILL
        assert not server.running
        assert await server.restart_if_dead()
        result = await log.append([b"x"], after=start)
        assert result.foreign == []


async def test_a_path_too_long_for_a_socket_works_all_the_same(data_dir: Path):
    deep = data_dir / ("d" * 120)
    async with EmbeddedServer(deep) as server, client_of(server) as client:
        await client.log("math").create(b"created")
        assert str(deep) not in server.url
    async with EmbeddedServer(deep) as server, client_of(server) as client:
        assert await client.list_curricula() == ["math"]


@pytest.mark.redis_server
async def test_data_of_a_newer_server_is_recognised(data_dir: Path):
    async with EmbeddedServer(data_dir, binary=valkey_binary()):
        pass
    with pytest.raises(EmbeddedServerError, match="written by a newer server"):
        await EmbeddedServer(data_dir, binary=redis_binary()).start()
    async with EmbeddedServer(data_dir, binary=valkey_binary()) as server:
        assert server.running


async def test_a_directory_that_cannot_be_used_is_named(data_dir: Path):
    data_dir.parent.mkdir(exist_ok=True)
    data_dir.write_text("a file")
    with pytest.raises(EmbeddedServerError, match=str(data_dir)):
        await EmbeddedServer(data_dir).start()


async def test_a_program_that_ends_at_once_is_reported_with_what_it_said(data_dir: Path, tmp_path: Path):
    broken = tmp_path / "valkey-server"
    broken.write_text("#!/bin/sh\necho 'no such instruction'; exit 3\n")
    broken.chmod(0o755)
    with pytest.raises(EmbeddedServerError, match=r"status 3(.|\n)*no such instruction"):
        await EmbeddedServer(data_dir, binary=broken).start()
    async with EmbeddedServer(data_dir) as server:
        assert server.running
