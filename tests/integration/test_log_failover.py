"""A failover behind one address: what the new primary had not received is lost, noticed, and said."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import grpc
import pytest

from sampler_service.config import ServiceConfig
from sampler_service.log import LogUnavailableError, RedisSettings
from tests.ports import free_port
from tests.redis_servers import SERVERS, RedisServer, binary_of
from tests.rpc_calls import pool, report, states
from tests.service_process import RunningService, running_service


class Pair:
    """A primary and its replica behind one socket path, as behind a virtual address."""

    def __init__(self, primary: RedisServer, replica: RedisServer, address: Path) -> None:
        self.primary = primary
        self.replica = replica
        self.address = address
        self._point_at(primary)

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.address))}"

    def wait_until_replicated(self) -> None:
        with self.primary.connection() as raw:
            assert raw.execute_command("WAIT", 1, 120_000) == 1

    def cut_link(self) -> None:
        """The replica gets nothing any more. (Freezing it would not do: the kernel takes delivery for it.)"""
        with self.replica.connection() as raw:
            raw.execute_command("REPLICAOF", "NO", "ONE")

    def fail_over(self) -> None:
        """The primary dies, the replica takes its place."""
        self.primary.kill()
        self._point_at(self.replica)

    def _point_at(self, server: RedisServer) -> None:
        fresh = self.address.with_suffix(".new")
        fresh.symlink_to(server.socket_path)
        fresh.replace(self.address)


@pytest.fixture(params=SERVERS)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    binary = binary_of(request.param)
    with tempfile.TemporaryDirectory(prefix="log-") as directory, contextlib.ExitStack() as stack:
        root = Path(directory)
        port = free_port()
        # The replica connects over TCP; everybody else by the socket.
        primary = RedisServer(
            binary, root / "a", options={"port": str(port), "repl-diskless-sync-delay": "0"}
        )
        replica = RedisServer(binary, root / "b", arguments=["--replicaof", "127.0.0.1", str(port)])
        for server in (primary, replica):
            stack.callback(server.stop)
            server.start()
        deadline = time.monotonic() + 120
        with replica.connection() as raw:
            while raw.info("replication")["master_link_status"] != "up":
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield Pair(primary, replica, root / "address.sock")


def config_for(pair: Pair) -> ServiceConfig:
    return ServiceConfig(grpc_port=0, http_port=-1, redis=RedisSettings(url=pair.url), drain_seconds=1.0)


async def rollouts_of(service: RunningService, ids: list[str]) -> list[int]:
    """Read when the log answers again."""
    deadline = time.monotonic() + 120
    while True:
        replica = await service.service.host.replica("math")
        try:
            await replica.catch_up()
        except LogUnavailableError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
            continue
        return list((await states(service.stub, ids)).rollouts)


async def test_what_the_new_primary_had_not_received_is_lost_and_every_replica_agrees(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_service(config_for(pair)) as one, running_service(config_for(pair)) as two:
        ids = await pool(one.stub, preset="uniform-grpo")
        kept = report(ids[:1], [[1.0, 0.0]])
        await one.stub.ReportRollouts(kept)
        pair.wait_until_replicated()
        # From here on the replica hears nothing, and the primary acknowledges all the same.
        pair.cut_link()
        lost = report(ids[1:2], [[1.0, 0.0]])
        assert (await one.stub.ReportRollouts(lost)).accepted == 2
        assert await rollouts_of(two, ids[:2]) == [2, 2]
        pair.fail_over()
        for service in (one, two):
            assert await rollouts_of(service, ids[:2]) == [2, 0]
        assert "lost entry" in capsys.readouterr().out
        # Whoever still has the report may send it again: to the new history it is new. The other is a repeat.
        assert not (await one.stub.ReportRollouts(lost)).duplicate
        assert (await two.stub.ReportRollouts(kept)).duplicate
        for service in (one, two):
            assert await rollouts_of(service, ids[:2]) == [2, 2]


async def test_with_min_replicas_to_write_a_primary_alone_takes_no_writes(pair: Pair) -> None:
    async with running_service(config_for(pair)) as service:
        # Before the rule is in force: on a busy machine its two seconds may pass by themselves.
        ids = await pool(service.stub, preset="uniform-grpo")
        with pair.primary.connection() as raw:
            raw.config_set("min-replicas-to-write", 1)
            raw.config_set("min-replicas-max-lag", 2)
            deadline = time.monotonic() + 120
            while raw.info("replication").get("min_slaves_good_slaves") != 1:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
        pair.replica.freeze()
        deadline = time.monotonic() + 120
        acknowledged = 0
        refusal = None
        # The primary notices after two seconds; what it took until then is the most that can be lost.
        while refusal is None:
            assert time.monotonic() < deadline, "a primary without replicas goes on writing"
            try:
                await service.stub.ReportRollouts(report(ids[:1], [[1.0]]))
                acknowledged += 1
            except grpc.aio.AioRpcError as error:
                refusal = error
            await asyncio.sleep(0.05)
        assert refusal.code() is grpc.StatusCode.UNAVAILABLE
        assert "NOREPLICAS" in (refusal.details() or "")
        pair.replica.thaw()
        deadline = time.monotonic() + 120
        again = report(ids[:1], [[1.0]])
        while refusal is not None:
            try:
                await service.stub.ReportRollouts(again)
                refusal = None
            except grpc.aio.AioRpcError:
                assert time.monotonic() < deadline, "it does not write again"
                await asyncio.sleep(0.1)
        assert await rollouts_of(service, ids[:1]) == [acknowledged + 1]
